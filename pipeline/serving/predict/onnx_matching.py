"""Matching by ONNX Runtime. Imports no MXNet, and nothing that does."""

from pathlib import Path

from pipeline.config import Config
from pipeline.evaluation import confidence
from pipeline.serving.model_folder import read_parameters
from pipeline.serving.onnx import session
from pipeline.serving.predict.base import MatchingPredictor
from pipeline.serving.predict.scoring import Scorer
from pipeline.serving.predict.text_encoder import TextEncoder
from pipeline.tokenization.encoder import load_tokenizer


def open_encoder(config: Config, folder: Path, graphs: Path, threads: int) -> TextEncoder:
    """Opens the encoders whose graphs lie in `graphs`: the model's folder, if it is exported. Raises InputError."""
    scorer = Scorer(config, read_parameters(folder))
    answering = confidence.load_answering(folder)
    return TextEncoder(config, load_tokenizer(folder), session.represent_with(graphs), scorer, threads, answering)


def open_predictor(config: Config, folder: Path, graphs: Path, threads: int) -> MatchingPredictor:
    """As `open_encoder`, for rows."""
    return MatchingPredictor(open_encoder(config, folder, graphs, threads), "onnx")

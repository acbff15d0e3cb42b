"""Matching by ONNX Runtime. Imports no MXNet, and nothing that does."""

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.evaluation import confidence, overlap
from pipeline.serving import second_stage
from pipeline.serving.model_folder import read_config, read_parameters
from pipeline.serving.onnx import session
from pipeline.serving.predict.base import LIST, MatchingPredictor
from pipeline.serving.predict.scoring import Scorer
from pipeline.serving.predict.text_encoder import TextEncoder
from pipeline.tokenization.encoder import load_tokenizer

EXAMPLE = (
    ("how to sort a list", "sorted(iterable) returns a new list of the items in ascending order"),
    ("what is a rainbow", "An arc of colours, light refracted by drops of water"),
)


def open_encoder(config: Config, folder: Path, graphs: Path, threads: int) -> TextEncoder:
    """Opens the encoders whose graphs lie in `graphs`: the model's folder, if it is exported. Raises InputError."""
    scorer = Scorer(config, read_parameters(folder))
    answering, joined = confidence.load_answering(folder), overlap.load(folder, config.train.loss.grades)
    represent = session.represent_with(graphs)
    return TextEncoder(config, load_tokenizer(folder), represent, scorer, threads, answering, joined)


def open_predictor(config: Config, folder: Path, graphs: Path, threads: int) -> MatchingPredictor:
    """As `open_encoder`, for rows; with the second stage that an exported folder holds."""
    predictor = MatchingPredictor(open_encoder(config, folder, graphs, threads), "onnx")
    opens = lambda second: open_encoder(read_config(second), second, second, threads)
    predictor.second = second_stage.opened(second_stage.carried(folder), str(folder), opens)
    return predictor


def example(predictor: MatchingPredictor) -> list[dict[str, Any]]:
    """Rows for the MLflow model: pairs and, of one with a second stage, a list that it places."""
    rows: list[dict[str, Any]] = [dict(zip(predictor.fields, texts)) for texts in EXAMPLE]
    if predictor.second is None:
        return rows
    return [*rows, {predictor.fields[0]: EXAMPLE[0][0], LIST: [document for _, document in EXAMPLE]}]

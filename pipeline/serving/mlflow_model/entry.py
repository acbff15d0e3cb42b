"""What the MLflow model runs, in environments that have neither MXNet nor this package: see `pack`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.serving.model_folder import read_config, read_parameters
from pipeline.serving.onnx import session
from pipeline.serving.predict import onnx_tasks
from pipeline.serving.predict.base import ON_ONNX, MatchingPredictor, Predictor
from pipeline.serving.predict.scoring import Scorer
from pipeline.serving.predict.text_encoder import TextEncoder
from pipeline.tokenization.encoder import load_tokenizer


def open_model(folder: Path) -> Predictor:
    """Opens an exported folder as it stands. Raises InputError."""
    config, threads = read_config(folder), len(os.sched_getaffinity(0))
    if config.task not in ON_ONNX:
        raise InputError(f"models of the task {config.task} predict on MXNet alone: use `duplet predict`")
    if config.task != "matching":
        return onnx_tasks.open_task(config, folder, folder, threads)
    scorer = Scorer(config, read_parameters(folder))
    represent = session.represent_with(folder)
    return MatchingPredictor(TextEncoder(config, load_tokenizer(folder), represent, scorer, threads))


def predict(model: Predictor, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A dictionary per row. Raises InputError naming the row that cannot be scored."""
    return model.predict(rows)

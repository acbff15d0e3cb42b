"""What the MLflow model runs, in environments that have neither MXNet nor this package: see `pack`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.plugins import part
from pipeline.core.errors import InputError
from pipeline.serving.model_folder import read_config
from pipeline.serving.predict import onnx_matching, onnx_tasks, onnx_writing  # noqa: F401  tasks name these; `pack` copies them
from pipeline.serving.predict.base import Predictor


def open_model(folder: Path) -> Predictor:
    """Opens an exported folder as it stands. Raises InputError."""
    config = read_config(folder)
    if config.spec.opens_onnx is None:
        raise InputError(f"models of the task {config.task} predict on MXNet alone: use `duplet predict`")
    predictor: Predictor = part(config.spec.opens_onnx)(config, folder, folder, len(os.sched_getaffinity(0)))
    return predictor


def predict(model: Predictor, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A dictionary per row. Raises InputError naming the row that cannot be scored."""
    return model.predict(rows)

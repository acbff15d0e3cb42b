"""What the MLflow model runs, in environments that have neither MXNet nor this package: see `pyfunc`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.serving import onnx_backend
from pipeline.serving.predictor import MatchingPredictor
from pipeline.serving.runtime import TextEncoder, read_config, read_parameters
from pipeline.serving.scoring import Scorer
from pipeline.tokenization.encoder import load_tokenizer


def open_model(folder: Path) -> MatchingPredictor:
    """Opens an exported folder as it stands. Raises InputError."""
    config = read_config(folder)
    scorer, threads = Scorer(config, read_parameters(folder)), len(os.sched_getaffinity(0))
    represent = onnx_backend.represent_with(folder)
    return MatchingPredictor(TextEncoder(config, load_tokenizer(folder), represent, scorer, threads))


def predict(model: MatchingPredictor, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A dictionary per row. Raises InputError naming the row that cannot be scored."""
    return model.predict(rows)

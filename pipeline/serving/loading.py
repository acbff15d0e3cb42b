"""Opens a trained folder for use: the one place that chooses a backend."""

import os
from pathlib import Path

from pipeline.config import task_specs
from pipeline.config.plugins import part
from pipeline.core.errors import InputError
from pipeline.serving.model_folder import read_config
from pipeline.serving.onnx import graph_cache
from pipeline.serving.predict import onnx_matching
from pipeline.serving.predict.base import Predictor
from pipeline.serving.predict.text_encoder import Backend, TextEncoder


def open_encoder(folder: Path, backend: Backend = "onnx", threads: int | None = None) -> TextEncoder:
    """Opens a matching model's folder, as `fetching.fetch` gives it.

    Args:
        threads: of ONNX Runtime, for as many batches at once; None: as many as this process may use. MXNet has its own.

    Raises:
        InputError: the folder is not a whole model, or not a model of the matching task.
    """
    config = read_config(folder)
    if not config.spec.heads:
        raise InputError(f"{folder} is a model of the task {config.task}; encoding needs one of the task matching")
    if backend == "mxnet":
        from pipeline.serving.predict import mxnet_encoder

        return mxnet_encoder.open_encoder(config, folder)
    return onnx_matching.open_encoder(config, folder, graph_cache.ensure_graphs(folder), threads or usable_cores())


def open_predictor(folder: Path, backend: Backend | None = None, threads: int | None = None) -> Predictor:
    """Opens a model's folder, as `fetching.fetch` gives it.

    Args:
        backend: None: ONNX Runtime for the tasks that predict on it, MXNet for the others.
        threads: of ONNX Runtime; None: as many as this process may use.

    Raises:
        InputError: the folder is not a whole model, or its task cannot be had on that backend.
    """
    config = read_config(folder)
    opens = config.spec.opens_onnx
    if backend == "mxnet" or (backend is None and opens is None):
        predictor: Predictor = part(config.spec.mxnet)(config, folder)
    elif opens is None:
        able = ", ".join(name for name, task in task_specs().items() if task.opens_onnx)
        raise InputError(
            f"models of the task {config.task} predict on MXNet alone (those of {able} on ONNX Runtime too): leave "
            "--backend out"
        )
    else:
        predictor = part(opens)(config, folder, graph_cache.ensure_graphs(folder), threads or usable_cores())
    return predictor


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))

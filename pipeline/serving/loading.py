"""Opens a trained folder for use: the one place that chooses a backend."""

import os
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.serving.model_folder import read_config, read_parameters
from pipeline.serving.onnx import graph_cache
from pipeline.serving.predict.base import ON_ONNX, MatchingPredictor, Predictor
from pipeline.serving.predict.scoring import Represent, Scorer
from pipeline.serving.predict.text_encoder import Backend, TextEncoder
from pipeline.tokenization.encoder import load_tokenizer


def open_encoder(folder: Path, backend: Backend = "onnx", threads: int | None = None) -> TextEncoder:
    """Opens a matching model's folder, as `fetching.fetch` gives it.

    Args:
        threads: of ONNX Runtime, for as many batches at once; None: as many as this process may use. MXNet has its own.

    Raises:
        InputError: the folder is no whole model, or no model of the matching task.
    """
    config = read_config(folder)
    if config.task != "matching":
        raise InputError(f"{folder} is a model of the task {config.task}; encoding needs one of the task matching")
    threads = threads or len(os.sched_getaffinity(0))
    parameters = read_parameters(folder)
    represent: Represent
    if backend == "mxnet":
        from pipeline.serving.predict import mxnet_encoder

        represent, threads = mxnet_encoder.represent_with(config, parameters), 1
    else:
        from pipeline.serving.onnx import session

        represent = session.represent_with(graph_cache.ensure_graphs(folder))
    return TextEncoder(config, load_tokenizer(folder), represent, Scorer(config, parameters), threads)


def open_predictor(folder: Path, backend: Backend | None = None, threads: int | None = None) -> Predictor:
    """Opens a model's folder, as `fetching.fetch` gives it.

    Args:
        backend: None: ONNX Runtime for the tasks in ON_ONNX, MXNet for the others.
        threads: of ONNX Runtime; None: as many as this process may use.

    Raises:
        InputError: the folder is no whole model, or its task cannot be had on that backend.
    """
    config = read_config(folder)
    backend = backend or ("onnx" if config.task in ON_ONNX else "mxnet")
    if config.task == "matching":
        return MatchingPredictor(open_encoder(folder, backend, threads), backend)
    if backend == "mxnet":
        from pipeline.serving.predict.mxnet_tasks import TaskPredictor

        return TaskPredictor(config, folder)
    if config.task not in ON_ONNX:
        raise InputError(
            f"models of the task {config.task} predict on MXNet alone (those of {', '.join(ON_ONNX)} on ONNX Runtime "
            "too): leave --backend out"
        )
    from pipeline.serving.predict import onnx_tasks

    graphs = graph_cache.ensure_graphs(folder)
    return onnx_tasks.open_task(config, folder, graphs, threads or len(os.sched_getaffinity(0)))

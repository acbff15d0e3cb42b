"""Graphs of a trained folder, made once and kept beside it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from pipeline.config import Config, task_specs
from pipeline.config.plugins import part
from pipeline.config.task_spec import OnnxSpec
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError, one_line
from pipeline.core.manifest import KeyParts
from pipeline.serving.model_folder import CONFIG_NAME, PARAMETERS_NAME, SECOND, read_config, read_parameters
from pipeline.serving.onnx import eight_bits, graphs

EXPORT_VERSION = 2  # raised when the graphs written for equal parameters change
CACHE_NAME = "onnx"


def write_graphs(config: Config, arrays: dict[str, np.ndarray], folder: Path, int8: bool) -> None:
    """What predicting runs: the task's graphs.

    Raises:
        InputError: the parameters are not those of the configuration.
    """
    try:
        for name, model in part(onnx_of(config).graphs)(config, arrays).items():
            save(model, folder / name, int8)
    except KeyError as error:
        raise InputError(
            f"{PARAMETERS_NAME} has no {error.args[0]} that {CONFIG_NAME} asks for: they are not of one training"
        ) from None
    except (ValueError, IndexError, StopIteration, *graphs.REFUSALS) as error:
        raise InputError(
            f"{PARAMETERS_NAME} and {CONFIG_NAME} are not of one training ({one_line(error, 200)}): train it again"
        ) from None


def ensure_graphs(folder: Path) -> Path:
    """The folder with a model's graphs: itself if exported, else a cache under it, made now if need be.

    Where the model's folder cannot be written to, the cache lies under XDG_CACHE_HOME or ~/.cache.
    """
    if graphs_there := sorted(folder.glob("*.onnx")):
        for path in (*graphs_there, *sorted((folder / SECOND).glob("*.onnx"))):
            check_graph(path)
        return folder
    parts = key_parts(folder, False)
    cache = folder / CACHE_NAME
    if not os.access(folder, os.W_OK):
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        cache = home / "duplet" / parts.key
    with atomic_files.lock(cache.with_name(f".{cache.name}.lock")):
        if not _current(cache, parts):
            began, config = time.time(), read_config(folder)
            check(config, False)
            with atomic_files.new_folder(cache) as new:
                write_graphs(config, read_parameters(folder), new, False)
                manifest.write(new, "export", parts, {}, began)
    return cache


def check_graph(path: Path) -> None:
    """Raises InputError where a graph has what no graph of ours has: a loop could run for ever.

    That is a graph within a node (Loop, If), but for a Scan, which a cell of another package is and which ends with its
    inputs' rows; a graph within a Scan's; or a function of its own.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, and others for what is no file
        raise InputError(f"{path} is not an ONNX graph ({one_line(error, 200)}): export the model again") from None
    wrong = [function.name for function in model.functions]
    for node, bodies in _with_bodies(model.graph):
        if node.op_type != "Scan":
            wrong.append(node.op_type)
        wrong += [f"{inner.op_type} within {node.op_type}" for body in bodies for inner, _ in _with_bodies(body)]
    if wrong:
        raise InputError(f"{path} holds {wrong[0]}, which no graph of Duplet holds: export the model again")


def _with_bodies(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, list[onnx.GraphProto]]]:
    """The nodes that have graphs within them."""
    for node in graph.node:
        bodies = [body for part in node.attribute for body in (*[part.g] * part.HasField("g"), *part.graphs)]
        if bodies:
            yield node, bodies


def _current(cache: Path, parts: KeyParts) -> bool:
    try:
        return manifest.load(cache, "export", "duplet export").key == parts.key
    except InputError:  # absent, damaged or of another version: made anew
        return False


def key_parts(trained: Path, int8: bool) -> KeyParts:
    return KeyParts(
        code=EXPORT_VERSION,
        config={"to": "onnx", "int8": int8},
        inputs={name: atomic_files.sha256(trained / name) for name in (CONFIG_NAME, PARAMETERS_NAME)},
        libraries=manifest.versions("onnx", "onnxruntime", *read_config(trained).model_packages.values()),
    )


def check(config: Config, int8: bool) -> None:
    """Raises InputError where a model of this configuration cannot be exported."""
    onnx_of(config)
    if int8 and config.model.cell not in eight_bits.CELLS:
        raise InputError(
            f"int8 needs model.cell=lstm: ONNX Runtime has no eight-bit {config.model.cell}; export without --int8"
        )


def onnx_of(config: Config) -> OnnxSpec:
    """How the task's models become ONNX. Raises InputError where they do not."""
    if config.spec.onnx is None:
        able = ", ".join(name for name, task in task_specs().items() if task.onnx)
        raise InputError(f"models of the task {config.task} have no ONNX export (those of {able} do)")
    return config.spec.onnx


def save(model: onnx.ModelProto, path: Path, int8: bool) -> None:
    onnx.save(eight_bits.quantised(model) if int8 else model, str(path))

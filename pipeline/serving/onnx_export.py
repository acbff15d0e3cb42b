"""A trained folder as ONNX: the export that people use without MXNet, and the cache that encoding makes itself."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline import files, manifest
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.manifest import KeyParts
from pipeline.serving import card, models, onnx_graphs, onnx_int8, onnx_matcher
from pipeline.serving.runtime import PARAMETERS_NAME, read_config, read_parameters

EXPORT_VERSION = 1  # raised when the graphs written for equal parameters change
CACHE_NAME = "onnx"
TASKS = ("matching", "classification")

Say = Callable[[str], None]


def export(trained: Path, output: Path, int8: bool, say: Say) -> dict[str, Any]:
    """Writes graphs, tokenizer, parameters, model card and manifest into `output`, whole or not at all.

    Args:
        trained: a whole trained folder.
        int8: eight-bit weights; what they cost is measured on the validation split, where that is at hand.

    Returns:
        The card: see `card.make`.

    Raises:
        InputError: the model's task or cell cannot be exported so, or `output` is something else's folder.
    """
    began = time.time()
    models.check_output(output)
    config, arrays = read_config(trained), read_parameters(trained)
    _check(config, int8)
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(output.with_name(f".{output.name}.lock")), files.new_folder(output) as new:
        models.carry(trained, new)
        say("writing the graphs")
        if config.task == "classification":
            _save(onnx_graphs.classifier(config.model, arrays), new / "classifier.onnx", int8)
        else:
            write_encoders(config, arrays, new, int8)
            _save(onnx_matcher.matcher(config, arrays), new / "matcher.onnx", int8)
        made = card.make(trained, new, config, int8, say)
        card.write(made, new)
        manifest.write(new, "export", _parts(trained, int8), {"files": len(list(new.iterdir()))}, began,
                       {"configuration": config.name, "int8": int8})  # fmt: skip
    return made


def write_encoders(config: Config, arrays: dict[str, np.ndarray], folder: Path, int8: bool) -> None:
    """`encoder.onnx`, or with separate towers `query_encoder.onnx` and `document_encoder.onnx`."""
    if config.model.towers == "shared":
        _save(onnx_matcher.encoder(config, arrays, "document"), folder / "encoder.onnx", int8)
    else:
        for side in ("query", "document"):
            _save(onnx_matcher.encoder(config, arrays, side), folder / f"{side}_encoder.onnx", int8)


def ensure_graphs(folder: Path) -> Path:
    """The folder with a model's encoder graphs: itself if exported, else a cache under it, made now if need be.

    Where the model's folder cannot be written to, the cache lies under XDG_CACHE_HOME or ~/.cache.
    """
    if any(folder.glob("*encoder.onnx")):
        return folder
    parts = _parts(folder, False)
    cache = folder / CACHE_NAME
    if not os.access(folder, os.W_OK):
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        cache = home / "duplet" / parts.key
    with files.lock(cache.with_name(f".{cache.name}.lock")):
        if not _current(cache, parts):
            began, config = time.time(), read_config(folder)
            _check(config, False)
            with files.new_folder(cache) as new:
                write_encoders(config, read_parameters(folder), new, False)
                manifest.write(new, "export", parts, {}, began)
    return cache


def _current(cache: Path, parts: KeyParts) -> bool:
    try:
        return manifest.load(cache, "export", "duplet export").key == parts.key
    except InputError:  # absent, damaged or of another version: made anew
        return False


def _parts(trained: Path, int8: bool) -> KeyParts:
    return KeyParts(
        code=EXPORT_VERSION,
        config={"to": "onnx", "int8": int8},
        inputs={name: files.sha256(trained / name) for name in ("config.json", PARAMETERS_NAME)},
        libraries=manifest.versions("onnx", "onnxruntime"),
    )


def _check(config: Config, int8: bool) -> None:
    if config.task not in TASKS:
        raise InputError(f"models of the task {config.task} have no ONNX export (those of {', '.join(TASKS)} do)")
    if int8 and config.model.cell not in onnx_int8.CELLS:
        raise InputError(
            f"int8 needs model.cell=lstm: ONNX Runtime has no eight-bit {config.model.cell}; export without --int8"
        )


def _save(model: onnx.ModelProto, path: Path, int8: bool) -> None:
    onnx.save(onnx_int8.quantised(model) if int8 else model, str(path))

"""A trained folder as ONNX: the export that people use without MXNet, and the cache that encoding makes itself."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline.core import atomic_files, manifest
from pipeline.config import Config
from pipeline.core.errors import InputError, one_line
from pipeline.core.manifest import KeyParts
from pipeline.serving.export import int8_cost, model_card
from pipeline.serving import model_folder
from pipeline.serving.onnx import graphs, int8 as onnx_int8, matcher, tasks
from pipeline.serving.onnx.session import LANGUAGE_STEP
from pipeline.serving.predict.onnx_tasks import GRAPHS
from pipeline.serving.predict.text_encoder import CONFIG_NAME, PARAMETERS_NAME, read_config, read_parameters

EXPORT_VERSION = 2  # raised when the graphs written for equal parameters change
CACHE_NAME = "onnx"
# By task, its one graph's file and what writes it; matching has several.
FILES = GRAPHS | {"language_model": LANGUAGE_STEP}
WRITERS = {
    "classification": tasks.classifier,
    "tagging": tasks.tagger,
    "cloze": tasks.cloze,
    "language_model": tasks.language_step,
}
TASKS = ("matching", *FILES)

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
    model_folder.check_output(output)
    config, arrays = read_config(trained), read_parameters(trained)
    check(config, int8)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.lock(output.with_name(f".{output.name}.lock")), atomic_files.new_folder(output) as new:
        model_folder.carry(trained, new)
        say("writing the graphs")
        write_graphs(config, arrays, new, int8)
        if config.task == "matching":
            _save(matcher.matcher(config, arrays), new / "matcher.onnx", int8)
        cost = None
        if int8:
            tokenized = model_card.training(trained)["tokenized"]
            cost = int8_cost.measure(config, trained, ensure_graphs(trained), new, tokenized, say)
        made = model_card.make(trained, config, cost)
        model_card.write(made, new)
        manifest.write(new, "export", _parts(trained, int8), {"files": len(list(new.iterdir()))}, began,
                       {"configuration": config.name, "int8": int8})  # fmt: skip
    return made


def write_graphs(config: Config, arrays: dict[str, np.ndarray], folder: Path, int8: bool) -> None:
    """What predicting runs: a task's one graph; for matching `encoder.onnx`, or with separate towers one per side.

    Raises:
        InputError: the parameters are not those of the configuration.
    """
    try:
        if config.task != "matching":
            _save(WRITERS[config.task](config, arrays), folder / FILES[config.task], int8)
        elif config.model.towers == "shared":
            _save(matcher.encoder(config, arrays, "document"), folder / "encoder.onnx", int8)
        else:
            for side in ("query", "document"):
                _save(matcher.encoder(config, arrays, side), folder / f"{side}_encoder.onnx", int8)
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
    if any(folder.glob("*.onnx")):
        return folder
    parts = _parts(folder, False)
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


def _current(cache: Path, parts: KeyParts) -> bool:
    try:
        return manifest.load(cache, "export", "duplet export").key == parts.key
    except InputError:  # absent, damaged or of another version: made anew
        return False


def _parts(trained: Path, int8: bool) -> KeyParts:
    return KeyParts(
        code=EXPORT_VERSION,
        config={"to": "onnx", "int8": int8},
        inputs={name: atomic_files.sha256(trained / name) for name in (CONFIG_NAME, PARAMETERS_NAME)},
        libraries=manifest.versions("onnx", "onnxruntime"),
    )


def check(config: Config, int8: bool) -> None:
    """Raises InputError where a model of this configuration cannot be exported."""
    if config.task not in TASKS:
        raise InputError(f"models of the task {config.task} have no ONNX export (those of {', '.join(TASKS)} do)")
    if int8 and config.model.cell not in onnx_int8.CELLS:
        raise InputError(
            f"int8 needs model.cell=lstm: ONNX Runtime has no eight-bit {config.model.cell}; export without --int8"
        )


def _save(model: onnx.ModelProto, path: Path, int8: bool) -> None:
    onnx.save(onnx_int8.quantised(model) if int8 else model, str(path))

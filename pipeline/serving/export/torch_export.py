"""Weights to and from PyTorch's recurrent layers, through safetensors; torch itself is not needed.

A tower's stack of layers becomes the parameters of one `nn.LSTM(num_layers=…, bidirectional=…)` (or GRU, RNN) under
`TOWER.encoder.rnn`: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, and the same with _reverse. Gates stand in the
same order in both (input, forget, cell, output; reset, update, new), so arrays are renamed and nothing else. The
embedding becomes `embedding.weight`, as nn.Embedding has it; all other arrays keep their names: gluon's Dense and
LayerNorm are nn.Linear and nn.LayerNorm, whose weight and bias gluon calls gamma and beta.
"""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.core.manifest import KeyParts
from pipeline.serving import model_folder
from pipeline.serving.model_folder import PARAMETERS_NAME, read_config, read_parameters

NAME = "model.safetensors"
VERSION = 1
PARTS = {"i2h_weight": "weight_ih", "h2h_weight": "weight_hh", "i2h_bias": "bias_ih", "h2h_bias": "bias_hh"}
OURS = re.compile(r"(?P<stack>.*)\.layers\.(?P<layer>\d+)\.(?P<direction>[fb])_(?P<part>\w+)")
THEIRS = re.compile(r"(?P<stack>.*)\.rnn\.(?P<part>(?:weight|bias)_[ih]h)_l(?P<layer>\d+)(?P<reverse>_reverse)?")
NORMS = {"gamma": "weight", "beta": "bias"}


def to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays under PyTorch's names.

    >>> list(to_torch({"embedding": np.zeros(1), "tower.encoder.layers.1.b_h2h_bias": np.zeros(1)}))
    ['embedding.weight', 'tower.encoder.rnn.bias_hh_l1_reverse']
    """
    return {_torch_name(name): np.ascontiguousarray(array) for name, array in arrays.items()}


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays under this package's names; the inverse of `to_torch`."""
    return {_own_name(name): np.ascontiguousarray(array) for name, array in tensors.items()}


def _torch_name(name: str) -> str:
    if name == "embedding":
        return "embedding.weight"
    if match := OURS.fullmatch(name):
        reverse = "_reverse" if match["direction"] == "b" else ""
        return f"{match['stack']}.rnn.{PARTS[match['part']]}_l{match['layer']}{reverse}"
    stem, _, last = name.rpartition(".")
    return f"{stem}.{NORMS[last]}" if ".norms." in name else name


def _own_name(name: str) -> str:
    if name == "embedding.weight":
        return "embedding"
    if match := THEIRS.fullmatch(name):
        part = next(ours for ours, theirs in PARTS.items() if theirs == match["part"])  # of those that THEIRS lists
        return f"{match['stack']}.layers.{match['layer']}.{'b' if match['reverse'] else 'f'}_{part}"
    stem, _, last = name.rpartition(".")
    ours = {theirs: own for own, theirs in NORMS.items()}
    return f"{stem}.{ours[last]}" if ".norms." in name and last in ours else name


def export(folder: Path, output: Path) -> None:
    """Writes model.safetensors with configuration, vocabulary and tokenizer into `output`, whole or not at all.

    Raises:
        InputError: `output` is something else's folder, or PyTorch has no layers of the model's cell.
    """
    began = time.time()
    model_folder.check_output(output)
    config = read_config(folder)
    if not config.model.steps_by.kernel:
        raise InputError(f"PyTorch has no recurrent layer of model.cell={config.model.cell}: export to ONNX")
    output.parent.mkdir(parents=True, exist_ok=True)
    about = {"format": "pt", "model": json.dumps(config.shown["model"])}
    with atomic_files.lock(output.with_name(f".{output.name}.lock")), atomic_files.new_folder(output) as new:
        save_file(to_torch(read_parameters(folder)), str(new / NAME), metadata=about)
        _finish(folder, new, "torch", began)


def bring_in(folder: Path, output: Path) -> None:
    """The way back: a folder with model.safetensors, maybe trained on in PyTorch, to one that every command takes.

    Raises:
        InputError: a file is missing or damaged, or the tensors are not those of the folder's configuration.
    """
    began = time.time()
    model_folder.check_output(output)
    arrays = from_torch(_read(folder / NAME))
    from pipeline.serving.loading import open_predictor  # loads MXNet

    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.lock(output.with_name(f".{output.name}.lock")), atomic_files.new_folder(output) as new:
        np.savez(new / PARAMETERS_NAME, **arrays)
        _finish(folder, new, "parameters", began)
        open_predictor(new, "mxnet")  # refuses names and shapes that are not the configuration's


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(str(path), framework="numpy") as tensors:
            return {name: tensors.get_tensor(name).astype(np.float32) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a folder of `duplet export --to torch`") from None


def _finish(source: Path, new: Path, to: str, began: float) -> None:
    model_folder.carry(source, new, PARAMETERS_NAME)
    content = {
        str(path.relative_to(new)): atomic_files.sha256(path) for path in sorted(new.rglob("*")) if path.is_file()
    }
    parts = KeyParts(VERSION, {"to": to}, content, manifest.versions("safetensors"))
    config = read_config(source)
    manifest.write(new, "export", parts, {}, began, {"configuration": config.name, **config.needed})

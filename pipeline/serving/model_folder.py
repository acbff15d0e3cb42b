"""What the folder of a trained or exported model consists of: its files' names, reading, checking and copying them."""

import json
import shutil
from pathlib import Path

import numpy as np

from pipeline.config import Config, loading
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError

CONFIG_NAME, PARAMETERS_NAME = "config.json", "parameters.npz"
SECOND = "second"  # in an exported folder: the model of a second stage, exported too

STAGES = ("train", "export")
# What makes a model usable by itself.
CARRIED = (
    "config.json",
    "parameters.npz",
    "vocabulary.json",
    "tokenizer.json",
    "sentencepiece.model",
    "images.json",
    "naive_bayes.npz",
    "overlap.npz",
    "confidence.json",
)


def inner_of(folder: Path) -> Path:
    """The exported folder within an MLflow model, else the folder itself."""
    if (folder / manifest.NAME).exists():
        return folder
    inside = [path.parent for path in atomic_files.finished(folder, f"artifacts/*/{manifest.NAME}")]
    return inside[0] if inside else folder


def checked(folder: Path) -> Path:
    """The folder again. Raises InputError unless it is a whole trained or exported model."""
    stage = stage_of(folder)
    remake = "duplet train" if stage == "train" else "duplet export"
    manifest.load(folder, stage, remake)
    return folder


def carry(folder: Path, new: Path, *left_out: str) -> None:
    """Copies what makes a model usable by itself, those of its fields' folders too, into another folder."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.name in CARRIED and path.name not in left_out and SECOND not in place.parts:
            target = new / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def stage_of(folder: Path) -> str:
    """ "train" or "export", as the manifest says; "train" where it cannot be read or says something else."""
    return stage if (stage := _stage(folder)) in STAGES else "train"


def _stage(folder: Path) -> str:
    try:
        return str(json.loads((folder / manifest.NAME).read_text(encoding="utf-8"))["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def check_output(folder: Path) -> None:
    """Raises InputError where an export would write over a folder that is not an export itself."""
    if folder.exists() and not (folder.is_dir() and (_stage(folder) == "export" or not any(folder.iterdir()))):
        raise InputError(f"{folder} exists and is not an exported model: name another --output")


def read_config(folder: Path) -> Config:
    """The configuration a model was trained with. Raises InputError, also where another version wrote it."""
    path = folder / CONFIG_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): give the folder of a trained model") from None
    return loading.stored_config(data, path)


def read_parameters(folder: Path) -> dict[str, np.ndarray]:
    """Arrays by structural name: real, finite numbers, at least one each. Raises InputError."""
    path = folder / PARAMETERS_NAME
    try:
        arrays = atomic_files.arrays(path)
    except ValueError as error:
        raise InputError(f"{error}: give the folder of a trained model, or train it again") from None
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not array.size or not np.isfinite(array).all():
            raise InputError(
                f"{path} is damaged: {name!r:.100} must hold finite floating-point numbers; train the model again"
            )
    return arrays

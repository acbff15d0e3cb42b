"""Representations by ONNX Runtime, from graphs that `onnx_export` wrote. Imports no MXNet, and nothing that does."""

from pathlib import Path

import numpy as np
import onnxruntime

from pipeline.errors import InputError
from pipeline.serving.runtime import Represent


def encoder_name(folder: Path, side: str) -> str:
    """The graph of a side: its own, or the one of both."""
    own = f"{side}_encoder.onnx"
    return own if (folder / own).exists() else "encoder.onnx"


def session(path: Path) -> onnxruntime.InferenceSession:
    """Opens a graph on the CPU, for one thread a call. Raises InputError where ONNX Runtime refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen kinds, some of them bare RuntimeErrors
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no graph that ONNX Runtime can run ({said}): export the model again") from None


def represent_with(folder: Path) -> Represent:
    """What `TextEncoder` calls: one side's padded batch to vectors and weights."""
    names = {side: encoder_name(folder, side) for side in ("query", "document")}
    opened = {name: session(folder / name) for name in set(names.values())}

    def represent(side: str, ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        found = opened[names[side]].run(None, {"ids": ids, "lengths": lengths})
        return found[0], found[1] if len(found) > 1 else None

    return represent

"""Graphs that `graph_cache` wrote, run by ONNX Runtime. Imports no MXNet, and nothing that does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from pipeline.core.errors import InputError, one_line
from pipeline.serving.predict.scoring import Represent

LANGUAGE_STEP = "language_step.onnx"
Shape = tuple[int | None, ...]  # None: any size


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
        reason = one_line(error, 200)
        raise InputError(
            f"{path} is not a graph that ONNX Runtime can run ({reason}): export the model again"
        ) from None


def run(opened: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], *shapes: Shape) -> list[np.ndarray]:
    """A graph's outputs, of which the first ones must have these shapes. Raises InputError where they have not.

    Without that, what a damaged graph gives for one text would stand for all of a batch.
    """
    try:
        outputs = opened.run(None, feeds)
    except Exception as error:  # ONNX Runtime has a dozen kinds
        raise InputError(f"the model's graph cannot be run ({one_line(error, 200)}): export the model again") from None
    for array, shape in zip(outputs, shapes):
        fits = array.ndim == len(shape) and all(size in (None, had) for size, had in zip(shape, array.shape))
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise InputError(f"the model's graph gave {array.shape} for ({wanted}): export the model again")
    return outputs


def represent_with(folder: Path) -> Represent:
    """What `TextEncoder` calls: one side's padded batch to vectors and weights."""
    names = {side: encoder_name(folder, side) for side in ("query", "document")}
    opened = {name: session(folder / name) for name in set(names.values())}

    def represent(side: str, ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        graph = opened[names[side]]
        late = len(graph.get_outputs()) > 1
        shapes = ((*ids.shape, None), ids.shape) if late else ((len(ids), None),)
        outputs = run(graph, {"ids": ids, "lengths": lengths}, *shapes)
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    return represent


States = dict[str, np.ndarray]  # h_0, c_0, h_1, …, each (1, N, H)
# ids (N, T) int32 and the states before them (None: a text's beginning) -> logits (N, T, V), and the states after
Step = Callable[[np.ndarray, States | None], tuple[np.ndarray, States]]


def language_step(folder: Path) -> Step:
    """A language model's step, from the folder with its graph. Raises InputError."""
    opened = session(folder / LANGUAGE_STEP)
    widths = {value.name: value.shape[2] for value in opened.get_inputs() if value.name != "ids"}
    names = [value.name for value in opened.get_outputs()]

    def step(ids: np.ndarray, states: States | None) -> tuple[np.ndarray, States]:
        before = states or {name: np.zeros((1, len(ids), width), np.float32) for name, width in widths.items()}
        after = [(1, len(ids), widths.get(name.removeprefix("new_"))) for name in names]
        shapes = [(*ids.shape, None) if name == "logits" else shape for name, shape in zip(names, after)]
        outputs = dict(zip(names, run(opened, {"ids": ids.astype(np.int32), **before}, *shapes)))
        return outputs["logits"], {name: outputs[f"new_{name}"] for name in widths}

    return step

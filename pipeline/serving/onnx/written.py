"""Graphs of networks that write, run by ONNX Runtime: the reading, and the steps of a beam search in NumPy.

Imports no MXNet, and nothing that does.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from pipeline.core.errors import InputError
from pipeline.models import beam
from pipeline.models.beam import Found
from pipeline.serving.onnx import session
from pipeline.tokenization.encoder import PADDING_ID

SOURCE_ENCODER, IMAGE_ENCODER, DECODER_STEP, ANSWERER = (
    "source_encoder.onnx", "image_encoder.onnx", "decoder_step.onnx", "answerer.onnx"
)  # fmt: skip
Feeds = dict[str, np.ndarray]


class Writer:
    """A reader's graph and a decoder's step, which `pipeline.serving.onnx.writers` wrote. Threads may share it.

    Args:
        graphs: their folder; `reader`: the first one's file.
        border: the token that begins and ends a text; those before it are the V others.

    Raises:
        InputError: a file is missing, damaged, or the two do not fit each other.
    """

    def __init__(self, graphs: Path, reader: str, border: int) -> None:
        self._reader, self._step = session.session(graphs / reader), session.session(graphs / DECODER_STEP)
        self.border = border
        reader_outputs = [value.name for value in self._reader.get_outputs()]
        self._states = sorted(
            (name for name in reader_outputs if name.startswith("state_")), key=lambda name: int(name[6:])
        )
        self._memory = [name for name in reader_outputs if name not in self._states]
        wanted = {"last", *reader_outputs}
        step_outputs = {value.name for value in self._step.get_outputs()}
        if {value.name for value in self._step.get_inputs()} != wanted or not step_outputs >= {
            "log_probabilities", *(f"new_{name}" for name in self._states)
        }:  # fmt: skip
            raise InputError(f"{graphs / reader} and {DECODER_STEP} do not fit each other: export the model again")

    def read(self, feeds: Feeds) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The first state and the memory of N sources or images. Raises InputError."""
        count = len(next(iter(feeds.values())))
        outputs = _named(self._reader, feeds, count)
        return [outputs[name] for name in self._states], [outputs[name] for name in self._memory]

    def step(
        self, last: np.ndarray, state: Sequence[np.ndarray], memory: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        outputs = self._stepped(last, state, memory)
        return outputs["log_probabilities"], [outputs[f"new_{name}"] for name in self._states]

    def write(self, feeds: Feeds, limits: np.ndarray, width: int, alpha: float, barred: tuple[int, ...]) -> list[Found]:
        """The likeliest text for each source or image: see beam.search. Raises InputError."""
        state, memory = self.read(feeds)
        return beam.search(self.step, state, memory, limits, self.border, width, alpha, barred)

    def attention(self, feeds: Feeds, ids: Sequence[int]) -> np.ndarray:
        """(T + 1, L) weights while writing T given tokens and the border behind them, of one source or image."""
        state, memory = self.read(feeds)
        rows = []
        for token in [self.border, *ids]:
            outputs = self._stepped(np.array([token], np.int32), state, memory)
            state = [outputs[f"new_{name}"] for name in self._states]
            rows.append(outputs["weights"][0])
        return np.stack(rows)

    def nats(self, feeds: Feeds, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(N, T + 1) cross entropies of (N, T) given texts and the border behind each, 0 behind that."""
        state, memory = self.read(feeds)
        n, steps = ids.shape
        losses, last = np.zeros((n, steps + 1), np.float32), np.full(n, self.border, np.int32)
        for step in range(steps + 1):
            chances, state = self.step(last, state, memory)
            targets = np.where(step < lengths, ids[:, step] if step < steps else PADDING_ID, self.border)
            losses[:, step] = np.where(step <= lengths, -chances[np.arange(n), targets], 0)
            last = targets.astype(np.int32)
        return losses

    def _stepped(self, last: np.ndarray, state: Sequence[np.ndarray], memory: Sequence[np.ndarray]) -> Feeds:
        feeds = dict(zip([*self._states, *self._memory], [*state, *memory]))
        outputs = _named(self._step, {"last": last, **feeds}, len(last))
        if outputs["log_probabilities"].shape[1] != self.border + 1:
            raise InputError(f"{DECODER_STEP} and vocabulary.json are not of one training: export the model again")
        return outputs


def _named(opened: onnxruntime.InferenceSession, feeds: Feeds, count: int) -> Feeds:
    """A graph's outputs by name, each of `count` rows. Raises InputError."""
    values = opened.get_outputs()
    shapes: list[session.Shape] = [(count, *[None] * (len(value.shape) - 1)) for value in values]
    return dict(zip([value.name for value in values], session.run(opened, feeds, *shapes)))

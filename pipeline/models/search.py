"""Beam search over a decoder of MXNet: see `beam`."""

from collections.abc import Callable

import numpy as np
from mxnet import nd

from pipeline.models import beam as numpy_search
from pipeline.models.beam import Arrays, Found

State = list[nd.NDArray]  # arrays of a row per hypothesis
# last tokens (R,), state, memory -> log probabilities (R, V) of the next token, and the state after them
Step = Callable[[nd.NDArray, State, State], tuple[nd.NDArray, State]]


def search(
    step: Step, state: State, memory: State, limits: np.ndarray, border: int, beam: int = 1, alpha: float = 0.0,
    barred: tuple[int, ...] = (),
) -> list[Found]:  # fmt: skip
    """The likeliest texts that `step` can write: as `beam.search`, with arrays of MXNet."""
    context = state[0].context

    def stepped(last: np.ndarray, before: Arrays, memories: Arrays) -> tuple[np.ndarray, Arrays]:
        chances, after = step(nd.array(last, context, "int32"), list(before), list(memories))
        return chances.asnumpy(), after

    def take(arrays: Arrays, rows: np.ndarray) -> Arrays:
        places = nd.array(rows, context, "int32")
        return [nd.take(array, places) for array in arrays]

    return numpy_search.search(stepped, state, memory, limits, border, beam, alpha, barred, take)

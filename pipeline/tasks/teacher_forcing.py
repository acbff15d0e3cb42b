"""What tasks that write texts share: teacher forcing, and bringing together what workers wrote."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from mxnet import nd

from pipeline.distributed.world import World
from pipeline.models.beam import Found
from pipeline.tasks import decoding
from pipeline.tasks.base import Task
from pipeline.tokenization import shards


class Forced(NamedTuple):
    """n texts as the decoder reads them while it is taught, and what it must write."""

    inputs: np.ndarray  # (T + 1, n) int32: the border, then the tokens, 0 on padding
    places: np.ndarray  # (m,) int32: the steps that are no padding, among (T + 1) * n
    targets: np.ndarray  # (m,) int32: what each of them writes; after the last token the border


def teacher(ids: np.ndarray, lengths: np.ndarray, border: int) -> Forced:
    """Of (n, T) ids and their (n,) lengths.

    >>> [part.tolist() for part in teacher(np.array([[5, 6], [7, 0]]), np.array([2, 1]), 9)]
    [[[9, 9], [5, 7], [6, 0]], [0, 1, 2, 3, 4], [5, 7, 6, 9, 9]]
    """
    n, steps = ids.shape
    inputs = np.full((steps + 1, n), border, np.int32)
    inputs[1:] = ids.T
    targets = np.zeros((steps + 1, n), np.int32)
    targets[:-1] = ids.T
    targets[lengths, np.arange(n)] = border
    places = np.flatnonzero(np.arange(steps + 1)[:, None] <= lengths)
    return Forced(inputs, places.astype(np.int32), targets.ravel()[places])


class WritingTask(Task):
    """A task whose network writes texts of one vocabulary, token by token, until the border behind it."""

    @functools.cached_property
    def vocabulary(self) -> list[str]:
        """(V,) tokens by id."""
        return decoding.tokens_by_id(self.folder)

    @property
    def border(self) -> int:
        """The token that begins and ends a text, V."""
        return len(self.vocabulary)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """What ids stand for."""
        return [self.vocabulary[i] for i in ids]

    def forced(self, split: shards.Split, field: str, records: np.ndarray) -> Forced:
        """What the decoder reads and must write of a field of these records."""
        return teacher(*split.fields[field].padded(split.rows[field][records]), self.border)


def mean_nats(parts: Iterable[nd.NDArray], world: World) -> float:
    """The mean over all workers of what each has parts of, (m,) losses each."""
    total = np.zeros((1, 2), np.float32)
    for losses in parts:
        total += np.array([[losses.sum().asscalar(), losses.size]])
    everyones = world.gather_numpy(total, "nats").sum(axis=0)
    return float(everyones[0] / everyones[1])


def gather_found(own: dict[int, Found], count: int, world: World) -> list[Found]:
    """All workers' texts in the order of their numbers 0 … count - 1, the same on every rank."""
    longest = np.array([[max((len(hypothesis.ids) for hypothesis in own.values()), default=0)]], np.int32)
    width = int(world.gather_numpy(longest, "longest written").max())
    rows = np.full((len(own), width + 2), -1, np.int32)
    scores = np.array([hypothesis.score for hypothesis in own.values()], np.float32)
    for row, (number, hypothesis) in zip(rows, own.items()):
        row[:2] = number, len(hypothesis.ids)
        row[2 : 2 + len(hypothesis.ids)] = hypothesis.ids
    together = world.gather_numpy(rows, "written")
    values = world.gather_numpy(scores, "scores of the written")
    texts = {int(r[0]): Found(r[2 : 2 + r[1]].tolist(), float(s)) for r, s in zip(together, values)}
    return [texts[number] for number in range(count)]

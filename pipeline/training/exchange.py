"""What the workers tell each other of an update before it is computed: their tokens, their sizes, and what a task adds.

One gather of equal, small rows. Distinct tokens are sent as one bit for each id up to the largest that any worker may
have, which needs no more than some kilobytes and always has the same shape.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.distributed.world import World
from pipeline.tasks.base import Task


class Joint(NamedTuple):
    """A worker's part of an update, and what it is of the whole."""

    batch: Any
    tokens: np.ndarray | None  # (U,) int32 ascending: the embedding rows that any worker needs
    own: np.ndarray | None  # (u,) int32: where the batch's tokens stand among them; None where they are the same
    real: int  # tokens of all workers
    cells: int  # the same with padding


def join(task: Task, batch: Any, world: World) -> Joint:
    """Tells the others of this worker's part and learns of theirs; every worker calls it, in the same order."""
    told, tokens = task.told(batch), batch.tokens
    if world.size == 1:
        return Joint(task.joined(batch, told[None], 0), tokens, None, batch.real, batch.cells)
    bits = np.zeros(0, np.int32) if tokens is None else _bits(tokens, task.embedding_rows)
    message = np.concatenate([np.array([batch.real, batch.cells], np.int32), told, bits])
    everyones = world.gather_numpy(message[None], f"update.{len(message)}")
    real, cells = (int(total) for total in everyones[:, :2].sum(axis=0, dtype=np.int64))
    joined = task.joined(batch, everyones[:, 2 : 2 + len(told)], world.rank)
    if tokens is None:
        return Joint(joined, None, None, real, cells)
    tokens = _tokens(np.bitwise_or.reduce(everyones[:, 2 + len(told) :], axis=0))
    own = None if len(tokens) == len(batch.tokens) else np.searchsorted(tokens, batch.tokens).astype(np.int32)
    return Joint(joined, tokens, own, real, cells)


def _bits(tokens: np.ndarray, size: int) -> np.ndarray:
    """Distinct ids below `size` as (size / 32,) int32, a bit for each.

    >>> _tokens(_bits(np.array([0, 3, 40]), 50))
    array([ 0,  3, 40], dtype=int32)
    """
    flags = np.zeros(-(-size // 32) * 32, bool)
    flags[tokens] = True
    return np.packbits(flags).view(np.int32)


def _tokens(bits: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8))).astype(np.int32)

"""What the workers tell each other of an update before it is computed: their tokens, their sizes, and what a task adds.

A worker may take its share in parts (`accumulation`), and tells of all of them at once. One gather of equal, small
rows. Distinct tokens are sent as one bit for each id up to the largest that any worker may have, which needs no more
than some kilobytes and always has the same shape.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.distributed.world import World
from pipeline.tasks.base import Task


class Joint(NamedTuple):
    """A worker's parts of an update, and what they are of the whole."""

    batches: list[Any]
    tokens: np.ndarray | None  # (U,) int32 ascending: the embedding rows that any worker needs
    own: list[np.ndarray | None]  # (u,) int32: where each batch's tokens stand among them; None where they are the same
    real: int  # tokens of all workers
    cells: int  # the same with padding


def join(task: Task, batches: list[Any], world: World) -> Joint:
    """Tells the others of this worker's parts and learns of theirs; every worker calls it, in the same order."""
    told, tokens = np.stack([task.told(batch) for batch in batches]), _union([batch.tokens for batch in batches])
    real, cells = sum(batch.real for batch in batches), sum(batch.cells for batch in batches)
    everyones = told
    if world.size > 1:
        bits = np.zeros(0, np.int32) if tokens is None else _bits(tokens, task.embedding_rows)
        message = np.concatenate([np.array([real, cells], np.int32), told.reshape(-1), bits])
        messages = world.gather_numpy(message[None], f"update.{len(message)}")
        real, cells = (int(total) for total in messages[:, :2].sum(axis=0, dtype=np.int64))
        everyones = messages[:, 2 : 2 + told.size].reshape(world.size * len(batches), told.shape[1])
        if tokens is not None:
            tokens = _tokens(np.bitwise_or.reduce(messages[:, 2 + told.size :], axis=0))
    first = world.rank * len(batches)
    joined = [task.joined(batch, everyones, first + part) for part, batch in enumerate(batches)]
    own = [
        None if tokens is None or len(tokens) == len(batch.tokens)
        else np.searchsorted(tokens, batch.tokens).astype(np.int32)
        for batch in batches
    ]  # fmt: skip
    return Joint(joined, tokens, own, real, cells)


def _union(tokens: list[np.ndarray | None]) -> np.ndarray | None:
    """Distinct ids of several parts, each ascending."""
    if len(tokens) == 1:
        return tokens[0]
    known = [part for part in tokens if part is not None]
    return np.unique(np.concatenate(known)) if known else None


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

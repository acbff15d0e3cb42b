"""Cutting the texts of a batch into chunks of like lengths, so that little of what is computed is padding."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.tokenization.shards import padded

# What a chunk costs beside its cells, in rows: the kernels' work per time step that does not depend on the rows. On a
# GPU a step takes about as long with one row as with a hundred.
ROWS_PER_STEP, ROWS_PER_STEP_ON_GPU = 4, 128


def chunk_cuts(lengths: np.ndarray, rows_per_step: int = ROWS_PER_STEP) -> np.ndarray:
    """Where to cut (n,) ascending lengths so that the sum over chunks of (rows + rows_per_step) * longest is least.

    Exact, by dynamic programming over the n places, O(n^2) numpy operations on at most n values.

    >>> chunk_cuts(np.array([2, 2, 3, 3, 3, 90, 100, 100]))
    array([5])
    >>> chunk_cuts(np.array([2, 2, 3, 3, 3, 9, 10, 10]), ROWS_PER_STEP_ON_GPU)
    array([], dtype=int64)
    """
    n = len(lengths)
    longest = lengths.astype(np.int64)
    best = np.zeros(n + 1, np.int64)  # of the first i texts
    start = np.zeros(n + 1, np.int64)  # of the last chunk of the first i texts
    for end in range(1, n + 1):
        costs = best[:end] + (end - np.arange(end) + rows_per_step) * longest[end - 1]
        start[end] = int(costs.argmin())
        best[end] = costs[start[end]]
    cuts, end = [], n
    while end > 0 and start[end] > 0:
        end = int(start[end])
        cuts.append(end)
    return np.array(cuts[::-1], np.int64)


def chunked_cells(lengths: np.ndarray, cuts: np.ndarray) -> int:
    """Cells of the padded chunks of ascending lengths: for each, rows times the longest.

    >>> chunked_cells(np.array([2, 2, 3, 3, 3, 90, 100, 100]), np.array([5]))
    315
    """
    return int(sum(len(part) * part[-1] for part in np.split(lengths, cuts) if len(part)))


def like_lengths(lengths: np.ndarray, rank: int = 0, size: int = 1, cells: int = 16_384) -> Iterator[np.ndarray]:
    """This worker's share of texts to be judged: their numbers, int32, in chunks of like lengths and bounded size.

    >>> [part.tolist() for part in like_lengths(np.array([3, 1, 4, 1]), cells=6)]
    [[1, 3], [0], [2]]
    """
    own_rows = np.argsort(lengths, kind="stable")[rank::size].astype(np.int32)
    start = 0
    while start < len(own_rows):
        needed = lengths[own_rows[start : start + cells]] * np.arange(1, len(own_rows[start : start + cells]) + 1)
        end = start + max(1, int(np.searchsorted(needed, cells, side="right")))
        yield own_rows[start:end]
        start = end


class Chunk(NamedTuple):
    """Texts that go through the network together."""

    ids: np.ndarray  # (T, c) int32, time first, 0 on padding
    lengths: np.ndarray  # (c,) int32


class Chunked(NamedTuple):
    """One worker's texts of a field in an update."""

    chunks: list[Chunk]
    back: np.ndarray  # (n,) int32: where each text stands in the chunks' concatenation
    steps: int  # the longest text
    real: int  # tokens of the texts
    cells: int  # the same with padding

    @property
    def arrays(self) -> list[np.ndarray]:
        """What the network's device is given: each chunk's ids and lengths, then `back`."""
        return [*(array for chunk in self.chunks for array in chunk), self.back]

    @property
    def rows(self) -> np.ndarray:
        """(n,) int32: which text stands at each place of the chunks' concatenation, the inverse of `back`."""
        return np.argsort(self.back, kind="stable").astype(np.int32)


def chunked(texts: list[np.ndarray], tokens: np.ndarray | None = None, rows_per_step: int = ROWS_PER_STEP) -> Chunked:
    """Cuts (T,) texts into chunks of like lengths.

    Args:
        tokens: (U,) ascending; ids then point into it. Without, they are the vocabulary's.
    """
    lengths = np.array([len(text) for text in texts], np.int32)
    order = np.argsort(lengths, kind="stable")
    cuts = chunk_cuts(lengths[order], rows_per_step)
    chunks = []
    for part in np.split(order, cuts):
        ids, sizes = padded([texts[i] for i in part.tolist()])
        chunks.append(Chunk((ids if tokens is None else np.searchsorted(tokens, ids)).T.astype(np.int32), sizes))
    return Chunked(
        chunks=chunks,
        back=np.argsort(order, kind="stable").astype(np.int32),
        steps=int(lengths.max()),
        real=int(lengths.sum()),
        cells=chunked_cells(lengths[order], cuts),
    )


def distinct_tokens(texts: Iterable[np.ndarray]) -> np.ndarray:
    """(U,) int32 ascending: the distinct ids of all these texts, and 0 for padding."""
    return np.unique(np.concatenate([np.zeros(1, np.int32), *texts])).astype(np.int32)

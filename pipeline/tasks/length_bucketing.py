"""Cutting the texts of a batch into chunks of like lengths, so that little of what is computed is padding."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.tokenization.shards import Texts, padded

# What a chunk costs beside its cells, in rows: the kernels' work per time step that does not depend on the rows.
ROWS_PER_STEP = 4


def chunk_cuts(lengths: np.ndarray) -> np.ndarray:
    """Where to cut (n,) ascending lengths so that the sum over chunks of (rows + ROWS_PER_STEP) * longest is least.

    Exact, by dynamic programming over the n places, O(n^2) numpy operations on at most n values.

    >>> chunk_cuts(np.array([2, 2, 3, 3, 3, 90, 100, 100]))
    array([5])
    """
    n = len(lengths)
    longest = lengths.astype(np.int64)
    best = np.zeros(n + 1, np.int64)  # of the first i texts
    start = np.zeros(n + 1, np.int64)  # of the last chunk of the first i texts
    for end in range(1, n + 1):
        costs = best[:end] + (end - np.arange(end) + ROWS_PER_STEP) * longest[end - 1]
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
    mine = np.argsort(lengths, kind="stable")[rank::size].astype(np.int32)
    start = 0
    while start < len(mine):
        needed = lengths[mine[start : start + cells]] * np.arange(1, len(mine[start : start + cells]) + 1)
        end = start + max(1, int(np.searchsorted(needed, cells, side="right")))
        yield mine[start:end]
        start = end


class Chunk(NamedTuple):
    """Texts that go through the network together."""

    ids: np.ndarray  # (T, c) int32, time first, 0 on padding
    lengths: np.ndarray  # (c,) int32


class Chunked(NamedTuple):
    """One worker's texts of a field in an update, and what the update holds of that field over all workers."""

    chunks: list[Chunk]
    back: np.ndarray  # (n,) int32: where each text stands in the chunks' concatenation
    counts: list[int]  # texts of each worker
    steps: int  # the longest text of any worker
    real: int  # tokens of all workers' texts
    cells: int  # the same with padding

    @property
    def rows(self) -> np.ndarray:
        """(n,) int32: which text stands at each place of the chunks' concatenation, the inverse of `back`."""
        return np.argsort(self.back, kind="stable").astype(np.int32)


def chunked(field: Texts, rows: list[np.ndarray], rank: int, tokens: np.ndarray | None = None) -> Chunked:
    """Cuts this worker's texts into chunks of like lengths.

    Args:
        rows: all workers' rows of the field.
        tokens: (U,) ascending; ids then point into it. Without, they are the vocabulary's.
    """
    texts = [field.read(part) for part in rows]
    lengths = [np.array([len(text) for text in part], np.int32) for part in texts]
    orders = [np.argsort(part, kind="stable") for part in lengths]
    cuts = [chunk_cuts(part[order]) for part, order in zip(lengths, orders)]
    chunks = []
    for part in np.split(orders[rank], cuts[rank]):
        ids, sizes = padded([texts[rank][i] for i in part.tolist()])
        chunks.append(Chunk((ids if tokens is None else np.searchsorted(tokens, ids)).T.astype(np.int32), sizes))
    return Chunked(
        chunks=chunks,
        back=np.argsort(orders[rank], kind="stable").astype(np.int32),
        counts=[len(part) for part in rows],
        steps=max(int(part.max()) for part in lengths),
        real=sum(int(part.sum()) for part in lengths),
        cells=sum(chunked_cells(part[order], cut) for part, order, cut in zip(lengths, orders, cuts)),
    )


def distinct_tokens(texts: list[tuple[Texts, np.ndarray]]) -> np.ndarray:
    """(U,) int32 ascending: the distinct ids of all these rows of texts, and 0 for padding."""
    ids = [np.zeros(1, np.int32)]
    ids += [text for field, rows in texts for text in field.read(rows)]
    return np.unique(np.concatenate(ids)).astype(np.int32)

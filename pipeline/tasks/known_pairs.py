"""Which documents are known to be relevant or irrelevant for a query."""

from collections.abc import Callable

import numpy as np

from pipeline.core.derived_arrays import New, parts
from pipeline.tokenization.shards import Split


class Known:
    """What pairs say, sorted by query and document, each document of a query once.

    Args:
        told: (size + K,) int32 as `found` makes it: where each query's documents end, then K documents; those that are
            irrelevant as ~document, which is below zero. It may be a file that is mapped.
        size: queries.
    """

    def __init__(self, told: np.ndarray, size: int) -> None:
        self._ends, self._told = told[:size], told[size:]

    def irrelevant(self, query: int) -> np.ndarray:
        """(n,) int32 ascending documents that pairs say to be irrelevant, and none to be relevant."""
        told = self._of(query)
        return ~told[told < 0]

    def relevant(self, query: int) -> np.ndarray:
        """(n,) int32 ascending documents that pairs say to be relevant."""
        told = self._of(query)
        return told[told >= 0]

    def relevant_among(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(2, k) int32: i and j wherever a pair says that document j of (m,) is relevant for query i of (n,)."""
        starts = np.where(queries > 0, self._ends[queries - 1], 0)
        rows, places = _ranges(starts, self._ends[queries])
        told = self._told[places]
        matches, columns = _columns(told[told >= 0], documents)
        return np.stack([rows[told >= 0][matches], columns]).astype(np.int32)

    def _of(self, query: int) -> np.ndarray:
        return self._told[int(self._ends[query - 1]) if query else 0 : int(self._ends[query])]


def of(split: Split, derived: Callable[[str, Callable[[New], np.ndarray]], np.ndarray] | None = None) -> Known:
    """What a split's pairs say. `derived` is given a name and what makes the array; None: it is made in memory."""
    queries, size = split.rows["query"], len(split.fields["query"])
    make = lambda new: found(queries, split.rows["document"], split.relevance, size, new)
    return Known(make(np.empty) if derived is None else derived("known", make), size)


def found(queries: np.ndarray, documents: np.ndarray, relevance: np.ndarray, size: int, new: New) -> np.ndarray:
    """(size + K,) int32: what (P,) rows of queries and documents and their relevance say, as Known has it."""
    pairs, every = new((len(queries),), np.int64), parts(len(queries))
    for part in every:  # 31 bits of query, 31 of document, one that is 0 where it is relevant: such a pair comes first
        pairs[part] = queries[part].astype(np.int64) << 32 | documents[part].astype(np.int64) << 1
        pairs[part] |= relevance[part] <= 0
    pairs.sort()
    count = sum(len(_first(pairs, part)) for part in every)
    told = new((size + count,), np.int32)
    ends, end = told[:size], size
    ends[:] = 0
    for part in every:
        some = _first(pairs, part)
        numbers = (some >> 1 & 0x7FFFFFFF).astype(np.int32)
        told[end : end + len(some)] = np.where(some & 1, ~numbers, numbers)
        end += len(some)
        of_query, counts = np.unique(some >> 32, return_counts=True)
        ends[of_query] += counts.astype(np.int32)
    np.cumsum(ends, out=ends)
    return told


def _first(pairs: np.ndarray, part: slice) -> np.ndarray:
    """Those of a part of the sorted pairs before which none is of the same query and document."""
    before = pairs[part.start - 1 : part.start] >> 1 if part.start else np.array([-1])
    same = np.diff(pairs[part] >> 1, prepend=before) == 0
    return pairs[part][~same]


class Scored:
    """Scores of P pairs, sorted by query and document, each pair once.

    Args:
        keys: (P,) int64 as `key_of` makes them, ascending; scores: (P,) float32. Both may be files that are mapped.
    """

    def __init__(self, keys: np.ndarray, scores: np.ndarray) -> None:
        self._keys, self._scores = keys, scores

    def among(self, queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(2, k) int32: i and j wherever query i of (n,) and document j of (m,) have a score; and (k,) the scores."""
        starts, ends = (np.searchsorted(self._keys, key_of(queries + i, np.zeros(1, int))) for i in (0, 1))
        rows, known = _ranges(starts, ends)
        matches, columns = _columns(self._keys[known] & 0xFFFFFFFF, documents)
        return np.stack([rows[matches], columns]).astype(np.int32), np.asarray(self._scores[known[matches]])


def key_of(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """int64: numbers that stand for pairs of rows."""
    return queries.astype(np.int64) << 32 | documents.astype(np.int64)


def _columns(wanted: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wherever one of (w,) documents stands among (m,): which it is, and its column."""
    order = np.argsort(documents, kind="stable")
    ordered = documents[order]
    matches, places = _ranges(*(np.searchsorted(ordered, wanted, side) for side in ("left", "right")))
    return matches, order[places]


def _ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers from each start to its end, one range after the other, and which range each is of.

    >>> _ranges(np.array([3, 5, 0]), np.array([5, 5, 1]))
    (array([0, 0, 2]), array([3, 4, 0]))
    """
    counts = ends - starts
    which = np.repeat(np.arange(len(starts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[which]

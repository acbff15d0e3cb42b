"""Which documents are known to be relevant or irrelevant for a query."""

import numpy as np


class Known:
    """What pairs say, in five bytes each: sorted by query and document, each document of a query once."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray, relevant: np.ndarray, size: int) -> None:
        """(P,) rows of queries and of documents and whether they belong together; `size` queries."""
        # 31 bits of query, 31 of document, one that is 0 where the pair is relevant: so such a pair comes first
        pairs = queries.astype(np.int64) << 32 | documents.astype(np.int64) << 1 | ~relevant
        pairs.sort()
        first = np.ones(len(pairs), bool)
        first[1:] = pairs[1:] >> 1 != pairs[:-1] >> 1
        pairs = pairs[first]
        self._documents = (pairs >> 1 & 0x7FFFFFFF).astype(np.int32)
        self._relevant = pairs & 1 == 0
        self._ends = np.searchsorted(pairs, np.arange(1, size + 1) << 32).astype(np.int32)

    def irrelevant(self, query: int) -> np.ndarray:
        """(n,) int32 ascending documents that pairs say to be irrelevant, and none to be relevant."""
        part = slice(int(self._ends[query - 1]) if query else 0, int(self._ends[query]))
        return self._documents[part][~self._relevant[part]]

    def relevant(self, query: int) -> np.ndarray:
        """(n,) int32 ascending documents that pairs say to be relevant."""
        part = slice(int(self._ends[query - 1]) if query else 0, int(self._ends[query]))
        return self._documents[part][self._relevant[part]]

    def relevant_among(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(2, k) int32: i and j wherever a pair says that document j of (m,) is relevant for query i of (n,)."""
        starts = np.where(queries > 0, self._ends[queries - 1], 0)
        rows, known = _ranges(starts, self._ends[queries])
        relevant = self._relevant[known]
        rows, wanted = rows[relevant], self._documents[known[relevant]]
        matches, columns = _columns(wanted, documents)
        return np.stack([rows[matches], columns]).astype(np.int32)


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

"""Approximate nearest vectors: HNSW by faiss, with the effort that reaches a wanted recall.

Reference: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical navigable
small world graphs", TPAMI 2020.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.search import hnsw_file_check

LINKS = 32  # M, a vector's neighbours per layer
EFFORT_AT_BUILDING = 80  # efConstruction
EFFORTS = (100, 200, 400, 800)  # efSearch, tried in this order


class Hits(NamedTuple):
    rows: np.ndarray  # (N, k) int64, -1 where there are no more
    scores: np.ndarray  # (N, k) float32 dot products


class Graph:
    """Rows of vectors that can be found by dot product; only grows, rows that are gone are left out when searching."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def empty(cls, width: int) -> "Graph":
        import faiss

        index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EFFORT_AT_BUILDING
        return cls(index)

    @classmethod
    def read(cls, path: Path) -> "Graph":
        """Opens what `write` wrote. Raises ValueError where it is something else, or damaged."""
        import faiss

        hnsw_file_check.check(path)
        return cls(faiss.read_index(str(path)))

    @property
    def size(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        return int(self._index.d)

    def add(self, vectors: np.ndarray) -> None:
        """(N, D) float32, which get the next rows."""
        self._index.add(np.ascontiguousarray(vectors, np.float32))

    def write(self, path: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(path))

    def search(self, queries: np.ndarray, k: int, effort: int, alive: np.ndarray | None = None) -> Hits:
        """The k best of the rows where `alive` (size,) bool holds, best first."""
        import faiss

        wanted = {"efSearch": max(effort, k)}
        bits = None if alive is None else np.packbits(alive, bitorder="little")
        if bits is not None:
            wanted["sel"] = faiss.IDSelectorBitmap(bits)
        parameters = faiss.SearchParametersHNSW(**wanted)
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
        return Hits(rows, scores)


def recall(approximate: list[list[int]], exact: list[list[int]]) -> float:
    """The mean share of each exact list that was found, in [0, 1]; empty lists count as found.

    >>> recall([[1, 2], [5, 9]], [[2, 1], [5, 6]])
    0.75
    """
    shares = [len({*have} & {*want}) / len(want) if want else 1.0 for have, want in zip(approximate, exact)]
    return sum(shares) / len(shares) if shares else 1.0

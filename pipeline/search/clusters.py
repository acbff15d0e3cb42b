"""Candidates by clusters of vectors: a query is compared with the clusters' centres, then with what the nearest hold.

Of late interaction a passage is in the clusters of all its tokens, and the centres alone estimate its score: a token of
the query counts as much as the nearest centre whose cluster holds the passage, at least as the last centre looked at.

References: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", TPAMI 2011 (the inverted file);
Santhanam et al., "PLAID: an efficient engine for late interaction retrieval", CIKM 2022; Lee et al., "Rethinking the
role of token retrieval in multi-vector retrieval", NeurIPS 2023 (what stands in for a score that is not looked up).
"""

from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError

CENTRES, STARTS, PASSAGES = "clusters-centres.npy", "clusters-starts.npy", "clusters-passages.npy"


class Clusters:
    """C clusters over P passages; a cluster's passages are read from disk as they are needed.

    Args:
        centres: (C, D) float32. starts: (C + 1,) int64, where each cluster's passages begin.
        passages: (n,) int32 rows of passages, each once in a cluster, ascending.
    """

    def __init__(self, centres: np.ndarray, starts: np.ndarray, passages: np.ndarray) -> None:
        self.centres, self.starts, self.passages = centres, starts, passages

    @classmethod
    def read(cls, folder: Path, width: int) -> "Clusters":
        """Opens what `cluster_build.write` wrote. Raises ValueError or OSError where it is something else."""
        centres, starts = (np.load(folder / name, allow_pickle=False) for name in (CENTRES, STARTS))
        passages = np.load(folder / PASSAGES, mmap_mode="r", allow_pickle=False)
        if centres.ndim != 2 or centres.shape[1] != width or centres.dtype != np.float32 or not len(centres):
            raise ValueError(f"{CENTRES} has another shape")
        if not np.isfinite(centres).all():
            raise ValueError(f"{CENTRES} holds numbers that are not finite")
        if starts.shape != (len(centres) + 1,) or starts.dtype != np.int64 or passages.dtype != np.int32:
            raise ValueError(f"{STARTS} or {PASSAGES} has another shape")
        if passages.ndim != 1 or starts[0] != 0 or starts[-1] != len(passages) or (np.diff(starts) < 0).any():
            raise ValueError(f"{STARTS} does not divide {PASSAGES}")
        return cls(centres, starts, np.asarray(passages))

    def __len__(self) -> int:
        return len(self.centres)

    def of(self, cluster: int, total: int) -> np.ndarray:
        """The passages of a cluster, of so many in all. Raises InputError where the file names others."""
        rows = self.passages[self.starts[cluster] : self.starts[cluster + 1]]
        if len(rows) and not 0 <= rows.min() <= rows.max() < total:
            raise InputError("the index's clusters are damaged: delete it and run `duplet index` again")
        return rows

    def near_vector(self, vector: np.ndarray, probes: int, allowed: np.ndarray) -> np.ndarray:
        """The passages of the nearest clusters, rows ascending.

        Args:
            vector: (D,), whose dot product with a passage's vector is the score. allowed: (P,) bool.
        """
        nearest = _greatest(self.centres @ vector, probes)
        rows = np.unique(np.concatenate([self.of(cluster, len(allowed)) for cluster in nearest.tolist()]))
        return rows[allowed[rows]].astype(np.int64)

    def near_tokens(
        self, vectors: np.ndarray, weights: np.ndarray, probes: int, count: int, allowed: np.ndarray
    ) -> np.ndarray:
        """The passages of the greatest estimated scores, rows ascending; `count` of them where so many are allowed.

        Args:
            vectors, weights: (T, D) and (T,), the query's tokens. probes: clusters that are looked up for each.
        """
        total = np.zeros(len(allowed), np.float32)
        for near, weight in zip(vectors @ self.centres.T, weights.tolist()):
            nearest = _greatest(near, probes + 1)
            scores = np.full(len(allowed), near[nearest[0]], np.float32)
            for cluster in nearest[len(nearest) > probes :].tolist():  # from far to near: the nearest is what stays
                scores[self.of(cluster, len(allowed))] = near[cluster]
            scores *= weight
            total += scores
        rows = np.flatnonzero(allowed)
        return np.sort(rows[_greatest(total[rows], count)])


def _greatest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the greatest values, the greatest last."""
    if count < len(values):
        places = np.argpartition(values, len(values) - count)[len(values) - count :]
    else:
        places = np.arange(len(values))
    return places[np.argsort(values[places], kind="stable")]

"""Vectors as an index keeps them: eight bits a number and a scale per vector, or as the model gave them.

A number is at most 1/254 of its vector's greatest away from what it was. Of late interaction, tokens that tell little
can be left out (`pruned`), and like ones be made one (`pooled`): benchmarks/index_size.py measures what each costs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.serving.predict.scoring import Encoded

GREATEST = 127
DECODED_AT_ONCE = 1 << 18  # vectors: 128 MB of 128 numbers


class Codes(NamedTuple):
    """N texts, as scoring.Encoded has them."""

    vectors: np.ndarray  # (V, D) int8, or float32 without scales
    scales: np.ndarray | None  # (V,) float32
    weights: np.ndarray | None = None  # (V,) float32, of late interaction
    offsets: np.ndarray | None = None  # (N + 1,) int64, of late interaction

    @property
    def texts(self) -> int:
        return len(self.vectors) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> "Codes":
        """The texts of these rows, in their order."""
        if self.offsets is None:
            return Codes(self.vectors[rows], None if self.scales is None else self.scales[rows])
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        assert self.weights is not None
        scales = None if self.scales is None else self.scales[places]
        return Codes(self.vectors[places], scales, self.weights[places], offsets)

    def numbers(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """(n, D) float32: the vectors first … end - 1."""
        vectors = self.vectors[first:end]
        if self.scales is None:
            return vectors
        return np.asarray(vectors.astype(np.float32) * self.scales[first:end, None])

    def decoded(self) -> Encoded:
        return Encoded(self.numbers(), self.weights, self.offsets)

    def parts(self) -> Iterator[Encoded]:
        """All texts in their order, so many at a time that the decoded vectors are few."""
        if self.scales is None:
            yield self.decoded()
            return
        ends = np.arange(1, self.texts + 1) if self.offsets is None else self.offsets[1:]
        first = 0
        while first < self.texts:
            begun = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, begun + DECODED_AT_ONCE, "right")))
            vectors = self.numbers(begun, int(ends[last - 1]))
            if self.offsets is None:
                yield Encoded(vectors)
            else:
                assert self.weights is not None
                yield Encoded(
                    vectors, self.weights[begun : int(ends[last - 1])], self.offsets[first : last + 1] - begun
                )
            first = last


def coded(encoded: Encoded, bits: int) -> Codes:
    """Vectors as they are kept in 8 or 32 bits a number."""
    if bits == 32:
        return Codes(encoded.vectors, None, encoded.weights, encoded.offsets)
    scales = np.abs(encoded.vectors).max(axis=1, initial=0) / GREATEST
    values = encoded.vectors / np.where(scales > 0, scales, 1)[:, None]
    return Codes(np.rint(values).astype(np.int8), scales.astype(np.float32), encoded.weights, encoded.offsets)


def joined(parts: list[Codes]) -> Codes:
    """Texts one after the other, all kept in as many bits."""
    vectors = np.concatenate([part.vectors for part in parts])
    scales = [part.scales for part in parts if part.scales is not None]
    all_scales = np.concatenate(scales) if scales else None
    if parts[0].offsets is None:
        return Codes(vectors, all_scales)
    offsets, before = [], 0
    for part in parts:
        assert part.offsets is not None
        offsets.append(part.offsets[:-1] + before)
        before += len(part.vectors)
    weights = [part.weights for part in parts if part.weights is not None]
    return Codes(vectors, all_scales, np.concatenate(weights), np.concatenate([*offsets, [before]]).astype(np.int64))


def pruned(encoded: Encoded, share: float) -> Encoded:
    """Without this share of each text's tokens: those that the model finds least important; one at least stays."""
    assert encoded.offsets is not None and encoded.weights is not None
    text_rows, lengths = [], []
    for start, end in zip(encoded.offsets[:-1].tolist(), encoded.offsets[1:].tolist()):
        count = max(1, end - start - int(share * (end - start)))
        order = np.argsort(-encoded.weights[start:end], kind="stable")[:count]
        text_rows.append(start + np.sort(order))
        lengths.append(count)
    rows = np.concatenate(text_rows) if text_rows else np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Encoded(encoded.vectors[rows], encoded.weights[rows], offsets)


def pooled(encoded: Encoded, factor: float) -> Encoded:
    """Each text's tokens joined into 1/factor as many: the most alike become their mean, of their mean's length.

    Reference: Clavié, Chaffin and Adams, "Reducing the footprint of multi-vector retrieval with minimal performance
    impact via token pooling", 2024 (hierarchical clustering).
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    assert encoded.offsets is not None and encoded.weights is not None
    vectors, weights, lengths = [], [], []
    for start, end in zip(encoded.offsets[:-1].tolist(), encoded.offsets[1:].tolist()):
        own, own_weights = encoded.vectors[start:end], encoded.weights[start:end]
        wanted = max(1, round((end - start) / factor))
        if wanted < end - start and end - start > 1:
            groups = fcluster(linkage(own, "ward"), wanted, "maxclust") - 1
            size = int(groups.max()) + 1
            sums = np.zeros((size, own.shape[1]))
            np.add.at(sums, groups, own)
            length = np.bincount(groups, np.linalg.norm(own, axis=1), size) / np.bincount(groups, minlength=size)
            own = sums / np.maximum(1e-9, np.linalg.norm(sums, axis=1))[:, None] * length[:, None]
            own_weights = np.bincount(groups, own_weights, size)
        vectors.append(own)
        weights.append(own_weights)
        lengths.append(len(own))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if not vectors:
        return encoded
    return Encoded(np.concatenate(vectors).astype(np.float32), np.concatenate(weights).astype(np.float32), offsets)

"""Vectors as an index keeps them: in two or four bits a number, in eight and a scale per vector, or as they were.

In eight bits a number is at most 1/254 of its vector's greatest away from what it was. In fewer, some numbers together
are a byte, which names one of 256 groups of numbers in a book that is made of the vectors themselves (`packed`). Of
late interaction, tokens that tell little can be left out (`pruned`), and like ones be made one (`pooled`):
benchmarks/index_size.py measures what each costs.

Reference: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", TPAMI 2011.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.serving.predict.scoring import Encoded

GREATEST = 127
LIMIT = float(np.finfo(np.float16).max)
BOOKED = (2, 4)  # bits a number that are kept by a book
BOOK = 256
BOOK_FROM = 1 << 15  # vectors
BOOK_ROUNDS = 12  # of k-means
WORTH = 2  # a book is made where it saves so many times its own bytes
DECODED_AT_ONCE = 1 << 18  # vectors: 128 MB of 128 numbers


class Codes(NamedTuple):
    """N texts, as scoring.Encoded has them."""

    vectors: np.ndarray  # (V, D) int8, or float32 without scales; with a book (V, B) uint8
    scales: np.ndarray | None  # (V,) float32
    weights: np.ndarray | None = None  # (V,) float32 or, in fewer than 32 bits, float16; of late interaction
    offsets: np.ndarray | None = None  # (N + 1,) int64, of late interaction
    book: np.ndarray | None = None  # (B, 256, D / B) float32: what each byte stands for

    @property
    def width(self) -> int:
        """D."""
        return int(self.vectors.shape[1] if self.book is None else self.book.shape[0] * self.book.shape[2])

    @property
    def texts(self) -> int:
        return len(self.vectors) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> "Codes":
        """The texts of these rows, in their order."""
        if self.offsets is None:
            return self._replace(vectors=self.vectors[rows], scales=None if self.scales is None else self.scales[rows])
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        assert self.weights is not None
        scales = None if self.scales is None else self.scales[places]
        return Codes(self.vectors[places], scales, self.weights[places], offsets, self.book)

    def numbers(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """(n, D) float32: the vectors first … end - 1."""
        return self.picked(slice(first, end))

    def picked(self, rows: np.ndarray | slice) -> np.ndarray:
        """(n, D) float32: the vectors of these rows."""
        vectors = self.vectors[rows]
        if self.book is not None:
            parts, groups, numbers = self.book.shape
            places = vectors + groups * np.arange(parts)
            return np.take(self.book.reshape(-1, numbers), places, axis=0).reshape(len(vectors), parts * numbers)
        if self.scales is None:
            return vectors
        return np.asarray(vectors.astype(np.float32) * self.scales[rows, None])

    def divided(self, rows: np.ndarray, vectors: int) -> Iterator[slice]:
        """Parts of some texts, each of no more than so many vectors unless one text has more."""
        lengths = np.ones(len(rows), np.int64) if self.offsets is None else np.diff(self.offsets)[rows]
        ends, first = np.cumsum(lengths), 0
        while first < len(rows):
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + vectors, "right")))
            yield slice(first, last)
            first = last

    def decoded(self) -> Encoded:
        return Encoded(self.numbers(), None if self.weights is None else _whole(self.weights), self.offsets)

    def parts(self) -> Iterator[Encoded]:
        """All texts in their order, so many at a time that the decoded vectors are few."""
        if self.scales is None and self.book is None:
            yield self.decoded()
            return
        for part in self.divided(np.arange(self.texts), DECODED_AT_ONCE):
            first, last = part.start, part.stop
            if self.offsets is None:
                yield Encoded(self.numbers(first, last))
                continue
            assert self.weights is not None
            begun, ended = int(self.offsets[first]), int(self.offsets[last])
            offsets = self.offsets[first : last + 1] - begun
            yield Encoded(self.numbers(begun, ended), _whole(self.weights[begun:ended]), offsets)


def coded(encoded: Encoded, bits: int) -> Codes:
    """Vectors as they are kept in 8 or 32 bits a number."""
    if bits == 32:
        return Codes(encoded.vectors, None, encoded.weights, encoded.offsets)
    scales = np.abs(encoded.vectors).max(axis=1, initial=0) / GREATEST
    values = encoded.vectors / np.where(scales > 0, scales, 1)[:, None]
    weights = None if encoded.weights is None else np.clip(encoded.weights, -LIMIT, LIMIT).astype(np.float16)
    return Codes(np.rint(values).astype(np.int8), scales.astype(np.float32), weights, encoded.offsets)


def _whole(weights: np.ndarray) -> np.ndarray:
    return weights.astype(np.float32, copy=False)


def packed(kept: Codes, bits: int) -> Codes:
    """Vectors by a book of their own: 8 / bits numbers are a byte. Those that it would not make smaller stay."""
    width, numbers = kept.width, 8 // bits
    saved = len(kept.vectors) * (width - width // numbers)  # bytes
    if width % numbers or len(kept.vectors) < BOOK or saved <= WORTH * 4 * BOOK * width:
        return kept
    import faiss

    quantiser = faiss.ProductQuantizer(width, width // numbers, 8)
    quantiser.cp.niter, quantiser.cp.seed, quantiser.cp.min_points_per_centroid = BOOK_ROUNDS, 1, 1
    rows = np.random.default_rng(0).choice(len(kept.vectors), min(BOOK_FROM, len(kept.vectors)), replace=False)
    quantiser.train(np.ascontiguousarray(kept.picked(np.sort(rows))))
    vectors = np.empty((len(kept.vectors), width // numbers), np.uint8)
    for start in range(0, len(vectors), DECODED_AT_ONCE):
        own = np.ascontiguousarray(kept.numbers(start, start + DECODED_AT_ONCE))
        vectors[start : start + len(own)] = quantiser.compute_codes(own)
    book = faiss.vector_to_array(quantiser.centroids).reshape(width // numbers, BOOK, numbers)
    return Codes(vectors, None, kept.weights, kept.offsets, book)


def unpacked(kept: Codes) -> Codes:
    """Vectors of a book in eight bits, to be joined with others; others as they are."""
    return kept if kept.book is None else coded(kept.decoded(), 8)


def joined(parts: list[Codes]) -> Codes:
    """Texts one after the other, all kept in as many bits and none by a book."""
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

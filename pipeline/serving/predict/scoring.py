"""Heads in NumPy: what scores representations once either backend has made them. Imports no MXNet."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.config.head import Head, Texts
from pipeline.evaluation.grades import expected_grade, grade_probabilities, softmax

# side, (N, T) int32 ids with 0 on padding, (N,) int32 lengths -> (N, P) vectors and None, or (N, T, P) and (N, T)
Represent = Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]

# Pairs of a query's and a document's token compared at once by late interaction: 32 MB as float32.
COMPARED_PER_CHUNK = 8_000_000
# Cells of pair features held at once.
FEATURES_PER_CHUNK = 8_000_000


class Encoded(NamedTuple):
    """N texts. Pooled heads: a vector each. Late interaction: a vector and a weight per token, text after text."""

    vectors: np.ndarray  # (N, P) float32, or (sum of tokens, P)
    weights: np.ndarray | None = None  # (sum of tokens,) float32, a token's importance
    offsets: np.ndarray | None = None  # (N + 1,) int64, where each text's tokens begin; the last is their number

    @property
    def texts(self) -> int:
        """N."""
        return len(self.vectors) if self.offsets is None else len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 vectors of each text."""
        return np.ones(self.texts, np.int64) if self.offsets is None else np.diff(self.offsets)

    def padded(self) -> Texts:
        """As a head's formula takes them: texts by token as (N, T, P) and (N, T), zeros behind each text's end."""
        if self.offsets is None:
            return Texts(self.vectors, None)
        assert self.weights is not None
        mask = np.arange(self.lengths.max(initial=1)) < self.lengths[:, None]
        vectors = np.zeros((*mask.shape, self.vectors.shape[1]), np.float32)
        weights = np.zeros(mask.shape, np.float32)
        vectors[mask], weights[mask] = self.vectors, self.weights
        return Texts(vectors, weights)

    def take(self, rows: np.ndarray) -> "Encoded":
        """The texts of these rows, in their order; rows may repeat."""
        if self.offsets is None:
            return Encoded(self.vectors[rows])
        assert self.weights is not None
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Encoded(self.vectors[places], self.weights[places], offsets)

    def slice(self, start: int, end: int) -> "Encoded":
        """Texts start … end - 1, as views."""
        if self.offsets is None:
            return Encoded(self.vectors[start:end])
        assert self.weights is not None
        first, last = self.offsets[start], self.offsets[min(end, self.texts)]
        return Encoded(self.vectors[first:last], self.weights[first:last], self.offsets[start : end + 1] - first)


def tower_of(parameters: Mapping[str, np.ndarray], side: str) -> str:
    """Under which name the parameters of a side's tower are; shared towers are stored once."""
    names = {name.partition(".")[0] for name in parameters if "_tower." in name}
    return f"{side}_tower" if f"{side}_tower" in names else next(iter(names))


class Scorer:
    """Compares encoded queries and documents as the configuration's head does.

    Args:
        parameters: arrays by structural name, of which those of the head are kept.
    """

    def __init__(self, config: Config, parameters: Mapping[str, np.ndarray]) -> None:
        self.head, self.link = config.model.scored_by, config.train.loss.grade_link
        own = {name: array.astype(np.float32) for name, array in parameters.items()
               if name.startswith(("head.", "output."))}  # fmt: skip
        self._maths = NumpyMaths(own, config.model.head_options)

    def score_all(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(Nq, Nd) float32 scores; larger is a better match. Of a pointwise model, expected grades."""
        if not self.link:
            return np.asarray(self.head.all(self._maths, query, document))
        return every_pair(self.score_pairs, query, document)

    def score_pairs(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(N,) scores of query i with document i, equal to the diagonal of `score_all`."""
        if self.link:
            return expected_grade(self.grades(query, document)).astype(np.float32)
        return self._by_chunks(self.head.pairs, query, document)

    def grades(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(N, G) probabilities of the grades; of a pointwise model alone."""
        assert self.link, "only a loss of grades gives grades"
        return grade_probabilities(self._by_chunks(self._logits, query, document), self.link)

    def _logits(self, maths: "NumpyMaths", query: Texts, document: Texts) -> np.ndarray:
        return maths.output(self.head.features(maths, query, document))

    def _by_chunks(self, formula: Callable[..., np.ndarray], query: Encoded, document: Encoded) -> np.ndarray:
        return by_chunks(lambda *sides: formula(self._maths, *sides), query, document)


def by_chunks(formula: Callable[[Texts, Texts], np.ndarray], query: Encoded, document: Encoded) -> np.ndarray:
    """A formula over N pairs, a bounded number at once; texts by token are padded, among others of like lengths."""
    if not query.texts:
        return formula(query.padded(), document.padded())
    width = query.vectors.shape[1]
    by_token = query.offsets is not None
    order = np.lexsort((query.lengths, document.lengths)) if by_token else np.arange(query.texts)
    parts, start = [], 0
    while start < len(order):
        rows = order[start : start + max(1, COMPARED_PER_CHUNK // (8 * width))]
        longest = [np.maximum.accumulate(side.lengths[rows]) for side in (query, document)]
        # of a pair as padded: its products, and its vectors with what is computed of them
        numbers = (longest[0] * longest[1] + 4 * width * (longest[0] + longest[1])) * np.arange(1, len(rows) + 1)
        parts.append(rows[: max(1, int(np.searchsorted(numbers, COMPARED_PER_CHUNK, side="right")))])
        start += len(parts[-1])
    sorted_values = np.concatenate([formula(query.take(rows).padded(), document.take(rows).padded()) for rows in parts])
    values = np.empty_like(sorted_values)
    values[order] = sorted_values
    return values


def every_pair(pairs: Callable[[Encoded, Encoded], np.ndarray], query: Encoded, document: Encoded) -> np.ndarray:
    """(Nq, Nd) float32, of (N,) scores of pairs; some queries at once."""
    nq, nd = query.texts, document.texts
    scores = np.empty((nq, nd), np.float32)
    step = max(1, FEATURES_PER_CHUNK // max(1, 4 * document.vectors.size))
    for start in range(0, nq, step):
        end = min(nq, start + step)
        left = query.take(np.repeat(np.arange(start, end), nd))
        right = document.take(np.tile(np.arange(nd), end - start))
        scores[start:end] = pairs(left, right).reshape(end - start, nd)
    return scores


class NumpyMaths:
    """`pipeline.config.head.Maths` over NumPy arrays; `every_…` takes Encoded."""

    def __init__(self, arrays: Mapping[str, np.ndarray], options: Any) -> None:
        self._arrays, self.options = arrays, options

    def array(self, name: str) -> np.ndarray:
        return self._arrays[f"head.{name}"]

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        products, bias = x @ self._arrays[f"head.{name}.weight"].T, self._arrays.get(f"head.{name}.bias")
        return np.asarray(products if bias is None else products + bias)

    def output(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features @ self._arrays["output.weight"].T + self._arrays["output.bias"])

    @staticmethod
    def neighbours(x: np.ndarray) -> np.ndarray:
        longer = np.pad(x, ((0, 0), (1, 1), (0, 0)))
        return np.concatenate([longer[:, :-2], x, longer[:, 2:]], axis=2)

    dropped = staticmethod(lambda x: x)
    concat = staticmethod(lambda *values: np.concatenate(values, axis=-1))
    stack = staticmethod(lambda *values: np.stack(values, axis=1))
    first = staticmethod(lambda x: x[:, 0])
    width = staticmethod(lambda x: x.shape[-1])
    since = staticmethod(lambda x, begin: x[..., begin:])
    sum = staticmethod(lambda x, axis, keep=False: x.sum(axis=axis, keepdims=keep))
    largest = staticmethod(lambda x: x.max(axis=-1))
    unit = staticmethod(lambda x: x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-12))
    absolute = staticmethod(np.abs)
    root = staticmethod(lambda x: np.sqrt(np.maximum(x, 1e-12)))
    tanh = staticmethod(np.tanh)
    relu = staticmethod(lambda x: np.maximum(x, 0))
    sigmoid = staticmethod(lambda x: 0.5 * (np.tanh(0.5 * x) + 1))  # without overflow
    softmax = staticmethod(softmax)
    times = staticmethod(np.matmul)
    products = staticmethod(lambda x, y: x @ y.transpose(0, 2, 1))
    turned = staticmethod(lambda x: x.transpose(0, 2, 1))
    expanded = staticmethod(np.expand_dims)
    zero = staticmethod(lambda x: (x == 0).astype(np.float32))
    every_dot = staticmethod(lambda query, document: query @ document.T)

    def every_best(self, query: Encoded, document: Encoded) -> np.ndarray:
        assert query.offsets is not None and document.offsets is not None and query.weights is not None
        scores = np.empty((query.texts, document.texts), np.float32)
        if not scores.size:
            return scores
        totals = np.add.reduceat(query.weights, query.offsets[:-1])
        longest = int(np.diff(query.offsets).max())
        step = max(1, COMPARED_PER_CHUNK // (longest * max(1, len(document.vectors))))
        for start in range(0, query.texts, step):
            end = min(query.texts, start + step)
            part = query.slice(start, end)
            assert part.offsets is not None and part.weights is not None
            best = np.maximum.reduceat(part.vectors @ document.vectors.T, document.offsets[:-1], axis=1)
            best *= part.weights[:, None]
            scores[start:end] = np.add.reduceat(best, part.offsets[:-1], axis=0) / totals[start:end, None]
        return scores

    def every_pair(self, head: Head, query: Encoded, document: Encoded) -> np.ndarray:
        return every_pair(lambda *sides: by_chunks(lambda *padded: head.pairs(self, *padded), *sides), query, document)

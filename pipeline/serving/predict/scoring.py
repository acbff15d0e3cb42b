"""The matching heads in numpy: what scores representations once either backend has made them. Imports no MXNet.

Each formula is `pipeline.models.matcher.Head`'s, over representations without padding.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.evaluation.grades import grade_probabilities

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
        self.kind, loss = config.model.head, config.train.loss
        self.link = loss.link if loss.kind == "pointwise" else None
        names = ("head.form", "head.hidden.weight", "head.hidden.bias", "output.weight", "output.bias")
        self._of = {name: parameters[name].astype(np.float32) for name in names if name in parameters}

    def score_all(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(Nq, Nd) float32 scores; larger is a better match. Of a pointwise model, expected grades."""
        nq, nd = query.texts, document.texts
        if self.link is None and self.kind == "late_interaction":
            return _late_all(query, document)
        if self.link is None and self.kind != "mlp":
            q, d = self._mapped(query.vectors, document.vectors)
            return np.asarray(q @ d.T)
        scores = np.empty((nq, nd), np.float32)
        step = max(1, FEATURES_PER_CHUNK // max(1, 4 * document.vectors.size))
        for start in range(0, nq, step):
            end = min(nq, start + step)
            left = query.take(np.repeat(np.arange(start, end), nd))
            right = document.take(np.tile(np.arange(nd), end - start))
            scores[start:end] = self.score_pairs(left, right).reshape(end - start, nd)
        return scores

    def score_pairs(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(N,) scores of query i with document i, equal to the diagonal of `score_all`."""
        if self.link is not None:
            probabilities = self.grades(query, document)
            return (probabilities @ np.arange(probabilities.shape[1])).astype(np.float32)
        if self.kind == "late_interaction":
            return np.array([_late_all(query.slice(i, i + 1), document.slice(i, i + 1))[0, 0]
                             for i in range(query.texts)], np.float32)  # fmt: skip
        features = self._features(query, document)
        return self._output(features)[:, 0] if self.kind == "mlp" else features[:, 0]

    def grades(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(N, G) probabilities of the grades; of a pointwise model alone."""
        assert self.link is not None, "only a pointwise loss gives grades"
        return grade_probabilities(self._output(self._features(query, document)), self.link)

    def _output(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features @ self._of["output.weight"].T + self._of["output.bias"])

    def _hidden(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features @ self._of["head.hidden.weight"].T + self._of["head.hidden.bias"])

    def _mapped(self, q: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Query and document vectors whose dot product is the score, for heads that have such."""
        if self.kind == "cosine":
            return _unit(q), _unit(d)
        return (q @ self._of["head.form"], d) if self.kind == "bilinear" else (q, d)

    def _features(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(N, features) of the pairs, as `Head.pair_features`."""
        if self.kind == "late_interaction":
            return self._late_features(query, document)
        if self.kind == "mlp":
            q, d = query.vectors, document.vectors
            return np.maximum(self._hidden(np.concatenate([q, d, np.abs(q - d), q * d], axis=1)), 0)
        q, d = self._mapped(query.vectors, document.vectors)
        return (q * d).sum(axis=1, keepdims=True)

    def _late_features(self, query: Encoded, document: Encoded) -> np.ndarray:
        half = query.vectors.shape[1] // 2
        together = np.empty((query.texts, 4), np.float32)
        for i in range(query.texts):
            q, d = query.slice(i, i + 1), document.slice(i, i + 1)
            for column, begin in ((0, 0), (2, half)):
                similar = q.vectors[:, begin:] @ d.vectors[:, begin:].T
                together[i, column] = _weighted(similar.max(axis=1), q.weights)
                together[i, column + 1] = _weighted(similar.max(axis=0), d.weights)
        left, right = _mean(query), _mean(document)
        wide = np.concatenate([together, np.abs(left - right), left * right], axis=1)
        return np.concatenate([together, np.tanh(self._hidden(wide))], axis=1)


def _late_all(query: Encoded, document: Encoded) -> np.ndarray:
    """(Nq, Nd): the mean over a query's tokens, by importance, of the best similarity among a document's tokens."""
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


def _weighted(values: np.ndarray, weights: np.ndarray | None) -> np.float32:
    assert weights is not None
    return np.float32((values * weights).sum() / weights.sum())


def _mean(texts: Encoded) -> np.ndarray:
    """(N, P) the mean of each text's token vectors by importance."""
    assert texts.offsets is not None and texts.weights is not None
    starts = texts.offsets[:-1]
    total = np.add.reduceat(texts.vectors * texts.weights[:, None], starts, axis=0)
    return np.asarray(total / np.add.reduceat(texts.weights, starts)[:, None])


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, with the matcher's guard against zero vectors."""
    return np.asarray(vectors / np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True) + 1e-12))

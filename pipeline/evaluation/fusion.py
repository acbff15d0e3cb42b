"""One ranking from the model's scores and BM25's: a weighted mean, whose weight is chosen on the validation split.

By construction, what is chosen is on the validation queries at least as good as the better of the two alone: both are
among the weights tried. Reference: Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval", 2022.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.evaluation.ranking import Judgements, Ranking, rank_pairs

NAME = "fusion.json"  # how BM25 and the mix were made, in an evaluation's folder and in an exported one
WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))
UNTUNED = 0.5  # without validation queries


class Pool(NamedTuple):
    """Documents of Q queries with both scores: those that either ranking names, or candidate lists."""

    query_rows: np.ndarray  # (N,) ascending
    documents: np.ndarray  # (N,)
    model: np.ndarray  # (N,) float
    words: np.ndarray  # (N,) float, BM25's
    looks: np.ndarray | None = None  # (N, 3) what `linear` knows of the texts; None: of a mix


def pooled(
    model: Ranking, words: Ranking, model_of_words: np.ndarray, score: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Pool:
    """The documents of two rankings, each once.

    Args:
        model_of_words: (Q, K) the model's scores of the documents in `words`.
        score: BM25's scores of N pairs, from their (N,) query rows, ascending, and (N,) documents.
    """
    size = int(max(model.documents.max(initial=0), words.documents.max(initial=0))) + 1
    keys, scores = [], []
    for documents, values in ((model.documents, model.scores), (words.documents, model_of_words)):
        rows, places = np.nonzero((documents >= 0) & (model.documents[:, :1] >= 0))  # queries that both answer
        keys.append(rows * size + documents[rows, places].astype(np.int64))
        scores.append(values[rows, places])
    pairs, first = np.unique(np.concatenate(keys), return_index=True)
    rows, columns = np.divmod(pairs, size)
    return Pool(rows, columns, np.concatenate(scores)[first], score(rows, columns))


class Mix(NamedTuple):
    """How the scores are added. The scales are fixed, so that a query whose scores differ much counts much."""

    weight: float  # of the model; the rest is BM25's
    model_scale: float  # the scores' standard deviation within a query's pool
    words_scale: float

    def scores(self, model: np.ndarray, words: np.ndarray) -> np.ndarray:
        """(N,) weight · model / scale + (1 - weight) · BM25 / scale; of weight 1 and 0 one of them as it is."""
        if self.weight in (0, 1):
            return model if self.weight else words
        return np.asarray(self.weight / self.model_scale * model + (1 - self.weight) / self.words_scale * words)

    def of(self, pool: Pool) -> np.ndarray:
        """(N,) `scores` of a pool's documents."""
        return self.scores(pool.model, pool.words)


class Fusion(Protocol):
    """One score of what is known of a document: a Mix, or a linear.Linear."""

    def of(self, pool: Pool) -> np.ndarray:
        """(N,) of a pool's documents."""


def spread(scores: np.ndarray, groups: np.ndarray) -> float:
    """The standard deviation of N scores from their group's mean, infinite ones left out; 1 where there is none.

    Args:
        groups: (N,) whole numbers.
    """
    finite = np.isfinite(scores)
    scores, groups = np.asarray(scores, np.float64)[finite], np.unique(groups[finite], return_inverse=True)[1]
    means = np.bincount(groups, scores) / np.bincount(groups)
    return float(np.sqrt(np.mean((scores - means[groups]) ** 2))) or 1.0 if len(scores) else 1.0


def mix_of(pool: Pool, weight: float = UNTUNED) -> Mix:
    """The mix whose scales are those of a pool."""
    return Mix(weight, spread(pool.model, pool.query_rows), spread(pool.words, pool.query_rows))


def reranked_scores(first: np.ndarray, second: np.ndarray, mix: Mix) -> np.ndarray:
    """(n,) scores of a ranking's n documents: mixed for the first k, all others below these, in their order.

    Args:
        first: (n,) the ranking's scores, falling; second: (k,) another model's of the first k, k at most n.
    """
    mixed = np.asarray(mix.scores(second, first[: len(second)]), np.float64)
    return np.concatenate([mixed, mixed.min(initial=np.inf) - 1 - np.arange(len(first) - len(second))])


def fuse(pool: Pool, fusion: Fusion, judgements: Judgements, depth: int | None) -> Ranking:
    """The pool ranked by its documents' scores; None: whole lists."""
    return rank_pairs(pool.query_rows, pool.documents, fusion.of(pool), judgements, depth)

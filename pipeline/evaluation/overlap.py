"""What the two texts of a pair have in common, as a classifier of its grade.

Multinomial logistic regression over eleven features of a pair and their products, from token ids. It knows no meanings,
but which words return and how rare they are, which a network that reads two texts apart knows least. So it is what a
network must beat, and both together are better than either. To use it takes NumPy alone, so that an exported model can.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.evaluation import joining
from pipeline.evaluation.joining import Joined, log_softmax

NAME = "overlap.npz"  # in a trained folder
FEATURES = 11
BUCKETS = 1 << 17  # of pairs of neighbouring tokens; two pairs of one bucket count as one
FITTED_ON = 100_000  # training pairs at most, spread evenly
RIDGE = 10.0


class Overlap(NamedTuple):
    """log P(grade) of G grades.

    Attributes:
        words: (V,) how rare each token is: log((1 + texts) / (1 + texts that have it)); a token of 0 is passed over.
        neighbours: (BUCKETS,) the same of two neighbouring tokens. mean, scale: (F,) of the features in training.
        factors: (1 + F + F (F + 1) / 2, G) of 1, of the features, and of the products of each two.
    """

    words: np.ndarray
    neighbours: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    factors: np.ndarray

    def log_probabilities(self, *texts: Iterable[np.ndarray]) -> np.ndarray:
        """(N, G) from (T,) ids of the N queries and of the N documents."""
        queries, documents = texts
        known = features(queries, documents, self.words, self.neighbours)
        return log_softmax(_expanded((known - self.mean) / self.scale) @ self.factors)


def features(
    queries: Iterable[np.ndarray], documents: Iterable[np.ndarray], words: np.ndarray, neighbours: np.ndarray
) -> np.ndarray:  # fmt: skip
    """(N, 11) float64. The first eight are shares of the query and of the document that the other has too: of its words
    by rarity, of its words, of its neighbouring words by rarity, and of its words in their longest common run. Then the
    logarithms of 1 + both lengths, and whether both begin with the same two words."""
    rows = [_looks(query, document, words, neighbours) for query, document in zip(queries, documents)]
    return np.array(rows, np.float64).reshape(len(rows), FEATURES)


def _looks(query: np.ndarray, document: np.ndarray, words: np.ndarray, neighbours: np.ndarray) -> list[float]:
    mine, other = (np.unique(ids[words[ids] > 0]) for ids in (query, document))
    both = _common(mine, other)
    rare = words[both].sum()
    found = [_share(rare, words[mine].sum()), _share(rare, words[other].sum())]
    found += [_share(len(both), len(mine)), _share(len(both), len(other))]
    mine, other = (np.unique(_places(ids)) for ids in (query, document))
    rare = neighbours[_common(mine, other)].sum()
    found += [_share(rare, neighbours[mine].sum()), _share(rare, neighbours[other].sum())]
    run = _longest_run(query, document)
    found += [_share(run, len(query)), _share(run, len(document)), np.log1p(len(query)), np.log1p(len(document))]
    return [*found, float(len(query) > 1 and query[:2].tolist() == document[:2].tolist())]


def _common(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What is in both of two ascending arrays of distinct numbers."""
    return mine[np.isin(mine, other, assume_unique=True)]


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _places(ids: np.ndarray) -> np.ndarray:
    """(T - 1,) int64, the bucket of each two neighbouring tokens."""
    ids = ids.astype(np.uint64)
    mixed = (ids[:-1] * np.uint64(0x9E3779B97F4A7C15) + ids[1:]) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(mixed >> np.uint64(47)).astype(np.int64)


def _longest_run(query: np.ndarray, document: np.ndarray) -> int:
    """Tokens of the longest run that stands in both."""
    ends = np.zeros(len(document) + 1, np.int64)  # of the common run that ends at the query's token and this one
    longest = 0
    for token in query.tolist():
        ends[1:] = np.where(document == token, ends[:-1] + 1, 0)
        longest = max(longest, int(ends.max()))
    return longest


def _expanded(known: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(known.shape[1])
    return np.concatenate([np.ones((len(known), 1)), known, known[:, first] * known[:, second]], axis=1)


def fit(
    queries: Sequence[np.ndarray], documents: Sequence[np.ndarray], labels: np.ndarray, grades: int, vocabulary: int,
    special: int,
) -> Overlap:  # fmt: skip
    """From (T,) ids of both sides of N pairs and (N,) labels 0 … grades - 1.

    Args:
        special: so many first ids are no words (padding, the unknown word).
    """
    words, neighbours = np.zeros(vocabulary), np.zeros(BUCKETS)
    for ids in (*queries, *documents):
        words[np.unique(ids)] += 1
        neighbours[np.unique(_places(ids))] += 1
    texts = 1 + len(queries) + len(documents)
    words, neighbours = np.log(texts / (1 + words)), np.log(texts / (1 + neighbours))
    words[:special] = 0
    known = features(queries, documents, words, neighbours)
    mean, scale = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)
    factors = _weights(_expanded((known - mean) / scale), np.eye(grades)[labels])
    return Overlap(words, neighbours, mean, scale, factors)


def _weights(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(F, G) weights of the greatest likelihood less a ridge, from (N, F) features and (N, G) of which one is 1."""
    from scipy.optimize import minimize  # a model is served without it

    shape = known.shape[1], wanted.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logs = log_softmax(known @ weights)
        gradient = known.T @ (np.exp(logs) - wanted) + RIDGE * weights
        return float(RIDGE / 2 * (weights**2).sum() - (logs * wanted).sum()), gradient.ravel()

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.asarray(found.x).reshape(shape)


def load(folder: Path, grades: int) -> Joined[Overlap] | None:
    """Of a trained or exported folder; None: it has none. Raises InputError where the file is damaged."""

    def make(**arrays: np.ndarray) -> Overlap:
        model = Overlap(**arrays)
        shapes = [array.shape for array in model]
        columns = 1 + FEATURES + FEATURES * (FEATURES + 1) // 2
        if model.words.ndim != 1 or shapes[1:] != [(BUCKETS,), (FEATURES,), (FEATURES,), (columns, grades)]:
            raise ValueError("its parts do not fit each other or the grades")
        return model

    return joining.load(folder / NAME, grades, make)

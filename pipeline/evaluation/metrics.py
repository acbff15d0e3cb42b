"""Metrics as plain functions on one query's documents, or on graded pairs; what the fast ways are tested against.

Ranking metrics take `scores` and `relevance`, both (D,), for all documents of one query. A document is relevant when
its relevance is above 0. The tie rule is the worst case: among equal scores the less relevant document stands first,
and infinite scores stand last; so a model that scores everything alike gains nothing from the order of the files.
"""

import numpy as np

from pipeline.core.errors import DupletError


def comparable(scores: np.ndarray) -> np.ndarray:
    """The scores with both infinities lowered to -inf (an overflow is no merit) and -0.0 made 0.0, in the same type.

    Raises:
        DupletError: a score is not a number.
    """
    if np.isnan(scores).any():
        at = tuple(int(i) for i in np.argwhere(np.isnan(scores))[0])
        raise DupletError(f"a score is not a number (at {at} of {scores.shape}): the model's parameters are damaged")
    return np.where(np.isfinite(scores), scores, -np.inf).astype(scores.dtype) + scores.dtype.type(0)


def ranked_relevance(scores: np.ndarray, relevance: np.ndarray, cutoff: int | None = None) -> np.ndarray:
    """Relevance in the order of falling score, the least relevant first among equal scores; cut after `cutoff`.

    >>> ranked_relevance(np.array([0.5, 0.9, 0.5]), np.array([2, 0, 1]))
    array([0, 1, 2])
    """
    return relevance[np.lexsort((relevance, -comparable(np.asarray(scores, np.float64))))][:cutoff]


def reciprocal_rank(scores: np.ndarray, relevance: np.ndarray, cutoff: int | None = None) -> float:
    """1 / rank of the best-placed relevant document, in [0, 1]; 0 where none stands within the cut-off.

    >>> reciprocal_rank(np.array([0.2, 0.9, 0.5]), np.array([0, 0, 1]))
    0.5
    """
    hits = np.flatnonzero(ranked_relevance(scores, relevance, cutoff) > 0)
    return float(1 / (1 + hits[0])) if len(hits) else 0.0


def average_precision(scores: np.ndarray, relevance: np.ndarray, cutoff: int | None = None) -> float:
    """1/R · Σ precision@r over the ranks r of the R relevant documents, in [0, 1].

    A relevant document beyond the cut-off counts 0 but stays in R, so AP at a depth is a lower bound of AP.

    >>> average_precision(np.array([3.0, 2.0, 1.0]), np.array([1, 0, 1]))  # (1/1 + 2/3) / 2
    0.8333333333333333
    """
    hits = ranked_relevance(scores, relevance, cutoff) > 0
    total = np.count_nonzero(relevance > 0)
    if not total:
        return 0.0
    ranks = np.flatnonzero(hits) + 1
    return float(np.sum(np.arange(1, len(ranks) + 1) / ranks) / total)


def ndcg(scores: np.ndarray, relevance: np.ndarray, cutoff: int | None = None) -> float:
    """DCG over the best possible DCG, in [0, 1]; DCG = Σ_r gain_r / log2(1 + r).

    The gain is the relevance itself, as in trec_eval's ndcg_cut (Järvelin and Kekäläinen, "Cumulated gain-based
    evaluation of IR techniques", TOIS 2002), not 2^relevance - 1.

    >>> round(ndcg(np.array([3.0, 2.0, 1.0]), np.array([1, 0, 2])), 4)  # (1 + 2/2) / (2 + 1/log2(3))
    0.7602
    """
    gains = np.maximum(relevance, 0)
    best = _dcg(np.sort(gains)[::-1][:cutoff])
    return _dcg(ranked_relevance(scores, gains, cutoff)) / best if best > 0 else 0.0


def _dcg(gains: np.ndarray) -> float:
    return float(np.sum(gains / np.log2(np.arange(2, len(gains) + 2))))


def recall(scores: np.ndarray, relevance: np.ndarray, cutoff: int) -> float:
    """Share of the relevant documents that stand within the first `cutoff`, in [0, 1].

    >>> recall(np.array([3.0, 2.0, 1.0]), np.array([1, 0, 1]), cutoff=2)
    0.5
    """
    total = np.count_nonzero(relevance > 0)
    return float(np.count_nonzero(ranked_relevance(scores, relevance, cutoff) > 0) / total) if total else 0.0


# --- graded pairs: labels, predicted grades and scores are (N,) -------------------------------------------------------
def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of pairs given their own grade, in [0, 1].

    >>> accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))
    0.75
    """
    return float(np.mean(labels == predicted))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the grades that occur (labelled or predicted) of F1 = 2·TP / (2·TP + FP + FN), in [0, 1].

    >>> round(macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])), 4)  # (4/5 + 2/3) / 2
    0.7333
    """
    grades = np.union1d(labels, predicted)
    hits = np.array([np.count_nonzero((labels == g) & (predicted == g)) for g in grades])
    claims = np.array([np.count_nonzero(labels == g) + np.count_nonzero(predicted == g) for g in grades])
    return float(np.mean(2 * hits / claims))


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Chance that a pair of the highest grade scores above one of the lowest, in [0, 1]; a tie counts one half.

    Grades in between are left out (the evaluation of QBQTC); with two grades it is the usual area under the ROC curve.
    Not a number where all labels are alike. A constant score gives 0.5, which is chance: no tie rule is needed.

    >>> auc(np.array([0, 0, 1, 2, 2]), np.array([0.1, 0.4, 0.9, 0.4, 0.8]))  # (1 + 0.5 + 1 + 1) / 4
    0.875
    """
    if len(labels) == 0 or labels.min() == labels.max():
        return float("nan")
    low = np.sort(comparable(np.asarray(scores, np.float64))[labels == labels.min()])
    high = comparable(np.asarray(scores, np.float64))[labels == labels.max()]
    beaten = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(np.sum(beaten) / (2 * len(low) * len(high)))


def graded_metrics(labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """accuracy, macro_f1 and auc of N graded pairs.

    Args:
        labels: (N,) true grades; predicted: (N,) grades given; scores: (N,) higher = more relevant.
    """
    return {
        "accuracy": accuracy(labels, predicted),
        "macro_f1": macro_f1(labels, predicted),
        "auc": auc(labels, scores),
    }


def answered(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """accuracy of N answers, and nats over those that are among the classes; nan where none is.

    Args:
        labels: (N,) true classes, from C on such that the model has not; probabilities: (N, C).
    """
    known = np.flatnonzero(labels < probabilities.shape[1])
    chances = np.maximum(probabilities[known, labels[known]].astype(np.float64), 1e-30)
    nats = float(-np.log(chances).mean()) if len(known) else float("nan")
    return {"accuracy": accuracy(labels, probabilities.argmax(axis=1)), "nats": nats}


def weighted_metrics(
    labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """`graded_metrics` of s resamples at once, each (s,); weights (s, N) are how often each pair was drawn."""
    right = labels == predicted
    f1 = []
    for grade in np.union1d(labels, predicted):
        claims = weights @ ((labels == grade).astype(float) + (predicted == grade))
        hits = weights @ (right & (labels == grade)).astype(float)
        f1.append(np.where(claims > 0, 2 * hits / np.maximum(claims, 1), np.nan))
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # of the runs of equal scores
    low = np.add.reduceat(weights[:, order] * (labels[order] == labels.min()), starts, axis=1)
    high = np.add.reduceat(weights[:, order] * (labels[order] == labels.max()), starts, axis=1)
    pairs = low.sum(axis=1) * high.sum(axis=1)
    beaten = np.sum(high * (np.cumsum(low, axis=1) - low / 2), axis=1)
    exists = (pairs > 0) & (labels.min() < labels.max())
    return {
        "accuracy": weights @ right.astype(float) / weights.sum(axis=1),
        "macro_f1": np.nanmean(f1, axis=0),
        "auc": np.where(exists, beaten / np.maximum(pairs, 1), np.nan),
    }

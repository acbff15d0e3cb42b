"""A ranking by a weighted sum of what is known of a query and a document, as an option beside the mix of two scores.

The weights are those under which the relevant documents of the validation queries are likeliest: of each one, the
softmax of its sum against those of the irrelevant documents of its query. A ridge draws them to the mix; two-fold
cross-validation chooses how strongly. By construction the sum is better than the mix on the validation queries, also
where each half of them is judged by weights of the other: else the mix stays.
Reference: Metzler and Croft, "Linear feature-based models for information retrieval", 2007.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.fusion import Mix, Pool, spread

# What is known, in the order of a pool's columns; docs/training.md says what each is.
FEATURES = ("model", "bm25", "model_rank", "bm25_rank", "words", "first_words", "length")
FIRST_WORDS = 10  # of a document: its title, where it has one
LEAST_QUERIES = 40  # of which halves can be judged
RIDGES = (0.1, 0.01, 0.001)  # tried, the strongest first
WHOLE, HALVES = "validation", "held_out"


class Linear(NamedTuple):
    """A sum of features. Attributes: coefficients: (7,) of FEATURES."""

    coefficients: tuple[float, ...]

    def of(self, pool: Pool) -> np.ndarray:
        """(N,) the sums of a pool's documents."""
        return np.asarray(features(pool) @ np.array(self.coefficients))


class Fit(NamedTuple):
    """Attributes: found: None where the mix stays. told: for fusion.json."""

    found: Linear | None
    told: dict[str, Any]


def looks(asked: Mapping[str, float], terms: Sequence[str]) -> tuple[float, float, float]:
    """What a document's terms show by themselves: the columns `words`, `first_words` and `length`.

    Args:
        asked: the query's known terms and how rare each is; terms: the document's, in their order.

    >>> looks({"wing": 3.0, "lift": 1.0}, ["lift", *["of"] * 9, "wing"])[:2]
    (1.0, 0.25)
    """
    total = sum(asked.values()) or 1.0
    share = lambda part: sum(rare for term, rare in asked.items() if term in part) / total  # in the query's order
    return share({*terms}), share({*terms[:FIRST_WORDS]}), float(np.log1p(len(terms)))


def features(pool: Pool) -> np.ndarray:
    """(N, 7) float64, unscaled; what is infinite counts as the least or the greatest finite number of its column."""
    assert pool.looks is not None, "the pool was made without the texts' columns"
    scores = [_finite(pool.model), _finite(pool.words)]
    return np.column_stack([*scores, *(1 / _ranks(column, pool.query_rows) for column in scores), pool.looks])


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    known = scores[np.isfinite(scores)]
    return np.clip(scores, known.min(initial=0), known.max(initial=0)) if len(known) else np.zeros(len(scores))


def _ranks(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) 1 + how many documents of the same query have a greater score."""
    if not len(scores):
        return scores
    order = np.lexsort((-scores, groups))
    new_group = np.append(True, np.diff(groups[order]) != 0)
    new_score = new_group | np.append(True, np.diff(scores[order]) != 0)
    places = np.arange(len(order))
    ranks = np.empty(len(order))
    ranks[order] = (
        1
        + places[np.maximum.accumulate(np.where(new_score, places, 0))]
        - np.maximum.accumulate(np.where(new_group, places, 0))
    )
    return ranks


def fit(
    pool: Pool, relevant: np.ndarray, mix: Mix, value: float, judge: Callable[[np.ndarray], float]
) -> Fit:  # fmt: skip
    """The sum for the validation queries' documents.

    Args:
        relevant: (N,) bool. mix: what stays unless the sum is better; value: how good it is.
        judge: (N,) scores of the pool's documents to how good that ranking is.
    """
    rows = pool.query_rows
    both = np.intersect1d(rows[relevant], rows[~relevant])
    told: dict[str, Any] = {"queries": len(both), "mix": value}
    if len(both) < LEAST_QUERIES:
        why = f"{len(both)} validation queries have a relevant and an irrelevant document, and it takes {LEAST_QUERIES}"
        return Fit(None, told | {"why": why})
    known = features(pool)
    scales = np.array([spread(column, rows) for column in known.T])
    start = np.zeros(len(FEATURES))
    start[:2] = mix.weight, 1 - mix.weight
    used = np.isin(rows, both)
    second = np.searchsorted(both, rows) % 2 == 1  # every other query, so that an order of the queries decides nothing
    halves = (~second, second)

    def held_out(ridge: float) -> float:
        scores = np.empty(len(rows))
        for half in halves:
            chosen = used & ~half
            scores[half] = (
                known[half] / scales @ _weights(known[chosen] / scales, rows[chosen], relevant[chosen], start, ridge)
            )
        return judge(scores)

    tried = {ridge: held_out(ridge) for ridge in RIDGES}
    ridge = max(RIDGES, key=lambda one: tried[one])  # of equals the strongest
    weights = _weights(known[used] / scales, rows[used], relevant[used], start, ridge)
    found = Linear(tuple((weights / scales).tolist()))
    told |= {HALVES: tried[ridge], WHOLE: judge(found.of(pool)), "weights": dict(zip(FEATURES, weights.tolist()))}
    told |= {"coefficients": dict(zip(FEATURES, found.coefficients)), "ridge": ridge}
    if min(told[HALVES], told[WHOLE]) <= value:
        return Fit(None, told | {"why": f"{told[HALVES]:.3f} on held-out validation queries, the mix {value:.3f}"})
    return Fit(found, told)


def _weights(
    known: np.ndarray, rows: np.ndarray, relevant: np.ndarray, start: np.ndarray, ridge: float
) -> np.ndarray:  # fmt: skip
    """(F,) the weights of (N, F) scaled features.

    Args:
        rows: (N,) ascending; each query has relevant and irrelevant documents.
        start: (F,) weights, of whose multiples the best is what the ridge draws to.
    """
    from scipy.optimize import minimize  # a model is served without it

    _, groups = np.unique(rows, return_inverse=True)
    count = groups[-1] + 1
    starts = np.searchsorted(groups, np.arange(count))
    share = 1 / count / np.bincount(groups[relevant], minlength=count)[groups]  # of a relevant document

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        sums = known @ weights
        sums = sums - np.maximum.reduceat(sums, starts)[groups]
        parts = np.exp(sums)
        others = np.bincount(groups, parts * ~relevant, count)[groups]
        whole = np.where(relevant, np.maximum(parts + others, 1e-300), 1.0)
        value = float((share * (np.log(whole) - sums))[relevant].sum())
        slack = np.where(relevant, share * (parts / whole - 1), 0)
        pressed = np.bincount(groups, np.where(relevant, share / whole, 0), count)[groups]
        return value, known.T @ np.where(relevant, slack, parts * pressed)

    def along(size: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = loss(size[0] * start)
        return value, np.array([gradient @ start])

    base = minimize(along, [1.0], jac=True, bounds=[(0.01, 100)], method="L-BFGS-B").x[0] * start

    def drawn(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = loss(weights)
        away = weights - base
        return value + ridge * float(away @ away), gradient + 2 * ridge * away

    return np.asarray(minimize(drawn, base, jac=True, method="L-BFGS-B").x)


def read(told: Mapping[str, Any]) -> Linear | None:
    """The sum that an evaluation told of; None where the mix stays. Raises ValueError where it is damaged."""
    if "why" in told:
        return None
    try:
        return checked(Linear(tuple(float(told["coefficients"][name]) for name in FEATURES)))
    except (LookupError, TypeError) as error:
        raise ValueError(f"no coefficient of each feature ({error})") from None


def checked(found: Linear) -> Linear:
    """The same. Raises ValueError where it is no sum of the features."""
    if len(found.coefficients) != len(FEATURES) or not np.isfinite(found.coefficients).all():
        raise ValueError(f"its coefficients must be {len(FEATURES)} finite numbers")
    return found

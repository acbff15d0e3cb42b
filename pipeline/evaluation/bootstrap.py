"""Percentile-bootstrap intervals of means over queries, alone and paired.

Every system is resampled with the same queries for the same seed, so that intervals of two systems can be compared.
Reference: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; for information retrieval: Sakai, "Evaluating
evaluation metrics based on the bootstrap", SIGIR 2006.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

DRAWS_PER_CHUNK = 1_000_000  # 8 MB


class Interval(NamedTuple):
    mean: float
    low: float  # 2.5 %
    high: float  # 97.5 %


class Difference(NamedTuple):
    mean: float  # a - b
    low: float
    high: float
    p: float  # two-sided; (0, 1]


def resamples(size: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks (s, size) of how often each of `size` things is drawn, `samples` rows in all, each summing to `size`.

    The draws depend on size, samples and seed alone, not on the chunk's size.
    """
    rng = np.random.default_rng(seed)
    step = max(1, DRAWS_PER_CHUNK // max(1, size))
    for start in range(0, samples, step):
        count = min(step, samples - start)
        drawn = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)


def resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """(samples, M) means of the columns of (Q, M) values over queries drawn with replacement, the same for all columns.

    Raises:
        ValueError: no values, or some that are not a number.
    """
    if not len(values) or np.isnan(values).any():
        raise ValueError("a mean needs at least one query, and numbers only: leave out queries without an answer")
    return np.concatenate([times @ values / len(values) for times in resamples(len(values), samples, seed)])


def percentiles(statistics: np.ndarray) -> tuple[float, float]:
    """The ends of the 95 % interval of resampled statistics (S,); those that are not a number are left out."""
    kept = statistics[~np.isnan(statistics)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high)


def p_value(difference: float, statistics: np.ndarray) -> float:
    """Two-sided: how often a resampled difference (S,) strays from the observed one by as much as that is from 0.

    The observed sample counts as one of the resamples, so p is never 0.
    """
    kept = statistics[~np.isnan(statistics)]
    # the margin keeps rounding noise of the means from deciding where all differences are alike
    extreme = np.count_nonzero(np.abs(kept - difference) >= abs(difference) - 1e-12)
    return float((1 + extreme) / (1 + len(kept)))


def mean_interval(values: np.ndarray, samples: int, seed: int) -> Interval:
    """The mean of (Q,) per-query values with its 95 % percentile-bootstrap interval.

    Raises:
        ValueError: no values, or some that are not a number.
    """
    means = resampled_means(values[:, None], samples, seed)[:, 0]
    return Interval(float(values.mean()), *percentiles(means))


def paired_difference(a: np.ndarray, b: np.ndarray, samples: int, seed: int) -> Difference:
    """The mean of a - b over the same queries (Q,), its 95 % interval, and the p-value of no difference.

    Raises:
        ValueError: no values, some that are not a number, or two lengths.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values of {a.shape} and {b.shape} queries")
    means = resampled_means((a - b)[:, None], samples, seed)[:, 0]
    return difference(float((a - b).mean()), means)


def difference(observed: float, statistics: np.ndarray) -> Difference:
    """An observed difference with the interval and p-value from its resamples (S,)."""
    return Difference(observed, *percentiles(statistics), p_value(observed, statistics))

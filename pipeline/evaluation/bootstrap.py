"""Percentile-bootstrap intervals of means over queries, alone and paired.

Every system is resampled with the same queries for the same seed, so that intervals of two systems can be compared.
Reference: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; for information retrieval: Sakai, "Evaluating
evaluation metrics based on the bootstrap", SIGIR 2006.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

DRAWS_PER_CHUNK = 1_000_000  # 8 MB
SIGNIFICANT = 0.05  # p at most this: a star in tables, and 0 outside of the 95 % interval
ROUNDING = 1e-12


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
    """The ends of the 95 % interval of resampled statistics (S,); those that are not a number are left out.

    The k-th smallest and k-th largest with k = floor(0.025 · (S + 1)), at least 1 (Efron and Tibshirani, section 12.5):
    of 39 or more statistics, 0 lies outside exactly where `p_value` is at most 0.05. Fewer give their whole range.
    """
    numbers = np.sort(statistics[~np.isnan(statistics)])
    if not len(numbers):
        return float("nan"), float("nan")
    k = max(1, math.floor(SIGNIFICANT / 2 * (len(numbers) + 1) + 1e-9))
    return float(numbers[k - 1]), float(numbers[-k])


def p_value(statistics: np.ndarray) -> float:
    """Two-sided, of no difference: twice the share of the resampled differences (S,) on the rarer side of 0, or at it.

    So it is the level at which the percentile interval just reaches 0, and a star never contradicts the interval. (How
    often resamples stray from the observed difference by its own size is another test, which does where they are
    skewed.) The observed sample counts as one more resample, so p is never 0.
    """
    numbers = statistics[~np.isnan(statistics)]
    rarer = min(np.count_nonzero(numbers <= 0), np.count_nonzero(numbers >= 0))
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(numbers))))


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
    # rounding noise of the means must not decide on which side of 0 a difference lies
    statistics = np.where(np.abs(statistics) < ROUNDING, 0.0, statistics)
    return Difference(observed, *percentiles(statistics), p_value(statistics))

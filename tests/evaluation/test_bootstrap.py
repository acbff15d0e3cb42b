"""Intervals cover what they should, and equal systems do not differ."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import mean_interval, paired_difference, resamples


def test_intervals_cover_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = mean_interval(rng.exponential(2.0, 80), samples=300, seed=trial)
        assert found.low <= found.mean <= found.high
        covered += found.low <= 2.0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99  # 95 %, a little less for skewed values


def test_width_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 3, 2000)
    found = mean_interval(values, 2000, 1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2000), rel=0.1)


def test_equal_systems_do_not_differ() -> None:
    values = np.random.default_rng(2).random(50)
    assert paired_difference(values, values, 500, 1) == (0, 0, 0, 1)


def test_noise_is_mostly_not_significant_and_a_shift_is() -> None:
    rng = np.random.default_rng(3)
    found = [paired_difference(rng.normal(size=100), rng.normal(size=100), 300, i) for i in range(100)]
    assert sum(d.low <= 0 <= d.high for d in found) >= 88
    assert sum(d.p <= 0.05 for d in found) <= 12
    base = rng.normal(size=100)
    shifted = paired_difference(base + 0.1 + 0.01 * rng.normal(size=100), base, 300, 1)
    assert 0 < shifted.low < 0.1 < shifted.high + 0.01
    assert shifted.p == pytest.approx(2 / 301)
    reverse = paired_difference(base, base + 0.1, 300, 1)
    assert reverse.mean == pytest.approx(-0.1)
    assert reverse.p == pytest.approx(2 / 301)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 2**31 - 1))
def test_properties(numbers: list[float], seed: int) -> None:
    values = np.array(numbers)
    found = mean_interval(values, 50, seed)
    assert values.min() - 1e-9 <= found.low <= found.high <= values.max() + 1e-9
    assert found == mean_interval(values, 50, seed)
    against = paired_difference(values, values[::-1], 50, seed)
    assert 0 < against.p <= 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([-1.0, -0.5, -1e-15, 0.0, 1e-15, 0.25, 2.0]) | st.floats(-1, 1), min_size=2, max_size=40),
    st.integers(39, 400),
    st.integers(0, 1000),
)
def test_star_and_interval_agree(differences: list[float], samples: int, seed: int) -> None:
    values = np.array(differences)
    found = paired_difference(values, np.zeros(len(values)), samples, seed)
    assert (found.p <= bootstrap.SIGNIFICANT) == (found.low > 0 or found.high < 0)


def test_a_skewed_difference_whose_interval_holds_0_has_no_star() -> None:
    """As the demo's: the interval reaches 0 on its long side, so p must not be below 0.05 either."""
    resampled = np.concatenate([np.full(30, -0.001), np.full(965, 0.036), np.full(5, 0.073)])
    found = bootstrap.difference(0.036, resampled)
    assert found.low == -0.001
    assert found.p == pytest.approx(2 * 31 / 1001)


def test_interval_ends_are_order_statistics() -> None:
    assert bootstrap.percentiles(np.arange(1.0, 1001)) == (25, 976)
    assert bootstrap.percentiles(np.arange(1.0, 40)) == (1, 39)
    assert bootstrap.percentiles(np.arange(1.0, 6)) == (1, 5)
    assert np.isnan(bootstrap.percentiles(np.array([np.nan]))).all()


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resamples(7, 20, 5)))
    assert whole.shape == (20, 7)
    assert (whole.sum(axis=1) == 7).all()
    monkeypatch.setattr(bootstrap, "DRAWS_PER_CHUNK", 25)
    parts = list(resamples(7, 20, 5))
    assert [len(part) for part in parts] == [3] * 6 + [2]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_what_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval(np.array([]), 10, 1)
    with pytest.raises(ValueError, match="numbers only"):
        mean_interval(np.array([0.5, np.nan]), 10, 1)
    with pytest.raises(ValueError, match="paired"):
        paired_difference(np.zeros(3), np.zeros(1), 10, 1)

"""Which examples meet: each once an epoch, the same for the same seed, within the limits, shared out evenly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from pipeline.core.errors import InputError
from pipeline.training import batch_plan
from pipeline.training.batch_plan import COUNTED_POOLS, POOL_UPDATES, Plan, computed, shares

lengths_of = hnp.arrays(np.int32, st.tuples(st.integers(1, 150), st.integers(1, 3)), elements=st.integers(1, 60))
quick = settings(max_examples=25, deadline=None)


def epoch(plan: Plan, number: int = 0) -> list[np.ndarray]:
    return [batch for pool in range(plan.pools) for batch in plan.batches(number, pool)]


def padded(batch: np.ndarray, lengths: np.ndarray) -> int:
    return len(batch) * int(lengths[batch].max(axis=0).sum())


@given(lengths_of, st.integers(1, 9), st.integers(60, 2000), st.integers(0, 3))
@quick
def test_each_example_once_an_epoch_within_the_limits(lengths: np.ndarray, pairs: int, tokens: int, seed: int) -> None:
    plan = Plan(lengths, pairs, tokens, seed)
    for number in (0, 1):
        batches = epoch(plan, number)
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(len(lengths)))
        for batch in batches:
            assert 1 <= len(batch) <= pairs
            assert padded(batch, lengths) <= tokens or len(batch) == 1


@given(lengths_of, st.integers(1, 9), st.integers(0, 3))
@quick
def test_equal_seeds_give_equal_plans(lengths: np.ndarray, pairs: int, seed: int) -> None:
    first, again = (epoch(Plan(lengths.copy(), pairs, 500, seed), 3) for _ in range(2))
    assert len(first) == len(again)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)


def test_epochs_and_seeds_differ_in_order_and_in_company() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, (500, 2)).astype(np.int32)
    plans = [epoch(Plan(lengths, 8, 10_000, seed), number) for seed, number in ((1, 0), (1, 1), (2, 0))]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert [b.tolist() for b in plans[i]] != [b.tolist() for b in plans[j]]
    # not the same batches in another order: with pools of all examples, companions of equal length are mixed anew
    alike = np.full((500, 2), 7, np.int32)
    one, two = ({tuple(sorted(b)) for b in epoch(Plan(alike, 8, 10_000, 1), number)} for number in (0, 1))
    assert not one & two


def test_batches_do_not_come_in_order_of_length() -> None:
    lengths = np.repeat(np.arange(1, 101), 8).astype(np.int32).reshape(-1, 1)
    means = [lengths[batch].mean() for batch in epoch(Plan(lengths, 8, 10_000, 0))]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_batches_are_full_where_tokens_allow_it() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, (1000, 2)).astype(np.int32)
    sizes = [len(batch) for batch in epoch(Plan(lengths, 8, 10**6, 0))]
    assert len(sizes) == 125
    assert set(sizes) == {8}


def test_batches_are_nearly_full_where_examples_do_not_divide() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, (1003, 2)).astype(np.int32)
    sizes = [len(batch) for batch in epoch(Plan(lengths, 8, 10**6, 0))]
    assert len(sizes) == 126
    assert min(sizes) >= 7


def test_padding_is_small_beside_that_of_random_batches() -> None:
    rng = np.random.default_rng(0)
    lengths = np.stack([rng.integers(4, 64, 8000), rng.integers(4, 256, 8000)], axis=1).astype(np.int32)
    plan = Plan(lengths, 32, 10**6, 0)
    waste = lambda batches: 1 - lengths.sum() / sum(padded(batch, lengths) for batch in batches)
    mine = waste(epoch(plan))
    at_random = waste(np.array_split(rng.permutation(8000), 250))
    by_one_side = waste(np.array_split(np.argsort(lengths[:, 1], kind="stable"), 250))
    assert at_random > 0.45
    assert mine < 0.12
    assert mine < by_one_side


def test_equal_lengths_have_no_padding() -> None:
    lengths = np.full((100, 2), 9, np.int32)
    assert all(padded(batch, lengths) == lengths[batch].sum() for batch in epoch(Plan(lengths, 8, 10**6, 0)))


def test_a_batch_is_sorted_by_its_last_side() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, (200, 2)).astype(np.int32)
    for batch in epoch(Plan(lengths, 16, 10_000, 0)):
        assert (np.diff(lengths[batch, 1]) >= 0).all()


@given(st.integers(1, 300), st.integers(1, 5), st.integers(20, 400))
@quick
def test_updates_per_epoch_are_exact_for_small_data(examples: int, pairs: int, tokens: int) -> None:
    lengths = np.random.default_rng(examples).integers(1, 30, (examples, 2)).astype(np.int32)
    plan = Plan(lengths, pairs, tokens, 4)
    assert plan.pools <= COUNTED_POOLS
    assert plan.updates_per_epoch() == len(epoch(plan))


def test_several_pools_hold_every_example_once() -> None:
    examples = 3 * POOL_UPDATES * 2 + 5
    lengths = np.random.default_rng(0).integers(1, 30, (examples, 2)).astype(np.int32)
    plan = Plan(lengths, 2, 500, 0)
    assert plan.pools == 4
    np.testing.assert_array_equal(np.sort(np.concatenate(epoch(plan))), np.arange(examples))
    assert plan.updates_per_epoch() == len(epoch(plan))


def test_updates_per_epoch_of_many_pools_are_nearly_right() -> None:
    examples = POOL_UPDATES * 2 * (COUNTED_POOLS + 2)
    lengths = np.random.default_rng(0).integers(1, 90, (examples, 1)).astype(np.int32)
    plan = Plan(lengths, 2, 75, 0)
    assert plan.pools > COUNTED_POOLS
    assert plan.updates_per_epoch() == pytest.approx(len(epoch(plan)), rel=0.02)


@pytest.mark.parametrize("length", [1, 10_000])
def test_single_example(length: int) -> None:
    plan = Plan(np.array([[length, length]], np.int32), 64, 100, 0)
    assert [batch.tolist() for batch in epoch(plan)] == [[0]]
    assert plan.updates_per_epoch() == 1


def test_all_too_long_stand_alone() -> None:
    plan = Plan(np.full((37, 2), 1000, np.int32), 8, 100, 0)
    assert all(len(batch) == 1 for batch in epoch(plan))


def test_equal_lengths_fill_the_tokens() -> None:
    plan = Plan(np.full((64, 2), 10, np.int32), 64, 320, 0)  # 16 pairs of 20 cells
    assert [len(batch) for batch in epoch(plan)] == [16] * 4


def test_ten_million_examples() -> None:
    lengths = np.ones((10_000_000, 2), np.int32)
    lengths[::7] = 9
    plan = Plan(lengths, 64, 32_768, 0)
    batches = plan.batches(2, plan.pools - 1)
    assert len(batches) == pytest.approx(POOL_UPDATES, abs=2)
    assert max(len(batch) for batch in batches) <= 64
    assert len(np.unique(np.concatenate(batches))) == sum(len(batch) for batch in batches)


@given(lengths_of, st.integers(1, 8))
@quick
def test_shares_concatenate_to_the_batch_and_none_is_empty(lengths: np.ndarray, size: int) -> None:
    for batch in epoch(Plan(lengths, 40, 5000, 0)):
        if len(batch) < size:
            with pytest.raises(InputError, match=rf"{len(batch)} examples.*{size} workers.*train.workers"):
                shares(batch, lengths, size)
            continue
        parts = shares(batch, lengths, size)
        assert len(parts) == size
        assert all(len(part) for part in parts)
        np.testing.assert_array_equal(np.concatenate(parts), batch)
        # no share is dearer than an even one by more than two examples of the longest kind, one at each end
        costs = [lengths[part].sum() for part in parts]
        assert max(costs) <= sum(costs) / size + 2 * lengths[batch].sum(axis=1).max()


def test_shares_of_like_examples_are_even() -> None:
    lengths = np.full((64, 2), 10, np.int32)
    for size in (1, 2, 3, 4, 8):
        counts = [len(part) for part in shares(np.arange(64), lengths, size)]
        assert max(counts) - min(counts) <= 1, counts


def test_shares_leave_each_worker_one_when_the_last_outweighs_all() -> None:
    lengths = np.array([[1], [1], [1], [1000]], np.int32)
    assert [part.tolist() for part in shares(np.arange(4), lengths, 4)] == [[0], [1], [2], [3]]
    assert [len(part) for part in shares(np.arange(4)[::-1], lengths, 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("heavy", range(8))
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_shares_leave_each_worker_one_wherever_one_outweighs_all(heavy: int, size: int) -> None:
    lengths = np.ones((8, 1), np.int32)
    lengths[heavy] = 1000
    parts = shares(np.arange(8), lengths, size)
    assert [len(part) for part in parts if not len(part)] == []
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(8))


@given(st.integers(1, 12), st.integers(1, 200), st.integers(0, 3))
@quick
def test_the_smallest_update_is_half_a_full_one(pairs: int, examples: int, seed: int) -> None:
    """So `workers` always find a pair each where max_pairs is at least 2 * workers - 1, as the configuration asks."""
    lengths = np.random.default_rng(seed).integers(1, 9, (examples, 2)).astype(np.int32)
    smallest = min(len(batch) for batch in epoch(Plan(lengths, pairs, 10**6, seed)))
    assert smallest >= min(examples, -(-pairs // 2))
    for workers in range(1, min(examples, (pairs + 1) // 2) + 1):
        assert smallest >= workers


@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 3))
@quick
def test_cuts_by_tokens_leave_each_worker_a_pair(workers: int, longest: int, seed: int) -> None:
    """At the least max_tokens that the configuration allows: two of the longest pairs for each worker."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, (300, 2)).astype(np.int32)
    for batch in epoch(Plan(lengths, 64, 2 * workers * 2 * longest, seed)):
        assert len(batch) >= workers


@given(st.integers(1, 3000), st.integers(0, 9))
@quick
def test_a_computed_order_has_each_example_once_wherever_it_is_begun(examples: int, seed: int) -> None:
    order = computed(np.arange(examples), examples, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(order), np.arange(examples))
    middle = computed(np.arange(examples // 3, examples), examples, np.random.default_rng(seed))
    np.testing.assert_array_equal(middle, order[examples // 3 :])


def test_a_computed_order_is_as_random_as_a_drawn_one() -> None:
    """Where an example comes to stand, and which two stand side by side, over many seeds: chi-squared, p > 0.001."""
    examples, seeds = 11, 22_000
    places = np.arange(examples)
    orders = np.stack([computed(places, examples, np.random.default_rng([5, seed])) for seed in range(seeds)])
    for place in (0, 5, 10):
        assert stats.chisquare(np.bincount(orders[:, place], minlength=examples)).pvalue > 0.001
    pairs = np.bincount(orders[:, 3] * examples + orders[:, 4], minlength=examples**2).reshape(examples, examples)
    assert stats.chisquare(pairs[~np.eye(examples, dtype=bool)]).pvalue > 0.001
    large = computed(np.arange(20_000), 10**8, np.random.default_rng(1))
    assert abs(stats.spearmanr(np.arange(20_000), large).statistic) < 0.03
    assert stats.kstest(large / 10**8, "uniform").pvalue > 0.001


def test_a_plan_of_very_many_examples_computes_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(1, 9, (5000, 1)).astype(np.int32)
    monkeypatch.setattr(batch_plan, "DRAWN", 4999)
    monkeypatch.setattr(batch_plan, "_drawn", None)
    plan = Plan(lengths, 8, 10_000, 1)
    assert plan.pools > 3
    orders = [np.concatenate(epoch(plan, number)) for number in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(5000))
    assert (orders[0] != orders[1]).mean() > 0.99

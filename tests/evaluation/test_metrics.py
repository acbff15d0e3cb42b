"""Metrics against hand-worked examples, scikit-learn, and the properties they must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from pipeline.core.errors import DupletError
from pipeline.evaluation import metrics

# few distinct values, so that ties are common
one_query = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-3, 3), min_size=n, max_size=n).map(lambda v: np.array(v, float)),
        st.lists(st.integers(0, 3), min_size=n, max_size=n).map(np.array),
    )
)
CUTOFFS = (1, 3, 10)


def all_of(scores: np.ndarray, relevance: np.ndarray) -> list[float]:
    values = [metrics.average_precision(scores, relevance), metrics.ndcg(scores, relevance)]
    for cutoff in CUTOFFS:
        values.append(metrics.reciprocal_rank(scores, relevance, cutoff))
        values.append(metrics.average_precision(scores, relevance, cutoff))
        values.append(metrics.ndcg(scores, relevance, cutoff))
        values.append(metrics.recall(scores, relevance, cutoff))
    return values


def test_hand_worked_query() -> None:
    # ranks:                 1    2    3    4    5
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0])
    relevance = np.array([0, 2, 0, 1, 0])
    assert metrics.reciprocal_rank(scores, relevance) == 1 / 2
    assert metrics.reciprocal_rank(scores, relevance, cutoff=1) == 0
    assert metrics.average_precision(scores, relevance) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert metrics.average_precision(scores, relevance, cutoff=3) == pytest.approx((1 / 2) / 2)  # R stays 2
    dcg, best = 2 / np.log2(3) + 1 / np.log2(5), 2 + 1 / np.log2(3)
    assert metrics.ndcg(scores, relevance) == pytest.approx(dcg / best)
    assert metrics.ndcg(scores, relevance, cutoff=2) == pytest.approx(2 / np.log2(3) / best)
    assert metrics.recall(scores, relevance, 1) == 0
    assert metrics.recall(scores, relevance, 3) == 1 / 2
    assert metrics.recall(scores, relevance, 100) == 1


def test_nothing_relevant_is_zero() -> None:
    assert all_of(np.arange(4.0), np.zeros(4, int)) == [0.0] * len(all_of(np.arange(4.0), np.zeros(4, int)))


def test_equal_scores_give_the_worst_value() -> None:
    relevance = np.array([2, 0, 1, 0, 0])
    worst = all_of(-relevance.astype(float), relevance)
    assert all_of(np.zeros(5), relevance) == worst
    assert metrics.reciprocal_rank(np.zeros(5), relevance) == 1 / 4
    assert metrics.recall(np.zeros(5), relevance, 3) == 0


def test_infinite_scores_stand_last_and_nan_is_an_error() -> None:
    assert metrics.reciprocal_rank(np.array([np.inf, 0.0, -1.0]), np.array([1, 0, 0])) == 1 / 3
    assert metrics.reciprocal_rank(np.array([0.0, -0.0]), np.array([1, 0])) == 1 / 2  # equal, so against us
    with pytest.raises(DupletError, match="not a number"):
        metrics.reciprocal_rank(np.array([np.nan, 0.0]), np.array([1, 0]))


@settings(max_examples=50, deadline=None)
@given(one_query, st.randoms(use_true_random=False))
def test_properties(query: tuple[np.ndarray, np.ndarray], random: object) -> None:
    scores, relevance = query
    values = all_of(scores, relevance)
    assert all(0 <= v <= 1 for v in values)
    assert all_of(np.exp(scores) * 7 - 3, relevance) == values  # a strictly rising transform
    order = np.array(sorted(range(len(scores)), key=lambda _: random.random()))  # type: ignore[attr-defined]
    assert all_of(scores[order], relevance[order]) == values  # the order of the files
    best = all_of(relevance.astype(float), relevance)
    assert all(v <= b + 1e-12 for v, b in zip(values, best))


def test_graded_by_hand() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    found = metrics.graded_metrics(labels, predicted, np.array([0.3, 0.5, 0.9, 0.1, 0.5]))
    assert found["accuracy"] == 3 / 5
    assert found["macro_f1"] == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
    assert found["auc"] == pytest.approx((1 + 0.5) / 2)  # grade 2 against grade 0 only


graded = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, top), min_size=n, max_size=n).map(np.array) for top in (2, 2, 5)))
)


@settings(max_examples=50, deadline=None)
@given(graded)
def test_graded_agrees_with_scikit_learn(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    labels, predicted, scores = pairs
    found = metrics.graded_metrics(labels, predicted, scores)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    ends = (labels == labels.min()) | (labels == labels.max())
    if labels.min() < labels.max():
        assert found["auc"] == pytest.approx(roc_auc_score(labels[ends] == labels.max(), scores[ends]))
        assert metrics.auc(labels, np.exp(scores)) == found["auc"]
        assert metrics.auc(labels, -scores) == pytest.approx(1 - found["auc"])
        assert metrics.auc(labels, np.zeros(len(labels))) == 0.5
    else:
        assert np.isnan(found["auc"])

"""The losses against their formulas written out in numpy, and their gradients against finite differences."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mxnet import autograd, nd
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from pipeline.config import LossConfig
from pipeline.config.losses import Hinge, InBatchSoftmax, Pointwise
from pipeline.evaluation.grades import grade_probabilities
from pipeline.models.losses import balanced

SCORES = np.array([[1.0, 0.5, -0.3, 2.0], [0.2, 0.1, 0.9, -1.0], [0.4, -0.6, 0.0, 0.7]], np.float32)
GRADES = np.array([2, 0, 1], np.float32)


def in_batch_softmax(scores: nd.NDArray, own: nd.NDArray, excluded: nd.NDArray, temperature: float) -> nd.NDArray:
    return InBatchSoftmax().value(nd, scores, own, excluded, None, LossConfig(temperature=temperature))


def hinge(scores: nd.NDArray, own: nd.NDArray, negatives: nd.NDArray, margin: float) -> nd.NDArray:
    return Hinge().value(nd, scores, own, None, negatives, LossConfig(margin=margin))


def pointwise(link: str, logits: nd.NDArray, grades: nd.NDArray) -> nd.NDArray:
    return Pointwise().values(nd, logits, grades, LossConfig(kind="pointwise", link=link))


def softmax_by_hand(scores: np.ndarray, positives: list[int], excluded: np.ndarray, temperature: float) -> float:
    costs = []
    for row, (values, own) in enumerate(zip(scores.astype(float), positives)):
        kept = [math.exp(v / temperature) for j, v in enumerate(values) if not excluded[row, j]]
        costs.append(-math.log(math.exp(values[own] / temperature) / sum(kept)))
    return sum(costs) / len(costs)


def hinge_by_hand(scores: np.ndarray, positives: list[int], negatives: np.ndarray, margin: float) -> float:
    costs = [
        max(0.0, margin - float(scores[row, own]) + float(scores[row, j]))
        for row, own in enumerate(positives)
        for j in negatives[row]
        if j >= 0
    ]
    return sum(costs) / len(costs) if costs else 0.0


def ordinal_by_hand(logits: np.ndarray, grades: np.ndarray) -> float:
    """Frank and Hall: for each threshold k a binary problem whose label is whether the grade is above k."""
    total = 0.0
    for row, grade in zip(logits.astype(float), grades):
        for k, logit in enumerate(row):
            chance = 1 / (1 + math.exp(-logit))
            total -= math.log(chance if grade > k else 1 - chance)
    return total / len(grades)


def gradient(loss: Callable[[nd.NDArray], nd.NDArray], values: np.ndarray) -> np.ndarray:
    x = nd.array(values)
    x.attach_grad()
    with autograd.record():
        value = loss(x)
    assert value.shape == (1,)
    value.backward()
    return x.grad.asnumpy()


def difference(by_hand: Callable[[np.ndarray], float], values: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of a float64 formula."""
    found = np.zeros(values.shape)
    for place in np.ndindex(*values.shape):
        change = np.zeros(values.shape)
        change[place] = step
        found[place] = (by_hand(values + change) - by_hand(values - change)) / (2 * step)
    return found


EXCLUDED = np.array([[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], np.float32)
NEGATIVES = np.array([[1, 3], [2, -1], [-1, -1]], np.float32)
OWN = [0, 1, 2]
CASES = {
    "in_batch_softmax": (
        lambda x: in_batch_softmax(x, nd.array(OWN), nd.array(EXCLUDED), 0.5),
        lambda x: softmax_by_hand(x, OWN, EXCLUDED, 0.5),
        SCORES,
    ),
    "hinge": (
        lambda x: hinge(x, nd.array(OWN), nd.array(NEGATIVES), 0.25),
        lambda x: hinge_by_hand(x, OWN, NEGATIVES.astype(int), 0.25),
        SCORES,
    ),
    "graded_softmax": (
        lambda x: pointwise("softmax", x, nd.array(GRADES)).mean().reshape(1),
        lambda x: softmax_by_hand(x, GRADES.astype(int).tolist(), np.zeros(x.shape), 1.0),
        SCORES[:, :3],
    ),
    "ordinal": (
        lambda x: pointwise("ordinal", x, nd.array(GRADES)).mean().reshape(1),
        lambda x: ordinal_by_hand(x, GRADES),
        SCORES[:, :2],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_the_formula(name: str) -> None:
    loss, by_hand, values = CASES[name]
    assert loss(nd.array(values)).asscalar() == pytest.approx(by_hand(values), rel=1e-5)
    wanted = difference(by_hand, values.astype(np.float64))
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(gradient(loss, values), wanted, atol=2e-5)


def test_excluded_documents_count_neither_in_value_nor_in_gradient() -> None:
    def at(score: float) -> tuple[float, np.ndarray]:
        values = SCORES.copy()
        values[0, 3] = score  # an excluded one
        loss = CASES["in_batch_softmax"][0]
        return float(loss(nd.array(values)).asscalar()), gradient(loss, values)

    low, high = at(-50.0), at(50.0)
    assert low[0] == high[0]
    np.testing.assert_array_equal(low[1], high[1])
    assert low[1][0, 3] == 0
    open_ = in_batch_softmax(nd.array(SCORES), nd.array(OWN), nd.zeros(SCORES.shape), 0.5)
    assert open_.asscalar() > CASES["in_batch_softmax"][0](nd.array(SCORES)).asscalar()


def test_softmax_with_nothing_but_the_own_document_is_0() -> None:
    excluded = 1 - np.eye(3, 4)
    value = in_batch_softmax(nd.array(SCORES), nd.array(OWN), nd.array(excluded), 0.05)
    assert value.asscalar() == pytest.approx(0, abs=1e-5)


def test_softmax_is_finite_at_the_smallest_temperatures() -> None:
    for temperature in (1e-3, 1e-5):
        loss = lambda x, t=temperature: in_batch_softmax(x, nd.array(OWN), nd.array(EXCLUDED), t)
        assert np.isfinite(loss(nd.array(SCORES)).asscalar())
        assert np.isfinite(gradient(loss, SCORES)).all()


def test_own_columns_need_not_be_the_diagonal() -> None:
    own = [3, 0, 1]
    none = np.zeros(SCORES.shape)
    value = in_batch_softmax(nd.array(SCORES), nd.array(own), nd.array(none), 1.0).asscalar()
    assert value == pytest.approx(softmax_by_hand(SCORES, own, none, 1.0), rel=1e-5)
    negatives = np.array([[0, 1], [2, 3], [3, -1]])
    value = hinge(nd.array(SCORES), nd.array(own), nd.array(negatives), 0.4).asscalar()
    assert value == pytest.approx(hinge_by_hand(SCORES, own, negatives, 0.4), rel=1e-5)


def test_hinge_without_any_negative_is_0_and_moves_nothing() -> None:
    loss = lambda x: hinge(x, nd.array(OWN), nd.full((3, 2), -1), 0.2)
    assert loss(nd.array(SCORES)).asscalar() == 0
    assert (gradient(loss, SCORES) == 0).all()


def test_missing_negatives_are_not_column_0() -> None:
    """-1 must change neither the sum nor the number that the mean divides by."""
    value = hinge(nd.array([[0.0, 9.0, 1.0]] * 2), nd.array([2, 2]), nd.array([[1, -1], [-1, -1]]), 0.5)
    assert value.asscalar() == pytest.approx(0.5 - 1 + 9)


def test_hinge_takes_int32_columns() -> None:
    """As the task gives them."""
    value = hinge(nd.array(SCORES), nd.arange(3), nd.array(NEGATIVES.astype(np.int32)), 0.25).asscalar()
    assert value == pytest.approx(hinge_by_hand(SCORES, OWN, NEGATIVES.astype(int), 0.25), rel=1e-5)


def test_ordinal_is_finite_for_huge_logits() -> None:
    values = np.array([[1e4, -1e4], [-1e4, 1e4], [88.0, 90.0]], np.float32)
    loss = CASES["ordinal"][0]
    assert loss(nd.array(values)).asscalar() == pytest.approx((0 + 1e4 + 1e4 + 90) / 3, rel=1e-5)
    assert np.isfinite(gradient(loss, values)).all()


logits = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-200, 200, width=32)
)


@given(logits, st.sampled_from(["softmax", "ordinal"]))
@settings(max_examples=50, deadline=None)
def test_grade_probabilities_are_probabilities(values: np.ndarray, link: str) -> None:
    with np.errstate(over="raise"):
        found = grade_probabilities(values, link)
    assert found.shape == (len(values), values.shape[1] + (link == "ordinal"))
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_ordinal_probabilities_follow_frank_and_hall() -> None:
    """P(0) = 1 - P(>0), P(k) = P(>k-1) - P(>k), P(G-1) = P(>G-2)."""
    above = np.array([[0.9, 0.6, 0.1]])
    found = grade_probabilities(np.log(above / (1 - above)), "ordinal")
    np.testing.assert_allclose(found, [[0.1, 0.3, 0.5, 0.1]], atol=1e-9)


def test_contradicting_thresholds_give_no_negative_probability() -> None:
    above = np.array([[0.3, 0.8]])  # "above 1" likelier than "above 0"
    found = grade_probabilities(np.log(above / (1 - above)), "ordinal")
    np.testing.assert_allclose(found, [[0.7, 0.0, 0.3]], atol=1e-9)


def test_softmax_probabilities_equal_the_loss() -> None:
    found = grade_probabilities(SCORES[:, :3], "softmax")
    cost = -np.log(found[np.arange(3), GRADES.astype(int)]).mean()
    value = pointwise("softmax", nd.array(SCORES[:, :3]), nd.array(GRADES)).mean().asscalar()
    assert value == pytest.approx(cost, rel=1e-5)


def test_balanced_weights_are_scikit_learns_and_weigh_each_pair() -> None:
    grades = np.array([0, 0, 0, 2, 2, 1, 0])
    weights = balanced(grades, 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=grades)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    logits = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    each = nd.array(weights[grades])
    found = (pointwise("softmax", nd.array(logits), nd.array(grades)) * each).mean().asscalar()
    assert found == pytest.approx(log_loss(grades, softmax(logits, axis=1), sample_weight=expected[grades]), rel=1e-5)
    two = np.concatenate([logits[:, :1], logits[:, :1] - 1], axis=1)
    parts = [ordinal_by_hand(two[i : i + 1], grades[i : i + 1]) * weights[grades[i]] for i in range(7)]
    found = (pointwise("ordinal", nd.array(two), nd.array(grades)) * each).mean().asscalar()
    assert found == pytest.approx(np.mean(parts), rel=1e-5)

"""Calibrated probabilities, and which answers are sure: on problems whose right answer is known."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation import confidence
from pipeline.evaluation.confidence import Answering, Confidence


def overconfident(rng: np.random.Generator, count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) probabilities of a model whose logits are `temperature` times too large, and labels drawn as they truly
    are."""
    logits = 1.5 * rng.standard_normal((count, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    told = np.exp(temperature * logits)
    return told / told.sum(axis=1, keepdims=True), labels


@pytest.mark.learns
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_it_finds_by_how_much_a_model_is_too_sure(temperature: float) -> None:
    rng = np.random.default_rng(1)
    probabilities, labels = overconfident(rng, 20_000, temperature)
    found = confidence.chosen(probabilities, labels, 0.8)
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    others, truth = overconfident(rng, 20_000, temperature)
    calibrated = found.calibrated(others)
    np.testing.assert_array_equal(calibrated.argmax(axis=1), others.argmax(axis=1))
    top, right = calibrated.max(axis=1), calibrated.argmax(axis=1) == truth
    for low in (0.4, 0.6, 0.8):
        part = (top > low) & (top < low + 0.2)
        assert right[part].mean() == pytest.approx(top[part].mean(), abs=0.02)
    sure = found.sure(calibrated)
    assert right[sure].mean() == pytest.approx(0.8, abs=0.015)  # what was wanted, on texts that chose nothing
    assert 0.3 < sure.mean() < 0.99
    assert right[~sure].mean() < 0.62


def test_of_the_thresholds_that_do_the_most_answers_are_sure() -> None:
    """By hand: of probabilities .9 .8 .8 .7 .6, right are the first, one of the .8, and the .7."""
    top = np.array([0.6, 0.8, 0.9, 0.7, 0.8])
    probabilities = np.stack([top, 1 - top], axis=1)
    labels = np.array([1, 0, 0, 0, 1])
    at = lambda wanted: confidence.chosen(probabilities, labels, wanted)
    assert (at(0.99).share, at(0.99).precision) == (0.2, 1.0)  # not one of the two equal ones
    assert (at(0.75).share, at(0.75).precision) == (0.8, 0.75)
    assert (at(0.6).share, at(0.6).precision) == (1.0, pytest.approx(0.6))
    found = at(0.75)
    np.testing.assert_array_equal(found.sure(found.calibrated(probabilities)), top > 0.65)
    assert at(0.6).threshold == 0.0


def test_labels_that_training_does_not_have_are_mistakes() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert confidence.chosen(probabilities, np.array([2, 0]), 0.9).threshold is None
    nothing = confidence.chosen(probabilities, np.array([2, 3]), 0.5)
    assert (nothing.threshold, nothing.temperature, nothing.share) == (None, 1.0, 0.0)
    assert not nothing.sure(probabilities).any()
    assert nothing.told(probabilities, np.array([0, 0]))[1] == {"test/sure_share": 0.0}


def test_another_machines_rounding_changes_no_answer() -> None:
    """The threshold stands between two probabilities of the validation split, not on one."""
    rng = np.random.default_rng(2)
    probabilities, labels = overconfident(rng, 500, 2.0)
    found = confidence.chosen(probabilities, labels, 0.8)
    calibrated = found.calibrated(probabilities)
    noise = calibrated + rng.uniform(-1e-7, 1e-7, calibrated.shape)
    np.testing.assert_array_equal(found.sure(calibrated), found.sure(noise))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert confidence.load(tmp_path) is None
    for one in (Confidence(2.0, 0.9, 0.75, 0.5, 0.91), Confidence(1.0, 0.9, None, 0.0, 0.0)):
        confidence.save(tmp_path, one)
        assert confidence.load(tmp_path) == one


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"temperature": 0, "wanted": 1, "threshold": 1, "share": 1, "precision": 1}',
     '{"temperature": "a", "wanted": 1, "threshold": 1, "share": 1, "precision": 1}',
     '{"temperature": NaN, "wanted": 1, "threshold": 1, "share": 1, "precision": 1}'],
)  # fmt: skip
def test_a_damaged_file_is_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / confidence.NAME).write_text(content)
    with pytest.raises(InputError, match=r"confidence.json is damaged .*: train the model again"):
        confidence.load(tmp_path)


# --- a query's first document -----------------------------------------------------------------------------------------
@pytest.mark.learns
@pytest.mark.parametrize(("slope", "intercept"), [(8.0, -5.0), (0.5, 1.0)])
def test_scores_become_the_probabilities_that_they_were_drawn_with(slope: float, intercept: float) -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(0.6, 0.4 if slope > 1 else 4, 20_000).astype(np.float32)
    right = rng.random(len(scores)) < 1 / (1 + np.exp(-(slope * scores + intercept)))
    found = confidence.answering(scores[:10_000], right[:10_000], 0.8)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept), rel=0.1)
    sure = found.sure(found.probabilities(scores[10_000:]))
    assert right[10_000:][sure].mean() == pytest.approx(0.8, abs=0.02)
    assert right[10_000:][~sure].mean() < 0.6


def test_scores_that_tell_nothing_give_one_probability() -> None:
    scores, right = np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, True, False, False])  # worse than nothing
    found = confidence.answering(scores, right, 0.9)
    assert found.slope == 0 and found.threshold is None
    np.testing.assert_allclose(found.probabilities(scores), 0.5, atol=1e-6)
    everything = confidence.answering(scores, right, 0.5)
    assert (everything.share, everything.precision) == (1.0, 0.5)


def test_no_document_is_never_sure() -> None:
    scores = np.array([2.0, 1.0, -np.inf])
    found = confidence.answering(scores, np.array([True, True, False]), 0.6)
    assert (found.share, found.precision) == (2 / 3, 1.0)  # though all three together are right often enough
    assert found.sure(found.probabilities(scores)).tolist() == [True, True, False]
    assert np.isfinite(found.slope)  # right and wrong are parted, or all alike
    assert confidence.answering(np.array([-np.inf]), np.array([False]), 0.9).threshold is None


def test_what_a_matcher_writes_is_read(tmp_path: Path) -> None:
    one = confidence.answering(np.array([0.1, 0.9, 0.8]), np.array([False, True, True]), 0.9)
    confidence.save(tmp_path, one)
    assert confidence.load_answering(tmp_path) == one
    with pytest.raises(InputError, match="damaged"):
        confidence.load(tmp_path)
    confidence.save(tmp_path, Answering(float("nan"), 0.0, 0.9, 0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="damaged"):
        confidence.load_answering(tmp_path)

"""Which answers of a classifier are sure, and what its probabilities are worth: both chosen on the validation split.

One temperature brings the probabilities to what the validation split shows: P ∝ p ^ (1 / T), of the greatest likelihood
(Guo et al. 2017, "On calibration of modern neural networks"). Then the least probability of a sure answer is chosen, so
that of the answers above it the wanted share is right. It needs NumPy alone, so that an exported model can use it.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.evaluation.naive_bayes import LEAST, log_softmax

NAME = "confidence.json"  # in a trained folder
TEMPERATURES = np.geomspace(0.05, 20, 241)


class Confidence(NamedTuple):
    """Attributes:
    temperature: T. wanted: share of sure answers that must be right.
    threshold: least probability, by that temperature, of a sure answer; None: no threshold reaches what is wanted.
    share: of the validation split's texts whose answers are sure; precision: share of those that are right.
    """

    temperature: float
    wanted: float
    threshold: float | None
    share: float
    precision: float

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, C) from the model's (N, C); the order within a row stays."""
        return _calibrated(probabilities, self.temperature)

    def sure(self, calibrated: np.ndarray) -> np.ndarray:
        """(N,) bool, of (N, C) or (C,) calibrated probabilities."""
        if self.threshold is None:
            return np.zeros(calibrated.shape[:-1], bool)
        return np.asarray(calibrated.max(axis=-1) >= self.threshold)

    def told(self, calibrated: np.ndarray, labels: np.ndarray) -> tuple[str, dict[str, float]]:
        """A sentence and metrics on the test split, from (N, C) calibrated probabilities and (N,) labels."""
        if self.threshold is None:
            told = f"sure: none; no threshold has a precision of {self.wanted:g} on the validation split"
            return told, {"test/sure_share": 0.0}
        sure = self.sure(calibrated)
        right = calibrated.argmax(axis=1)[sure] == labels[sure]
        metrics, hits = {"test/sure_share": float(sure.mean())}, ""
        if len(right):
            metrics["test/sure_precision"], hits = float(right.mean()), f", {right.mean():.1%} of them right"
        told = (
            f"sure: a probability of {self.threshold:.3f} or more, for a precision of {self.wanted:g} on the "
            f"validation split; {sure.mean():.1%} of {len(labels):,} texts{hits} (on validation {self.share:.1%}, "
            f"{self.precision:.1%})"
        )
        return told, metrics


def _calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    return np.exp(log_softmax(np.log(np.maximum(probabilities.astype(np.float64), LEAST)) / temperature))


def chosen(probabilities: np.ndarray, labels: np.ndarray, wanted: float) -> Confidence:
    """From the model's (N, C) probabilities of the validation split's texts, N ≥ 1, and (N,) their labels.

    Labels of C and more, which training does not have, are mistakes whatever the answer. Of the thresholds that have
    the wanted precision, the one with most sure answers is taken; it lies in the middle between the least sure answer
    and the next below it, so that another machine's rounding changes no answer.
    """
    known = labels < probabilities.shape[1]
    rows = np.arange(int(known.sum()))
    likelihood = lambda t: np.log(np.maximum(_calibrated(probabilities[known], t)[rows, labels[known]], LEAST)).sum()
    temperature = float(max(TEMPERATURES, key=likelihood)) if known.any() else 1.0
    calibrated = _calibrated(probabilities, temperature)
    top, right = calibrated.max(axis=1), calibrated.argmax(axis=1) == labels
    order = np.argsort(-top, kind="stable")
    top, precision = top[order], np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(top[1:] < top[:-1], True)  # equal probabilities are sure together or not at all
    enough = np.flatnonzero(last & (precision >= wanted))
    if not len(enough):
        return Confidence(temperature, wanted, None, 0.0, 0.0)
    at = int(enough[-1])
    threshold = float(top[at] + top[at + 1]) / 2 if at + 1 < len(top) else 0.0
    return Confidence(temperature, wanted, threshold, (at + 1) / len(top), float(precision[at]))


def save(folder: Path, confidence: Confidence) -> None:
    """Into a trained folder."""
    (folder / NAME).write_text(atomic_files.as_json(confidence._asdict()), encoding="utf-8")


def load(folder: Path) -> Confidence | None:
    """Of a trained or exported folder; None: it has none. Raises InputError where the file is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        found = Confidence(**json.loads(path.read_text(encoding="utf-8")))
        numbers = np.array([0.0 if value is None else value for value in found], float)
        if not np.isfinite(numbers).all() or not found.temperature > 0:
            raise ValueError("its numbers must be finite, and the temperature above 0")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): train the model again") from None
    return found

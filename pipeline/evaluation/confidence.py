"""Which answers are sure, and what a model's probabilities or scores are worth: both chosen on the validation split.

A classifier: one temperature brings the probabilities to what the validation split shows: P ∝ p ^ (1 / T), of the
greatest likelihood (Guo et al. 2017, "On calibration of modern neural networks"). A matcher: the score of a query's
first document becomes the probability that it is relevant (Platt 1999, "Probabilistic outputs for support vector
machines"). Then the least probability of a sure answer is chosen, so that of the answers above it the wanted share is
right. Using either needs NumPy alone, so that an exported model can.
"""

import json
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.evaluation.joining import LEAST, log_softmax

NAME = "confidence.json"  # in a trained folder
TEMPERATURES = np.geomspace(0.05, 20, 241)
Kind = TypeVar("Kind", "Confidence", "Answering")


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
    return Confidence(temperature, wanted, *_least(top, right, wanted))


def _least(probabilities: np.ndarray, right: np.ndarray, wanted: float) -> tuple[float | None, float, float]:
    """The least probability of a sure answer, and on these (N,) answers the share that is sure and its precision."""
    order = np.argsort(-probabilities, kind="stable")
    top, precision = probabilities[order], np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(top[1:] < top[:-1], True)  # equal probabilities are sure together or not at all
    enough = np.flatnonzero(last & (precision >= wanted) & (top > 0))  # 0: there is nothing to be sure of
    if not len(enough):
        return None, 0.0, 0.0
    at = int(enough[-1])
    threshold = float(top[at] + top[at + 1]) / 2 if at + 1 < len(top) else 0.0
    return threshold, (at + 1) / len(top), float(precision[at])


class Answering(NamedTuple):
    """Which queries a matcher has an answer to.

    Attributes:
        slope, intercept: P(the first document is relevant) = 1 / (1 + exp(-(slope · its score + intercept))).
        wanted: share of sure answers that must be right, whose first document is relevant.
        threshold: least probability of a sure answer; None: no threshold reaches what is wanted.
        share: of the validation split's queries that have a sure answer; precision: share of those that are right.
    """

    slope: float
    intercept: float
    wanted: float
    threshold: float | None
    share: float
    precision: float

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(N,) from the (N,) scores of N queries' first documents; -inf, where there is none, gives 0."""
        finite = np.isfinite(scores)
        logits = self.slope * np.where(finite, scores, 0).astype(np.float64) + self.intercept
        return np.where(finite, 0.5 * (np.tanh(0.5 * logits) + 1), 0.0)

    def sure(self, probabilities: np.ndarray) -> np.ndarray:
        """(N,) bool. A threshold of 0 lets any document be an answer, but not none."""
        if self.threshold is None:
            return np.zeros(probabilities.shape, bool)
        return (probabilities >= self.threshold) & (probabilities > 0)


def answering(scores: np.ndarray, right: np.ndarray, wanted: float) -> Answering:
    """From the validation split's queries, N ≥ 1: (N,) scores of their first documents, -inf where there is none, and
    whether those are relevant, which they never are to a query without a relevant document.

    The slope is never below 0: scores that tell nothing give all queries one probability.
    """
    from scipy.optimize import minimize  # an exported model is used without it

    finite = np.isfinite(scores)
    used, hits = scores[finite].astype(np.float64), right[finite]
    middle, spread = (used.mean(), used.std() or 1.0) if len(used) else (0.0, 1.0)
    scaled = (used - middle) / spread
    # Platt's targets, which keep the slope finite where one score parts right from wrong
    target = np.where(hits, (hits.sum() + 1) / (hits.sum() + 2), 1 / ((~hits).sum() + 2))

    def loss(form: np.ndarray) -> tuple[float, np.ndarray]:
        logits = form[0] * scaled + form[1]
        slack = 0.5 * (np.tanh(0.5 * logits) + 1) - target
        value = float((np.logaddexp(0, logits) - target * logits).sum())
        return value, np.array([(slack * scaled).sum(), slack.sum()])

    slope, intercept = minimize(loss, [0.0, 0.0], jac=True, bounds=[(0, None), (None, None)], method="L-BFGS-B").x
    slope, intercept = float(slope / spread), float(intercept - slope * middle / spread)
    probabilities = Answering(slope, intercept, wanted, None, 0.0, 0.0).probabilities(scores)
    return Answering(slope, intercept, wanted, *_least(probabilities, right, wanted))


def save(folder: Path, confidence: Confidence | Answering) -> None:
    """Into a trained folder."""
    (folder / NAME).write_text(atomic_files.as_json(confidence._asdict()), encoding="utf-8")


def load(folder: Path) -> Confidence | None:
    """Of a trained or exported classifier; None: it has none. Raises InputError where the file is damaged."""
    return _load(folder, Confidence)


def load_answering(folder: Path) -> Answering | None:
    """Of a trained or exported matcher, likewise."""
    return _load(folder, Answering)


def checked(found: Kind) -> Kind:
    """The same. Raises ValueError where a number cannot be, TypeError where one is none."""
    numbers = np.array(found._replace(threshold=found.threshold or 0.0), float)  # no other one may be null
    if not np.isfinite(numbers).all() or (isinstance(found, Confidence) and not found.temperature > 0):
        raise ValueError("its numbers must be finite, and the temperature above 0")
    return found


def _load(folder: Path, kind: type[Kind]) -> Kind | None:
    path = folder / NAME
    if not path.exists():
        return None
    try:
        found = checked(kind(**json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): train the model again") from None
    return found

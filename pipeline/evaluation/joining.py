"""A network's probabilities joined with those of a simpler model: P(class) ∝ network ^ a · simpler model ^ b · shift.

The weights are chosen on the validation split, where both together are therefore not worse than the better of the two.
Using them needs NumPy alone, so that a model that was exported can.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.evaluation import metrics

WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))
TEMPERATURES = np.geomspace(0.1, 50, 60)
SHIFTS = tuple(round(0.05 * i, 2) for i in range(31))
LEAST = 1e-30  # probability, so that no logarithm is infinite

Metric = Callable[[np.ndarray, np.ndarray], float]


class Simple(Protocol):
    """What a network is joined with: a NamedTuple of arrays."""

    def log_probabilities(self, *texts: Iterable[np.ndarray]) -> np.ndarray:
        """(N, C), from (T,) ids of each text; of pairs both sides."""

    def _asdict(self) -> dict[str, Any]: ...


Model = TypeVar("Model", bound=Simple)


class Joined(NamedTuple, Generic[Model]):
    """A network and a simpler model.

    Attributes:
        shift: (C,) what is added to the logarithms, so that rare classes are said as often as a metric wants.
    """

    model: Model
    a: float
    b: float
    shift: np.ndarray | None = None

    def probabilities(self, network: np.ndarray, *texts: Iterable[np.ndarray]) -> np.ndarray:
        """(N, C) from the network's (N, C) probabilities; with b = 0 and no shift the very same."""
        return self.mixed(network, self.model.log_probabilities(*texts) if self.b else None)

    def mixed(self, network: np.ndarray, simple: np.ndarray | None) -> np.ndarray:
        """As `probabilities`, from the simpler model's (N, C) log probabilities; with b = 0 it needs none."""
        if self.b == 0 and self.shift is None:
            return network
        logs = self.a * np.log(np.maximum(network.astype(np.float64), LEAST))
        if self.b:
            assert simple is not None
            logs = logs + self.b * simple
        return np.exp(log_softmax(logs if self.shift is None else logs + self.shift))


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """(N, C) float64."""
    scores = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))


def judged_by(metric: str, labels: np.ndarray, classes: int) -> tuple[Metric, np.ndarray | None]:
    """What `joined` chooses by, for `train.metric` and the (N,) labels of training: `metric` and `counts`."""
    if metric == "macro_f1":
        return metrics.macro_f1, np.bincount(labels, minlength=classes)
    return metrics.accuracy, None


def joined(
    model: Model, network: np.ndarray, texts: tuple[Iterable[np.ndarray], ...], labels: np.ndarray, metric: Metric,
    counts: np.ndarray | None = None,
) -> tuple[Joined[Model], dict[float, float]]:  # fmt: skip
    """The weights of a network and a simpler model, chosen on validation texts, and the metric of each share tried.

    Both log probabilities are brought to one scale and added with shares of 0 to 1. Of the shares whose metric is at
    least that of the better of the two alone, the one with the greatest likelihood is taken, which changes less from
    sample to sample than a metric does. A temperature makes its probabilities right.

    Args:
        network: (N, C) its probabilities of the validation texts; `labels`: (N,), C or more where training has none.
        metric: (labels, predicted) -> larger is better.
        counts: (C,) of the classes in training, where the metric counts each class alike, as macro F1 does. Rare ones
            are then shifted up by a share of -log of their part (Menon et al. 2021, "Long-tail learning via logit
            adjustment"), the one that is best by the metric; of equals the least.
    """
    parts = [np.log(np.maximum(network.astype(np.float64), LEAST)), model.log_probabilities(*texts)]
    parts = [part - part.mean(axis=1, keepdims=True) for part in parts]
    scales = [float(part.std()) or 1.0 for part in parts]
    known = labels < network.shape[1]
    rare = np.zeros(network.shape[1]) if counts is None else -np.log(np.maximum(counts, 1) / max(counts.sum(), 1))
    tried, chosen, offered = {}, {}, (0.0,) if counts is None else SHIFTS
    for share in WEIGHTS:
        mixed = share * parts[0] / scales[0] + (1 - share) * parts[1] / scales[1]
        likelihoods = [log_softmax(mixed[known] * t)[np.arange(known.sum()), labels[known]].sum() for t in TEMPERATURES]
        temperature = float(TEMPERATURES[int(np.argmax(likelihoods))])
        shifts = {s: metric(labels, (temperature * mixed + s * rare).argmax(axis=1)) for s in offered}
        shift = max(shifts, key=lambda s: shifts[s])
        tried[share], chosen[share] = shifts[shift], (float(np.max(likelihoods)), temperature, shift)
    least = max(tried[0.0], tried[1.0])
    best = max((share for share in WEIGHTS if tried[share] >= least), key=lambda share: chosen[share][0])
    _, temperature, shift = chosen[best]
    if best == 1 and not shift:
        return Joined(model, 1.0, 0.0), tried
    a, b = temperature * best / scales[0], temperature * (1 - best) / scales[1]
    return Joined(model, a, b, shift * rare if shift else None), tried


def save(path: Path, mixture: Joined[Any]) -> None:
    """Weights, shift and the model's arrays as npz."""
    more = {} if mixture.shift is None else {"shift": mixture.shift}
    np.savez(path, weights=np.array([mixture.a, mixture.b]), **more, **mixture.model._asdict())


def load(path: Path, classes: int, make: Callable[..., Model]) -> Joined[Model] | None:
    """What `save` wrote; None: there is no such file.

    Args:
        make: the model of its arrays. It raises ValueError where they do not fit each other or the classes.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        arrays = atomic_files.arrays(path)
        weights, shift = arrays.pop("weights"), arrays.pop("shift", None)
        if weights.shape != (2,) or (shift is not None and shift.shape != (classes,)):
            raise ValueError("its parts do not fit each other or the labels")
        model = make(**arrays)
        numbers = [weights, *([] if shift is None else [shift]), *(a for a in arrays.values() if a.dtype.kind != "i")]
        if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in numbers):
            raise ValueError("it must hold finite numbers")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is damaged ({error}): train the model again") from None
    return Joined(model, float(weights[0]), float(weights[1]), shift)

"""Naive Bayes over the words and the pairs of neighbouring words of a text, and its mix with a network.

Multinomial with add-one smoothing over what stands in a text at least once: Wang and Manning, "Baselines and bigrams:
simple, good sentiment and topic classification", 2012, whose MNB it is. It reads ids as tokenization gives them, and
needs NumPy alone, so that a model that was exported can use it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import atomic_files
from pipeline.core.errors import InputError

NAME = "naive_bayes.npz"  # in a trained folder
WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))
TEMPERATURES = np.geomspace(0.1, 50, 60)
LEAST = 1e-30  # probability, so that no logarithm is infinite


class NaiveBayes(NamedTuple):
    """log P(class) and log P(word or pair | class) of C classes.

    Attributes:
        prior: (C,). words: (V, C). keys: (P,) int64 ascending, first · V + second of each pair that training has.
        pairs: (P, C).
    """

    prior: np.ndarray
    words: np.ndarray
    keys: np.ndarray
    pairs: np.ndarray

    def scores(self, texts: Iterable[np.ndarray]) -> np.ndarray:
        """(N, C) log P(class) + Σ log P(… | class), from (T,) ids of each text; pairs that training has not are passed
        over."""
        rows = []
        for ids in texts:
            row = self.prior + self.words[np.unique(ids)].sum(axis=0)
            keys = np.unique(_pairs(ids, len(self.words)))
            if len(keys) and len(self.keys):
                places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
                row = row + self.pairs[places[self.keys[places] == keys]].sum(axis=0)
            rows.append(row)
        return np.array(rows).reshape(-1, len(self.prior))

    def log_probabilities(self, texts: Iterable[np.ndarray]) -> np.ndarray:
        """(N, C)."""
        return log_softmax(self.scores(texts))


def _pairs(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    ids = ids.astype(np.int64)
    return ids[:-1] * vocabulary + ids[1:]


def fit(texts: Iterable[np.ndarray], labels: np.ndarray, classes: int, vocabulary: int) -> NaiveBayes:
    """From (T,) ids of each text and (N,) labels 0 … classes - 1, each of which occurs."""
    words = np.zeros((vocabulary, classes))
    keys, pair_labels = [], []
    for ids, label in zip(texts, labels.tolist()):
        words[np.unique(ids), label] += 1
        keys.append(np.unique(_pairs(ids, vocabulary)))
        pair_labels.append(np.full(len(keys[-1]), label))
    distinct, places = np.unique(np.concatenate([np.zeros(0, np.int64), *keys]), return_inverse=True)
    pairs = np.zeros((len(distinct), classes))
    np.add.at(pairs, (places, np.concatenate([np.zeros(0, np.int64), *pair_labels]).astype(np.int64)), 1)
    seen = words.any(axis=1)  # words that no training text has are no features
    total = (words[seen] + 1).sum(axis=0) + (pairs + 1).sum(axis=0)
    logs = np.where(seen[:, None], np.log(words + 1) - np.log(total), 0.0)
    prior = np.log(np.bincount(labels, minlength=classes) / len(labels))
    return NaiveBayes(prior, logs, distinct, np.log(pairs + 1) - np.log(total))


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """(N, C) float64."""
    scores = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))


class Joined(NamedTuple):
    """A network and naive Bayes: P(class) ∝ network ^ a · naive Bayes ^ b."""

    model: NaiveBayes
    a: float
    b: float

    def probabilities(self, network: np.ndarray, texts: Iterable[np.ndarray]) -> np.ndarray:
        """(N, C) from the network's (N, C) probabilities; with b = 0 the very same."""
        if self.b == 0:
            return network
        logs = np.log(np.maximum(network.astype(np.float64), LEAST))
        return np.exp(log_softmax(self.a * logs + self.b * self.model.log_probabilities(texts)))


def joined(
    model: NaiveBayes, network: np.ndarray, texts: Iterable[np.ndarray], labels: np.ndarray,
    metric: Callable[[np.ndarray, np.ndarray], float],
) -> tuple[Joined, dict[float, float]]:  # fmt: skip
    """The weights of a network and naive Bayes, chosen on validation texts, and the metric of each share tried.

    Both log probabilities are brought to one scale and added with shares of 0 to 1. Of the shares whose metric is at
    least that of the better of the two alone, the one with the greatest likelihood is taken, which changes less from
    sample to sample than a metric does. A temperature makes its probabilities right.

    Args:
        network: (N, C) its probabilities of the validation texts; `labels`: (N,), C or more where training has none.
        metric: (labels, predicted) -> larger is better.
    """
    parts = [np.log(np.maximum(network.astype(np.float64), LEAST)), model.log_probabilities(texts)]
    parts = [part - part.mean(axis=1, keepdims=True) for part in parts]
    scales = [float(part.std()) or 1.0 for part in parts]
    known = labels < network.shape[1]
    tried, likelihoods = {}, {}
    for share in WEIGHTS:
        mixed = share * parts[0] / scales[0] + (1 - share) * parts[1] / scales[1]
        tried[share] = metric(labels, mixed.argmax(axis=1))
        logs = [log_softmax(mixed[known] * t)[np.arange(known.sum()), labels[known]].sum() for t in TEMPERATURES]
        likelihoods[share] = (float(np.max(logs)), float(TEMPERATURES[int(np.argmax(logs))]))
    least = max(tried[0.0], tried[1.0])
    best = max((share for share in WEIGHTS if tried[share] >= least), key=lambda share: likelihoods[share][0])
    if best == 1:
        return Joined(model, 1.0, 0.0), tried
    temperature = likelihoods[best][1]
    return Joined(model, temperature * best / scales[0], temperature * (1 - best) / scales[1]), tried


def save(folder: Path, mixture: Joined) -> None:
    """Into a trained folder."""
    weights = np.array([mixture.a, mixture.b])
    np.savez(folder / NAME, weights=weights, **mixture.model._asdict())


def load(folder: Path, classes: int) -> Joined | None:
    """Of a trained or exported folder; None: it has none. Raises InputError where the file is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        arrays = atomic_files.arrays(path)
        weights, model = arrays.pop("weights"), NaiveBayes(**arrays)
        shapes = [array.shape for array in model]
        numbers = [weights, model.prior, model.words, model.pairs]
        fits = shapes == [(classes,), (shapes[1][0], classes), (len(model.keys),), (len(model.keys), classes)]
        if not fits or weights.shape != (2,) or model.keys.dtype != np.int64:
            raise ValueError("its parts do not fit each other or the labels")
        if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in numbers):
            raise ValueError("it must hold finite numbers")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is damaged ({error}): train the model again") from None
    return Joined(model, float(weights[0]), float(weights[1]))

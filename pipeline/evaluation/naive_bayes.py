"""Naive Bayes over the words and the pairs of neighbouring words of a text.

Multinomial with add-one smoothing over what stands in a text at least once: Wang and Manning, "Baselines and bigrams:
simple, good sentiment and topic classification", 2012, whose MNB it is. It reads ids as tokenization gives them, and
needs NumPy alone, so that a model that was exported can use it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.evaluation import joining
from pipeline.evaluation.joining import Joined, log_softmax

NAME = "naive_bayes.npz"  # in a trained folder


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

    def log_probabilities(self, *texts: Iterable[np.ndarray]) -> np.ndarray:
        """(N, C) from (T,) ids of each text."""
        (only,) = texts
        return log_softmax(self.scores(only))


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


def load(folder: Path, classes: int) -> Joined[NaiveBayes] | None:
    """Of a trained or exported folder; None: it has none. Raises InputError where the file is damaged."""

    def make(**arrays: np.ndarray) -> NaiveBayes:
        model = NaiveBayes(**arrays)
        shapes = [array.shape for array in model]
        fits = shapes == [(classes,), (shapes[1][0], classes), (len(model.keys),), (len(model.keys), classes)]
        if not fits or model.keys.dtype != np.int64:
            raise ValueError("its parts do not fit each other or the labels")
        return model

    return joining.load(folder / NAME, classes, make)

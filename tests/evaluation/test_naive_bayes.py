"""Naive Bayes against scikit-learn's, and its mix with a network."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import accuracy_score
from sklearn.naive_bayes import MultinomialNB

from pipeline.core.errors import InputError
from pipeline.evaluation import joining, naive_bayes
from pipeline.evaluation.joining import Joined


def texts_of(rng: np.random.Generator, count: int, words: int = 30) -> list[np.ndarray]:
    return [rng.integers(2, words, rng.integers(1, 9)).astype(np.int32) for _ in range(count)]


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    train, test, labels = texts_of(rng, 200), texts_of(rng, 50, 28), rng.integers(0, 3, 200)
    as_text = lambda texts: [" ".join(map(str, ids)) for ids in texts]
    counts = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), binary=True)
    reference = MultinomialNB().fit(counts.fit_transform(as_text(train)), labels)
    found = naive_bayes.fit(train, labels, 3, 40)
    expected = reference.predict_log_proba(counts.transform(as_text(test)))
    np.testing.assert_allclose(found.log_probabilities(test), expected, atol=1e-9)
    assert found.scores([]).shape == (0, 3)


def network_that_knows(labels: np.ndarray, known: np.ndarray, right: float = 0.9) -> np.ndarray:
    """(N, 2): sure of what it knows, even about the rest."""
    sure = np.where(labels[:, None] == np.arange(2), right, 1 - right)
    return np.where(known[:, None], sure, 0.5).astype(np.float32)


@pytest.mark.learns
def test_two_that_know_halves_know_all_together() -> None:
    """Words tell the class of one half of the texts, the network of the other half: alone about .75, mixed 1."""
    rng = np.random.default_rng(2)

    def texts(count: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        labels, known = rng.integers(0, 2, count), rng.random(count) < 0.5
        words = [np.array([9 if k else 5 + label, *rng.integers(10, 20, 3)]) for label, k in zip(labels, known)]
        return words, labels, known

    train, labels, _ = texts(400)
    model = naive_bayes.fit(train, labels, 2, 20)
    (valid, given, known), (test, other, hidden) = texts(300), texts(300)
    found, tried = joining.joined(model, network_that_knows(given, known), (valid,), given, accuracy_score)
    network = network_that_knows(other, hidden)
    words = model.log_probabilities(test).argmax(axis=1)
    assert 0.6 < accuracy_score(other, network.argmax(axis=1)) < 0.9 and 0.6 < accuracy_score(other, words) < 0.9
    assert accuracy_score(other, found.probabilities(network, test).argmax(axis=1)) > 0.99
    assert max(tried.values()) >= max(tried[0.0], tried[1.0])


def test_a_useless_part_gets_nothing() -> None:
    """A network that is right about four of five texts, and words that mean nothing."""
    rng = np.random.default_rng(3)
    train, labels = texts_of(rng, 300), rng.integers(0, 2, 300)
    model = naive_bayes.fit(train, labels, 2, 30)
    valid, given = texts_of(rng, 2000), rng.integers(0, 2, 2000)
    network = network_that_knows(np.where(rng.random(2000) < 0.8, given, 1 - given), np.ones(2000, bool), 0.8)
    found, tried = joining.joined(model, network, (valid,), given, accuracy_score)
    said = found.probabilities(network, valid)
    assert tried[0.0] < 0.55 < 0.75 < tried[1.0]
    assert accuracy_score(given, said.argmax(axis=1)) >= tried[1.0], "never worse on what it was chosen by"
    assert (said.argmax(axis=1) == network.argmax(axis=1)).mean() > 0.97
    assert Joined(model, 1.0, 0.0).probabilities(network, valid) is network, "alone bit for bit"


def test_it_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    model = naive_bayes.fit(texts_of(rng, 50), rng.integers(0, 3, 50), 3, 30)
    assert naive_bayes.load(tmp_path, 3) is None
    joining.save(tmp_path / naive_bayes.NAME, Joined(model, 0.5, 2.0))
    again = naive_bayes.load(tmp_path, 3)
    assert again is not None and (again.a, again.b) == (0.5, 2.0)
    test, network = texts_of(rng, 9), rng.random((9, 3))
    np.testing.assert_array_equal(
        again.probabilities(network, test), Joined(model, 0.5, 2.0).probabilities(network, test)
    )
    with pytest.raises(InputError, match="do not fit"):
        naive_bayes.load(tmp_path, 4)
    path = tmp_path / naive_bayes.NAME
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"naive_bayes\.npz is damaged .*train the model again"):
        naive_bayes.load(tmp_path, 3)

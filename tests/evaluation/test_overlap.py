"""What two texts have in common: its features by hand, its fit against scikit-learn's, and its mix with a network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from pipeline.core.errors import InputError
from pipeline.evaluation import joining, overlap
from pipeline.evaluation.joining import Joined
from pipeline.evaluation.overlap import Overlap

SPECIAL, WORDS = 2, 4000
Pairs = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def contained(rng: np.random.Generator, count: int, words: range, rare: int = 4) -> Pairs:
    """Documents of twelve words: do all four of the query stand there (1: one pair in `rare`), or only two (0)?"""
    labels = (rng.integers(0, rare, count) == 0).astype(int)
    queries, documents = [], []
    for label in labels.tolist():
        drawn = rng.choice(np.array(words), 16, replace=False)
        queries.append(drawn[:4].astype(np.int32))
        documents.append(rng.permutation(np.concatenate([drawn[: 4 if label else 2], drawn[4 : 12 if label else 14]])))
    return queries, documents, labels


def test_features_by_hand() -> None:
    words, neighbours = np.array([0, 0, 1.0, 2.0, 4.0, 8.0]), np.full(overlap.BUCKETS, 0.5)
    query, document = ids(2, 3, 4, 1), ids(5, 3, 4, 3, 1)
    (found,) = overlap.features([query], [document], words, neighbours)
    both = 2.0 + 4.0  # the words 3 and 4; the unknown word 1 is none
    wanted = [both / 7, both / 14, 2 / 3, 2 / 3, 1 / 3, 1 / 4, 2 / 4, 2 / 5, np.log(5), np.log(6), 0]
    np.testing.assert_allclose(found, wanted)
    alike = overlap.features([query, ids(2)], [ids(2, 3, 5), ids(2)], words, neighbours)
    assert alike[:, -1].tolist() == [1, 0], "one word is no beginning"
    assert not overlap.features([ids(1)], [ids(1)], words, neighbours)[0, :6].any(), (
        "two unknown words are not the same"
    )


def test_weights_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    queries, documents, labels = contained(rng, 400, range(SPECIAL, 60), rare=2)
    labels = labels + (rng.random(400) < 0.3)  # three grades, none of which is certain
    found = overlap.fit(queries, documents, labels, 3, 60, SPECIAL)
    known = overlap.features(queries, documents, found.words, found.neighbours)
    scaled = (known - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)
    first, second = np.triu_indices(overlap.FEATURES)
    columns = np.column_stack([np.ones(400), scaled, scaled[:, first] * scaled[:, second]])
    reference = LogisticRegression(C=1 / overlap.RIDGE, fit_intercept=False, max_iter=5000, tol=1e-8)
    expected = reference.fit(columns, labels).predict_log_proba(columns)
    np.testing.assert_allclose(found.log_probabilities(queries, documents), expected, atol=5e-3)


@pytest.mark.learns
def test_it_knows_words_that_training_never_had() -> None:
    """Whether one text holds all of the other's words, of words that no training text has."""
    rng = np.random.default_rng(2)
    model = overlap.fit(*contained(rng, 600, range(SPECIAL, 2000)), 2, WORDS, SPECIAL)
    queries, documents, labels = contained(rng, 400, range(2000, WORDS))
    assert accuracy_score(labels, model.log_probabilities(queries, documents).argmax(axis=1)) > 0.98
    shuffled = [documents[row] for row in rng.permutation(len(documents))]
    assert model.log_probabilities(queries, shuffled).argmax(axis=1).mean() < 0.02, "it looks at the pair"


def network_of(labels: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """(N, 2) probabilities whose logarithms' difference is the label's, with noise and a leaning to 0."""
    odds = 2.0 * labels - 2.0 + noise * rng.standard_normal(len(labels))
    return np.column_stack([1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))])


def noisy(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """The pairs, a fifth of which have a label that their words do not tell."""
    queries, documents, labels = pairs
    return queries, documents, np.where(rng.random(len(labels)) < 0.2, 1 - labels, labels)


def test_both_together_are_better_than_either() -> None:
    rng = np.random.default_rng(3)
    train, valid, test = (noisy(contained(rng, 1500, range(SPECIAL, WORDS), 2), rng) for _ in range(3))
    model = overlap.fit(*train, 2, WORDS, SPECIAL)
    found, tried = joining.joined(model, network_of(valid[2], rng, 1.5), valid[:2], valid[2], accuracy_score)
    network = network_of(test[2], rng, 1.5)
    alone = model.log_probabilities(*test[:2]).argmax(axis=1)
    fused = accuracy_score(test[2], found.probabilities(network, *test[:2]).argmax(axis=1))
    better = max(accuracy_score(test[2], alone), accuracy_score(test[2], network.argmax(axis=1)))
    assert fused > better + 0.02
    assert max(tried.values()) >= max(tried[0.0], tried[1.0])


def macro(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(f1_score(labels, predicted, average="macro"))


@pytest.mark.parametrize("rare", [8, 12])
def test_rare_classes_are_said_more_often_where_the_metric_wants_it(rare: int) -> None:
    rng = np.random.default_rng(4)
    train, valid, test = (noisy(contained(rng, 2000, range(SPECIAL, WORDS), rare), rng) for _ in range(3))
    model, counts = overlap.fit(*train, 2, WORDS, SPECIAL), np.bincount(train[2])
    given = network_of(valid[2], rng, 1.5)
    plain, before = joining.joined(model, given, valid[:2], valid[2], macro)
    found, tried = joining.joined(model, given, valid[:2], valid[2], macro, counts)
    assert plain.shift is None and found.shift is not None and found.shift[1] > found.shift[0]
    assert all(tried[share] >= before[share] for share in tried)
    network = network_of(test[2], rng, 1.5)
    values = [macro(test[2], one.probabilities(network, *test[:2]).argmax(axis=1)) for one in (plain, found)]
    assert values[1] > values[0] + 0.02


def test_it_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    model = overlap.fit(*contained(rng, 100, range(SPECIAL, 60)), 2, 60, SPECIAL)
    assert overlap.load(tmp_path, 2) is None
    path = tmp_path / overlap.NAME
    queries, documents, _ = contained(rng, 9, range(SPECIAL, 60))
    network = rng.dirichlet([1, 1], 9)
    for shift in (None, np.array([0.5, 1.0])):
        joining.save(path, Joined(model, 0.5, 2.0, shift))
        again = overlap.load(tmp_path, 2)
        assert again is not None and (again.a, again.b) == (0.5, 2.0)
        expected = Joined(model, 0.5, 2.0, shift).probabilities(network, queries, documents)
        np.testing.assert_array_equal(again.probabilities(network, queries, documents), expected)
    with pytest.raises(InputError, match="do not fit"):
        overlap.load(tmp_path, 3)
    for broken, why in damaged(model):
        joining.save(path, Joined(broken, 0.5, 2.0))
        with pytest.raises(InputError, match=rf"overlap\.npz is damaged \({why}.*train the model again"):
            overlap.load(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"overlap\.npz is damaged .*train the model again"):
        overlap.load(tmp_path, 2)


def damaged(model: Overlap) -> Sequence[tuple[Overlap, str]]:
    return (
        (model._replace(mean=model.mean[:-1]), "its parts do not fit"),
        (model._replace(words=model.words[:, None]), "its parts do not fit"),
        (model._replace(scale=np.full(overlap.FEATURES, np.nan)), "it must hold finite numbers"),
    )

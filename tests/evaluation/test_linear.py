"""The linear combination: its features by hand, its weights by scikit-learn's, and problems whose answer is known."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.evaluation import linear
from pipeline.evaluation.fusion import WEIGHTS, Mix, Pool, fuse, mix_of
from pipeline.evaluation.linear import FEATURES, Linear
from pipeline.evaluation.ranking import Judgements, evaluate


def pool_of(queries: int, each: int, seed: int) -> tuple[Pool, np.ndarray]:
    """A pool of noise, and which documents are relevant: one of each query."""
    rng = np.random.default_rng(seed)
    model, words, *looks = rng.normal(size=(5, queries * each))
    rows, documents = np.divmod(np.arange(queries * each), each)
    pool = Pool(rows, documents, model, words, np.stack(looks, 1))
    return pool, documents == np.repeat(rng.integers(0, each, queries), each)


def judged(pool: Pool, relevant: np.ndarray) -> tuple[Judgements, Callable[[np.ndarray], float]]:
    """The judgements, and the mean reciprocal rank by some scores."""
    size = int(pool.query_rows.max()) + 1, int(pool.documents.max()) + 1
    judgements = Judgements(pool.query_rows, pool.documents, relevant.astype(int), *size)

    def judge(scores: np.ndarray) -> float:
        ranking = fuse(pool._replace(model=scores), Mix(1, 1.0, 1.0), judgements, 20)
        return float(evaluate(ranking, judgements, names=("mrr@10",))["mrr@10"].mean())

    return judgements, judge


def best_mix(pool: Pool, judge: Callable[[np.ndarray], float]) -> tuple[Mix, float]:
    values = {weight: judge(mix_of(pool, weight).of(pool)) for weight in WEIGHTS}
    weight = max(values, key=lambda one: values[one])
    return mix_of(pool, weight), values[weight]


def fitted(pool: Pool, relevant: np.ndarray) -> tuple[linear.Fit, float, Callable[[np.ndarray], float]]:
    _, judge = judged(pool, relevant)
    mix, value = best_mix(pool, judge)
    return linear.fit(pool, relevant, mix, value, judge), value, judge


def test_features_by_hand() -> None:
    pool = Pool(
        np.array([0, 0, 0, 0, 2, 2]), np.arange(6), np.array([0.5, np.inf, 0.5, -np.inf, 1, 2]),
        np.array([3.0, 0, 0, 0, 0, 0]), np.arange(18).reshape(6, 3),
    )  # fmt: skip
    assert FEATURES == ("model", "bm25", "model_rank", "bm25_rank", "words", "first_words", "length")
    found = linear.features(pool)
    assert found[:, 0].tolist() == [0.5, 2, 0.5, 0, 1, 2]  # the least finite number and 0 are the floor
    assert found[:, 1].tolist() == [3, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(found[:, 2], [1 / 2, 1, 1 / 2, 1 / 4, 1 / 2, 1])
    np.testing.assert_allclose(found[:, 3], [1, 1 / 2, 1 / 2, 1 / 2, 1, 1])  # equal scores have one rank
    assert found[:, 4:].tolist() == np.arange(18).reshape(6, 3).tolist()
    assert Linear((1, 2, 0, 0, 0, 0, 10)).of(pool).tolist() == [26.5, 52, 80.5, 110, 141, 172]
    rare = {"wing": 3.0, "lift": 1.0}
    whole, first, length = linear.looks(rare, ["x"] * 10 + ["wing", "wing"])
    assert (whole, first, length) == (0.75, 0, pytest.approx(np.log(13)))
    assert linear.looks({}, ["x"])[:2] == (0, 0) and linear.looks(rare, [])[:] == (0, 0, 0)


@pytest.mark.parametrize("ridge", [0.3, 0.01])
def test_of_two_documents_the_weights_are_a_logistic_regressions(ridge: float) -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=(400, 5))
    rows = np.repeat(np.arange(200), 2)
    relevant = np.arange(400) % 2 == (rng.random(200) < 0.5).repeat(2)
    apart = known[relevant] - known[~relevant]
    apart *= np.sign(apart @ [1, -2, 0.5, 0, 0] + rng.normal(size=200))[:, None]
    known[relevant], known[~relevant] = apart / 2, -apart / 2
    ours = linear._weights(known, rows, relevant, np.zeros(5), ridge)
    theirs = LogisticRegression(C=1 / (4 * 200 * ridge), fit_intercept=False, tol=1e-10, max_iter=1000)
    theirs.fit(np.concatenate([apart, -apart]), np.repeat([1, 0], 200))
    np.testing.assert_allclose(ours, theirs.coef_[0], atol=1e-3)
    assert np.abs(ours).max() > 0.3


def test_several_relevant_documents_are_each_against_the_irrelevant_ones() -> None:
    """By hand: log((e^s + z) / e^s), averaged over the relevant ones of a query, then over the queries."""
    known = np.array([[1.0], [2], [0], [1.5], [3], [0]])
    rows, relevant = np.array([0, 0, 0, 0, 1, 1]), np.array([True, True, False, False, True, False])
    start, ridge = np.array([1.0]), 1e6  # held at the multiple of the start
    (found,) = linear._weights(known, rows, relevant, start, ridge)

    def loss(w: float) -> float:
        z = 1 + np.exp(1.5 * w)
        first = (np.log1p(z / np.exp(w)) + np.log1p(z / np.exp(2 * w))) / 2
        return float((first + np.log1p(1 / np.exp(3 * w))) / 2)

    sizes = np.linspace(0.01, 20, 20_000)
    assert found == pytest.approx(sizes[np.argmin([loss(size) for size in sizes])], abs=0.01)


def planted(queries: int, seed: int) -> tuple[Pool, np.ndarray]:
    """Relevant is the document whose first words hold the query and which is long: sixteen hold one or the other."""
    pool, _ = pool_of(queries, 17, seed)
    rng = np.random.default_rng(seed + 1)
    wanted = rng.integers(0, 17, queries)
    right = np.arange(17) == wanted[:, None]
    first = right | (rng.random((queries, 17)) < 0.5)
    long = np.where(right, 1.0, ~first)
    noise = 0.01 * rng.normal(size=(2, queries * 17))
    looks = np.stack([rng.normal(size=queries * 17), first.ravel() + noise[0], long.ravel() + noise[1]], 1)
    return pool._replace(looks=looks), right.ravel()


def test_two_features_that_only_together_tell_are_found() -> None:
    pool, relevant = planted(80, 0)
    fit, value, judge = fitted(pool, relevant)
    assert value < 0.4 and fit.found is not None
    alone = [judge(sign * column) for column in linear.features(pool).T for sign in (1, -1)]
    assert max(alone) < 0.45
    other, right = planted(80, 9)  # which chose nothing
    assert judged(other, right)[1](fit.found.of(other)) > 0.98
    weights = fit.told["weights"]
    assert min(weights["first_words"], weights["length"]) > 3 * max(abs(weights["model"]), abs(weights["words"]))
    assert fit.told["queries"] == 80 and fit.told["held_out"] > 0.98
    assert linear.read(fit.told) == fit.found


def test_where_nothing_is_to_be_gained_the_mix_stays() -> None:
    """The model knows the relevant document; all else is noise, of which a fit to few queries would take some."""
    pool, relevant = pool_of(60, 12, 3)
    pool = pool._replace(model=relevant * 1.2 + pool.model)
    fit, value, _ = fitted(pool, relevant)
    assert fit.found is None and linear.read(fit.told) is None
    assert fit.told["why"] == f"{fit.told['held_out']:.3f} on held-out validation queries, the mix {value:.3f}"


@pytest.mark.parametrize(("queries", "of"), [(39, 39), (60, 0), (60, 12)])
def test_too_few_validation_queries_fit_nothing(queries: int, of: int) -> None:
    pool, relevant = planted(queries, 0)
    relevant &= pool.query_rows < of
    fit = linear.fit(pool, relevant, mix_of(pool), 0.0, lambda _: pytest.fail("nothing is judged"))
    assert fit.found is None
    why = f"{of} validation queries have a relevant and an irrelevant document, and it takes 40"
    assert fit.told == {"queries": of, "mix": 0.0, "why": why}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 2))
def test_it_is_never_worse_on_validation_than_the_mix(seed: int, knows: float) -> None:
    pool, relevant = pool_of(50, 8, seed)
    looks = pool.looks
    assert looks is not None
    pool = pool._replace(model=pool.model + knows * relevant, looks=looks + knows * np.outer(relevant, [1, 0, 0.5]))
    fit, value, judge = fitted(pool, relevant)
    assert fit.found is None or judge(fit.found.of(pool)) > value
    assert fitted(pool, relevant)[0] == fit  # the same again


def test_it_is_for_rankings() -> None:
    source, loss = {"format": "jsonl", "path": "x"}, {"kind": "pointwise"}
    evaluated = {"kinds": ["graded"], "fusion": "linear"}
    data = {"name": "t", "ingest": {"source": source}, "evaluate": evaluated, "train": {"loss": loss}}
    with pytest.raises(InputError, match=r"evaluate\.fusion=linear ranks, and evaluate\.kinds has no"):
        check_config(data, "test")


def test_damaged_numbers_are_refused() -> None:
    told = {"coefficients": dict.fromkeys(FEATURES, 1.0)}
    assert linear.read(told) == Linear((1.0,) * 7)
    for wrong in ({}, {"coefficients": {}}, {"coefficients": {**told["coefficients"], "model": float("nan")}},
                  {"coefficients": {**told["coefficients"], "model": None}}, {"coefficients": 3}):  # fmt: skip
        with pytest.raises(ValueError, match="coefficient"):
            linear.read(wrong)

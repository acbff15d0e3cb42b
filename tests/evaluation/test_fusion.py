"""The mix of two rankings: problems whose right answer is known, and that nothing is lost by it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.fusion import WEIGHTS, Pool, fuse, mix_of, pooled, spread
from pipeline.evaluation.ranking import Judgements, Ranking, evaluate, rank_collection
from tests.evaluation.test_ranking import judged


def pool_of(model: np.ndarray, words: np.ndarray, judgements: Judgements, depth: int) -> tuple[Pool, Ranking, Ranking]:
    """The pool of two (Q, D) tables of scores, and their rankings."""
    rows = np.arange(len(model))
    ours, theirs = (rank_collection([(rows, scores)], judgements, depth) for scores in (model, words))
    of_words = np.take_along_axis(model.astype(np.float32), theirs.documents.astype(np.int64), axis=1)
    return pooled(ours, theirs, of_words, lambda q, d: words.astype(np.float32)[q, d]), ours, theirs


def test_worked_example() -> None:
    everything = judged(np.array([[0, 0, 0, 1, 0]]))
    model, words = np.array([[8.0, 6.0, 2.0, 4.0, 0.0]]), np.array([[0.0, 0.25, 1.0, 0.75, 0.1]])
    pool, _, _ = pool_of(model, words, everything, 2)
    # the model's two best are 0 and 1, BM25's 2 and 3; all four have both scores, and 4 is in neither list
    assert pool.documents.tolist() == [0, 1, 2, 3]
    mix = mix_of(pool, 0.25)
    # of 8, 6, 2, 4 the mean is 5: deviations 3, 1, 3, 1; of 0, .25, 1, .75 it is .5: deviations .5, .25, .5, .25
    assert mix == pytest.approx((0.25, math.sqrt(20 / 4), math.sqrt(0.625 / 4)))
    found = fuse(pool, mix, everything, 10)
    wanted = [
        0.25 * m / math.sqrt(5) + 0.75 * w / math.sqrt(0.15625) for m, w in ((8, 0), (6, 0.25), (2, 1), (4, 0.75))
    ]
    assert found.documents.tolist() == [[2, 3, 1, 0]]
    np.testing.assert_allclose(found.scores[0], [wanted[d] for d in (2, 3, 1, 0)], rtol=1e-6)
    assert fuse(pool, mix, everything, 2).documents.tolist() == [[2, 3]]


def test_two_halves_make_a_whole() -> None:
    """Document (a, b): one scorer knows a in thousands, the other b in thousandths; only both together know it."""
    a, b = np.divmod(np.arange(256), 16)
    rng = np.random.default_rng(0)
    wanted = rng.choice(256, 60, replace=False)
    model = 1e3 * (a == a[wanted][:, None]) + rng.normal(size=(60, 256))
    words = 1e-3 * (b == b[wanted][:, None]) + 1e-6 * rng.normal(size=(60, 256))
    everything = judged((np.arange(256) == wanted[:, None]).astype(int))
    pool, ours, theirs = pool_of(model, words, everything, 20)
    alone = [evaluate(one, everything)["mrr@10"].mean() for one in (ours, theirs)]
    assert max(alone) < 0.35
    assert evaluate(fuse(pool, mix_of(pool), everything, 20), everything)["mrr@10"].mean() == 1


tables = st.tuples(st.integers(1, 5), st.integers(2, 30), st.integers(1, 12), st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(tables)
def test_whole_weights_are_the_rankings_themselves(shape: tuple[int, int, int, int]) -> None:
    queries, documents, depth, seed = shape
    rng = np.random.default_rng(seed)
    model, words = rng.integers(-3, 4, (queries, documents)) / 7, rng.integers(0, 3, (queries, documents)) / 3
    everything = judged(rng.integers(0, 2, (queries, documents)))
    pool, ours, theirs = pool_of(model, words, everything, depth)
    for weight, alone in ((1, ours), (0, theirs)):
        found = fuse(pool, mix_of(pool, weight), everything, depth)
        np.testing.assert_array_equal(found.documents, alone.documents)
        np.testing.assert_array_equal(found.scores, alone.scores)


@settings(max_examples=30, deadline=None)
@given(tables, st.sampled_from(WEIGHTS[:-1]), st.floats(0.01, 100), st.floats(-50, 50))
def test_neither_scale_nor_origin_matters(
    shape: tuple[int, int, int, int], weight: float, scale: float, origin: float
) -> None:
    queries, documents, _, seed = shape
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(queries), documents)
    model, words = rng.normal(size=(2, queries * documents))
    pool = Pool(rows, np.tile(np.arange(documents), queries), model, words)
    other = pool._replace(model=scale * model + origin)
    ours, theirs = (mix_of(p, weight).scores(p.model, p.words) for p in (pool, other))
    shift = weight * origin / mix_of(other).model_scale
    np.testing.assert_allclose(theirs - shift, ours, atol=1e-6 * max(1, abs(shift)))


def test_a_confident_scorer_counts_more() -> None:
    """Each scorer is certain about half of the queries and says next to nothing about the others."""
    rng = np.random.default_rng(2)
    wanted = rng.integers(0, 40, 80)
    right = np.arange(40) == wanted[:, None]
    sure = np.arange(80)[:, None] % 2 == 0
    model = np.where(sure, right, 0.02 * rng.normal(size=(80, 40)))
    words = np.where(sure, 0.2 * rng.normal(size=(80, 40)), 10 * right)
    everything = judged(right.astype(int))
    pool, ours, theirs = pool_of(model, words, everything, 40)
    alone = [evaluate(one, everything)["mrr@10"].mean() for one in (ours, theirs)]
    assert max(alone) < 0.6
    assert evaluate(fuse(pool, mix_of(pool), everything, 40), everything)["mrr@10"].mean() == 1


def test_spread_within_groups() -> None:
    assert spread(np.array([1.0, 3, 10, 14]), np.array([0, 0, 7, 7])) == pytest.approx(math.sqrt((1 + 1 + 4 + 4) / 4))
    assert spread(np.array([1.0, 3, -np.inf, np.inf]), np.array([0, 0, 0, 7])) == 1
    assert spread(np.array([5.0, 5]), np.array([0, 0])) == spread(np.zeros(0), np.zeros(0, int)) == 1


def test_queries_that_the_model_does_not_answer_are_left_out() -> None:
    nothing = Ranking(np.array([[-1, -1], [0, 1]], np.int32), np.array([[-np.inf] * 2, [2, 1]], np.float32))
    words = Ranking(np.array([[1, 0], [1, 0]], np.int32), np.array([[2, 1], [2, 1]], np.float32))
    pool = pooled(nothing, words, np.array([[-np.inf] * 2, [1, 2]]), lambda q, d: d.astype(np.float32) + 1)
    assert pool.query_rows.tolist() == [1, 1] and pool.words.tolist() == [1, 2]
    empty = Ranking(np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32))
    assert len(pooled(empty, empty, np.zeros((2, 0)), lambda q, d: np.zeros(0)).documents) == 0


@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_equal_scores_go_against_us(weight: float) -> None:
    everything = judged(np.array([[1, 0, 0]]))
    pool, _, _ = pool_of(np.zeros((1, 3)), np.ones((1, 3)), everything, 3)
    assert fuse(pool, mix_of(pool, weight), everything, 3).documents.tolist() == [[1, 2, 0]]

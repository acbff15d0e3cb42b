"""Top lists and candidate lists; ties against us; ir-measures and the plain functions agree."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, nDCG

from pipeline.core.errors import DupletError, InputError
from pipeline.evaluation import metrics, ranking
from pipeline.evaluation.ranking import Best, Judgements, Ranking, evaluate, measures, rank_collection, rank_listed


def judged(relevance: np.ndarray) -> Judgements:
    """Judgements of a whole (Q, D) table of grades."""
    rows, columns = np.indices(relevance.shape)
    return Judgements(rows.ravel(), columns.ravel(), relevance.ravel(), *relevance.shape)


def top_k(scores: np.ndarray, relevance: np.ndarray, k: int, parts: int = 1) -> Ranking:
    """The k best documents of a (Q, D) table of scores that come by in parts, in an order of their own."""
    best = Best(judged(relevance), k)
    for documents in np.array_split(np.random.default_rng(parts).permutation(scores.shape[1]), parts):
        best.add(np.arange(len(scores)), documents, scores[:, documents])
    return best.ranking()


def expected_order(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    return np.lexsort((np.arange(len(scores)), relevance, -scores))


tables = st.tuples(st.integers(1, 4), st.integers(1, 14), st.integers(0, 2**32 - 1)).map(
    lambda t: (
        np.random.default_rng(t[2]).integers(-2, 3, t[:2]).astype(np.float32) / 2,
        np.random.default_rng(t[2] + 1).choice(4, t[:2], p=[0.6, 0.2, 0.1, 0.1]),
    )
)


# --- judgements -------------------------------------------------------------------------------------------------------
def test_judgements_by_query() -> None:
    found = Judgements(np.array([2, 0, 2, 2]), np.array([1, 3, 0, 1]), np.array([0.0, 1.0, -1.0, 2.0]), 3, 4)
    documents, grades = found.of(2)
    assert documents.tolist() == [0, 1]
    assert grades.tolist() == [0, 2]  # below 0 counts as 0; judged twice: the higher
    assert found.of(1)[0].tolist() == []
    assert found.query_rows.tolist() == [0, 2, 2]
    assert found.lookup(np.array([0, 0, 2, 1]), np.array([3, 0, 1, 1])).tolist() == [1, 0, 2, 0]
    assert found.answerable.tolist() == [0, 2]


@pytest.mark.parametrize("relevance", [0.5, np.nan, np.inf])
def test_judgements_want_whole_grades(relevance: float) -> None:
    with pytest.raises(InputError, match=r"whole.*ingest\.source\.grades"):
        Judgements(np.array([0]), np.array([0]), np.array([relevance]), 1, 1)


@pytest.mark.parametrize(("query", "document"), [(1, 0), (-1, 0), (0, 2)])
def test_judgements_within_the_tables(query: int, document: int) -> None:
    with pytest.raises(InputError, match="row"):
        Judgements(np.array([query]), np.array([document]), np.array([1]), 1, 2)


def test_no_judgements_at_all() -> None:
    empty = Judgements(np.array([], int), np.array([], int), np.array([]), 2, 3)
    found = rank_collection([(np.array([0, 1]), np.eye(2, 3, dtype=np.float32))], empty, 2)
    assert found.documents.tolist() == [[0, 1], [1, 0]]
    assert rank_listed(np.array([]), empty).documents.shape == (2, 0)
    assert all(len(values) == 0 for values in evaluate(found, empty).values())


# --- top lists --------------------------------------------------------------------------------------------------------
@settings(max_examples=50, deadline=None)
@given(tables, st.integers(1, 16), st.integers(1, 5))
def test_top_k_is_the_worst_order_of_equals(table: tuple[np.ndarray, np.ndarray], k: int, parts: int) -> None:
    scores, relevance = table
    documents, best = top_k(scores, relevance, k, parts)
    assert documents.shape == best.shape == (len(scores), min(k, scores.shape[1]))
    for row in range(len(scores)):
        wanted = expected_order(scores[row], relevance[row])[:k]
        assert documents[row, : len(wanted)].tolist() == wanted.tolist()
        assert best[row, : len(wanted)].tolist() == scores[row, wanted].tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_top_k_orders_any_floats(values: list[float]) -> None:
    scores = np.array([values], np.float32)
    documents, _ = top_k(scores, np.zeros((1, len(values)), int), len(values))
    finite = np.where(np.isfinite(scores[0]), scores[0], -np.inf)
    assert documents[0].tolist() == np.argsort(-finite, kind="stable").tolist()


def test_top_k_edge_scores() -> None:
    documents, best = top_k(np.array([[np.inf, 1e300, -5.0, -0.0, 0.0]]), np.array([[1, 1, 0, 0, 1]]), 5)
    assert documents.tolist() == [[3, 4, 2, 0, 1]]  # -0.0 equals 0.0; 1e300 overflows float32
    assert best[0, 3:].tolist() == [-np.inf, -np.inf]
    with pytest.raises(DupletError, match="not a number"):
        top_k(np.array([[0.0, np.nan]]), np.array([[0, 0]]), 1)


def test_a_tie_at_the_cut_keeps_the_relevant_document_out() -> None:
    relevance = np.zeros((1, 50), int)
    relevance[0, 7] = 1
    documents, _ = top_k(np.zeros((1, 50), np.float32), relevance, 49)
    assert 7 not in documents


def test_more_grades_than_bits_still_go_against_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_document_bits", lambda size: 31)  # as with two thousand million documents
    documents, _ = top_k(np.zeros((1, 4), np.float32), np.array([[3, 0, 0, 1]]), 4)
    assert documents[0, :2].tolist() == [1, 2]


def test_all_equal_scorer_gets_the_worst_value_of_every_metric() -> None:
    rng = np.random.default_rng(3)
    relevance = rng.choice(3, (20, 30), p=[0.8, 0.1, 0.1])
    everything = judged(relevance)
    rows = np.arange(20)
    equal = evaluate(rank_collection([(rows, np.zeros((20, 30)))], everything, 30), everything)
    worst = evaluate(rank_collection([(rows, -relevance.astype(float))], everything, 30), everything)
    listed = evaluate(rank_listed(np.zeros(600), everything), everything)
    for name in equal:
        np.testing.assert_array_equal(equal[name], worst[name])
        np.testing.assert_array_equal(equal[name], listed[name])
    assert equal["recall@1"].max() == 0


@pytest.mark.parametrize("per_chunk", [1, 7, 10_000])
def test_chunks_do_not_change_the_ranking(monkeypatch: pytest.MonkeyPatch, per_chunk: int) -> None:
    rng = np.random.default_rng(0)
    scores, everything = rng.integers(0, 9, (23, 11)).astype(np.float32), judged(rng.integers(0, 2, (23, 11)))
    whole = rank_collection([(np.arange(23), scores)], everything, 5)
    monkeypatch.setattr(ranking, "SCORES_PER_CHUNK", per_chunk)
    rows = rng.permutation(23)
    parts = rank_collection(((part, scores[part]) for part in np.array_split(rows, 4)), everything, 5)
    np.testing.assert_array_equal(parts.documents, whole.documents)
    np.testing.assert_array_equal(parts.scores, whole.scores)


def test_queries_never_scored_keep_an_empty_list() -> None:
    everything = judged(np.array([[1, 0], [1, 0]]))
    found = rank_collection([(np.array([1]), np.array([[2.0, 1.0]]))], everything, 10)
    assert found.documents.tolist() == [[-1, -1], [0, 1]]  # as deep as the collection
    assert evaluate(found, everything)["mrr@10"].tolist() == [0, 1]
    with pytest.raises(DupletError, match="expected"):
        rank_collection([(np.array([1]), np.zeros((1, 3)))], everything, 10)


# --- candidate lists --------------------------------------------------------------------------------------------------
def test_listed_ranks_only_what_is_judged() -> None:
    pairs = Judgements(np.array([0, 0, 0, 1]), np.array([4, 2, 0, 3]), np.array([1, 0, 0, 1]), 3, 5)
    assert pairs.document_rows.tolist() == [0, 2, 4, 3]
    found = rank_listed(np.array([0.1, 0.9, 0.9, -2.0]), pairs)
    assert found.documents.tolist() == [[2, 4, 0], [3, -1, -1], [-1, -1, -1]]
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.9, 0.1])
    assert evaluate(found, pairs)["map@100"].tolist() == [1 / 2, 1]
    assert rank_listed(np.array([0.1, 0.9, 0.9, -2.0]), pairs, depth=1).documents.tolist() == [[2], [3], [-1]]
    with pytest.raises(DupletError, match="3 scores for 4"):
        rank_listed(np.zeros(3), pairs)
    with pytest.raises(DupletError, match="not a number"):
        rank_listed(np.full(4, np.nan), pairs)


@settings(max_examples=30, deadline=None)
@given(tables)
def test_a_list_of_everything_is_the_collection(table: tuple[np.ndarray, np.ndarray]) -> None:
    scores, everything = table[0], judged(table[1])
    whole = rank_collection([(np.arange(len(scores)), scores)], everything, scores.shape[1])
    listed = rank_listed(scores.ravel(), everything)
    np.testing.assert_array_equal(whole.documents, listed.documents)


# --- per-query metrics ------------------------------------------------------------------------------------------------
@settings(max_examples=30, deadline=None)
@given(tables)
def test_ir_measures_agrees_with_the_plain_functions(table: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = table
    everything = judged(relevance)
    found = evaluate(rank_collection([(np.arange(len(scores)), scores)], everything, 100), everything)
    plain = {
        "mrr@10": lambda s, r: metrics.reciprocal_rank(s, r, 10),
        "map@100": metrics.average_precision,
        "ndcg@10": lambda s, r: metrics.ndcg(s, r, 10),
        "recall@1": lambda s, r: metrics.recall(s, r, 1),
        "recall@10": lambda s, r: metrics.recall(s, r, 10),
        "recall@100": lambda s, r: metrics.recall(s, r, 100),
    }
    assert found.keys() == plain.keys()
    for name, function in plain.items():
        wanted = [function(scores[q], relevance[q]) for q in everything.answerable]
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)


def test_large_collection_agrees_too() -> None:
    rng = np.random.default_rng(5)
    relevance = rng.choice(3, (6, 300), p=[0.9, 0.06, 0.04])
    scores = rng.integers(0, 40, (6, 300)).astype(np.float32)
    everything = judged(relevance)
    found = evaluate(rank_collection([(np.arange(6), scores)], everything, 100), everything)
    for query in range(6):
        one = scores[query], relevance[query]
        assert found["map@100"][query] == pytest.approx(metrics.average_precision(*one, cutoff=100))  # cut at the depth
        assert found["map@100"][query] < metrics.average_precision(*one)
        assert found["ndcg@10"][query] == pytest.approx(metrics.ndcg(*one, cutoff=10))
        assert found["recall@100"][query] == pytest.approx(metrics.recall(*one, cutoff=100))


def test_nothing_deeper_than_the_depth_is_measured() -> None:
    assert [*measures(10)] == ["mrr@10", "map@10", "ndcg@10", "recall@1", "recall@10"]
    assert [*measures(99)][1] == "map@99" and "recall@100" not in measures(99)
    assert [*measures(100)] == ["mrr@10", "map@100", "ndcg@10", "recall@1", "recall@10", "recall@100"]
    rng = np.random.default_rng(8)
    relevance, scores = rng.choice(2, (30, 60), p=[0.9, 0.1]), rng.normal(size=(30, 60)).astype(np.float32)
    everything = judged(relevance)
    found = evaluate(rank_collection([(np.arange(30), scores)], everything, 10), everything, depth=10)
    qrels = [ir_measures.Qrel(str(q), str(d), int(relevance[q, d])) for q, d in np.ndindex(30, 60)]
    run = [ir_measures.ScoredDoc(str(q), str(d), float(scores[q, d])) for q, d in np.ndindex(30, 60)]
    for name, measure in (("map@10", AP @ 10), ("recall@10", R @ 10), ("mrr@10", RR @ 10), ("ndcg@10", nDCG @ 10)):
        theirs = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, run)}
        assert found[name].tolist() == pytest.approx([theirs[str(q)] for q in everything.answerable])


def test_some_measures_alone() -> None:
    everything = judged(np.array([[1, 0]]))
    found = rank_collection([(np.arange(1), np.array([[1.0, 0.0]]))], everything, 10)
    assert {name: values.tolist() for name, values in evaluate(found, everything, names=("ndcg@10",)).items()} == {
        "ndcg@10": [1]
    }


def test_queries_without_relevant_documents() -> None:
    everything = judged(np.array([[0, 0], [0, 1], [1, 0]]))
    found = rank_collection([(np.arange(3), np.array([[1.0, 0.0]] * 3))], everything, 10)
    assert evaluate(found, everything)["mrr@10"].tolist() == [1 / 2, 1]  # left out
    np.testing.assert_array_equal(evaluate(found, everything, np.array([2, 0, 1]))["mrr@10"], [1, np.nan, 1 / 2])


def test_order_is_ours_not_the_names() -> None:
    # ir-measures settles ties by name; equal scores in a ranking must still count by their place
    documents = np.array([[9, 10, 2, 1]], np.int32)
    pairs = Judgements(np.array([0]), np.array([1]), np.array([1]), 1, 11)
    assert evaluate(Ranking(documents, np.zeros((1, 4), np.float32)), pairs)["mrr@10"].tolist() == [1 / 4]

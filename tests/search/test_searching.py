"""What a query finds: against brute force, BM25's baseline and rank fusion's formula."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation import baselines
from pipeline.evaluation.analysis import words_of
from pipeline.evaluation.bm25 import Bm25
from pipeline.evaluation.fusion import Pool, mix_of
from pipeline.evaluation.ranking import Judgements
from pipeline.search import hnsw_build, searcher
from pipeline.search.documents import Document
from pipeline.search.hnsw import Graph
from pipeline.search.searcher import Ranked
from pipeline.serving.predict.scoring import Encoded
from tests.search.conftest import Indexed, topical
from tests.search.double import WordEncoder

Make = Callable[..., Indexed]
HEADS = ("cosine", "dot", "bilinear", "late_interaction")


def brute_force(index: Indexed, documents: list[Document], query: str) -> list[str]:
    """Ids by the model's own score of the whole texts, best first."""
    encoder = index.encoder
    texts = [f"{d.title}\n{d.text}" if d.title else d.text for d in documents]
    scores = encoder.score_all(encoder.encode("query", [query]), encoder.encode("document", texts))[0]
    return [
        documents[i].id
        for i in sorted(range(len(scores)), key=lambda i: (-round(float(scores[i]), 4), documents[i].id))
    ]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("approximate_above", [None, 5])
def test_search_ranks_as_the_model_scores(indexed: Make, head: str, approximate_above: int | None) -> None:
    documents = topical(60)
    index = indexed(documents, head, approximate_above=approximate_above, documents_per_segment=25)
    assert (index.open().snapshot.graph is not None) == (approximate_above is not None)
    for query in ("wing lift", "own3 moon wave", "title6"):
        assert index.ids(query, 10) == brute_force(index, documents, query)[:10]


@pytest.mark.parametrize("head", ["cosine", "dot", "bilinear"])
def test_a_dot_product_with_the_mapped_query_is_the_score(head: str) -> None:
    encoder = WordEncoder(head)
    query, document = encoder.encode("query", ["wing lift", "moon"]), encoder.encode("document", ["wing", "tide wave"])
    vectors = document.vectors
    if head == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = encoder.score_all(query, document)
    np.testing.assert_allclose(searcher.mapped(encoder, query) @ vectors.T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["mlp", "cosine"])
def test_models_that_compare_pairs_rank_what_words_find(indexed: Make, head: str) -> None:
    documents = topical(40)
    index = indexed(documents, head, pointwise=head == "cosine", approximate_above=5)
    snapshot = index.open().snapshot
    assert snapshot.graph is None
    found = index.ids("wing own3", 40)
    holding = {d.id for d in documents if {"wing", "own3"} & {*d.text.split()}}
    assert {*found} == holding
    assert found == [name for name in brute_force(index, documents, "wing own3") if name in holding]


@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_the_graph_leaves_out_the_dead_and_grows(indexed: Make, head: str) -> None:
    documents = topical(60)
    index = indexed(documents[:40], head, approximate_above=5, documents_per_segment=20)
    index.update(documents[40:], delete=["d0", "d1", "d2"])
    snapshot = index.open().snapshot
    assert snapshot.graph is not None and snapshot.graph.size == len(snapshot.passage_of_vector)
    assert index.ids("wing lift", 10) == brute_force(index, documents[3:], "wing lift")[:10]
    assert any(line.startswith("recall@10 of the HNSW graph against exact search: 1.000") for line in index.said)


def test_a_graph_that_finds_too_little_is_left_out(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graph, "search", lambda self, queries, k, *_: searching_nothing(len(queries)))
    index = indexed(topical(30), approximate_above=5)
    assert index.open().snapshot.graph is None and index.open().snapshot.state.approximate == {}
    assert "recall@10 of the HNSW graph is 0.000, under 0.95" in index.said[-1]
    assert len(index.ids("wing")) == 10


def searching_nothing(queries: int) -> object:
    from pipeline.search.hnsw import Hits

    return Hits(np.full((queries, 1), -1), np.zeros((queries, 1), np.float32))


def test_recall_is_measured_with_the_least_effort_that_reaches_it(
    indexed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = indexed(topical(30), approximate_above=5)
    searcher = index.open()
    true = searcher.approximate

    def worse(query: Encoded, k: int, effort: int) -> Ranked:
        found = true(query, k, effort)
        return found if effort >= 400 else Ranked(*(values[: k // 2] for values in found))

    monkeypatch.setattr(searcher, "approximate", worse)
    found = hnsw_build.measure(searcher, index.settings)
    assert (found["effort"], found["recall"]) == (400, 1.0)


def test_words_rank_as_the_baseline_does(indexed: Make) -> None:
    documents = topical(30)
    index = indexed(documents)
    query = "wing lift own3 wing"
    texts = [words_of(f"{d.title} {d.text}".lower().split()) for d in documents]
    nothing = Judgements(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), 1, 30)
    expected = baselines.bm25(texts, [query.split()], nothing, 30)
    found = index.open().search(query, 30, "words").results
    holding = expected.scores[0] > 0
    assert [r.document.id for r in found] == [f"d{i}" for i in expected.documents[0][holding]]
    np.testing.assert_allclose([r.score for r in found], expected.scores[0][holding], rtol=1e-4)


def test_words_are_stemmed_as_the_baseline_stems_them(indexed: Make) -> None:
    texts = [
        "sorting the lists of a file",
        "the list is sorted",
        "wings in the flow of air",
        "a sort of wing",
        "of the",
    ]
    index = indexed([Document(f"d{i}", "", text) for i, text in enumerate(texts)])
    searcher = index.open()
    assert searcher.snapshot.state.stemmer == "english"
    baseline = Bm25([text.split() for text in texts], "english")
    for query in ("sorted list", "the winged flows", "sort sort lists"):
        (expected,) = (scores[0] for _, scores in baseline.scores(baseline.asked([query.split()])))
        found = searcher.search(query, 9, "words").results
        assert {r.document.id: pytest.approx(expected[int(r.document.id[1:])], rel=1e-5) for r in found} == {
            r.document.id: r.score for r in found
        }
        assert len(found) == np.count_nonzero(expected)
    (first, *_) = searcher.search("list sorts", 1, "words").results
    assert {first.document.text[s:e] for s, e in first.marks} == {"list", "sorted"}
    (notice,) = searcher.search("of the", 9, "words").notices
    assert notice == "all words of the query are so frequent in any text that ranking by words leaves them out"
    assert searcher.search("?!", 9, "words").notices == ["no document holds a word of the query"]


def test_the_language_is_that_of_the_documents_that_are_left(indexed: Make) -> None:
    german = [Document(f"g{i}", "", f"die Häuser von der Stadt und das Haus {i}") for i in range(6)]
    english = [Document(f"e{i}", "", f"the houses of the town and a house {i}") for i in range(4)]
    index = indexed([*german, *english])
    assert index.open().snapshot.state.stemmer == "german"
    index.update(delete=[document.id for document in german])
    assert index.open().snapshot.state.stemmer == "english"
    fixed = indexed(german, name="fixed", stemmer="none")
    assert fixed.open().snapshot.state.stemmer == "none" and fixed.ids("haus 3", 1, "words") == ["g3"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scales", [{}, {"model_scale": 0.5, "words_scale": 2.0}])
def test_hybrid_is_evaluations_mix(indexed: Make, head: str, scales: dict[str, float]) -> None:
    documents = [*topical(40), Document("rare", "", "zebra " + " ".join(f"x{i}" for i in range(9)))]
    index = indexed(documents, head, weight=0.3, **scales)
    query = "wing lift zebra"
    encoder, texts = index.encoder, [f"{d.title}\n{d.text}" if d.title else d.text for d in documents]
    model = encoder.score_all(encoder.encode("query", [query]), encoder.encode("document", texts))[0]
    bm25 = Bm25([words_of(text.split()) for text in texts])
    (words,) = (scores[0] for _, scores in bm25.scores(bm25.asked([query.split()])))
    # of 41 documents all are in the model's ranking
    mix = mix_of(Pool(np.zeros(41, int), np.arange(41), model, words), 0.3)
    expected = (mix._replace(**scales)).scores(model, words)
    found = index.open().search(query, 41, "hybrid").results
    by_id = {d.id: score for d, score in zip(documents, expected)}
    np.testing.assert_allclose([r.score for r in found], [by_id[r.document.id] for r in found], rtol=1e-4, atol=1e-5)
    assert len(found) == 41 and (np.diff([r.score for r in found]) < 1e-4).all()


@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_whole_weights_are_one_ranking(indexed: Make, head: str) -> None:
    documents = topical(30)
    for weight, mode in ((1.0, "model"), (0.0, "words")):
        searcher = indexed(documents, head, name=mode, weight=weight).open()
        for query in ("wing lift own3", "moon"):
            assert searcher.search(query, 30, "hybrid") == searcher.search(query, 30, mode)


@pytest.mark.parametrize("pointwise", [False, True])
def test_hybrid_scores_words_once(indexed: Make, monkeypatch: pytest.MonkeyPatch, pointwise: bool) -> None:
    searcher = indexed(topical(20), pointwise=pointwise).open()
    true, scored = searcher.snapshot.words.scores, []
    monkeypatch.setattr(searcher.snapshot.words, "scores", lambda words: scored.append(words) or true(words))
    assert searcher.search("wing lift", 3, "hybrid").results and len(scored) == 1


def test_hybrid_finds_what_only_words_find(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "FUSED", 3)
    index = indexed(topical(40), weight=0.001)
    query = "own3 own5 tide drag"
    assert index.ids(query, 3, "hybrid") == index.ids(query, 3, "words")
    assert not {*index.ids(query, 3, "words")} <= {*index.ids(query, 3)}


@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_the_order_of_adding_is_not_seen(indexed: Make, head: str) -> None:
    """A, B, A, B by updates is B built at once: every list the same, with equal scores in every list."""
    few = [Document(f"e{i}", "", "wing lift") for i in range(9)]  # equal texts, so equal scores
    a, b = [*topical(30), *few[::-1]], [*few, *topical(24, seed=1)]
    changed = indexed(a, head, name="changed", documents_per_segment=7)
    for documents in (b, a, b):
        changed.update(documents, sync=True)
    fresh = indexed(b, head, name="fresh", documents_per_segment=7)
    ours, theirs = changed.open(), fresh.open()
    for query in ("wing lift", "own3 moon wave", "file", "heart own2 drag"):
        for mode in ("model", "words", "hybrid"):
            for k in (3, 12, 40):
                lists = [one.search(query, k, mode).results for one in (ours, theirs)]
                assert [r.document for r in lists[0]] == [r.document for r in lists[1]], (query, mode, k)
                np.testing.assert_allclose([r.score for r in lists[0]], [r.score for r in lists[1]], rtol=1e-5)
    wanted = [f"e{i}" for i in range(3)]
    assert [r.document.id for r in ours.search("wing lift", 3, "words").results] == wanted


@pytest.mark.parametrize("sorted_at_first", [1, 7, 10**9])
def test_of_many_passages_only_the_best_are_sorted(sorted_at_first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of few values, so that ties stand at every edge, and documents of up to a hundred passages."""
    monkeypatch.setattr(searcher, "SORTED", sorted_at_first)
    rng = np.random.default_rng(0)
    document_of = np.sort(rng.integers(0, 30, 500))
    place = rng.permutation(30)
    found = searcher.Searcher.__new__(searcher.Searcher)
    found.snapshot = SimpleNamespace(document_of=document_of, place=place)  # type: ignore[assignment]
    for values in (3, 40, 10**6):
        for k in (1, 5, 40):
            rows = np.flatnonzero(rng.random(500) < 0.9)
            scores = rng.integers(0, values, len(rows)).astype(np.float32)
            scores[: len(rows) // 3] += values  # the best are all of the first few documents
            level = searcher.steps(scores)
            wanted: dict[int, int] = {}
            for i in sorted(range(len(rows)), key=lambda i: (-level[i], place[document_of[rows[i]]], rows[i])):
                wanted.setdefault(int(document_of[rows[i]]), int(rows[i]))
            ranked = found._best(rows, scores, k)
            assert list(zip(ranked.documents.tolist(), ranked.passages.tolist())) == list(wanted.items())[:k]


def test_a_document_counts_as_its_best_passage_which_is_shown(indexed: Make) -> None:
    filler = [f"x{i}" for i in range(60)]
    long = Document("long", "", " ".join([*filler[:40], "zeta", "iota", "kappa", *filler[40:]]))
    index = indexed([long, *topical(8)], document=12)
    (result,) = index.open().search("zeta iota kappa", 1).results
    start, end = result.passage
    passage = long.text[start:end]
    assert result.document.id == "long" and "zeta iota kappa" in passage and len(passage.split()) <= 12
    assert [passage[s:e] for s, e in result.marks] == ["zeta", "iota", "kappa"]
    assert len({r.document.id for r in index.open().search("zeta iota kappa", 9).results}) == 9


def test_queries_that_the_model_cannot_read_whole_get_a_notice(indexed: Make) -> None:
    index = indexed(topical(20), query=4)
    searcher = index.open(frozenset({"wing", "lift", "<unk>"}))
    ask = lambda query, mode="model": searcher.search(query, 3, mode)
    assert ask("wing lift").notices == []
    assert ask("wing zork").notices == ["unknown to the model: zork"]
    only_words = ask("moon own3")
    assert only_words.notices == ["the model knows none of the query's words; ranked by words alone (BM25)"]
    assert [r.document.id for r in only_words.results] == index.ids("moon own3", 3, "words")
    nothing = ask("zork quux")
    assert nothing.results == []
    assert nothing.notices == ["the model knows none of the query's words, and no document holds one of them"]
    assert ask("zork", "words").notices == ["no document holds a word of the query"]
    (notice,) = ask("wing " * 100_000).notices
    assert notice == "only the query's first 4 tokens count: no more are read"
    assert ask("<script>alert(1)</script>").notices[-1].startswith("the model knows none")
    for blank in ("", " \n\t"):
        with pytest.raises(InputError, match="the query is empty"):
            ask(blank)


def test_common_words_are_marked_only_without_rarer_ones(indexed: Make) -> None:
    documents = [Document(f"d{i}", "", f"the thing own{i}") for i in range(12)]
    searcher = indexed(documents).open()
    shown = lambda query: [r.document.text[s:e] for r in searcher.search(query, 1).results for s, e in r.marks]
    assert shown("the own3") == ["own3"]
    assert shown("thing") == ["thing"]
    assert shown("the") == []  # a stop word

"""What a query finds: against brute force, BM25's baseline and rank fusion's formula."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation import baselines
from pipeline.evaluation.analysis import words_of
from pipeline.evaluation.bm25 import Bm25
from pipeline.evaluation.confidence import Answering
from pipeline.evaluation.fusion import Pool, mix_of
from pipeline.evaluation.linear import Linear
from pipeline.evaluation.ranking import Judgements
from pipeline.search import cluster_build, index_store, searcher
from pipeline.search.clusters import Clusters
from pipeline.search.documents import Document
from pipeline.search.result_format import as_json
from pipeline.search.searcher import Ranked, Searcher
from pipeline.serving.predict.scoring import Encoded
from pipeline.serving.second_stage import Rerank
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
    assert (index.open().snapshot.clusters is not None) == (approximate_above is not None)
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
    assert snapshot.clusters is None
    found = index.ids("wing own3", 40)
    holding = {d.id for d in documents if {"wing", "own3"} & {*d.text.split()}}
    assert {*found} == holding
    assert found == [name for name in brute_force(index, documents, "wing own3") if name in holding]


@pytest.fixture
def few_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters choose among as few documents as there are here."""
    monkeypatch.setattr(searcher, "CANDIDATES_PER_PROBE", 5)
    monkeypatch.setattr(cluster_build, "EFFORTS", (1, 2, 3, 5, 8))


@pytest.mark.usefixtures("few_compared")
@pytest.mark.parametrize("head", HEADS)
def test_clusters_give_candidates_of_which_the_dead_are_none(
    indexed: Make, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    documents = topical(100)
    index = indexed(documents[:60], head, approximate_above=5, documents_per_segment=20, wanted_recall=0.0)
    centres = np.load(min(index.folder.glob("generations/*/clusters-centres.npy")))
    index.update(documents[60:], delete=["d0", "d1", "d2"])
    found = index.open()
    clusters = found.snapshot.clusters
    assert clusters is not None and np.array_equal(clusters.centres, centres), "only new vectors are looked at"
    monkeypatch.setattr(found, "exact", lambda *_: pytest.fail("compared with everything"))
    ids = [result.document.id for result in found.search("wing lift own99", 10, "model").results]
    expected = brute_force(index, documents[3:], "wing lift own99")[:10]
    assert len({*ids} & {*expected}) >= 5 and ids[0] == expected[0] and not {*ids} & {"d0", "d1", "d2"}
    assert any(line.startswith("recall@10 of candidates by") for line in index.said)


@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
@pytest.mark.parametrize("bits", [2, 32])
def test_a_passage_is_in_the_clusters_that_its_vectors_are_nearest_to(indexed: Make, head: str, bits: int) -> None:
    index = indexed(topical(60), head, approximate_above=5, documents_per_segment=20, bits=bits)
    index.update(topical(90)[60:])
    snapshot = index.open().snapshot
    assert snapshot.clusters is not None
    vectors = np.concatenate([segment.codes.numbers() for segment in snapshot.segments])
    distances = ((vectors[:, None] - snapshot.clusters.centres) ** 2).sum(axis=2)
    passage_of = np.repeat(np.arange(90), [n for segment in snapshot.segments for n in segment.codes.decoded().lengths])
    near = distances < distances.min(axis=1, keepdims=True) + 1e-4  # equal words may have equal centres
    got = [(row, c) for c in range(len(snapshot.clusters)) for row in snapshot.clusters.of(c, 90).tolist()]
    assert {*got} <= {(int(passage_of[v]), int(c)) for v, c in zip(*near.nonzero())} and len({*got}) == len(got)
    for vector, row in enumerate(passage_of.tolist()):
        assert any((row, c) in got for c in np.flatnonzero(near[vector]).tolist())


def test_centres_are_found_anew_where_the_index_grew_much(indexed: Make) -> None:
    index = indexed(topical(20), approximate_above=5)
    index.update(topical(100)[20:])
    clusters = index.open().snapshot.clusters
    assert clusters is not None and len(clusters) == cluster_build.wanted(100) > 2 * cluster_build.wanted(20)


def test_an_estimate_takes_the_nearest_centre_that_holds_the_passage_else_the_last_looked_at() -> None:
    centres = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    # passages of the clusters: 0: {0}, 1: {0, 1}, 2: {2, 3}, 3: {4}
    clusters = Clusters(centres, np.array([0, 1, 3, 5, 6]), np.array([0, 0, 1, 2, 3, 4], np.int32))
    tokens, weights = np.array([[1, 0], [0, 1]], np.float32), np.array([1.0, 0.1], np.float32)
    # of two looked at: token 1 gives 1, 0.6, 0 (floor), token 2 gives 0.8, 0.8, 1, 1 and 0 (floor)
    estimates = {0: 1.08, 1: 0.68, 2: 0.1, 3: 0.1, 4: 0.0}
    everything = np.ones(5, bool)
    for count in range(1, 6):
        rows = clusters.near_tokens(tokens, weights, 2, count, everything)
        assert rows.tolist() == sorted(rows)
        got, best = sorted(estimates[row] for row in rows.tolist()), sorted(estimates.values())
        assert got == best[5 - count :]
    assert clusters.near_tokens(tokens, weights, 2, 2, everything & (np.arange(5) > 0)).tolist()[0] == 1
    assert clusters.near_vector(tokens[0], 2, everything).tolist() == [0, 1]
    assert clusters.near_vector(tokens[1], 1, np.arange(5) != 2).tolist() == [3]


def test_clusters_that_give_too_little_are_left_out(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "CANDIDATES_PER_PROBE", 1)
    monkeypatch.setattr(cluster_build, "EFFORTS", (1,))
    monkeypatch.setattr(Clusters, "near_vector", lambda self, vector, probes, allowed: np.arange(20, 30))
    index = indexed(topical(40), approximate_above=5, wanted_recall=1.0)
    assert index.open().snapshot.clusters is None and index.open().snapshot.state.approximate == {}
    assert "under 1: search stays exact" in index.said[-1]
    assert not [*index.folder.rglob("clusters-*")]
    assert len(index.ids("wing")) == 10


def test_recall_is_measured_with_the_least_effort_that_reaches_it(
    indexed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = indexed(topical(30), approximate_above=5)
    searcher = index.open()
    true = searcher.approximate

    def worse(query: Encoded, k: int, effort: int) -> Ranked:
        found = true(query, k, effort)
        return found if effort >= 16 else Ranked(*(values[: k // 2] for values in found))

    monkeypatch.setattr(searcher, "approximate", worse)
    found = cluster_build.measure(searcher, index.settings)
    assert (found["effort"], found["recall"]) == (16, 1.0)


def test_an_index_with_the_graph_of_an_earlier_version_is_searched_exactly(indexed: Make) -> None:
    documents = topical(60)
    index = indexed(documents, approximate_above=5, documents_per_segment=25)
    for path in index.folder.rglob("clusters-*"):
        path.unlink()
    listing = min(index.folder.glob("generations/*/segment.json"))
    files = json.loads(listing.read_text())["files"]
    listing.write_text(json.dumps({"files": {name: n for name, n in files.items() if not name.startswith("clusters")}}))
    assert index.open().snapshot.clusters is None
    assert index.ids("wing lift", 10) == brute_force(index, documents, "wing lift")[:10]
    index.update(delete=["d0"])
    assert index.open().snapshot.clusters is not None


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
            ranked = found.best(rows, scores, k)
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


@pytest.mark.parametrize("mode", ["model", "hybrid", "words"])
def test_a_model_says_whether_the_first_document_is_an_answer(indexed: Make, mode: Any) -> None:
    index, mixed = indexed(topical(24)), "own3 wing title6 moon blood"
    index.encoder.answering = Answering(20.0, -14.0, 0.9, 0.6, 0.5, 0.9)  # sure from a cosine of 0.72
    close, far = (index.open().search(query, 3, mode) for query in (topical(24)[5].text, mixed))
    if mode == "words":  # that is not what the model has found
        assert close.sure is None and "sure" not in as_json(close) and not close.notices
        return
    first = far.results[0].document
    text = f"{first.title}\n{first.text}" if first.title else first.text
    score = index.encoder.score_all(index.encoder.encode("query", [mixed]), index.encoder.encode("document", [text]))
    assert close.sure and close.probability is not None and close.probability > 0.99 and not close.notices
    assert as_json(close)["sure"] is True
    assert not far.sure and far.probability == pytest.approx(1 / (1 + np.exp(14 - 20 * score[0, 0])), abs=0.05)
    assert far.notices[-1].startswith("perhaps no document answers this: the first one does with a probability of 0.")
    index.encoder.answering = None
    assert index.open().search("wing", 3, mode).sure is None


def test_what_was_fitted_to_the_shown_ranking_judges_its_first_document(indexed: Make) -> None:
    """By the mixed score of the second model, not by the first model's, which would be sure; other rankings by that."""
    second, own = WordEncoder("dot", document=30), Answering(1.5, -10.5, 0.9, 0.6, 0.5, 0.9)
    scales = {"weight": 0.5, "model_scale": 0.3, "words_scale": 1.5, "answering": own}
    index = indexed(topical(40), rerank=Rerank("k2", "/second", 6, 0.7, 5.0, 2.0), **scales)
    index.encoder.answering = Answering(0.0, 4.0, 0.9, 0.6, 0.5, 0.9)  # always sure
    whole, without = (
        Searcher(index_store.open_snapshot(index.folder), index.encoder, None, one) for one in (second, None)
    )
    said = [whole.search(query, 5) for query in ("wing own3 lift", "tide own5 shore moon", "own1 zebra")]
    for answer in said:
        assert answer.probability == pytest.approx(1 / (1 + np.exp(10.5 - 1.5 * answer.results[0].score)), abs=1e-5)
        assert answer.sure == (answer.probability >= 0.6)
    assert {answer.sure for answer in said} == {True, False}
    for asked, mode in ((whole, "model"), (without, None)):  # rankings that it was not fitted to
        assert asked.search("own1 zebra", 5, mode).probability == pytest.approx(1 / (1 + np.exp(-4)))
    plain = indexed(topical(40), name="plain", **scales).open()  # the mix alone
    answer = plain.search("wing own3 lift", 5)
    assert answer.probability == pytest.approx(1 / (1 + np.exp(10.5 - 1.5 * answer.results[0].score)), abs=1e-5)
    assert plain.search("wing own3 lift", 5, "words").sure is None


def test_a_sum_of_features_ranks_in_the_mixs_place(indexed: Make) -> None:
    """By the formula, over the documents of both rankings; whatever the weight of the mix is."""
    found = Linear((0.7, 0.2, 0.5, 0.3, 1.5, 2.5, 0.4))
    title = lambda i: f"wing title{i}" if i % 3 == 0 else ""
    documents = [Document(f"d{i}", title(i), f"own{i} " * (i % 5 + 5 + 2 * (i % 3 > 0)) + "wing") for i in range(30)]
    index = indexed(documents, weight=0.0, model_scale=0.5, words_scale=2.0, linear=found, stemmer="none")
    asking = index.open()
    assert asking.best_mode == "hybrid" and index.open().snapshot.state.settings.linear == found
    query = "wing own7 title6"
    shown = asking.search(query, 30).results
    texts = [f"{d.title}\n{d.text}" if d.title else d.text for d in documents]
    model = index.encoder.score_all(index.encoder.encode("query", [query]), index.encoder.encode("document", texts))[0]
    bm25 = asking.snapshot.words.scores(["wing", "own7", "title6"])
    order = [int(d.id[1:]) for s in asking.snapshot.segments for d in map(s.document, range(len(s.table)))]
    bm25 = bm25[np.argsort(order)]  # a passage of each document
    holding = {word: sum(word in text.split() for text in texts) for word in ("wing", "own7", "title6")}
    rare = {word: np.log(1 + (30 - count + 0.5) / (count + 0.5)) for word, count in holding.items()}
    share = lambda words: sum(rare[word] for word in rare if word in words) / sum(rare.values())
    rank = lambda scores: 1 / (1 + (scores[None] > scores[:, None]).sum(1))
    cut = [text.split() for text in texts]
    features = np.stack([model, bm25, rank(model), rank(bm25), [share(words) for words in cut],
                         [share(words[:10]) for words in cut], [np.log1p(len(words)) for words in cut]], 1)  # fmt: skip
    sums = features @ found.coefficients
    found_ids = [int(result.document.id[1:]) for result in shown]
    assert found_ids == np.argsort(-sums, kind="stable").tolist()
    np.testing.assert_allclose([result.score for result in shown], np.sort(sums)[::-1], rtol=1e-4)


@pytest.mark.parametrize("wrong", [[1.0] * 6, [1.0] * 6 + [float("nan")], 3])
def test_a_damaged_sum_of_features_is_refused(indexed: Make, wrong: Any) -> None:
    index = indexed(topical(8), linear=Linear((1.0,) * 7))
    state = json.loads((index.folder / "index.json").read_text())
    state["settings"]["linear"] = [wrong]
    (index.folder / "index.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"index\.json is damaged \(settings\.linear"):
        index.open()


@pytest.mark.parametrize("wrong", [{"slope": float("nan")}, {"threshold": "a"}, [1, 2], 3])
def test_damaged_numbers_of_sure_answers_are_refused(indexed: Make, wrong: Any) -> None:
    index = indexed(topical(8), answering=Answering(1.5, -4.0, 0.9, None, 0.5, 0.9))
    assert index.open().snapshot.state.settings.answering == Answering(1.5, -4.0, 0.9, None, 0.5, 0.9)
    state = json.loads((index.folder / "index.json").read_text())
    whole = dict(zip(Answering._fields, state["settings"]["answering"]))
    state["settings"]["answering"] = whole | wrong if isinstance(wrong, dict) else wrong
    (index.folder / "index.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"index\.json is damaged \(settings\.answering"):
        index.open()


def test_a_second_model_places_the_first_documents_of_the_best_ranking_anew(indexed: Make) -> None:
    """By the formula, over the ranking without it; all others stay below, in their order, whatever k is."""
    second = WordEncoder("dot", document=30)
    rerank = Rerank("k2", "/second", 6, 0.7, 5.0, 2.0)
    scales = {"weight": 0.5, "model_scale": 0.3, "words_scale": 1.5}
    documents = topical(40)
    plain = indexed(documents, **scales).open()
    index = indexed(documents, name="again", rerank=rerank, **scales)
    twice = Searcher(index_store.open_snapshot(index.folder), index.encoder, None, second)
    for query in ("wing own3 lift", "tide own5 shore moon", "own1"):
        first = plain.search(query, 40).results
        texts = [plain.passage_text(result.passage_row) for result in first[:6]]
        own = second.score_all(second.encode("query", [query]), second.encode("document", texts))[0]
        mixed = 0.7 / 5 * own + 0.3 / 2 * np.array([result.score for result in first[:6]])
        order = [first[i].document.id for i in np.argsort(-mixed)] + [result.document.id for result in first[6:]]
        found = twice.search(query, 40).results
        assert [result.document.id for result in found] == order
        np.testing.assert_allclose([result.score for result in found[:6]], np.sort(mixed)[::-1], rtol=1e-5)
        assert (np.diff([result.score for result in found]) <= 0).all()
        assert [result.document.id for result in twice.search(query, 3).results] == order[:3]
        assert order != [result.document.id for result in first]
        for mode in ("model", "words"):  # rankings of which no mix was chosen
            alone, both = (searching.search(query, 10, mode).results for searching in (plain, twice))
            assert [result.document.id for result in alone] == [result.document.id for result in both]


def test_a_long_title_leaves_the_passage_to_all_who_read_it_again(indexed: Make) -> None:
    """The linear features, the second model and "explain" get the text that was encoded, to the letter."""
    long, second = " ".join(f"heading{i}" for i in range(20)), WordEncoder("dot")
    documents = [Document(f"d{i}", long, f"wing lift own{i}") for i in range(8)]
    rerank = Rerank("k2", "/second", 6, 0.7, 5.0, 2.0)
    index = indexed(documents, linear=Linear((0.7, 0.2, 0.5, 0.3, 1.5, 2.5, 0.4)), rerank=rerank)
    encoded = set(index.encoder.texts_encoded)
    asking = Searcher(index_store.open_snapshot(index.folder), index.encoder, None, second)
    found = asking.search("wing lift own3", 8).results
    assert {asking.passage_text(row) for row in range(8)} == encoded and len(encoded) == 8
    assert len(second.texts_encoded) == 6 and {*second.texts_encoded} <= encoded
    looks = asking._looks(["own3"], np.array([result.passage_row for result in found]))
    assert looks[:, 0].tolist() == [float(result.document.id == "d3") for result in found]

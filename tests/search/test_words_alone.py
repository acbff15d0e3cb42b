"""An index without a model: ranked by words at once, updated as any; a model joins it later."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bm25s import BM25

from pipeline.core.errors import InputError
from pipeline.evaluation.analysis import Analyzer
from pipeline.search import index_store, server
from pipeline.search.build import Update
from pipeline.search.documents import Document
from pipeline.search.explain import by_words
from pipeline.search.index_store import Settings
from pipeline.search.searcher import Searcher
from pipeline.search.words_alone import Kind, WordsAlone
from tests.killing import at_every_step
from tests.search.conftest import Indexed, topical

Make = Callable[..., Indexed]
WORDS = WordsAlone("word")


def put(folder: Path, documents: list[Document], sync: bool = False) -> Update:
    with Update(folder, None, WORDS, None, Settings(documents_per_segment=4, bits=32), lambda _: None) as update:
        update.put(documents, sync)
        update.publish()
    return update


def opened(folder: Path) -> Searcher:
    return Searcher(index_store.open_snapshot(folder), WORDS)


def test_documents_alone_are_ranked_as_bm25s_ranks_them(tmp_path: Path) -> None:
    documents = topical(30)
    put(tmp_path / "index", documents)
    state = index_store.read_state(tmp_path / "index")
    assert state.model is None and state.counts["vectors"] == 0 and state.counts["documents"] == 30
    answer = opened(tmp_path / "index").search("wings flowing own5", 30)
    analyzer = Analyzer(state.stemmer)
    terms = lambda text: analyzer.terms(WORDS.tokens("document", text))
    peer = BM25(method="lucene", k1=state.settings.k1, b=state.settings.b)
    peer.index([terms(f"{d.title} {d.text}") for d in documents], show_progress=False)
    wanted = peer.get_scores(terms("wings flowing own5"))
    assert state.stemmer == "english"
    assert {r.document.id: r.score for r in answer.results} == pytest.approx(
        {d.id: s for d, s in zip(documents, wanted) if s > 0}, rel=1e-5
    )
    assert answer.notices == []


def test_an_index_built_anew_with_other_words_is_served_with_these(tmp_path: Path) -> None:
    """Both are without a model: that alone does not make the old one's words those of the new one."""
    from starlette.testclient import TestClient

    folder, kinds = tmp_path / "index", {"word": "the lift of a wing", "jieba": "机翼的升力"}

    def build(kind: Kind) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        settings = Settings(documents_per_segment=4, bits=32, tokens=kind)
        with Update(folder, None, WordsAlone(kind), None, settings, lambda _: None) as update:
            update.put([Document(kind, "", kinds[kind])], False)
            update.publish()

    def open_searcher() -> Searcher:
        snapshot = index_store.open_snapshot(folder)
        return Searcher(snapshot, WordsAlone(snapshot.state.settings.tokens))

    build("word")
    client = TestClient(server.application(folder, open_searcher))
    found = lambda query: [r["id"] for r in client.post("/api/search", json={"query": query}).json()["results"]]
    assert found("wing") == ["word"]
    build("jieba")
    assert found("升力") == ["jieba"]


def test_the_model_is_asked_for_in_vain(tmp_path: Path) -> None:
    put(tmp_path / "index", topical(4))
    searcher = opened(tmp_path / "index")
    assert searcher.best_mode == "words"
    for mode in ("model", "hybrid"):
        answer = searcher.search(topical(4)[0].text, 3, mode)  # type: ignore[arg-type]
        assert answer.notices == ["the index has no model: ranked by words alone (BM25)"] and answer.results


def test_updates_take_over_what_did_not_change(tmp_path: Path) -> None:
    documents = topical(9)
    put(tmp_path / "index", documents)
    documents[2] = documents[2]._replace(text="moon moon moon")
    change = put(tmp_path / "index", documents[:8], sync=True).change
    assert (change.encoded, change.unchanged, change.deleted) == (1, 7, 1)
    assert opened(tmp_path / "index").search("moon").results[0].document.id == "d2"


def test_other_fields_change_without_encoding(indexed: Make) -> None:
    index = indexed(topical(6))
    told = [document._replace(fields='{"date": "2024-03-01"}') for document in topical(6)]
    change = index.update([*told[:5], told[5]._replace(text="wing")])
    assert (change.encoded, change.reused) == (1, 5)
    assert len(index.encoder.texts_encoded) == 7
    results = index.open().search("wing lift", 6).results
    assert {result.document.known["date"] for result in results} == {"2024-03-01"}
    fresh = {r.document.id: r.score for r in indexed(told[:5], name="fresh").open().search("wing lift").results}
    assert all(fresh[r.document.id] == pytest.approx(r.score, abs=1e-6) for r in results if r.document.id != "d5")


@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_a_model_joins(tmp_path: Path, indexed: Make, head: str) -> None:
    documents = topical(10)
    fresh, joined = indexed(documents, head, name="fresh"), indexed((), head, name="joined")
    put(joined.folder, [*documents, Document("gone", "", "moon")])
    with Update(joined.folder, None, WORDS, None, joined.settings, lambda _: None) as update:
        update.delete(["gone"])
        update.publish()
    joined.settings = Settings(weight=0.25, model_scale=1.0, words_scale=2.0, k1=1.2)
    assert joined.update().encoded == 10
    state = index_store.read_state(joined.folder)
    assert state.model == joined.stamp and state.settings.documents_per_segment == 4
    assert (state.settings.weight, state.settings.k1) == (0.25, 1.2)
    assert joined.open().best_mode == "hybrid"
    for mode in ("model", "words"):
        scores = [{r.document.id: r.score for r in index.open().search("wing lift own3", 10, mode).results}
                  for index in (fresh, joined)]  # fmt: skip
        if mode == "model":
            assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        assert scores[0].keys() == scores[1].keys()
    with pytest.raises(InputError, match="this call names none"):
        put(joined.folder, documents)


def test_a_model_that_joins_and_is_killed_leaves_the_words_or_both(tmp_path: Path, indexed: Make) -> None:
    joined = indexed((), name="joined")
    put(joined.folder, topical(9))
    seen = set()

    def left(step: int) -> None:
        state = index_store.read_state(joined.folder)
        searcher = opened(joined.folder) if state.model is None else joined.open()
        assert searcher.search("wing lift", 9, "words").results[0].document.id in ("d0", "d4", "d8")
        seen.add(state.model is None)

    assert at_every_step(lambda: joined.update(), left, writing=True) > 20
    assert seen == {True, False}


def test_why_is_told_by_stems(tmp_path: Path) -> None:
    put(tmp_path / "index", [Document("a", "", "The wings lift."), Document("b", "", "the heart")])
    found = by_words(opened(tmp_path / "index").snapshot.words, WORDS, "the wing", "The wings lift.")
    assert found.kind == "words" and found.links.shape == (2, 4)
    rarity = np.log(1 + (2 - 1 + 0.5) / (1 + 0.5))  # two passages, one of which holds it
    assert found.links[1].tolist() == pytest.approx([0, rarity, 0, 0]) and not found.links[0].any()
    assert found.query.weights == [0, 1] and found.document.weights == [0, 1, 0, 0]


def test_chinese_words_are_cut_by_a_dictionary(tmp_path: Path) -> None:
    words = WordsAlone("jieba")
    with Update(tmp_path / "index", None, words, None, Settings(tokens="jieba"), lambda _: None) as update:
        update.put([Document("a", "", "我来到北京清华大学"), Document("b", "", "大家在北方学习")], False)
        update.publish()
    results = Searcher(index_store.open_snapshot(tmp_path / "index"), words).search("清华大学").results
    assert [result.document.id for result in results] == ["a"]

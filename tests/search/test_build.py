"""Building and updating an index: what is encoded, what a reader sees, what a stop leaves."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError, TryAgain
from pipeline.search import build, index_store, postings, segments
from pipeline.search.documents import Document
from tests.mapped import resident
from tests.search.conftest import Indexed, topical

Make = Callable[..., Indexed]


def changed(document: Document, words: str) -> Document:
    return document._replace(text=words)


def test_a_second_call_encodes_only_what_changed(indexed: Make) -> None:
    documents = topical(10)
    index = indexed(documents)
    assert len(index.encoder.texts_encoded) == 10
    documents[3] = changed(documents[3], "an entirely new text")
    change = index.update([*documents, Document("new", "", "one more")])
    assert (change.encoded, change.unchanged) == (2, 9)
    assert index.encoder.texts_encoded[10:] == [f"{documents[3].title}\nan entirely new text", "one more"]
    assert index.ids("an entirely new text")[0] == "d3"
    generation = index.open().snapshot.state.generation
    assert index.update(documents).unchanged == 10 and index.open().snapshot.state.generation == generation


def test_deleting_and_putting_back_encodes_nothing(indexed: Make) -> None:
    documents = topical(6)
    index = indexed(documents)
    change = index.update(delete=["d2", "nowhere"])
    assert (change.deleted, change.not_there) == (1, ["nowhere"])
    assert "d2" not in index.ids(documents[2].text) + index.ids(documents[2].text, mode="words")
    assert index.update([documents[2]]).reused == 1
    assert index.ids(documents[2].text)[0] == "d2" and len(index.encoder.texts_encoded) == 6


def test_sync_takes_out_what_is_not_in_the_file(indexed: Make) -> None:
    documents = topical(8)
    index = indexed(documents)
    assert index.update(documents[:5], sync=True).deleted == 3
    assert sorted(dict(index.open().snapshot.live_documents())) == [f"d{i}" for i in range(5)]


def test_an_index_may_become_empty(indexed: Make) -> None:
    index = indexed(topical(3))
    index.update(delete=["d0", "d1", "d2"])
    answer = index.open().search("wing")
    assert answer.results == [] and answer.notices == ["the index holds no documents"]
    index.update(topical(4))
    assert len(index.ids("wing")) == 4


def test_an_update_holds_no_segment_in_memory(indexed: Make) -> None:
    documents = topical(60)
    index = indexed(documents, documents_per_segment=20)
    changes = [changed(document, "an entirely new text") for document in documents[:20]]
    with build.Update(index.folder, None, index.encoder, index.stamp, index.settings, print) as update:
        assert resident(index.folder) == 0  # opening has checked all of it
        update.put(changes, False)
        assert resident(index.folder) == 0
        update.publish()
        assert resident(index.folder) == 0
        segment = update._opened[update._order()[0]]
        assert segment.passages.sum() and resident(index.folder) > 0
        segment.release()
        assert resident(index.folder) == 0 and segment.ids[0] == "d0"


def test_opening_an_index_holds_no_segment_in_memory(indexed: Make) -> None:
    index = indexed(topical(60), documents_per_segment=20)
    folder = index.folder / "segments"
    read = [segments.read(path) for path in sorted(folder.iterdir())]
    assert resident(folder) == 0 and len(read) == 3
    snapshot = index_store.open_snapshot(index.folder)
    assert resident(folder) == 0 and snapshot.document_of.tolist() == [*range(60)]


def test_words_written_through_small_windows_are_the_same(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = topical(30)
    whole = indexed(documents, name="whole")
    monkeypatch.setattr(postings, "WINDOW", 5)
    windows = indexed(documents, name="windows")
    for name in ("data", "indices", "indptr"):
        expected, found = (
            np.load(next(index.folder.glob(f"generations/*/bm25-{name}.npy"))) for index in (whole, windows)
        )
        assert len(expected) > 20 and np.array_equal(expected, found)


STEPS = st.tuples(
    st.sampled_from(["put", "delete", "sync"]), st.lists(st.integers(0, 9), max_size=6), st.integers(0, 2)
)  # what, to which documents, which version of their text


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=1, max_size=6), st.sampled_from(["cosine", "late_interaction"]))
def test_any_updates_find_what_a_fresh_index_finds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int], int]], head: str
) -> None:
    from pipeline.search.index_store import Settings
    from tests.search.double import WordEncoder

    folder = tmp_path_factory.mktemp("updates")
    index = Indexed(folder / "a", WordEncoder(head), Settings(documents_per_segment=2))
    base = topical(10)
    index.update(base[:1])
    now = {"d0": base[0]}
    for what, chosen, version in steps:
        documents = {base[i].id: changed(base[i], f"{base[i].text} version{version}") for i in chosen}
        if what == "delete":
            index.update(delete=[f"d{i}" for i in chosen])
            now = {name: document for name, document in now.items() if name not in documents}
        else:
            index.update(documents.values(), sync=what == "sync")
            now = {**({} if what == "sync" else now), **documents}
    fresh = Indexed(folder / "b", WordEncoder(head), Settings(documents_per_segment=2))
    if not now:
        assert not index.open().snapshot.alive.any()
        return
    fresh.update(now.values())
    for query in ("wing lift", "heart version1", "own3 file"):
        for mode in ("model", "words"):
            ours, theirs = ({r.document.id: r.score for r in one.open().search(query, 10, mode).results}
                            for one in (index, fresh))  # fmt: skip
            assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_stopped_build_goes_on_where_it_was(indexed: Make) -> None:
    documents, index = topical(11), indexed()
    index.encoder.stop_after = 9
    with pytest.raises(TryAgain, match="stopped; 8 of 11 documents are encoded and kept"):
        index.update(documents)
    assert not index.folder.exists()
    index.encoder.stop_after = None
    change = index.update(documents)
    assert (change.reused, change.encoded) == (8, 3)
    assert len(index.encoder.texts_encoded) == 11 and len(index.ids("wing", 20)) == 11
    assert [path.name for path in index.folder.parent.iterdir()] == ["index"]


def test_what_another_model_left_half_built_is_not_taken_over(indexed: Make) -> None:
    documents, index = topical(6), indexed()
    index.encoder.stop_after = 4
    with pytest.raises(TryAgain):
        index.update(documents)
    other = Indexed(index.folder, type(index.encoder)("dot"), index.settings, key="k2")
    assert other.update(documents).encoded == 6


def test_a_failure_before_publishing_leaves_the_old_generation(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = topical(6)
    index = indexed(documents)
    before = index.ids("wing lift")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(build.bm25_index, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        index.update([changed(document, "moon") for document in documents])
    assert index.ids("wing lift") == before
    monkeypatch.undo()
    assert index.update([changed(document, "moon") for document in documents]).encoded == 0  # they were kept


def test_readers_see_one_generation_whole(indexed: Make) -> None:
    names = [f"d{i}" for i in range(9)]
    version = lambda v: [Document(name, "", f"version{v} wing") for name in names]
    index = indexed(version(0))
    stop, problems = threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                snapshot = index_store.open_snapshot(index.folder)
                found = dict(snapshot.live_documents())
                texts = {s.document(row).text for s in snapshot.segments
                         for name, row, _ in found.values() if name == s.name}  # fmt: skip
                assert len(found) == 9 and len(texts) == 1, texts
        except Exception as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for v in range(1, 7):
        index.update(version(v))
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems


def test_a_reader_that_is_overtaken_opens_what_is_there_now(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    index = indexed(topical(4))
    stale, read = index_store.read_state(index.folder), index_store.read_state
    for word in ("moon", "tide", "wave"):
        index.update([changed(document, word) for document in topical(4)])
    answers = iter([stale])
    monkeypatch.setattr(index_store, "read_state", lambda folder: next(answers, None) or read(folder))
    assert index_store.open_snapshot(index.folder).state.generation == stale.generation + 3


def test_files_that_nobody_needs_are_removed(indexed: Make) -> None:
    index = indexed(topical(8))
    for v in range(6):
        index.update([changed(document, f"version{v}") for document in topical(8)])
    snapshot = index_store.open_snapshot(index.folder)
    assert len(list((index.folder / "generations").iterdir())) == 2
    on_disk = {path.name for path in (index.folder / "segments").iterdir()}
    assert on_disk == {*snapshot.state.segments, *snapshot.state.previous} and len(on_disk) <= 6


def test_many_small_updates_are_joined_without_encoding(indexed: Make) -> None:
    documents = topical(24)
    index = indexed(documents[:1])
    for document in documents[1:]:
        index.update([document])
    assert len(index.encoder.texts_encoded) == 24
    assert len(index.open().snapshot.segments) <= build.SMALL_SEGMENTS + 24 // 4
    assert len(index.ids("wing", 50)) == 24


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [("vectors.npy", "bytes instead of"), ("documents.arrow", "bytes instead of"), ("segment.json", "is damaged")],
)
def test_a_damaged_segment_is_told(indexed: Make, damage: str, sentence: str) -> None:
    index = indexed(topical(3))
    (folder,) = (index.folder / "segments").iterdir()
    content = (folder / damage).read_bytes()
    (folder / damage).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{sentence}.*run `duplet index` again"):
        index.open()


def test_an_index_of_another_model_format_or_kind_is_refused(indexed: Make, tmp_path: Path) -> None:
    index = indexed(topical(3))
    with pytest.raises(InputError, match=r"was built with model k1 \(model\), this is k2"):
        Indexed(index.folder, index.encoder, index.settings, key="k2").update(topical(4))
    path = index.folder / index_store.NAME
    for other in (1, 99):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": other}))
        with pytest.raises(InputError, match=f"an index of format {other}, this version reads 3: build it again"):
            index.open()
    path.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        index.open()
    for foreign in ("[]", '{"name": "a page of something else"}'):  # whose folder nobody is told to delete
        path.write_text(foreign)
        with pytest.raises(InputError, match=r"index\.json is of no index: name the folder that `duplet index` made"):
            index.open()
    path.unlink()
    with pytest.raises(InputError, match="is not a finished index"):
        index.open()
    with pytest.raises(InputError, match="exists and is not an index"):
        index.update(topical(3))
    empty = index.folder.with_name("empty")
    empty.mkdir()
    with pytest.raises(InputError, match="empty is empty: build it"):
        index_store.read_state(empty)
    with pytest.raises(InputError, match="does not exist"):
        index_store.open_snapshot(tmp_path / "nowhere")


def test_long_documents_become_passages_below_their_title(indexed: Make) -> None:
    text = " ".join(f"w{i}" for i in range(40))
    index = indexed([Document("long", "A title", text), Document("empty", "", "…")], document=12)
    (segment,) = index.open().snapshot.segments
    shown = [text[start:end] for row, start, end in segment.passages.tolist() if row == 0]
    assert len(shown) > 4 and all(len(passage.split()) <= 10 for passage in shown)
    assert {word for passage in shown for word in passage.split()} == {*text.split()}
    assert index.encoder.texts_encoded[0].startswith("A title\nw0 w1")


def test_segments_join_and_keep_rows(indexed: Make) -> None:
    index = indexed(topical(6), head="late_interaction", documents_per_segment=3)
    first, second = index.open().snapshot.segments
    part = segments.joined([first.keep(np.array([0, 2])), second.keep(np.array([1]))])
    assert [document.id for document in part.documents] == ["d0", "d2", "d4"]
    whole = segments.encode(part.documents, index.encoder)
    np.testing.assert_allclose(part.codes.vectors, whole.codes.vectors, atol=1e-6)
    np.testing.assert_array_equal(part.codes.offsets, whole.codes.offsets)
    np.testing.assert_array_equal(part.passages, whole.passages)
    assert part.words == whole.words


def test_segments_grow_with_the_index(indexed: Make) -> None:
    documents = topical(180)
    index = indexed(documents[:140], documents_per_segment=2)
    sizes = [len(segment.table) for segment in index.open().snapshot.segments]
    assert sum(sizes) == 140 and len(sizes) <= 2 * build.SEGMENTS, "not 70 of two"
    for night in range(20):
        index.update(documents[140 + 2 * night :][:2])
    sizes = [len(segment.table) for segment in index.open().snapshot.segments]
    assert sum(sizes) == 180 and len(sizes) <= 2 * build.SEGMENTS, "small ones of many updates are joined"


def test_long_documents_make_segments_of_fewer(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHARACTERS_PER_SEGMENT", 2_000)
    monkeypatch.setattr(build, "WORDS_PER_SEGMENT", 400)
    monkeypatch.setattr(build, "SMALL_SEGMENTS", 2)
    long = [Document(f"long{i}", "", " ".join(f"word{j}" for j in range(150))) for i in range(10)]  # 1,250 characters
    index = indexed([*long, *topical(6)], documents_per_segment=1000)
    sizes = [len(segment.table) for segment in index.open().snapshot.segments]
    assert sizes[:5] == [2] * 5 and sum(sizes) == 16, "and they are not joined again"
    index.update(topical(9)[6:])
    index.update(topical(12)[9:])
    sizes = sorted(len(segment.table) for segment in index.open().snapshot.segments)
    assert sizes == [2, 2, 2, 2, 2, 12], "those that are small in both ways are"

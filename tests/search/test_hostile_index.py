"""An index that was damaged, or made by somebody else, is refused in a sentence: nothing of it is run or trusted."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.search import searcher
from tests.planted import Planted
from tests.search.conftest import Indexed, topical

Make = Callable[..., Indexed]


@pytest.fixture
def index(indexed: Make) -> Indexed:
    """With clusters."""
    return indexed(topical(40), documents_per_segment=20, approximate_above=1, wanted_recall=0.0)


def replace(index: Indexed, pattern: str, content: bytes) -> Path:
    """Another content for a file, with its size in the listing beside it: who plants can count too."""
    path = min(index.folder.glob(pattern))
    path.unlink()
    path.write_bytes(content)
    listing = path.with_name("segment.json")
    told = json.loads(listing.read_text())
    told["files"][path.name] = len(content)
    listing.write_text(json.dumps(told))
    return path


ARRAYS = ("segments/*/passages.npy", "segments/*/vectors.npy", "segments/*/words.npy", "generations/*/alive.npy",
          "generations/*/bm25-data.npy", "generations/*/clusters-centres.npy", "generations/*/clusters-starts.npy",
          "generations/*/clusters-passages.npy")  # fmt: skip


@pytest.mark.parametrize("pattern", ARRAYS)
def test_a_planted_pickle_in_the_place_of_an_array_is_not_unpickled(
    index: Indexed, tmp_path: Path, pattern: str
) -> None:
    mark = tmp_path / "mark"
    np.save(tmp_path / "planted.npy", np.array([Planted(mark)], dtype=object))
    for content in ((tmp_path / "planted.npy").read_bytes(), pickle.dumps(Planted(mark))):
        path = replace(index, pattern, content)
        np.load(path, allow_pickle=True)  # it would have worked …
        assert mark.exists()
        mark.unlink()
        with pytest.raises(InputError, match="is damaged"):
            index.open()
        assert not mark.exists()


CLUSTERS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "centres of another width": ("centres", lambda a: a[:, :-1].copy()),
    "centres that are no numbers": ("centres", lambda a: a * np.float32("nan")),
    "no centre": ("centres", lambda a: a[:0]),
    "a centre less": ("centres", lambda a: a[:-1]),
    "starts that step back": ("starts", lambda a: a[::-1].copy()),
    "starts beyond the passages": ("starts", lambda a: a * 2),
    "starts before the first": ("starts", lambda a: a - a[-1] // 2),
    "passages of another kind": ("passages", lambda a: a.astype(np.float64)),
    "passages in a table": ("passages", lambda a: a[None]),
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_that_point_outside_of_themselves_are_refused(index: Indexed, tmp_path: Path, name: str) -> None:
    part, change = CLUSTERS[name]
    path = min(index.folder.glob(f"generations/*/clusters-{part}.npy"))
    np.save(tmp_path / "changed.npy", change(np.load(path)))
    replace(index, f"generations/*/clusters-{part}.npy", (tmp_path / "changed.npy").read_bytes())
    with pytest.raises(InputError, match="is damaged"):
        index.open()


@pytest.mark.parametrize("row", [-1, 40, 1 << 30])
@pytest.mark.parametrize("head", ["cosine", "late_interaction"])
def test_a_cluster_of_passages_that_are_not_there_is_refused(
    indexed: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, row: int
) -> None:
    monkeypatch.setattr(searcher, "CANDIDATES_PER_PROBE", 1)
    index = indexed(topical(40), head, documents_per_segment=20, approximate_above=1, wanted_recall=0.0)
    path = min(index.folder.glob("generations/*/clusters-passages.npy"))
    np.save(tmp_path / "changed.npy", np.full_like(np.load(path), row))
    replace(index, "generations/*/clusters-passages.npy", (tmp_path / "changed.npy").read_bytes())
    with pytest.raises(InputError, match="the index's clusters are damaged"):
        index.open().search("wing heart", 3, "model")


BOOKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fewer bytes": lambda a: a[:-1],
    "fewer groups": lambda a: a[:, :-1].copy(),
    "wider groups": lambda a: np.concatenate([a, a], axis=2),
    "numbers of another kind": lambda a: a.astype(np.float64),
    "a table": lambda a: a[0],
}


@pytest.mark.parametrize("name", BOOKS)
def test_a_book_that_does_not_fit_its_vectors_is_refused(indexed: Make, tmp_path: Path, name: str) -> None:
    index = indexed(topical(3000), documents_per_segment=3000, bits=2)
    path = min(index.folder.glob("segments/*/book.npy"))
    changed = BOOKS[name](np.load(path))
    np.save(tmp_path / "changed.npy", changed)
    replace(index, "segments/*/book.npy", (tmp_path / "changed.npy").read_bytes())
    with pytest.raises(InputError, match="is damaged"):
        index.open()


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "..", ""])
def test_a_segment_whose_name_climbs_out_is_refused(index: Indexed, name: str) -> None:
    path = index.folder / "index.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"segments": [name, *state["segments"]]}))
    with pytest.raises(InputError, match="a segment's name is none"):
        index.open()


ENDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "passages": lambda a: np.add(a, [1000, 0, 0]),
    "vectors": lambda a: a[:-1],
    "word_offsets": lambda a: a[::-1].copy(),
}


@pytest.mark.parametrize("name", ENDS)
def test_arrays_that_point_outside_of_each_other_are_refused(index: Indexed, tmp_path: Path, name: str) -> None:
    path = min(index.folder.glob(f"segments/*/{name}.npy"))
    np.save(tmp_path / "changed.npy", ENDS[name](np.load(path)))
    replace(index, f"segments/*/{name}.npy", (tmp_path / "changed.npy").read_bytes())
    with pytest.raises(InputError, match="is damaged"):
        index.open()


def test_no_turned_bit_of_an_index_ends_the_process_or_in_a_traceback(index: Indexed) -> None:
    for pattern in (
        "segments/*/documents.arrow", "segments/*/passages.npy", "generations/*/clusters-starts.npy",
        "generations/*/clusters-passages.npy",
    ):  # fmt: skip
        path = min(index.folder.glob(pattern))
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 150)):
            path.unlink()
            path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
            try:
                searcher = index.open()
                dict(searcher.snapshot.live_documents())
                searcher.search("wing heart", 5, "hybrid")
            except InputError as error:
                assert "\n" not in str(error)
        path.unlink()
        path.write_bytes(content)


def test_a_header_that_is_no_csv_is_told(tmp_path: Path) -> None:
    from pipeline.search.documents import Table
    from pipeline.serving.predict import files

    path = tmp_path / "a.csv"
    path.write_bytes(b"query,docu\rment,text\nx,y,z\n")
    with pytest.raises(InputError, match="the header on line 1 cannot be read"):
        list(files.read(str(path), "csv", 1024, tmp_path))
    with pytest.raises(InputError, match="the header on line 1 cannot be read"):
        Table(str(path), {}, tmp_path / "bad", tmp_path)


WRONG = [
    {"counts": {}}, {"counts": []}, {"counts": {"documents": "40", "passages": 1, "vectors": 1, "dead_documents": 0}},
    {"counts": {"documents": 4, "passages": 40, "vectors": 40, "dead_documents": 0}}, {"counts": None},
    {"model": {}}, {"model": []}, {"settings": {"columns": []}}, {"settings": {"documents_per_segment": 0}},
    {"settings": {"wanted_recall": 1e999}}, {"generation": 0}, {"generation": "1"}, {"generation": 1.5},
    {"generation": 10**30}, {"generation": None}, {"segments": {}}, {"segments": [1]}, {"previous": ["x"]},
    {"approximate": {"effort": 10}}, {"approximate": []}, {"name": 5}, {"name": "\ud800"}, {"id": []}, {"more": 1},
    {"versions": None}, {"created": 0},
    {"approximate": {"effort": 1 << 62, "recall": 1.0, "queries": 1, "ms": 1.0, "exact_ms": 1.0}},
    {"approximate": {"effort": 1, "recall": float("nan"), "queries": 1, "ms": 1.0, "exact_ms": 1.0}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=[json.dumps(wrong)[:50] for wrong in WRONG])
def test_a_state_that_is_well_formed_and_wrong_is_refused(index: Indexed, wrong: dict[str, object]) -> None:
    path = index.folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    for use in (index.open, lambda: index.update(topical(2))):
        with pytest.raises(InputError, match=r"^[^\n]+ is damaged .*run `duplet index` again$"):
            use()


@pytest.mark.parametrize("folder", [5, None, "relative", "/" + "x" * 100_000, "models:/m@champion"])
def test_a_models_folder_that_is_none_is_refused(index: Indexed, folder: object) -> None:
    path = index.folder / "index.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"model": state["model"] | {"folder": folder}}))
    with pytest.raises(InputError, match=r"is damaged \(model\.folder: "):
        index.open()


def test_a_segment_that_is_named_twice_is_refused(index: Indexed) -> None:
    path = index.folder / "index.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"segments": state["segments"] * 2}))
    with pytest.raises(InputError, match="a segment is named twice"):
        index.open()


def test_an_index_without_an_id_is_read(index: Indexed) -> None:
    path = index.folder / "index.json"
    state = json.loads(path.read_text())
    assert state.pop("id")
    path.write_text(json.dumps(state))
    assert len(index.ids("wing", 3)) == 3

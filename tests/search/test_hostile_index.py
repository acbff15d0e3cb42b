"""An index that was damaged, or made by somebody else, is refused in a sentence: nothing of it is run or trusted."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.search import hnsw_file_check
from pipeline.search.hnsw import Graph
from tests.planted import Planted
from tests.search.conftest import Indexed, topical

Make = Callable[..., Indexed]


@pytest.fixture
def index(indexed: Make) -> Indexed:
    """With a graph."""
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
          "generations/*/bm25-data.npy")  # fmt: skip


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


def test_a_planted_pickle_in_the_place_of_the_graph_is_refused(index: Indexed, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    replace(index, "generations/*/hnsw.faiss", pickle.dumps(Planted(mark)))
    with pytest.raises(InputError, match=r"is damaged \(no HNSW graph\)"):
        index.open()
    assert not mark.exists()


def spoiled(content: bytes, at: int, form: str, value: int) -> bytes:
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


def places(content: bytes) -> dict[str, int]:
    """Where the parts of a graph's file begin."""
    at, found = 4 + 33, {"width": 4, "rows": 8}
    for name, size in (("chances", 8), ("places", 4), ("levels", 4), ("offsets", 8), ("neighbours", 4)):
        found[name] = at
        at += 8 + struct.unpack_from("<Q", content, at)[0] * size
    return found | {"entry": at, "storage": at + 20}


GRAPHS: dict[str, tuple[str, int, str, int]] = {  # part, bytes into it, how it is written, what stands there then
    "a neighbour beyond the last row": ("neighbours", 8, "<i", 1 << 30),
    "a neighbour below none": ("neighbours", 8, "<i", -2),
    "more rows than there are": ("rows", 0, "<q", 1 << 20),
    "fewer rows than there are": ("rows", 0, "<q", 3),
    "another width": ("width", 0, "<i", 1 << 19),
    "a part longer than the file": ("levels", 0, "<Q", 1 << 60),
    "a level that there is none of": ("levels", 8, "<i", 99),
    "offsets that step back": ("offsets", 16, "<Q", 0),
    "an offset beyond the neighbours": ("offsets", 16, "<Q", 1 << 40),
    "an entry point that is no row": ("entry", 0, "<i", 1 << 30),
    "more levels than there are": ("entry", 4, "<i", 50),
    "vectors of another kind": ("storage", 0, "<4s", b"IxF2"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_points_outside_of_itself_is_refused(index: Indexed, name: str) -> None:
    content = min(index.folder.glob("generations/*/hnsw.faiss")).read_bytes()
    part, offset, form, value = GRAPHS[name]
    replace(index, "generations/*/hnsw.faiss", spoiled(content, places(content)[part] + offset, form, value))
    with pytest.raises(InputError, match="is damaged"):
        index.open()


def test_every_cut_of_a_graph_is_refused_and_the_whole_is_read(tmp_path: Path) -> None:
    graph = Graph.empty(4)
    graph.add(np.random.default_rng(0).normal(size=(300, 4)))
    path = tmp_path / "g"
    graph.write(path)
    content = path.read_bytes()
    assert Graph.read(path).size == 300 and len(content) > 40_000  # with rows on several levels
    for end in range(0, len(content), 997):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"\w"):
            hnsw_file_check.check(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="not all there"):
        hnsw_file_check.check(path)
    Graph.empty(4).write(path)
    assert Graph.read(path).size == 0


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
    for pattern in ("segments/*/documents.arrow", "segments/*/passages.npy", "generations/*/hnsw.faiss"):
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

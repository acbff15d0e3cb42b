"""`duplet index` killed at any step leaves the old index or the new one; the next call ends as a fresh build does."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.search import build, index_store
from pipeline.search.documents import Document
from tests.killing import at_every_step
from tests.search.conftest import Indexed, topical

Make = Callable[..., Indexed]
QUERIES = ("wing lift", "moon own3", "heart valve new")


def scores(index: Indexed) -> dict[tuple[str, str], dict[str, float]]:
    """What every document scores, by mode and query."""
    searcher = index.open()
    found = {}
    for mode in ("model", "words"):
        for query in QUERIES:
            results = searcher.search(query, 1000, mode).results  # type: ignore[arg-type]
            found[mode, query] = {result.document.id: result.score for result in results}
    return found


def alike(one: dict[tuple[str, str], dict[str, float]], other: dict[tuple[str, str], dict[str, float]]) -> bool:
    """Whether the same documents score the same, but for the last bits, which a product's shape changes."""
    return one.keys() == other.keys() and all(
        found.keys() == other[asked].keys()
        and np.allclose([*found.values()], [other[asked][name] for name in found], rtol=0, atol=1e-6)
        for asked, found in one.items()
    )


def update(index: Indexed, documents: list[Document]) -> None:
    """As the command does it, under the lock."""
    with atomic_files.lock(index.folder.with_name(".lock")):
        index.update(documents, sync=True)


@pytest.mark.parametrize("joined", [False, True])
def test_an_update_killed_at_any_step_leaves_the_old_index_or_the_new(
    indexed: Make, monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    old = topical(9)
    new = [*(d._replace(text="heart new words") if i == 1 else d for i, d in enumerate(old[:-4])), *topical(13)[-4:]]
    before, after = scores(indexed(old, name="old")), scores(indexed(new, name="new"))
    index = indexed(old)
    if joined:
        monkeypatch.setattr(build, "SMALL_SEGMENTS", 0)
    seen = set()

    def left(step: int) -> None:
        found = scores(index)
        assert alike(found, before) or alike(found, after), step
        seen.add("new" if alike(found, after) else "old")

    assert at_every_step(lambda: update(index, new), left, writing=True) > 30
    assert seen == {"old", "new"}
    assert len(index.open().snapshot.segments) == (3 if joined else 4), "two of a document each are joined"
    assert not [path for path in index.folder.rglob("*") if path.name.startswith(".")]


def test_a_first_build_killed_at_any_step_leaves_nothing_or_the_index(indexed: Make) -> None:
    documents = topical(9)
    wanted, index = scores(indexed(documents, name="fresh")), indexed()
    seen = set()

    def left(step: int) -> None:
        if index.folder.exists():
            assert alike(scores(index), wanted), step
        else:
            with pytest.raises(InputError, match="does not exist"):
                index.open()
        seen.add(index.folder.exists())

    assert at_every_step(lambda: update(index, documents), left, writing=True) > 30
    assert seen == {False, True}
    assert not [path for path in index.folder.parent.rglob("*") if path.name.startswith(".") and path.name != ".lock"]


def test_a_segment_killed_just_before_its_rename_is_not_published(indexed: Make) -> None:
    documents = topical(9)
    wanted, index = scores(indexed(documents, name="fresh")), indexed(documents[:5])
    other = indexed(documents[5:], name="other")
    (segment,) = (other.folder / "segments").iterdir()
    segment.rename(index.folder / "segments" / f".{segment.name}.partial")
    (index.folder / "segments" / "copy of a segment").mkdir()
    update(index, documents)
    assert alike(scores(index), wanted)
    assert all(len(path.name) == 16 for path in (index.folder / "segments").iterdir())


def test_a_state_that_could_not_be_read_is_not_written(indexed: Make) -> None:
    index = indexed(topical(3))
    state = index_store.read_state(index.folder)
    for wrong in (
        {"segments": [f".{state.segments[0]}.partial"]},
        {"segments": state.segments * 2},
        {"generation": 0},
        {"counts": {}},
    ):
        with pytest.raises(ValueError):
            index_store.write_state(index.folder, dataclasses.replace(state, **wrong))  # type: ignore[arg-type]
    assert index_store.read_state(index.folder) == state


def test_what_is_being_written_is_not_listed(tmp_path: Path) -> None:
    for name in ("b", "a", ".c.partial", ".d.old", ".e.building"):
        (tmp_path / name / "inside").mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(json.dumps({}))
    (tmp_path / "a" / ".manifest.json.1.partial").write_text("")
    names = lambda pattern: [str(path.relative_to(tmp_path)) for path in atomic_files.finished(tmp_path, pattern)]
    assert names("*") == ["a", "b"]
    assert names("*/manifest.json") == ["a/manifest.json", "b/manifest.json"]
    assert names("*/*") == ["a/inside", "a/manifest.json", "b/inside", "b/manifest.json"]
    assert atomic_files.finished(tmp_path / "nowhere") == []
    assert [path.name for path in atomic_files.finished(tmp_path / ".e.building")] == ["inside", "manifest.json"]

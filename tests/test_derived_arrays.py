"""Arrays that follow from a stage's folder: the same in memory and in files, made once, never of another folder."""

import os
from pathlib import Path

import numpy as np
import pytest

from jobs import retention
from pipeline.core import derived_arrays
from pipeline.core.derived_arrays import New, derived, selected


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(derived_arrays, "LARGE", 4)
    monkeypatch.setattr(derived_arrays, "AT_ONCE", 3)
    file = tmp_path / "key" / "train" / "examples.arrow"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    return file


def squares(new: New) -> np.ndarray:
    scratch, found = new((5,), np.int64), new((5, 1), np.int32)
    scratch[:] = np.arange(5)
    found[:, 0] = scratch**2
    return found


def fives(new: New) -> np.ndarray:
    found = new((2,), np.int32)
    found[:] = 5
    return found


def never(new: New) -> np.ndarray:
    raise AssertionError("made a second time")


def test_a_large_array_is_made_once_and_then_mapped(source: Path, tmp_path: Path) -> None:
    first = derived(source, "squares", 5, squares)
    again = derived(source, "squares", 5, never)
    assert first.dtype == again.dtype == np.int32 and first.tolist() == again.tolist() == [[0], [1], [4], [9], [16]]
    assert isinstance(again.base, np.memmap) and not again.flags.writeable
    assert [path.name[:8] for path in (tmp_path / ".key.arrays").iterdir()] == ["squares-"]  # and no scratch


def test_a_small_one_leaves_no_file(source: Path, tmp_path: Path) -> None:
    assert derived(source, "squares", 3, squares).tolist() == [[0], [1], [4], [9], [16]]
    assert not (tmp_path / ".key.arrays").exists()


def test_another_folder_in_its_place_has_its_own(source: Path, tmp_path: Path) -> None:
    derived(source, "squares", 5, squares)
    derived(source, "other", 5, squares)
    source.write_bytes(b"another")
    assert derived(source, "squares", 5, fives).tolist() == [5, 5]
    assert derived(source, "squares", 5, never).tolist() == [5, 5]
    assert sorted(path.name[:6] for path in (tmp_path / ".key.arrays").iterdir()) == ["other-", "square"]


@pytest.mark.parametrize("refused", ["mkdir", "posix_fallocate"])
def test_where_no_file_can_be_kept_it_lies_in_memory(
    refused: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path if refused == "mkdir" else os, refused, refuse)
    assert derived(source, "squares", 5, squares).tolist() == [[0], [1], [4], [9], [16]]
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("places", [0, 2, 3, 10])
def test_selected_places_are_those_of_the_mask(source: Path, places: int) -> None:
    mask = np.random.default_rng(places).random(places) < 0.5
    found = selected(lambda part: mask[part], places, np.empty)
    assert found.dtype == np.int32 and found.tolist() == np.flatnonzero(mask).tolist()


def test_arrays_of_a_folder_that_is_gone_are_removed(tmp_path: Path) -> None:
    for name in ("kept", ".kept.arrays", ".gone.arrays"):
        (tmp_path / "tokenize" / name).mkdir(parents=True)
    retention.finish(tmp_path)
    assert sorted(path.name for path in (tmp_path / "tokenize").iterdir()) == [".kept.arrays", "kept"]

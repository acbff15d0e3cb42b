"""A checkpoint comes back bit for bit, or is left out with a warning; nothing in it is ever unpickled."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core import atomic_files
from pipeline.training import checkpoint
from pipeline.training.batch_plan import Position
from pipeline.training.checkpoint import State
from tests.planted import Planted

FILES = ("parameters.npz", "moments.npz", "state.json", "checksums.json")


def save(folder: Path, update: int, best: int | None = None, keep: int = 10) -> None:
    rng = np.random.default_rng(update)
    state = State(update=update, position=Position(1, 2, update), best=0.5, best_update=best)
    arrays = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("embedding", "query_tower.layer.0.bias")}
    checkpoint.save(folder, state, arrays, {f"{name}:0": -array for name, array in arrays.items()}, keep)


def damaged(folder: Path, update: int) -> list[str]:
    """The warnings of a search that must find `update`."""
    found, warnings = checkpoint.newest(folder)
    assert found is not None
    assert found.state.update == update
    return warnings


names = st.text("abcxyz_.:0123456789/", min_size=1, max_size=12).filter(lambda name: name.strip("./") == name)
arrays = hnp.arrays(
    st.sampled_from([np.float32, np.int32, np.float64]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
)


@given(st.dictionaries(names, arrays, max_size=3), st.dictionaries(names, arrays, max_size=3))
@settings(max_examples=20, deadline=None)
def test_arrays_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, np.ndarray], moments: dict[str, np.ndarray]
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoint.save(folder, State(update=3), parameters, moments, 2)
    found = checkpoint.load(folder / "update-00000003")
    for left, right in ((parameters, found.parameters), (moments, found.moments)):
        assert left.keys() == right.keys()
        for name, array in left.items():
            assert (right[name].dtype, right[name].shape) == (array.dtype, array.shape)
            assert right[name].tobytes() == array.tobytes()  # NaN payloads and signs of 0 included


def test_state_comes_back_whole(tmp_path: Path) -> None:
    state = State(
        update=1234,
        position=Position(3, 1, 17),
        best=0.1 + 0.2,
        best_update=1000,
        without_better=2,
        finished=True,
        pending=[[0.3, 1e-30], [float("inf"), 2.0]],
        history=[{"update": 10.0, "loss": 1 / 3}],
    )
    checkpoint.save(tmp_path, state, {"a": np.ones(1)}, {"a:0": np.ones(1)}, 1)
    found = checkpoint.load(tmp_path / "update-00001234")
    assert found.state == state
    assert isinstance(found.state.position, Position)
    assert found.folder == tmp_path / "update-00001234"


def test_the_default_state_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, State(), {}, {}, 1)
    assert checkpoint.load(tmp_path / "update-00000000").state == State()


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [5]), (2, None, [4, 5]), (2, 2, [2, 4, 5]), (2, 5, [4, 5]), (1, 1, [1, 5]), (9, 3, [1, 2, 3, 4, 5])],
)
def test_keeps_the_newest_and_the_best(tmp_path: Path, keep: int, best: int | None, left: list[int]) -> None:
    for update in range(1, 6):
        save(tmp_path, update, best if best and best <= update else None, keep=9 if update < 5 else keep)
    assert checkpoint.names(tmp_path) == [f"update-{update:08d}" for update in left]


def test_names_are_in_order_beyond_powers_of_ten(tmp_path: Path) -> None:
    for update in (9, 10, 99, 100, 1_000_000):
        save(tmp_path, update)
    assert [int(name.removeprefix("update-")) for name in checkpoint.names(tmp_path)] == [9, 10, 99, 100, 1_000_000]


def test_saving_again_replaces(tmp_path: Path) -> None:
    save(tmp_path, 1)
    checkpoint.save(tmp_path, State(update=1), {"other": np.zeros(2)}, {}, 2)
    assert list(checkpoint.load(tmp_path / "update-00000001").parameters) == ["other"]


def test_a_damaged_later_one_takes_no_place_of_a_new_one(tmp_path: Path) -> None:
    for update in (4, 9):
        save(tmp_path, update, best=4)
    (tmp_path / "update-00000009" / "moments.npz").write_bytes(b"")
    assert len(damaged(tmp_path, 4)) == 1  # so the training goes on from 4 …
    save(tmp_path, 6, best=4, keep=1)  # … and its next checkpoint must last
    assert damaged(tmp_path, 6) == []
    assert checkpoint.names(tmp_path) == ["update-00000004", "update-00000006"]


def test_no_checkpoint_is_no_warning(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) == (None, [])
    assert checkpoint.newest(tmp_path / "absent") == (None, [])


def test_newest_is_the_last_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 20)
    assert damaged(tmp_path, 20) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "emptied", "cut", "longer", "a folder"])
def test_falls_back_from_a_damaged_file(tmp_path: Path, name: str, how: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    file = tmp_path / "update-00000002" / name
    content = file.read_bytes()
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "missing":
        file.write_bytes({"emptied": b"", "cut": content[: len(content) // 2], "longer": content + b"\n\0"}[how])
    warnings = damaged(tmp_path, 1)
    assert len(warnings) == 1
    assert "update-00000002 is left out" in warnings[0]
    assert "Traceback" not in warnings[0]


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_no_flipped_bit_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, 1)
    save(folder, 2)
    file = folder / "update-00000002" / name
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    found, warnings = checkpoint.newest(folder)
    assert found is not None
    if found.state.update == 2:  # only white space of the list of checksums may have changed its kind
        assert name == "checksums.json"
        assert json.loads(content) == {n: atomic_files.sha256(file.parent / n) for n in FILES[:3]}
    else:
        assert [w for w in warnings if "update-00000002" in w]


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["state.json", "checksums.json"])
def test_falls_back_from_json_of_another_kind(tmp_path: Path, name: str, content: bytes) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    folder = tmp_path / "update-00000002"
    (folder / name).write_bytes(content)
    if name == "state.json":  # with a checksum that fits
        sums = {n: atomic_files.sha256(folder / n) for n in FILES[:3]}
        (folder / "checksums.json").write_text(json.dumps(sums))
    assert len(damaged(tmp_path, 1)) == 1


def test_all_damaged_gives_none_and_a_warning_each(tmp_path: Path) -> None:
    for update in (1, 2, 3):
        save(tmp_path, update)
        (tmp_path / f"update-{update:08d}" / "parameters.npz").write_bytes(b"")
    found, warnings = checkpoint.newest(tmp_path)
    assert found is None
    assert [w.split()[1] for w in warnings] == ["update-00000003", "update-00000002", "update-00000001"]


def test_an_unfinished_one_is_not_looked_at(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "update-00000001", tmp_path / ".update-00000002.partial")
    (tmp_path / ".update-00000002.partial" / "state.json").unlink()
    assert damaged(tmp_path, 1) == []
    save(tmp_path, 2)  # and is in nobody's way
    assert damaged(tmp_path, 2) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-00000001", "update-00000002"]


def test_another_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    rewrite(tmp_path / "update-00000001", format=checkpoint.FORMAT + 1)
    found, warnings = checkpoint.newest(tmp_path)
    assert found is None
    assert "format" in warnings[0]


def rewrite(folder: Path, **changes: object) -> None:
    """Changes values of a checkpoint's state and makes the checksums fit."""
    file = folder / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    (folder / "checksums.json").write_text(json.dumps({n: atomic_files.sha256(folder / n) for n in FILES[:3]}))


def test_an_unknown_field_of_the_state_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    rewrite(tmp_path / "update-00000001", colour="red")
    with pytest.raises(ValueError, match="colour"):
        checkpoint.load(tmp_path / "update-00000001")


@pytest.mark.parametrize("name", ["parameters.npz", "moments.npz"])
def test_nothing_is_unpickled(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    folder, mark = tmp_path / "update-00000002", tmp_path / "mark"
    np.savez(folder / name, weight=np.array([Planted(mark)], dtype=object))
    rewrite(folder)  # with checksums that fit: the planter can count too
    with np.load(folder / name, allow_pickle=True) as archive:
        assert archive["weight"].size == 1  # it would have worked …
    assert mark.exists()
    mark.unlink()
    warnings = damaged(tmp_path, 1)
    assert "update-00000002" in warnings[0]
    assert not mark.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    import pickle

    save(tmp_path, 1)
    save(tmp_path, 2)
    folder, mark = tmp_path / "update-00000002", tmp_path / "mark"
    (folder / "parameters.npz").write_bytes(pickle.dumps(Planted(mark)))
    rewrite(folder)
    assert len(damaged(tmp_path, 1)) == 1
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nothing more", b"\x93NUMPY", b"x"])
def test_no_archive_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "update-00000002" / "moments.npz").write_bytes(content)
    rewrite(tmp_path / "update-00000002")
    assert len(damaged(tmp_path, 1)) == 1


def test_a_plain_array_in_place_of_an_archive_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    folder = tmp_path / "update-00000002"
    with (folder / "parameters.npz").open("wb") as file:
        np.save(file, np.ones(3))
    rewrite(folder)
    assert len(damaged(tmp_path, 1)) == 1


def test_an_error_while_saving_leaves_the_old_ones(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, State(update=2, best=object()), {"a": np.ones(2)}, {}, 1)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["update-00000001"]
    assert damaged(tmp_path, 1) == []

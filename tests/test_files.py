"""Folders exist whole or not at all, one process at a time; a manifest notices what is not as it was written."""

import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.core.manifest import KeyParts

PARTS = KeyParts(1, {"split": {"valid": 0.1}, "name": "größe"}, {"pairs.tsv": "ab" * 32}, {"pyarrow": "25.0"})
REMAKE = "duplet ingest configs/demo.yaml"
ROOT = Path(__file__).parents[1]


# --- files ------------------------------------------------------------------------------------------------------------
def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert atomic_files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=3), child, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert atomic_files.digest(value) == atomic_files.digest(dict(reversed(value.items())))
    assert atomic_files.digest(value) != atomic_files.digest({**value, "another key": 1})


def test_digests_of_different_values_differ() -> None:
    values: list[Any] = [None, 0, 0.5, "", "0", [], {}, [0], ["0"], {"0": 0}, [[]], False, "\ud800"]
    assert len({atomic_files.digest(value) for value in values}) == len(values)


def test_write_text_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for text in ("one\n", "zwei größer\n"):
        atomic_files.write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_new_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "stage"
    with atomic_files.new_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("a")
        assert not target.exists()
        assert folder.parent == target.parent  # the same file system, so that the rename is one step
    assert (target / "inner" / "a").read_text() == "a"
    assert [path.name for path in target.parent.iterdir()] == ["stage"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_new_and_the_old_untouched(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_files.new_folder(tmp_path / "stage") as folder:
        (folder / "a").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "old").write_text("old")
    with pytest.raises(error), atomic_files.new_folder(tmp_path / "stage") as folder:
        (folder / "a").write_text("half")
        raise error
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["stage", "stage/old"]


def test_a_stale_partial_is_no_part_of_the_new_folder(tmp_path: Path) -> None:
    stale = tmp_path / ".stage.partial"
    (stale / "sub").mkdir(parents=True)
    (stale / "sub" / "left").write_text("over")
    with atomic_files.new_folder(tmp_path / "stage") as folder:
        assert list(folder.iterdir()) == []
        (folder / "a").write_text("a")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["stage", "stage/a"]


def test_a_new_folder_replaces_an_old_one(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_files.new_folder(tmp_path / "stage") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["new"]


def test_a_killed_writer_leaves_only_a_partial(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from pipeline.core import atomic_files
with atomic_files.new_folder(Path({str(tmp_path / "stage")!r})) as folder:
    (folder / "a").write_text("half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".stage.partial"]


HOLDER = """
import sys
from pathlib import Path
from pipeline.core import atomic_files
with atomic_files.lock(Path(sys.argv[1])) as waited:
    print("waited" if waited else "at once", flush=True)
    sys.stdin.readline()
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_lock_keeps_another_process_waiting(tmp_path: Path) -> None:
    path = tmp_path / "made" / "too" / "lock"
    other = holder(path)
    assert other.stdout is not None
    assert other.stdout.readline() == "at once\n"
    held: list[tuple[bool, bool]] = []
    released = threading.Event()

    def wait() -> None:
        with atomic_files.lock(path) as waited:
            held.append((waited, released.is_set()))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    assert held == []
    released.set()
    other.communicate("go\n", timeout=60)
    thread.join(60)
    assert held == [(True, True)]
    with atomic_files.lock(path) as waited:
        assert waited is False


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    other = holder(tmp_path / "lock")
    assert other.stdout is not None
    other.stdout.readline()
    other.kill()
    other.communicate(timeout=60)
    with atomic_files.lock(tmp_path / "lock") as waited:
        assert waited is False


def test_a_lock_that_another_process_keeps_is_given_up_in_time(tmp_path: Path) -> None:
    other = holder(tmp_path / "lock")
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(BlockingIOError):
        atomic_files.owned(tmp_path / "lock", 0.3)
    assert atomic_files.is_locked(tmp_path / "lock")
    thread = threading.Timer(0.3, other.communicate, ["go\n"])
    thread.start()
    with atomic_files.owned(tmp_path / "lock", 60.0):
        thread.join(60)
    assert not atomic_files.is_locked(tmp_path / "lock")
    with pytest.raises(FileNotFoundError):
        atomic_files.owned(tmp_path / "removed" / "lock", 1.0)


def test_every_lock_on_a_file_is_taken_in_one_place() -> None:
    """A lock by itself forgets that its file may have been removed, or that a look at it holds it for a moment."""
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("pipeline", "jobs")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\bfcntl\.(flock|lockf)\b", path.read_text(encoding="utf-8"))
    }
    assert found == {"pipeline/core/atomic_files.py", "jobs/cron.py"}  # cron's is on a person's home folder


def test_a_line_is_added_after_one_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for cut in (b"", b"whole\n", b"whole\nhal"):
        path.write_bytes(cut)
        atomic_files.add_line(path, "née")
        assert path.read_bytes() == cut + (b"\n" if cut.endswith(b"hal") else b"") + "née\n".encode()


def test_an_error_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), atomic_files.lock(tmp_path / "lock"):
        raise ValueError("x")
    with atomic_files.lock(tmp_path / "lock") as waited:
        assert waited is False


# --- keys -------------------------------------------------------------------------------------------------------------
def test_the_key_is_the_same_in_every_process() -> None:
    code = f"from pipeline.core.manifest import KeyParts; print({PARTS!r}.key)"
    keys = set()
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        keys.add(run.stdout.strip())
    assert keys == {PARTS.key}
    assert len(PARTS.key) == 16
    assert set(PARTS.key) <= set("0123456789abcdef")


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"code": 2}, ["code"]),
    ({"config": {"split": {"valid": 0.2}, "name": "größe"}}, ["config.split.valid"]),
    ({"config": {"split": {"valid": 0.1}, "name": "x", "new": 1}}, ["config.name", "config.new"]),
    ({"config": {"split": {"valid": 0.1}}}, ["config.name"]),
    ({"config": {"split": 3, "name": "größe"}}, ["config.split"]),
    ({"inputs": {"pairs.tsv": "cd" * 32}}, ["inputs.pairs.tsv"]),
    ({"libraries": {"pyarrow": "26.0"}, "code": 3}, ["code", "libraries.pyarrow"]),
]


@pytest.mark.parametrize(("change", "names"), CHANGES)
def test_changed_parts_are_named_and_change_the_key(change: dict[str, Any], names: list[str]) -> None:
    old = json.loads(json.dumps({f: getattr(PARTS, f) for f in ("code", "config", "inputs", "libraries")}))
    new = KeyParts(**{**old, **change})
    assert new.changed_since(old) == names
    assert (new.key == PARTS.key) == (not names)


def test_changed_parts_of_an_older_layout_are_named() -> None:
    assert PARTS.changed_since({}) == ["code", "config", "inputs", "libraries"]


# --- the manifest -----------------------------------------------------------------------------------------------------
def stage(tmp_path: Path) -> Path:
    with atomic_files.new_folder(tmp_path / "stage") as folder:
        (folder / "records.parquet").write_bytes(b"0123456789" * 10)
        (folder / "sub").mkdir()
        (folder / "sub" / "empty").write_bytes(b"")
        manifest.write(folder, "ingest", PARTS, {"kept": 3}, time.time(), {"note": "größe"})
    return tmp_path / "stage"


def refusal(folder: Path, name: str = "ingest") -> str:
    with pytest.raises(InputError) as caught:
        manifest.load(folder, name, REMAKE)
    message = str(caught.value)
    assert f"`{REMAKE}`" in message
    assert "\n" not in message
    return message


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    found = manifest.load(stage(tmp_path), "ingest", REMAKE)
    assert (found.stage, found.key, found.counts, found.extra) == ("ingest", PARTS.key, {"kept": 3}, {"note": "größe"})
    assert {name: entry["bytes"] for name, entry in found.files.items()} == {"records.parquet": 100, "sub/empty": 0}
    assert PARTS.changed_since(found.key_parts) == []
    assert found.seconds >= 0
    assert found.versions["numpy"]


@pytest.mark.parametrize(
    ("how", "part"),
    [("cut", "has 99 bytes instead of 100"), ("longer", "has 101 bytes"), ("changed", "has changed"),
     ("missing", "is missing"), ("a folder", "is missing"), ("emptied", "has 0 bytes")],
)  # fmt: skip
def test_a_damaged_file_is_named_with_the_command_that_makes_it(tmp_path: Path, how: str, part: str) -> None:
    folder = stage(tmp_path)
    file = folder / "records.parquet"
    content = file.read_bytes()
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "missing":
        new = {"cut": content[:-1], "longer": content + b"x", "changed": b"1" + content[1:], "emptied": b""}[how]
        file.write_bytes(new)
    message = refusal(folder)
    assert f"{file} {part}" in message
    assert f"delete {folder}" in message
    assert manifest.load(folder, "ingest", REMAKE, verify=False).key == PARTS.key


def test_a_missing_file_in_a_subfolder_is_named(tmp_path: Path) -> None:
    folder = stage(tmp_path)
    (folder / "sub" / "empty").unlink()
    assert "sub/empty is missing" in refusal(folder)


def test_a_folder_without_a_manifest_is_not_finished(tmp_path: Path) -> None:
    folder = stage(tmp_path)
    (folder / "manifest.json").unlink()
    assert f"{folder} is not a finished ingest folder" in refusal(folder)
    assert "is not a finished ingest folder" in refusal(tmp_path / "absent")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b'"x"', b'{"stage": 1}', b"\xff", b"[" * 100_000]
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    folder = stage(tmp_path)
    (folder / "manifest.json").write_bytes(content)
    assert f"{folder / 'manifest.json'} is damaged" in refusal(folder)


@pytest.mark.parametrize("change", [{"format": manifest.FORMAT + 1}, {"stage": "tokenize"}])
def test_another_stage_or_format_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = stage(tmp_path)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    message = refusal(folder)
    assert "need ingest, 1" in message
    assert str(next(iter(change.values()))) in message


def test_a_newer_format_with_other_fields_is_refused(tmp_path: Path) -> None:
    folder = stage(tmp_path)
    path = folder / "manifest.json"
    data = {**json.loads(path.read_text(encoding="utf-8")), "format": 2, "colour": "red"}
    path.write_text(json.dumps(data), encoding="utf-8")
    refusal(folder)


def test_no_flipped_bit_of_a_manifest_ends_in_a_traceback(tmp_path: Path) -> None:
    folder = stage(tmp_path)
    path = folder / "manifest.json"
    content = path.read_bytes()
    listed = content.index(b'"files"'), content.index(b'"seconds"')
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            manifest.load(folder, "ingest", REMAKE)
        except InputError as error:
            assert f"`{REMAKE}`" in str(error)
        else:  # what describes the files must not change unseen; the rest is for people
            assert not listed[0] < place < listed[1] or json.loads(changed)["files"] == json.loads(content)["files"]


def test_json_of_what_does_not_exist_is_json_that_others_can_read(tmp_path: Path) -> None:
    value = {"auc": float("nan"), "list": (1, float("-inf"), {"deep": np.float64("inf")}), "text": "NaN", "good": 0.5}

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads(atomic_files.as_json(value, indent=1), parse_constant=refuse)
    assert read == {"auc": None, "list": [1, None, {"deep": None}], "text": "NaN", "good": 0.5}
    (tmp_path / "metrics.json").write_text(atomic_files.as_json({"unit": "pairs", "mean": float("nan")}))
    assert "NaN" not in (tmp_path / "metrics.json").read_text()


def test_a_history_with_a_metric_that_did_not_exist_at_times_is_drawn() -> None:
    from pipeline.reporting import figures

    history = [{"update": 1, "loss": 1.0}, {"update": 1, "valid/auc": float("nan")}, {"update": 2, "valid/auc": 0.5}]
    assert figures.curves(json.loads(atomic_files.as_json(history))).startswith("<svg")


def test_a_file_that_its_holder_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes, and removes the file, between our opening it and our locking it."""
    path, lock, calls = tmp_path / "partial", fcntl.flock, []

    def late(file: Any, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            path.unlink()
        lock(file, operation)

    monkeypatch.setattr(atomic_files.fcntl, "flock", late)
    with atomic_files.owned(path) as file:
        file.write(b"ours")
        file.flush()
        assert path.read_bytes() == b"ours" and len(calls) == 2
        with pytest.raises(BlockingIOError):
            atomic_files.owned(path)

"""Saving a checkpoint, killed between any two things that it does to the disk: what has its name is whole."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import atomic_files
from pipeline.training import checkpoint
from pipeline.training.checkpoint import State

ROOT = Path(__file__).parents[2]
# Saves update 1, then 2 to 4, keeping one; in a child of its own for each N it ends without a word at the N-th call
# that changes the disk, and the parent then looks at what is there. Prints how many calls there were.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np
from pipeline.training import checkpoint
from pipeline.training.checkpoint import State

CALLS = ("mkdir", "rename", "unlink", "rmdir", "fsync")
arrays = lambda update: {"weight": np.full((50, 40), update, np.float32)}

def save(folder, update):
    checkpoint.save(folder, State(update=update), arrays(update), arrays(-update), 1)

def count_down(calls):
    left = [calls]
    def counted(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    return left

for calls in range(1, 1000):
    folder = Path(sys.argv[1]) / str(calls)
    save(folder, 1)
    child = os.fork()
    if child == 0:
        count_down(calls)
        for update in (2, 3, 4):
            save(folder, update)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    names = checkpoint.names(folder)
    assert names, f"call {calls}: none is left"
    for name in names:
        found = checkpoint.load(folder / name)
        assert (found.parameters["weight"] == found.state.update).all(), f"call {calls}: {name}"
    found, warnings = checkpoint.newest(folder)
    assert not warnings, f"call {calls}: {warnings}"
    for update in range(found.state.update + 1, 6):  # goes on, and nothing that was left is in its way
        save(folder, update)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["update-00000005"], f"call {calls}: {left}"
    shutil.rmtree(folder)
    if not killed:
        print(calls)
        break
"""


def test_killed_at_any_call_all_that_has_a_name_is_whole(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    # of each save: a folder made, four files and two folders synced, two renames, six removals
    assert int(done.stdout) > 3 * 14


def test_a_checkpoint_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and the folder before the rename, the folder above after it: so a power cut leaves all or nothing."""
    happened: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        happened.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(old: Path, new: Path) -> None:
        happened.append(("rename", str(new)))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    checkpoint.save(tmp_path, State(update=1), {"a": np.ones(3)}, {"a:0": np.ones(3)}, 1)
    partial, target = tmp_path / ".update-00000001.partial", tmp_path / "update-00000001"
    at = happened.index(("rename", str(target)))
    names = ("parameters.npz", "moments.npz", "state.json", "checksums.json")
    expected = {("fsync", str(partial / name)) for name in names} | {("fsync", str(partial))}
    assert set(happened[:at]) == expected
    assert happened[at + 1 :] == [("fsync", str(tmp_path))]


def test_a_folder_that_is_removed_has_no_name_while_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "a").write_text("a")
    seen: list[bool] = []
    unlink = os.unlink

    def looked(*args: object, **kwargs: object) -> None:
        seen.append((tmp_path / "stage").exists())
        unlink(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", looked)
    atomic_files.remove_folder(tmp_path / "stage")
    assert seen == [False]
    assert list(tmp_path.iterdir()) == []

"""Run by test_full_disk in a mount namespace of its own: what commands do on a tmpfs that runs full.

Its arguments are a folder to mount it on and a configuration whose root lies there. Prints a JSON object, from what was
tried to what came of it.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.distributed import heartbeat
from pipeline.training import checkpoint
from tests.small_disk import duplet

BALLAST = "ballast"


def fill(disk: Path, left_kb: int = 0) -> None:
    """Leaves so much room."""
    with contextlib.suppress(OSError), (disk / BALLAST).open("ab") as file:
        while left_kb == 0 or shutil.disk_usage(disk).free > 1024 * left_kb:
            file.write(b"\0" * 4096)
            file.flush()


def stage(disk: Path, config: str, verb: str, left_kb: int) -> dict[str, Any]:
    """Room for a part of a stage's folder, then for all of it."""
    fill(disk, left_kb)
    filled = duplet(verb, config)
    left = sorted(path.name for path in (disk / "runs" / verb).glob("*") if path.is_dir())
    (disk / BALLAST).unlink()
    return {"filled": filled, "left": left, "again": duplet(verb, config)}


def points(disk: Path, config: str) -> dict[str, Any]:
    """No room at all from the fourth update on, and no checkpoint in between."""

    def wait_and_fill() -> None:
        while not any(b.update >= 4 for work in disk.glob("runs/work/train-*") for b in heartbeat.beats(work)):
            time.sleep(0.005)
        fill(disk)

    thread = threading.Thread(target=wait_and_fill)
    thread.start()
    filled = duplet("train", config, "train.checkpoint_every_updates=100000", "train.log_every_updates=1")
    thread.join()
    (disk / BALLAST).unlink()
    for work in disk.glob("runs/work/train-*"):  # where the disk filled late there is a checkpoint, of other settings
        shutil.rmtree(work)
    return {"filled": filled}


def checkpoints(disk: Path, config: str) -> dict[str, Any]:
    """Room for some checkpoints, all of which are to be kept; then for all."""
    fill(disk, 600)
    filled = duplet("train", config, "train.keep_checkpoints=1000")
    (folder,) = disk.glob("runs/work/train-*/checkpoints")
    newest, warnings = checkpoint.newest(folder)
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    (disk / BALLAST).unlink()
    return {
        "filled": filled, "newest": newest.state.update if newest else None, "warnings": warnings, "left": left,
        "again": duplet("train", config),
    }  # fmt: skip


def main() -> None:
    disk, config = Path(sys.argv[1]), sys.argv[2]
    undisturbed = disk.parent / "undisturbed"
    duplet("train", config, f"root={undisturbed}")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        found = {
            "ingest": stage(disk, config, "ingest", 12),
            "tokenize": stage(disk, config, "tokenize", 8),
            "points": points(disk, config),
            "checkpoints": checkpoints(disk, config),
        }
        for name, root in (("undisturbed", undisturbed), ("disturbed", disk / "runs")):
            found[name] = {"history": [path.read_text() for path in root.glob("train/*/history.json")]}
        print(json.dumps(found))
    finally:
        subprocess.run(["umount", str(disk)], check=False)


if __name__ == "__main__":
    main()

"""What the tests of local jobs share: submitting one, and waiting for something to come true in its folders."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from pipeline.distributed import heartbeat, job_folder

LIMIT_S = 240.0


def command(*arguments: object) -> list[str]:
    """A command line of `duplet`."""
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def duplet(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs `duplet …` as a person would."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=LIMIT_S)


def until(true: Callable[[], Any], what: str) -> Any:
    """What a condition returns as soon as that is truthy; fails after four minutes."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {LIMIT_S:.0f} s: {what}")


class Job(NamedTuple):
    """A submitted local job."""

    id: str
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "jobs" / self.id

    def ask(self, action: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`duplet jobs ACTION ID`."""
        return duplet("jobs", action, self.id, "--root", self.root, *options)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("status", "--json").stdout.splitlines()[-1])
        return found

    def noted(self) -> dict[str, Any]:
        """state.json itself."""
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def training(self, update: int, seen: set[str] | frozenset[str] = frozenset()) -> dict[int, heartbeat.Beat]:
        """The ranks' heartbeats, once all of a start that is not in `seen` have done so many updates.

        A checkpoint is there by then, and the start's token is added to `seen`.
        """

        def there() -> dict[int, heartbeat.Beat] | None:
            for work in self.root.glob("work/train-*"):
                beats = {b.rank: b for b in heartbeat.beats(work) if b.token not in seen and b.update >= update}
                workers = job_folder.read(self.folder, job_folder.WORKERS).get("workers")  # None between two starts
                if len(beats) == workers and any(work.glob("checkpoints/update-*")):
                    return beats
            assert self.noted()["state"] == "running", self.log()
            return None

        found: dict[int, heartbeat.Beat] = until(there, f"update {update}")
        if isinstance(seen, set):
            seen |= {beat.token for beat in found.values()}
        return found

    def finished(self) -> dict[str, Any]:
        """Waits for the end, which must be a good one."""
        waited = self.ask("wait")
        assert waited.returncode == 0, waited.stdout + waited.stderr + self.log()
        return self.status()

    def discard(self) -> None:
        """Ends whatever is left of it, so that no test leaves processes behind."""
        if self.status()["state"] in ("queued", "running"):
            self.ask("cancel")
            self.ask("wait")


def submit(folder: Path, config: dict[str, Any], *options: object) -> Job:
    """Submits a configuration with `--json`; it has to be taken."""
    done = duplet("submit", write(folder, config), *options, "pause_s=0", "--json")
    assert done.returncode == 0, done.stderr
    return Job(json.loads(done.stdout.splitlines()[-1])["id"], Path(config["root"]))


def write(folder: Path, config: dict[str, Any]) -> Path:
    """The configuration as a file."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def trained(root: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """Parameters and history of the one training under a root."""
    (folder,) = (root / "train").glob("[0-9a-f]*")
    with np.load(folder / "parameters.npz") as arrays:
        return dict(arrays), json.loads((folder / "history.json").read_text())


def assert_bitwise_equal(root: Path, expected: Path) -> None:
    """Parameters and history of two trainings are the same, to the last bit."""
    (got, got_history), (want, want_history) = trained(root), trained(expected)
    assert want.keys() == got.keys()
    for name in want:
        assert want[name].tobytes() == got[name].tobytes(), name
    assert want_history == got_history


def alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(*pids: int) -> None:
    """Waits until processes have ended."""
    until(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}")


def kill(pid: int, number: int) -> None:
    os.kill(pid, number)

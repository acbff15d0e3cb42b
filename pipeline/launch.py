"""Starts the workers of a stage on this machine through Horovod's launcher, follows what they say, and ends them."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DupletError, GateError, InputError, TryAgain

ERRORS = {error.exit_code: error for error in (DupletError, InputError, GateError, TryAgain)}
PROGRESS, OUTCOME, LAUNCHER_LOG = "progress.log", "outcome.json", "workers.log"
GRACE_S = 60.0  # to finish a step and save a checkpoint, after a first signal


@dataclass(frozen=True)
class Job:
    """One stage's work for the workers; they read it as JSON from their work folder."""

    verb: str  # "train" or "evaluate"
    config: dict[str, Any]
    work: str  # checkpoints, points, logs; outlives a kill
    output: str  # the stage folder being written
    ingested: str
    tokenized: str
    trained: str | None = None  # evaluate: the folder with the parameters


def threads_per_worker(workers: int, wanted: int | None) -> int:
    """OMP threads for each worker: those asked for, or an equal share of the cores."""
    return wanted or max(1, (os.cpu_count() or 1) // workers)


def check_resources(workers: int, gpus: bool, say: Callable[[str], None]) -> None:
    """Warns when workers outnumber cores.

    Raises:
        InputError: GPUs are asked for and there are fewer than workers.
    """
    cores = os.cpu_count() or 1
    if gpus:
        there = len(list(Path("/dev").glob("nvidia[0-9]*")))
        if there < workers:
            raise InputError(
                f"train.workers={workers} with train.gpus=true needs {workers} GPUs, this machine has {there}: "
                "lower train.workers or set train.gpus=false"
            )
    elif workers > cores:
        say(f"warning: {workers} workers share {cores} cores; more than {cores} only slow each other down")


def run(job: Job, workers: int, threads: int, say: Callable[[str], None], tick: Callable[[], None]) -> None:
    """Runs a job to its end; `tick` is called about twice a second meanwhile.

    A SIGTERM or SIGINT to this process is passed on to the workers, which finish their step and save; a second one
    kills them.

    Raises:
        DupletError or a subclass, with the workers' own sentence.
    """
    work = Path(job.work)
    work.mkdir(parents=True, exist_ok=True)
    for name in (PROGRESS, OUTCOME, *(path.name for path in work.glob("rank-*.pid"))):
        (work / name).unlink(missing_ok=True)
    (work / "job.json").write_text(json.dumps(job.__dict__), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.worker", str(work)]
    if workers > 1:
        launcher = str(Path(sys.executable).with_name("horovodrun"))
        command = [launcher, "--gloo", "-np", str(workers), "-H", f"localhost:{workers}", *command]
    with (work / LAUNCHER_LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C reaches the workers through us, once
            preexec_fn=_end_with_parent,
        )
        offset = 0
        with _Forwarding(process, work, say):
            while process.poll() is None:
                offset = _follow(work / PROGRESS, offset, say)
                tick()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
        _follow(work / PROGRESS, offset, say)
        tick()
    if process.returncode == 0:
        return
    try:
        outcome = json.loads((work / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DupletError(
            f"a worker of {job.verb} ended without a word (exit {process.returncode}; killed, or out of memory?): "
            f"see {work / LAUNCHER_LOG}; the same command goes on from the newest checkpoint"
        ) from None
    raise ERRORS.get(outcome["exit_code"], DupletError)(outcome["message"])


def _end_with_parent() -> None:
    """In the child: ask Linux for a SIGTERM when the parent is killed, so that no training goes on unwatched."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG


def _follow(path: Path, offset: int, say: Callable[[str], None]) -> int:
    """Says the whole lines added to a file since an offset; returns the new one."""
    if not path.exists():
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        new = file.read()
    end = new.rfind(b"\n") + 1
    for line in new[:end].decode("utf-8", "replace").splitlines():
        say(line)
    return offset + end


class _Forwarding:
    """Passes signals on to the ranks themselves: Horovod's launcher would kill them within seconds."""

    def __init__(self, process: subprocess.Popen[bytes], work: Path, say: Callable[[str], None]) -> None:
        self.process, self.work, self.say = process, work, say
        self.asked_at: float | None = None
        self.old: dict[int, Any] = {}

    def __enter__(self) -> None:
        with contextlib.suppress(ValueError):  # not in the main thread: nothing is ours to catch
            for number in (signal.SIGTERM, signal.SIGINT):
                self.old[number] = signal.signal(number, self._pass_on)

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        if kind is not None:
            self._kill()

    def _pass_on(self, number: int, _: object) -> None:
        if self.asked_at is not None:
            self._kill()
            return
        self.asked_at = time.monotonic()
        self.say(f"stopping after this step (within {GRACE_S:.0f} s); again to stop at once")
        paths = list(self.work.glob("rank-*.pid"))
        for path in paths:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)
        if not paths:  # not started yet: nothing to save
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        for path in self.work.glob("rank-*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)

"""Starts the workers of a stage on this machine through Horovod's launcher, follows what they say, and ends them."""

import contextlib
import ctypes
import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import files, heartbeat, jobfolder
from pipeline.errors import DupletError, GateError, InputError, TryAgain, full_disk
from pipeline.heartbeat import Watch

ERRORS = {error.exit_code: error for error in (DupletError, InputError, GateError, TryAgain)}
PROGRESS, OUTCOME, LAUNCHER_LOG = "progress.log", "outcome.json", "workers.log"
SAMPLES = "samples"  # a folder in the work folder: what the model made up at each validation
GRACE_S = 60.0  # to finish a step and save a checkpoint, after a first signal
LAUNCHER_GRACE_S = 15.0  # Horovod's launcher needs up to 10 to end a worker that does not listen
POLL_S = 0.5
LOST_OTHERS = 76  # a worker's exit code when an exchange failed because another one was gone
GO_ON = "the same command goes on from the newest checkpoint"


@dataclass(frozen=True)
class Job:
    """One stage's work for the workers; they read it as JSON from their work folder."""

    verb: str  # "train", "evaluate" or "replay"
    config: dict[str, Any]
    work: str  # checkpoints, points, logs; outlives a kill
    output: str  # the stage folder being written
    ingested: str
    tokenized: str
    trained: str | None = None  # evaluate: the folder with the parameters; replay: with the kept update
    token: str = ""  # of one start of the workers


def threads_per_worker(workers: int, wanted: int | None) -> int:
    """OMP threads for each worker: those asked for, or an equal share of the cores."""
    return wanted or max(1, (os.cpu_count() or 1) // workers)


def check_resources(workers: int, gpus: bool, say: Callable[[str], None]) -> None:
    """Warns when workers outnumber cores.

    Raises:
        InputError: GPUs are asked for and there are fewer than workers.
    """
    if os.environ.get("DUPLET_LAUNCHER"):
        return  # the workers' hosts are others, and whoever gave them knows what they have
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


def run(
    job: Job, workers: int, threads: int, min_stall_s: float, say: Callable[[str], None], tick: Callable[[], None]
) -> None:
    """Runs a job to its end; `tick` is called about twice a second meanwhile.

    A SIGTERM or SIGINT to this process is passed on to the workers, which finish their step and save; a second one
    kills them. Workers that stall (see `pipeline.heartbeat`) are killed.

    Raises:
        DupletError or a subclass, with the workers' own sentence.
    """
    work, job = Path(job.work), replace(job, token=secrets.token_hex(8))
    files.owners_folder(work)
    for pattern in (PROGRESS, OUTCOME, heartbeat.STOP, "rank-*.pid", "beat-*.json"):
        for path in work.glob(pattern):
            path.unlink(missing_ok=True)
    (work / "job.json").write_text(json.dumps(job.__dict__), encoding="utf-8")
    jobfolder.keep_workers(job.verb, work, workers)
    watch, stalled, offset = Watch(min_stall_s), None, 0
    with (work / LAUNCHER_LOG).open("ab") as log:
        log_began = log.tell()
        process = subprocess.Popen(
            _command(work, workers),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **paths(), "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C reaches the workers through us, once
            preexec_fn=end_with_parent,
        )
        with _Ending(process, job, say) as ending:
            while process.poll() is None:
                offset = _follow(work / PROGRESS, offset, say)
                tick()
                ending.act(time.monotonic())
                stalled = stalled or watch.stalled(list(heartbeat.beats(work, job.token)), time.monotonic())
                if stalled:
                    ending.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        _follow(work / PROGRESS, offset, say)
        tick()
    if process.returncode == 0 and ending.killed_at is None:  # Horovod's launcher may call workers killed by us done
        return
    ending.kill()  # a rank that outlived its launcher
    if stalled:
        raise DupletError(f"{stalled}; {job.verb}'s workers were ended, {GO_ON}")
    try:
        outcome = json.loads((work / OUTCOME).read_text(encoding="utf-8"))
        if outcome["token"] != job.token:
            raise ValueError("of workers before these, which outlived their launcher for a moment")
    except (OSError, ValueError):
        if any(beat.phase == heartbeat.FULL for beat in heartbeat.beats(work, job.token)):
            raise TryAgain(full_disk(work)) from None
        if ending.asked:
            raise TryAgain(f"stopped in the middle of {job.verb}: {GO_ON}") from None
        raise DupletError(f"{_who_died(job, process.returncode, log_began)}; {GO_ON}") from None
    raise ERRORS.get(outcome["exit_code"], DupletError)(outcome["message"])


def _command(work: Path, workers: int) -> list[str]:
    """What starts the workers: what DUPLET_LAUNCHER says (`srun --ntasks={workers}`), or Horovod's launcher."""
    command = [sys.executable, "-m", "pipeline.worker", str(work)]
    if given := os.environ.get("DUPLET_LAUNCHER"):
        return [*(word.replace("{workers}", str(workers)) for word in shlex.split(given)), *command]
    if workers == 1:
        return command
    launcher = [sys.executable, "-m", "pipeline.one_host"]
    return [*launcher, "--gloo", "-np", str(workers), "-H", f"localhost:{workers}", *command]


def _who_died(job: Job, code: int, log_began: int) -> str:
    """Which worker ended first without a word, and of what, from the launcher's exit code or what it wrote."""
    log = Path(job.work) / LAUNCHER_LOG
    with log.open("rb") as file:
        file.seek(log_began)
        said = re.search(rb"Process name: (\d+)\s+Exit code: (\d+)", file.read())
    who = f"rank {int(said[1])}" if said else "a worker"
    code = int(said[2]) if said else code
    if code == LOST_OTHERS:
        return f"{who} of {job.verb} lost the others: one was killed, or the network between them cut: see {log}"
    number = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        how = f"was killed by {signal.Signals(number).name}"
    except ValueError:
        how = f"ended without a word (exit {code})"
    killed = number in (signal.SIGKILL, signal.SIGABRT)  # by the kernel; by a C++ library that could not allocate
    lack = "; out of memory? Then lower train.max_tokens_per_update" if killed else ""
    return f"{who} of {job.verb} {how}{lack}: see {log}"


def paths() -> dict[str, str]:
    """Where the workers find this very code."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def end_with_parent() -> None:
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


class _Ending:
    """Takes signals and ends the workers: first by asking each to save, then by killing them.

    The ranks themselves are asked, by a file that they look for: Horovod's launcher would kill them within seconds.
    """

    def __init__(self, process: subprocess.Popen[bytes], job: Job, say: Callable[[str], None]) -> None:
        self.process, self.work, self.token, self.say = process, Path(job.work), job.token, say
        self.signals = 0
        self.asked_at: float | None = None
        self.killed_at: float | None = None
        self.old: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        return self.signals > 0

    def __enter__(self) -> "_Ending":
        with contextlib.suppress(ValueError):  # not in the main thread: nothing is ours to catch
            for number in (signal.SIGTERM, signal.SIGINT):
                self.old[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        if kind is not None:
            self.kill()

    def _count(self, number: int, _: object) -> None:
        self.signals += 1

    def act(self, now: float) -> None:
        """Does what the signals so far ask for."""
        if self.signals and self.asked_at is None:
            self.asked_at = now
            self.say(f"stopping after this step (within {GRACE_S:.0f} s); again to stop at once")
            if any(heartbeat.beats(self.work, self.token)):
                try:
                    files.write_text(self.work / heartbeat.STOP, self.token)
                except OSError:  # a full disk: a checkpoint would not fit either
                    self.kill()
            else:  # not started yet: nothing to save
                self.kill()
        if self.asked_at is not None and (self.signals > 1 or now - self.asked_at > GRACE_S):
            self.kill()
        if self.killed_at is not None and now - self.killed_at > LAUNCHER_GRACE_S:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Ends the workers of this host at once, stopped ones too; those of other hosts through their launcher."""
        if self.killed_at is None:
            self.killed_at = time.monotonic()
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGTERM)
        for beat in heartbeat.beats(self.work, self.token):
            if beat.host == socket.gethostname() and is_worker(beat.pid, self.work):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(beat.pid, signal.SIGKILL)


def is_worker(pid: int, work: Path) -> bool:
    """Whether a process id still means a worker of this folder, and no later process."""
    try:
        return str(work).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False

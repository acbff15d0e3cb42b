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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, GateError, InputError, TryAgain, full_disk
from pipeline.core.progress import Say
from pipeline.distributed import heartbeat, job_folder
from pipeline.distributed.heartbeat import Watch

ERRORS = {error.exit_code: error for error in (DupletError, InputError, GateError, TryAgain)}
PROGRESS, OUTCOME, LAUNCHER_LOG = "progress.log", "outcome.json", "workers.log"
SAMPLES = "samples"  # a folder in the work folder: what the model made up at each validation
GRACE_S = 60.0  # to finish a step and save a checkpoint, after a first signal
LAUNCHER_GRACE_S = 15.0  # Horovod's launcher needs up to 10 to end a worker that does not listen
POLL_S = 0.5
LOST_OTHERS = 76  # a worker's exit code when an exchange failed because another one was gone
GO_ON = "the same command goes on from the newest checkpoint"
PYTHON = (sys.executable, "-P")  # of every child: without -P a json.py of the working directory would be imported


@dataclass(frozen=True)
class Job:
    """One stage's work for the workers; they read it as JSON from their work folder."""

    verb: str  # a stage that workers do, or "replay"
    config: dict[str, Any]
    work: str  # checkpoints, points, logs; outlives a kill
    output: str  # the stage folder being written
    ingested: str
    tokenized: str
    trained: str | None = None  # evaluate: the folder with the parameters; replay: with the kept update
    token: str = ""  # of one start of the workers
    others: dict[str, str] = field(default_factory=dict)  # folders of further stages that are read, by name


def threads_per_worker(workers: int, wanted: int | None) -> int:
    """OMP threads for each worker: those asked for, or an equal share of the cores."""
    return wanted or max(1, (os.cpu_count() or 1) // workers)


def check_resources(workers: int, gpus: bool, say: Say) -> None:
    """Warns when workers outnumber cores.

    Raises:
        InputError: GPUs are asked for and there are fewer than workers.
    """
    if os.environ.get("DUPLET_LAUNCHER"):
        return  # the workers' hosts are others, and whoever gave them knows what they have
    cores = os.cpu_count() or 1
    if gpus:
        usable = usable_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), installed_gpus())
        if usable < workers:
            raise InputError(
                f"train.workers={workers} with train.gpus=true needs {workers} GPUs, this process may use {usable}: "
                "lower train.workers, set train.gpus=false or change CUDA_VISIBLE_DEVICES"
            )
    elif workers > cores:
        say(f"warning: {workers} workers share {cores} cores; more than {cores} only slow each other down")


def installed_gpus() -> int:
    """How many GPUs this machine has."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def usable_gpus(visible: str | None, installed: int) -> int:
    """How many of the installed GPUs CUDA shows a process: those listed in CUDA_VISIBLE_DEVICES before a wrong name."""
    if visible is None:
        return installed
    count = 0
    for name in map(str.strip, visible.split(",")):
        if not (name.startswith(("GPU-", "MIG-")) or (name.isdigit() and int(name) < installed)):
            break
        count += 1
    return count


def run(job: Job, workers: int, threads: int, min_stall_s: float, say: Say, tick: Callable[[], None]) -> None:
    """Runs a job to its end; `tick` is called about twice a second meanwhile.

    A SIGTERM or SIGINT to this process is passed on to the workers, which finish their step and save; a second one
    kills them. Workers that stall (see `pipeline.distributed.heartbeat`) are killed.

    Raises:
        DupletError or a subclass, with the workers' own sentence.
    """
    work, job = Path(job.work), replace(job, token=secrets.token_hex(8))
    atomic_files.owners_folder(work)
    for pattern in (PROGRESS, OUTCOME, heartbeat.STOP, "rank-*.pid", "beat-*.json"):
        for path in work.glob(pattern):
            path.unlink(missing_ok=True)
    (work / "job.json").write_text(json.dumps(job.__dict__), encoding="utf-8")
    job_folder.keep_workers(job.verb, work, workers)
    watch, stalled, ended, outcome, offset = Watch(min_stall_s), None, False, None, 0
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
                beats = list(heartbeat.beats(work, job.token))
                if not stalled and (stalled := watch.stalled(beats, time.monotonic())):
                    outcome = _outcome(job)  # why they are silent; later ones are of workers that we end
                ended = ended or watch.ended(beats, workers, time.monotonic())
                if stalled or ended:
                    ending.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        _follow(work / PROGRESS, offset, say)
        tick()
    # Horovod's launcher may call workers done that were killed by us; it may itself be stopped when all have ended
    if (process.returncode == 0 and ending.killed_at is None) or ended:
        return
    ending.kill()  # a rank that outlived its launcher
    if stalled and outcome is None:
        raise DupletError(f"{stalled}; {job.verb}'s workers were ended, {GO_ON}")
    if outcome := outcome or _outcome(job):
        raise ERRORS.get(outcome["exit_code"], DupletError)(outcome["message"])
    who, code = _first_ended(job, process.returncode, log_began)
    full = code == TryAgain.exit_code or any(b.phase == heartbeat.FULL for b in heartbeat.beats(work, job.token))
    if full:  # a worker that wants to be started again says why, where there is room to say it
        raise TryAgain(full_disk(work))
    if ending.asked:
        raise TryAgain(f"stopped in the middle of {job.verb}: {GO_ON}")
    raise DupletError(f"{_how_it_ended(job, who, code)}; {GO_ON}")


def _outcome(job: Job) -> dict[str, Any] | None:
    """What the workers of this start said that they ended with; None where they said nothing."""
    try:
        outcome: dict[str, Any] = json.loads((Path(job.work) / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome if outcome.get("token") == job.token else None  # else of workers that outlived their launcher


def _command(work: Path, workers: int) -> list[str]:
    """What starts the workers: what DUPLET_LAUNCHER says (`srun --ntasks={workers}`), or Horovod's launcher."""
    command = [*PYTHON, "-m", "pipeline.training.worker", str(work)]
    if template := os.environ.get("DUPLET_LAUNCHER"):
        return [*(word.replace("{workers}", str(workers)) for word in shlex.split(template)), *command]
    if workers == 1:
        return command
    launcher = [*PYTHON, "-m", "pipeline.distributed.loopback_horovodrun"]
    return [*launcher, "--gloo", "-np", str(workers), "-H", f"localhost:{workers}", *command]


def _first_ended(job: Job, code: int, log_began: int) -> tuple[str, int]:
    """Which worker ended first, and its exit code: what the launcher wrote, else the launcher's own code."""
    with (Path(job.work) / LAUNCHER_LOG).open("rb") as file:
        file.seek(log_began)
        match = re.search(rb"Process name: (\d+)\s+Exit code: (\d+)", file.read())
    return (f"rank {int(match[1])}", int(match[2])) if match else ("a worker", code)


def _how_it_ended(job: Job, who: str, code: int) -> str:
    """Of what a worker ended that left no message, and which setting may help."""
    log = Path(job.work) / LAUNCHER_LOG
    if code == LOST_OTHERS:
        return f"{who} of {job.verb} lost the others: one was killed, or the network between them cut: see {log}"
    number = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        how = f"was killed by {signal.Signals(number).name}"
    except ValueError:
        how = f"exited with code {code} and no error message"
    killed = number in (signal.SIGKILL, signal.SIGABRT)  # by the kernel; by a C++ library that could not allocate
    lack = "; out of memory? Then lower train.max_tokens_per_update" if killed else ""
    return f"{who} of {job.verb} {how}{lack}: see {log}"


def paths() -> dict[str, str]:
    """Where the workers find this very code, and that they and their own children look for none where they are run."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}


def end_with_parent() -> None:
    """In the child: ask Linux for a SIGTERM when the parent is killed, so that no training goes on unwatched."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG


@contextlib.contextmanager
def outliving_parent() -> Iterator[None]:
    """Around work that is not to be stopped halfway: a parent's end does nothing meanwhile, and ends us after it."""
    library, wanted, parent = ctypes.CDLL(None), ctypes.c_int(), os.getppid()
    library.prctl(2, ctypes.byref(wanted))  # PR_GET_PDEATHSIG
    library.prctl(1, 0)
    try:
        yield
    finally:
        library.prctl(1, wanted.value)
        if wanted.value and os.getppid() != parent:
            sys.exit(1)


def _follow(path: Path, offset: int, say: Say) -> int:
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

    def __init__(self, process: subprocess.Popen[bytes], job: Job, say: Say) -> None:
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
                    atomic_files.write_text(self.work / heartbeat.STOP, self.token)
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
                    os.killpg(self.process.pid, signal.SIGCONT)  # a stopped launcher would take no notice
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

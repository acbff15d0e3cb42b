"""Supervises a job where it runs: `python -m jobs.supervise FOLDER [--workers N]`.

Starts `duplet run`, which notices dead and stalled workers and ends with a sentence; starts it again from the newest
whole checkpoint, after growing pauses, on as many workers as there is room for; and writes down how it stands. A
SIGTERM saves and stops (exit 75). When the supervisor is killed, Linux sends a SIGTERM to the run; started again, the
supervisor goes on.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jobs import bad_nodes, evictions, health, states
from jobs import folder as folders
from jobs.states import Failure
from pipeline.config import load_config
from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, GateError, InputError, TryAgain
from pipeline.core.number_options import count
from pipeline.core.redaction import hide
from pipeline.distributed import job_folder, launcher

LOCK = "supervisor.lock"
POLL_S = 0.2
WAITING, FOLLOW_S = "queued", 0.5  # the state of a job that follows others, and how often it looks
TRAINING = ("train", "run")  # the verbs that start ranks
KILL_AFTER_S = launcher.GRACE_S + 2 * launcher.LAUNCHER_GRACE_S  # the run ends its workers itself before that


class Supervisor:
    """One job's supervision; `run` returns the exit code."""

    def __init__(self, folder: Path, workers: int | None = None, verb: str | None = None) -> None:
        """`verb`: of `duplet`, instead of that of the job's stages."""
        self.record = folders.load(folder)
        self.verb = verb or self.record.spec.verb
        self.folder, self.spec, self.fixed = folder, self.record.spec, workers
        before = self.record.state()
        self.restarts: list[dict[str, Any]] = before.get("restarts", [])
        self.before = before
        self.attempts = int(before.get("attempts", 0))
        self.failures: list[Failure] = []
        self.signals, self.walltime_reached = 0, False
        self.evicted: list[int] = []  # the newest checkpoint at each loss of a pod
        self.left_out: dict[str, str] = {}  # nodes found bad just now, each with the reason
        self.began = time.monotonic()

    def run(self) -> int:
        """Starts the run until it is done, hopeless, or not wanted any more."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._count)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is no reason to stop
        workers = self._workers()
        if self._waits(workers):
            return self._end_stopped(states.failure(self.folder, TryAgain.exit_code, ""), workers)
        if self.before and self.before.get("state") not in ("finished", WAITING):  # one done anew was not interrupted
            self._note_interruption(workers)
        self._write("running", "", workers=workers, strict=True)
        while True:
            if self._has_bad_nodes():
                return self._end_stopped(states.failure(self.folder, TryAgain.exit_code, ""), workers)
            pods = evictions.seen(self.spec, self._log)
            code, sentence = self._attempt(workers)
            if code == 0:
                return self._end("finished", "", 0, workers)
            failure = states.failure(self.folder, code, sentence)
            if code == TryAgain.exit_code and "SLURM_JOB_ID" in os.environ:
                self.signals += 1  # the ranks were told to save and stop, and the script was not: a preemption
            if self.signals or self.walltime_reached:
                return self._end_stopped(failure, workers)
            if self._lost_pods(pods, failure, workers):
                continue  # where a signal came meanwhile, the run is told of it at once
            self.failures.append(failure)
            if reason := states.give_up(self.failures, self.spec.retries):
                return self._end("failed", reason, code if code > 0 else 1, workers)
            workers = self._workers()
            pause = states.pause_s(len(self.failures), self.spec.pause_s)
            self._note_restart(failure, failure.sentence(workers), workers)
            self._write("running", f"starts again in {pause:.0f} s after: {failure.reason}", workers=workers)
            if self._paused(pause):
                return self._end_stopped(failure, workers)

    def _has_bad_nodes(self) -> bool:
        """Whether a node of SLURM's is to be left out before the ranks start; the job is then stopped and requeued."""
        if self.verb in TRAINING:
            self.left_out = health.look(self.folder, self.spec, self._log)
        self.signals += bool(self.left_out)
        return bool(self.left_out)

    def _lost_pods(self, pods: evictions.Pods | None, failure: Failure, workers: int) -> bool:
        """Whether a start failed because a worker's pod was gone; waits then until all are there again.

        It is no failure of the job's, unless it happens `retries` times without one checkpoint more.
        """
        wrong = (InputError.exit_code, GateError.exit_code)  # not for want of a pod
        if pods is None or failure.exit_code in wrong or not pods.are_lost():
            return False
        self.evicted.append(failure.checkpoint)
        if self.evicted.count(failure.checkpoint) > self.spec.retries:
            return False
        sentence = f"a worker's pod is gone, starting again when it is back: {failure.reason}"
        self._note_restart(failure, sentence, workers)
        self._write("running", "waits for a worker's pod to be made anew", workers=workers)
        pods.wait(self._log, lambda: self.signals > 0)
        return True

    def _waits(self, workers: int) -> bool:
        """Waits for the end of the jobs that this one follows here; whether a signal came meanwhile."""
        if not self.spec.follows or self.spec.target != "local":
            return False
        others = [self.folder.parent / name for name in self.spec.follows]
        self._write(WAITING, f"after {others[-1].name}", workers=workers, strict=True)
        while any(map(supervised, others)) and not self.signals:
            time.sleep(FOLLOW_S)
        self.began = time.monotonic()
        return bool(self.signals)

    def _workers(self) -> int:
        gpus = launcher.usable_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), launcher.installed_gpus())
        return self.fixed or states.fitting_workers(self.spec, len(os.sched_getaffinity(0)), gpus)

    def _count(self, number: int, _: object) -> None:
        self.signals += 1

    def _attempt(self, workers: int) -> tuple[int, str]:
        """Runs `duplet run` once; its exit code and last sentence."""
        self.attempts += 1
        (self.folder / job_folder.WORKERS).unlink(missing_ok=True)
        command = [self.spec.python, "-P", "-m", "pipeline.cli", self.verb, str(self.folder / folders.CONFIG)]
        process = subprocess.Popen(
            [*command, *self.spec.settings(workers), "--json"],
            cwd=self.spec.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **launcher.paths(), job_folder.VARIABLE: str(self.folder)},
            start_new_session=True,
            preexec_fn=launcher.end_with_parent,
        )
        self._write("running", "", workers=workers)
        self._log(f"start {self.attempts} on {workers} workers")
        last = _Pump(process.stdout, self.folder), _Pump(process.stderr, self.folder)
        self._watch(process)
        for pump in last:
            pump.thread.join(5.0)  # a worker that outlives the run may hold the pipe open
        sentence = (
            states.outcome(last[0].line).get("error")
            or f"the run exited with code {process.returncode} and no error message"
        )
        return process.returncode, str(sentence)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        told, asked_at = 0, 0.0
        while process.poll() is None:
            if self.spec.walltime_min and time.monotonic() - self.began > 60 * self.spec.walltime_min:
                self.walltime_reached = True
            wanted = max(self.signals, int(self.walltime_reached))
            if told < min(wanted, 2):
                asked_at = asked_at or time.monotonic()
                process.terminate()
                told += 1
            if told and time.monotonic() - asked_at > KILL_AFTER_S:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)

    def _paused(self, seconds: float) -> bool:
        """Waits; whether a signal came meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.signals:
            time.sleep(min(POLL_S, seconds))
        return bool(self.signals)

    def _note_interruption(self, workers: int) -> None:
        """A start after the first: what became of the one before is a restart like any other."""
        state, reason = self.before.get("state"), self.before.get("reason")
        why = f"{state}: {reason}" if state != "running" else "the supervisor was killed, or the machine went down"
        failure = states.failure(self.folder, 1, why)
        self._note_restart(failure, failure.sentence(workers), workers)

    def _note_restart(self, failure: Failure, sentence: str, workers: int) -> None:
        self.restarts.append({
            "sentence": sentence, "reason": failure.reason, "stage": failure.stage, "update": failure.reached,
            "updates_lost": failure.lost, "workers": workers, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        })  # fmt: skip
        self._log(f"restart {len(self.restarts)}: {sentence}")
        with contextlib.suppress(OSError):
            atomic_files.write_text(self.folder / folders.TAGS, json.dumps(self._tags()))

    def _tags(self) -> dict[str, str]:
        known = job_folder.read(self.folder, folders.TAGS)
        numbered = {f"duplet.job.restart.{i}": r["sentence"][:1000] for i, r in enumerate(self.restarts, 1)}
        lost = sum(r["updates_lost"] for r in self.restarts)
        if left_out := bad_nodes.known(self.folder).words:
            known["duplet.job.left_out"] = left_out[:1000]
        return {
            **known, "duplet.job.restarts": str(len(self.restarts)), "duplet.job.updates_lost": str(lost), **numbered
        }  # fmt: skip

    def _end_stopped(self, failure: Failure, workers: int) -> int:
        at = f" at update {failure.reached}" if failure.reached is not None else ""
        lost = f", {failure.lost} updates lost" if failure.lost else ""
        if (self.folder / folders.CANCEL).exists():
            return self._end("cancelled", f"stopped{at}{lost}", TryAgain.exit_code, workers)
        why = f"wall time of {self.spec.walltime_min} min reached" if self.walltime_reached else "stopped by a signal"
        if self.left_out:
            why = f"stopped to leave out {', '.join(self.left_out)}"
        reason = f"{why}{at}{lost}; {folders.resumed(self.spec)}"
        return self._end("failed", reason, TryAgain.exit_code, workers)

    def _end(self, state: str, reason: str, code: int, workers: int) -> int:
        self._log(f"{state}: {reason}" if reason else state)
        exit_tags = {"duplet.job.exit": f"{state}: {reason}" if reason else state, "duplet.job.exit_code": str(code)}
        try:
            config = load_config(self.folder / folders.CONFIG, self.spec.settings(workers))
            from pipeline.tracking import address, tag_ended

            ended = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}[state]
            if runs := job_folder.runs(self.folder):
                tag_ended(
                    address(config.tracking.uri, Path(self.spec.root)), runs, {**self._tags(), **exit_tags}, ended,
                    experiment=config.tracking.experiment, name=config.name, say=self._log,
                    **config.tracking.sending,
                )  # fmt: skip
        except Exception as error:  # tracking stops nothing
            self._log(f"warning: MLflow did not take the end of the run ({type(error).__name__}: {error})")
        self._write(state, reason, workers=workers, code=code)
        return code

    def _write(self, state: str, reason: str, workers: int, code: int | None = None, strict: bool = False) -> None:
        values = {
            "state": state, "reason": reason, "exit_code": code, "pid": os.getpid(), "host": socket.gethostname(),
            "workers": workers, "attempts": self.attempts, "restarts": self.restarts,
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }  # fmt: skip
        try:
            folders.write_state(self.folder, values)
        except OSError as error:
            if strict:
                raise folders.refusal(self.folder, error) from None
            self._log(f"warning: state not written ({error.strerror})")  # the training is worth more than its state

    def _log(self, line: str) -> None:
        _append(self.folder, f"[job {time.strftime('%H:%M:%S')}] {hide(line)}\n".encode())


class _Pump:
    """Copies what a run says into the job's log, and holds its last line; a full disk stops neither."""

    def __init__(self, pipe: IO[bytes] | None, folder: Path) -> None:
        assert pipe is not None
        self.pipe, self.folder, self.line = pipe, folder, ""
        self.thread = threading.Thread(target=self._copy, daemon=True)
        self.thread.start()

    def _copy(self) -> None:
        for line in self.pipe:
            self.line = line.decode("utf-8", "replace")
            if not states.outcome(self.line):  # what the run has to say to its supervisor is no news for a reader
                _append(self.folder, line)


def _append(folder: Path, line: bytes) -> None:
    with contextlib.suppress(OSError), (folder / folders.LOG).open("ab") as log:
        log.write(line)


@contextlib.contextmanager
def holding(folder: Path, patience_s: float = 10.0) -> Iterator[None]:
    """Holds the lock that tells others that a job is supervised. Raises TryAgain where somebody else holds it."""
    try:
        file = atomic_files.owned(folder / LOCK, patience_s)
    except BlockingIOError:
        raise TryAgain(f"job {folder.name} is supervised already") from None
    with file:
        yield


def supervised(folder: Path) -> bool:
    """Whether a supervisor is at work on a job's folder."""
    return atomic_files.is_locked(folder / LOCK)


def main(arguments: list[str] | None = None) -> int:
    """Supervises the job of a folder; returns the exit code of `duplet run`, 75 where it can go on later."""
    parser = argparse.ArgumentParser(prog="python -m jobs.supervise", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=count, help="default: as many of the job's range as there is room for here")
    args = parser.parse_args(arguments)
    try:
        folder = args.folder.resolve()
        with holding(folder):
            return Supervisor(folder, args.workers).run()
    except DupletError as error:
        print(f"supervisor: {hide(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"supervisor: {args.folder}: {error.strerror}", file=sys.stderr)
        return TryAgain.exit_code


if __name__ == "__main__":
    sys.exit(main())

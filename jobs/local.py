"""The local target: a supervisor on this machine, in a session of its own, so that it outlives the terminal."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from jobs import client, supervise
from jobs import folder as folders
from jobs.folder import Record
from jobs.spec import JobSpec
from jobs.targets import ENDED, JobState
from jobs.texts import one_line, shell
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.distributed import launcher

SCRIPT = "job.sh"
START_S = 60.0  # for a supervisor to say that it is there
POLL_S = 0.2


class Local:
    """Jobs on this machine. See `jobs.targets.Target`."""

    ask_s = 0.5

    def look(self) -> None:
        """Does nothing: each job is asked for by itself."""

    def render(self, spec: JobSpec) -> dict[str, str]:
        """The script that supervises the job, and the configuration as it was submitted."""
        workers = f"{spec.min_workers}" + (f" to {spec.max_workers}" if spec.max_workers > spec.min_workers else "")
        run = shell("duplet", spec.verb, str(spec.folder / folders.CONFIG), *spec.settings(spec.max_workers))
        script = f"""#!/bin/sh
# Duplet job {spec.id}: {one_line(spec.name)} on this machine, {workers} workers, {spec.retries} restarts at most.
# `duplet submit` starts this in a session of its own, so that it outlives the terminal.
cd {shell(spec.cwd)} || exit 2
exec {shell(spec.python, "-P", "-m", "jobs.supervise", str(spec.folder))}
# which runs, and after a failure runs again:
#   {one_line(run)}
"""
        return {SCRIPT: script, folders.CONFIG: spec.config_text}

    def check(self, spec: JobSpec) -> None:
        """Raises InputError where this machine has less than what is asked for."""
        cores, gb = os.cpu_count() or 1, psutil.virtual_memory().total / 2**30
        if spec.hosts(spec.max_workers) > 1:
            raise InputError(
                f"workers_per_host={spec.workers_per_host} makes {spec.max_workers} workers take "
                f"{spec.hosts(spec.max_workers)} hosts: target local has one, slurm and kubernetes have more"
            )
        if spec.cpus_per_worker and spec.cpus_per_worker > cores:
            raise InputError(f"cpus_per_worker={spec.cpus_per_worker}, this machine has {cores}: lower it")
        if spec.mem_gb and spec.mem_gb > gb:
            raise InputError(f"mem_gb={spec.mem_gb:g}, this machine has {gb:.1f}: lower it")
        if spec.gpus_per_worker:
            launcher.check_resources(spec.min_workers, True, lambda line: None)

    def submit(self, spec: JobSpec, folder: Path) -> str:
        """Starts the supervisor and waits until it says so; returns host and process id."""
        return self._start(folder)

    def state(self, record: Record) -> JobState:
        """What the supervisor noted, if it is there to be believed."""
        supervised = supervise.supervised(record.folder)
        noted = record.state()  # after the look at the lock: the last thing a supervisor does is to write its end
        if noted.get("state") in ENDED:
            return JobState(noted["state"], noted.get("reason", ""), noted.get("exit_code"))
        if supervised:
            waits = noted.get("state", supervise.WAITING) == supervise.WAITING
            return JobState("queued" if waits else "running", noted.get("reason", ""))
        return JobState(
            "lost", f"its supervisor is gone (killed, or the machine went down): {folders.resumed(record.spec)}", 75
        )

    def logs(self, record: Record, follow: bool) -> Iterator[str]:
        """Lines of the log file."""
        ended = lambda: self.state(record).name in ENDED
        return client.lines_of(record.folder / folders.LOG, follow, ended, ask_s=POLL_S, look_s=POLL_S)

    def cancel(self, record: Record) -> None:
        """Sends the supervisor a SIGTERM."""
        noted = record.state()
        if noted.get("host") != socket.gethostname():
            raise InputError(f"job {record.spec.id} runs on {noted.get('host')}: cancel it there")
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(noted["pid"]), signal.SIGTERM)

    def resume(self, record: Record) -> str:
        """Starts the supervisor again."""
        return self._start(record.folder)

    def _start(self, folder: Path) -> str:
        noted = folders.load(folder).state()
        with (folder / folders.LOG).open("ab") as log:
            process = subprocess.Popen(
                [str(folder / SCRIPT)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **launcher.paths()},
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < end:
            if folders.load(folder).state().get("pid") == process.pid != noted.get("pid"):
                return f"{socket.gethostname()}:{process.pid}"
            time.sleep(POLL_S / 4)
        if folders.load(folder).state().get("pid") == process.pid:  # so short a job that it has ended
            return f"{socket.gethostname()}:{process.pid}"
        process.kill()
        lines = (folder / folders.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        problem = lines[-1].removeprefix("supervisor: ") if lines else f"exit {process.poll()}"
        error = TryAgain if process.poll() == TryAgain.exit_code else DupletError
        raise error(f"the supervisor did not start: {problem}")


def target() -> Local:
    """The local target."""
    return Local()

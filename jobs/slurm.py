"""The target slurm: a batch script whose ranks srun starts on all hosts of the allocation, without ssh between them.

The script's process, `jobs.on_cluster`, works on the first host. A while before the wall time, or before a preemption,
SLURM sends it SIGTERM: the training saves a checkpoint, and the job puts itself back into the queue.
"""

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from jobs import bad_nodes, client
from jobs.client import Client
from jobs.folder import LOG, Record, resumed
from jobs.spec import JobSpec
from jobs.targets import ENDED, JobState, StateName
from jobs.texts import in_double_quotes, one_line, shell
from pipeline.core.errors import InputError, TryAgain

SCRIPT = "job.sh"
CLIENT = Client(
    "SLURM",
    "the commands sbatch, squeue, scontrol and scancel: submit from a login node, or choose another --target",
    busy=("Unable to contact slurm controller", "Socket timed out", "temporarily", "Zero Bytes were transmitted",
          "MaxSubmitJob", "MaxJobCount", "Connection refused", "Resource temporarily unavailable"),
)  # fmt: skip
# SLURM's own words for a job's state; all others have ended badly
STATES: dict[str, StateName] = {
    "PENDING": "queued", "CONFIGURING": "queued", "REQUEUED": "queued", "REQUEUE_FED": "queued",
    "REQUEUE_HOLD": "queued", "SPECIAL_EXIT": "queued", "RESV_DEL_HOLD": "queued", "RUNNING": "running",
    "COMPLETING": "running", "SIGNALING": "running", "STAGE_OUT": "running", "STOPPED": "running",
    "SUSPENDED": "running", "RESIZING": "running", "COMPLETED": "finished", "CANCELLED": "cancelled",
}  # fmt: skip
STOPPED = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")  # from outside: another start goes on


def script(spec: JobSpec) -> str:
    """The batch script, whole.

    Raises:
        InputError: the wall time is over before the checkpoint's signal.
    """
    command = shell("duplet", "run", spec.config, *spec.overrides)
    return "\n".join([
        "#!/bin/bash",
        f"# {one_line(command)}",
        *(f"#SBATCH {option}" for option in options(spec)),
        "",
        *surroundings(spec),
        "# on the first host: the stages in order; at SIGTERM a checkpoint, and back into the queue",
        f"exec {shell(spec.python, '-P', '-m', 'jobs.on_cluster', str(spec.folder))}",
        "",
    ])  # fmt: skip


def options(spec: JobSpec) -> list[str]:
    """What sbatch is asked for. Raises InputError as `script`."""
    per_host = spec.workers_per_host or spec.max_workers
    kind = f"{spec.slurm.gpu_type}:" if spec.slurm.gpu_type else ""
    fewest, most = -(-spec.min_workers // per_host), -(-spec.max_workers // per_host)
    after = [
        f"{when}:{job}" for when, job in (("afterok", spec.slurm.after), ("afterany", ":".join(spec.follows))) if job
    ]
    values = {
        "job-name": f"duplet-{spec.id}",  # no other's, so that scancel --name meets this one alone
        "output": f"{spec.folder / LOG}".replace("%", "%%"),
        "open-mode": "append",  # a requeued job goes on in the same log
        "nodes": f"{fewest}" if fewest == most else f"{fewest}-{most}",
        "ntasks-per-node": per_host,
        "cpus-per-task": spec.cpus_per_worker or 1,
        "gres": f"gpu:{kind}{per_host * spec.gpus_per_worker}" if spec.gpus_per_worker else None,
        "mem": f"{math.ceil(spec.mem_gb * 1024)}M" if spec.mem_gb else None,
        "partition": spec.slurm.partition,
        "account": spec.slurm.account,
        "qos": spec.slurm.qos,
        "constraint": spec.slurm.constraint,
        "switches": spec.slurm.switches,
        "dependency": ",".join(after) or None,
        "kill-on-invalid-dep": "yes" if spec.slurm.after else None,  # else it would wait for ever
    }
    flags = [f"--{name}={quoted(str(value))}" for name, value in values.items() if value is not None]
    return [*flags, *(one_line(line) for line in spec.slurm.extra), *_end_of_time(spec)]


def _end_of_time(spec: JobSpec) -> list[str]:
    if spec.walltime_min is None:
        return ["--requeue"]
    if spec.walltime_min * 60 <= spec.slurm.save_before_s:
        raise InputError(
            f"job: walltime_min={spec.walltime_min} is over before the work could be saved "
            f"(slurm.save_before_s={spec.slurm.save_before_s}): give more time, or a smaller slurm.save_before_s"
        )
    return [f"--time={spec.walltime_min}", f"--signal=B:TERM@{spec.slurm.save_before_s}", "--requeue"]


def surroundings(spec: JobSpec) -> list[str]:
    """Lines of a script: what the site needs, the working folder, and how ranks are started."""
    per_host = spec.workers_per_host or spec.max_workers
    starter = [
        "srun", "--ntasks={workers}", f"--ntasks-per-node={per_host}", f"--cpus-per-task={spec.cpus_per_worker or 1}",
        "--distribution=block", "--kill-on-bad-exit=1",  # ranks that saved end after the first of them
    ]  # fmt: skip
    contained = spec.slurm.container.image is not None
    launcher = [
        shell(spec.python, "-P", "-m", "pipeline.distributed.rendezvous", "serve"),
        _words([*starter, *_container_options(spec)]),
        _words([*_inside(spec), "-P", "-m", "pipeline.distributed.rendezvous", "inside" if contained else "rank"]),
    ]
    joined = " \\\n".join(in_double_quotes(part) for part in launcher)
    return [
        *spec.slurm.setup,
        "set -eu",
        f"cd {shell(spec.cwd)}",
        "",
        "# how the training starts its ranks on all hosts: one srun task each, which meet at the first host",
        f'export DUPLET_LAUNCHER="{joined}"',
    ]


def checking(spec: JobSpec, hosts: int, gpus: int) -> list[str]:
    """The command that looks at each of so many nodes, as the ranks would find them: see `jobs.node_check`."""
    srun = ["srun", f"--nodes={hosts}", f"--ntasks={hosts}", "--ntasks-per-node=1", "--cpus-per-task=1"]
    arguments = [spec.root, str(gpus), *([spec.slurm.health.command] if spec.slurm.health.command else [])]
    return [
        *srun, "--kill-on-bad-exit=0", *_container_options(spec), *_inside(spec), "-P", "-m", "jobs.node_check",
        *arguments,
    ]  # fmt: skip


def _mounts(spec: JobSpec) -> list[str]:
    """What the container sees of the host, as FOLDER:INSIDE[:ro].

    Raises:
        InputError: a mount would hide the job's own folders, or their paths cannot be mounted.
    """
    container = spec.slurm.container
    own = list(dict.fromkeys((spec.root, spec.cwd)))
    for path in own:
        if re.search(r"[\s:,]", path):
            raise InputError(f"slurm.container: {path} cannot be mounted, since it holds a space, a colon or a comma")
    mounts = [mount if ":" in mount else f"{mount}:{mount}" for mount in container.mounts]
    for mount in mounts:
        outside, inside, *read_only = mount.split(":")
        if inside in own and (outside != inside or "ro" in read_only):
            raise InputError(
                f"slurm.container.mounts: {mount} would take the place of {inside}, which the ranks must see as it is, "
                "and write: leave it out, it is mounted by itself"
            )
    return list(dict.fromkeys([*(f"{path}:{path}" for path in own), *mounts]))


def _container_options(spec: JobSpec) -> list[str]:
    """Options of srun for a container of pyxis. Raises InputError as `_mounts`."""
    container = spec.slurm.container
    for line in spec.slurm.extra:
        if container.image is not None and line.startswith("--container-"):
            raise InputError(f"slurm.extra has {line}, and slurm.container is given too: leave one of them out")
    if container.kind != "pyxis":
        return []
    return [
        f"--container-image={container.image}", f"--container-mounts={','.join(_mounts(spec))}",
        f"--container-workdir={spec.cwd}",
    ]  # fmt: skip


def _inside(spec: JobSpec) -> list[str]:
    """The words before the interpreter's options: apptainer's, and the interpreter of the image or of the host.

    The image's interpreter must not look for modules where the host's does (PYTHONPATH).
    """
    container = spec.slurm.container
    if container.image is None:
        return [spec.python]
    own = ["env", "-u", "PYTHONPATH", container.python]
    if container.kind == "pyxis":
        return own
    nvidia = ["--nv"] if spec.gpus_per_worker else []
    binds = [word for mount in _mounts(spec) for word in ("--bind", mount)]
    return ["apptainer", "exec", *nvidia, *binds, "--pwd", spec.cwd, container.image, *own]


def _words(words: list[str]) -> str:
    """Words of a starter, in which {workers} is filled in later."""
    return " ".join(word if re.fullmatch(r"[\w@%+=:,./{}-]+", word, re.ASCII) else shlex.quote(word) for word in words)


def quoted(value: str) -> str:
    """As sbatch reads an option's value: quoted only where it must be."""
    value = one_line(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if set(value) & set(" \t\"'\\") else value


def handed_over(path: Path, *options: str) -> str:
    """SLURM's id for the job of a batch script."""
    output = CLIENT.run("sbatch", "--parsable", *options, str(path))
    return output.strip().splitlines()[-1].split(";")[0]


class Slurm:
    """See `jobs.targets.Target`. The job's folder must be on a file system that all hosts share."""

    ask_s = 30.0

    def __init__(self) -> None:
        self._queue: dict[str, dict[str, str]] | None = None  # what `look` found, by SLURM's number

    def look(self) -> None:
        """Asks once for all jobs of whoever calls; `state` then asks only for those that SLURM's queue has not."""
        output = CLIENT.run("squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%r|%N")
        rows = [line.split("|") for line in output.splitlines() if line.count("|") == 3]
        self._queue = {row[0]: dict(zip(("JobState", "Reason", "NodeList"), row[1:])) for row in rows}

    def render(self, spec: JobSpec) -> dict[str, str]:
        """The batch script."""
        return {SCRIPT: script(spec)}

    def check(self, spec: JobSpec) -> None:
        """Refuses where SLURM's commands are missing."""
        CLIENT.need("sbatch", "squeue", "scontrol", "scancel")

    def submit(self, spec: JobSpec, folder: Path) -> str:
        """Returns SLURM's job id. A job that is resumed is handed over without the nodes that it has left out."""
        known = bad_nodes.known(folder)
        return handed_over(folder / SCRIPT, *([f"--exclude={known.nodes}"] if known.excluded else []))

    def state(self, record: Record) -> JobState:
        """What SLURM says while it knows the job, then what the job itself left in its folder."""
        if record.handle is None:
            return JobState("lost", "was never handed over")
        noted = record.state()
        if noted.get("state") in ENDED and noted.get("exit_code") not in (None, TryAgain.exit_code):
            return JobState(noted["state"], noted.get("reason", ""), noted["exit_code"])  # nothing follows that end
        name, reason, code = self._ask(record.handle)
        if name in ("queued", "running"):
            return JobState(name, "; ".join(filter(None, [reason, bad_nodes.known(record.folder).words])))
        if name == "cancelled":
            return JobState(name, reason)
        noted = record.state()
        if noted.get("state") in ENDED:
            return JobState(noted["state"], noted.get("reason", ""), noted.get("exit_code"))
        if name is None:
            gone = f"SLURM no longer knows job {record.handle}, and its folder does not say how it ended"
            return JobState("lost", f"{gone}: {resumed(record.spec)}", 75)
        return JobState(name, reason, code)

    def _ask(self, job: str) -> tuple[StateName | None, str, int | None]:
        """State, reason and exit code: from the controller, or where it has forgotten the job, from accounting."""
        fields = (self._queue or {}).get(job, {})
        if STATES.get(fields.get("JobState", ""), "failed") not in ("queued", "running"):  # ended
            output = CLIENT.run("scontrol", "--oneliner", "show", "job", job, allow="Invalid job id")
            fields = dict(word.split("=", 1) for word in output.split() if "=" in word) if output else {}
        if not fields:
            output = CLIENT.run("sacct", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode",
                              f"--jobs={job}", allow="")  # fmt: skip
            if output.strip():
                fields = dict(zip(("JobState", "ExitCode"), output.strip().splitlines()[-1].split("|")))
        if not fields:
            return None, "", None
        word = fields["JobState"].split()[0].rstrip("+")
        name = STATES.get(word, "failed")
        code = int(fields.get("ExitCode", "0").split(":")[0])
        if name == "queued":
            return name, f"in SLURM's queue as {job} ({fields.get('Reason', 'None')})", None
        if name == "running":
            return name, f"as SLURM job {job} on {fields.get('NodeList', 'its hosts')}", None
        return name, f"SLURM says {word}", TryAgain.exit_code if word in STOPPED else code

    def logs(self, record: Record, follow: bool) -> Iterator[str]:
        """The log file's lines."""
        return client.lines_of(record.folder / LOG, follow, lambda: self.state(record).name in ENDED)

    def cancel(self, record: Record) -> None:
        """A job that waits leaves the queue; one that runs saves and stops."""
        assert record.handle is not None
        running = self.state(record).name == "running"
        CLIENT.run("scancel", *(["--batch", "--signal=TERM"] if running else []), record.handle)

    def resume(self, record: Record) -> str:
        """Hands the same script over again."""
        self.check(record.spec)
        return self.submit(record.spec, record.folder)


def target() -> Slurm:
    """For `jobs.targets`."""
    return Slurm()

"""A job inside its allocation: `python -m jobs.on_cluster FOLDER`, run by SLURM's script or in the launcher's pod.

Supervises the job on the hosts that were given. When a signal stopped it (the wall time is near, or somebody more
important came), it goes back into SLURM's queue, as long as it got further than the time before; a pod that ends with
75 is started again by its cluster.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from jobs import folder as folders
from jobs import health, states
from jobs import spec as specs
from jobs.supervise import Supervisor, holding
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, TryAgain
from pipeline.distributed import job_folder

STANDS = "stands.json"  # where each start of the job has come to
TERMINATION_LOG = Path("/dev/termination-log")  # what a pod leaves for its cluster to show


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code of the job; 75 where another start goes on."""
    parser = argparse.ArgumentParser(prog="python -m jobs.on_cluster", description=__doc__)
    parser.add_argument("folder", type=Path, help="a job's folder, or one with its spec.json and config.yaml")
    source = parser.parse_args(arguments).folder
    try:
        folder = place(source)
        record = folders.load(folder)
        before = record.state()
        if before.get("state") in ("finished", "failed") and before.get("exit_code") != TryAgain.exit_code:
            return _leave(before)  # a pod's cluster starts it again whatever its exit code
        tag(folder)
        with holding(folder):
            supervisor = Supervisor(folder, workers(record.spec))
            code = supervisor.run()
        if code == TryAgain.exit_code and supervisor.signals and not (folder / folders.CANCEL).exists():
            return go_on(folder, os.environ.get("SLURM_JOB_ID"), supervisor.left_out)
        return _leave(folders.load(folder).state())
    except DupletError as error:
        print(f"duplet job: {error}", file=sys.stderr)
        return error.exit_code


def place(source: Path) -> Path:
    """The job's folder under its root, made from what a ConfigMap holds where it is not there yet."""
    spec = folders.load(source).spec
    if not (spec.folder / specs.SPEC).exists():
        folders.create(spec, {specs.CONFIG: (source / specs.CONFIG).read_text(encoding="utf-8")})
    return spec.folder


def workers(spec: specs.JobSpec) -> int:
    """As many as the hosts that were given take, within the job's range."""
    hosts = int(os.environ.get("SLURM_JOB_NUM_NODES", spec.hosts(spec.max_workers)))
    return min(spec.max_workers, hosts * (spec.workers_per_host or spec.max_workers))


def tag(folder: Path) -> None:
    """Adds the cluster's own name for the job to the tags of its MLflow run."""
    if "SLURM_JOB_ID" in os.environ:
        known = job_folder.read(folder, folders.TAGS)
        known["duplet.job.handle"] = os.environ["SLURM_JOB_ID"]
        atomic_files.write_text(folder / folders.TAGS, json.dumps(known))


def go_on(folder: Path, slurm_job: str | None, left_out: Iterable[str] = ()) -> int:
    """Puts a stopped job back into SLURM's queue, unless its last starts made no progress.

    Args:
        left_out: the bad nodes because of which it was stopped; such a start had no chance, and does not count.

    Returns 75; 1 where it is given up.
    """
    if nodes := ", ".join(left_out):
        return _queued_again(folder, slurm_job, f"goes on without {nodes}")
    noted = job_folder.read(folder, job_folder.WORKERS)
    reached = states.newest_checkpoint(Path(noted["work"])) if "work" in noted else 0
    finished = len(atomic_files.finished(folder.parent.parent, f"*/*/{manifest.NAME}"))  # stages, of any job
    stands = [*job_folder.read(folder, STANDS).get("stands", []), [finished, reached]]
    atomic_files.write_text(folder / STANDS, json.dumps({"stands": stands}))
    # before an update whoever stops it is more likely in the way than the wall time
    most = states.SAME_STEP if reached else max(states.SAME_STEP, folders.load(folder).spec.retries + 1)
    if len(stands) >= most and all(stand == stands[-1] for stand in stands[-most:]):
        reason = f"no progress in {most} starts (update {reached}): raise walltime_min"
        ended = {**folders.load(folder).state(), "state": "failed", "reason": reason, "exit_code": 1}
        folders.write_state(folder, ended)
        return _leave(ended)
    return _queued_again(folder, slurm_job, f"saved at update {reached} on a signal")


def _queued_again(folder: Path, slurm_job: str | None, reason: str) -> int:
    folders.write_state(folder, {**folders.load(folder).state(), "state": "requeued", "reason": reason})
    if slurm_job is not None and shutil.which("scontrol") and (problem := health.requeued(folder, slurm_job)):
        print(f"duplet job: {problem}", file=sys.stderr)
    return TryAgain.exit_code


def _leave(state: dict[str, object]) -> int:
    """Leaves the reason where a cluster looks for it; the exit code."""
    if os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(str(state.get("reason", "")))
    code = state.get("exit_code")
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    sys.exit(main())

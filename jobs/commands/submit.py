"""`duplet submit`: hands a configuration over to a target, on so many workers with so much of everything."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.commands.dry_run import show
from pipeline.core.errors import InputError, TryAgain

if TYPE_CHECKING:
    from jobs.spec import JobSpec


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration or a job file, settings of either, and options for what a job needs."""
    parser.add_argument("config", help="a YAML configuration, or a job file such as those in configs/jobs/")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="train.epochs=3, or of the job: slurm.partition=gpu",
    )
    job_arguments(parser)
    parser.add_argument("--after", metavar="JOB", help="slurm: begins when that job has ended well; cancelled if not")
    parser.add_argument("--dry-run", action="store_true", help="print what would be handed over, and do nothing")


def job_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that describe a job; all default to what the job file or the configuration says."""
    parser.add_argument("--target", help="local (default), slurm or kubernetes")
    parser.add_argument("--workers", metavar="N|MIN:MAX", help="as train.workers; 2:8 takes what there is room for")
    for name, help in (
        ("--workers-per-host", "default: all on one host"),
        ("--gpus-per-worker", "0 or 1"),
        ("--cpus-per-worker", "threads of each worker"),
        ("--mem-gb", "memory of each host"),
        ("--walltime-min", "save and stop after so many minutes"),
        ("--retries", "starts after a failure (default 12)"),
    ):
        parser.add_argument(name, metavar="N", help=help)
    parser.add_argument("--stages", help="the first stages alone, such as ingest,tokenize, which need no GPU")


def read_spec(args: argparse.Namespace) -> "JobSpec":
    """The job that a command line describes. Raises InputError."""
    from jobs import spec, targets

    names = ("target", "workers", "workers_per_host", "gpus_per_worker", "cpus_per_worker", "mem_gb", "walltime_min",
             "retries", "stages")  # fmt: skip
    job_spec = spec.read(args.config, args.overrides, {name: getattr(args, name) for name in names})
    targets.target(job_spec.target)
    return _after(job_spec, args.after) if getattr(args, "after", None) else job_spec


def _after(spec: "JobSpec", job: str) -> "JobSpec":
    """The job with a dependency on another one, named by Duplet's id or SLURM's number. Raises InputError."""
    from jobs import folder

    if spec.target != "slurm":
        raise InputError(
            f"--after is for target slurm, this job's target is {spec.target}: submit it when {job} has ended"
        )
    if not job.isdigit():
        other = folder.find(Path(spec.root), job)
        if other.spec.target != "slurm" or other.handle is None:
            raise InputError(f"--after {job}: it is not a job of SLURM's, but of {other.spec.target}")
        job = other.handle
    return spec.model_copy(update={"slurm": spec.slurm.model_copy(update={"after": job})})


def run(args: argparse.Namespace) -> int:
    """Prints the job's id, or with --dry-run each file that would be handed over."""
    from jobs import folder, targets

    spec = read_spec(args)
    target = targets.target(spec.target)
    rendered = target.render(spec)
    if args.dry_run:
        show(rendered, {"id": spec.id, "target": spec.target}, args.json)
        return 0
    target.check(spec)
    place = folder.create(spec, rendered)
    try:
        handle = target.submit(spec, place)
    except OSError as error:
        folder.remove(place)
        raise folder.refusal(place, error) from None
    except BaseException:
        folder.remove(place)
        raise
    try:
        folder.write_handle(place, handle)
    except OSError as error:  # nobody could ask about it, or stop it: it must not run
        target.cancel(folder.Record(spec, place, handle))
        reason = error.strerror or str(error)
        raise TryAgain(
            f"job {spec.id} was handed over as {handle} and is cancelled again, because {place} cannot be written "
            f"({reason}): make room and submit again"
        ) from None
    print(json.dumps({"id": spec.id, "target": spec.target, "handle": handle, "folder": str(place)})
          if args.json else spec.id)  # fmt: skip
    return 0

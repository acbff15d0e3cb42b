"""`duplet submit`: hands a configuration over to a target, on so many workers with so much of everything."""

import argparse
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.commands.dry_run import show
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.number_options import count

if TYPE_CHECKING:
    from jobs.spec import JobSpec
    from jobs.targets import Target


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
    parser.add_argument(
        "--at-most", type=count, metavar="N", help="a job for each combination of model.layers=1,2 …, N of them at once"
    )
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


def read_spec(args: argparse.Namespace, overrides: list[str]) -> "JobSpec":
    """The job that a command line describes, with these settings. Raises InputError."""
    from jobs import spec, targets

    names = ("target", "workers", "workers_per_host", "gpus_per_worker", "cpus_per_worker", "mem_gb", "walltime_min",
             "retries", "stages")  # fmt: skip
    job_spec = spec.read(args.config, overrides, {name: getattr(args, name) for name in names})
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


def read_trials(args: argparse.Namespace) -> list["JobSpec"]:
    """The jobs of a sweep, one for each combination of what is varied. Raises InputError."""
    from jobs.spec import SETTABLE
    from pipeline.config.axes import axes_of

    of_job = [override for override in args.overrides if override.partition("=")[0].split(".")[0] in SETTABLE]
    axes, fixed = axes_of([override for override in args.overrides if override not in of_job])
    if not axes:
        raise InputError("--at-most is for a sweep, and nothing is varied: give a setting several values, as in 1,2,3")
    for axis in axes:
        if not axis.values:
            raise InputError(f"{axis.key} is a range, and jobs do every combination: give it values, or `duplet sweep`")
    specs = [
        read_spec(args, [*of_job, *fixed, *(f"{axis.key}={json.dumps(v)}" for axis, v in zip(axes, combination))])
        for combination in itertools.product(*(axis.values for axis in axes))
    ]
    if specs[0].target not in ("local", "slurm"):
        raise InputError(f"--at-most is for targets local and slurm: nothing bounds how many run on {specs[0].target}")
    return specs


def run(args: argparse.Namespace) -> int:
    """Prints the ids of the jobs, or with --dry-run each file that would be handed over."""
    from jobs import targets

    specs = [read_spec(args, args.overrides)] if args.at_most is None else read_trials(args)
    target = targets.target(specs[0].target)
    if not args.dry_run:
        target.check(specs[0])
    handles: list[str] = []
    for at, spec in enumerate(specs):
        if args.at_most is not None:  # in as many rows, each job behind all before it: one of them may be cancelled
            names = [spec.id for spec in specs] if spec.target == "local" else handles
            spec = spec.model_copy(update={"follows": tuple(names[at % args.at_most : at : args.at_most])})
        rendered = target.render(spec)
        if args.dry_run:
            show(rendered, {"id": spec.id, "target": spec.target}, args.json)
            handles.append(spec.id)
            continue
        try:
            handles.append(hand_over(target, spec, rendered))
        except DupletError as error:
            if not handles:
                raise
            ids = ", ".join(spec.id for spec in specs[:at])
            raise type(error)(f"{error} ({at} of {len(specs)} jobs were submitted: {ids})") from None
        about = {"id": spec.id, "target": spec.target, "handle": handles[-1], "folder": str(spec.folder)}
        print(json.dumps(about) if args.json else spec.id, flush=True)
    return 0


def hand_over(target: "Target", spec: "JobSpec", rendered: dict[str, str]) -> str:
    """Makes a job's folder and hands it to its target; the target's name for it. Raises DupletError."""
    from jobs import folder

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
    return handle

"""`duplet schedule CONFIG --cron … --target …`, and `duplet schedule list|remove|run`."""

import argparse
import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.commands import submit
from jobs.commands.dry_run import show
from pipeline.errors import InputError
from pipeline.files import at_home

if TYPE_CHECKING:
    from jobs.schedule import Schedule

ACTIONS = ("list", "remove", "run")
TARGETS = ("cron", "slurm", "kubernetes", "airflow")


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration or job file with a cron expression; or what to do with a schedule that is there."""
    parser.add_argument("config", metavar="CONFIG|list|remove|run", help="a configuration, a job file, or what to do")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="NAME|key=value", help="of remove and run: the schedule's name"
    )
    parser.add_argument("--cron", metavar="EXPRESSION", help='"0 2 * * *": every night at two, local time')
    submit.job_arguments(parser)
    for action in parser._actions:
        if action.dest == "target":
            action.help = f"{', '.join(TARGETS)} (default cron)"
    parser.add_argument(
        "--missed", choices=("skip", "catch_up"), default="skip", help="dates that had no run: only the newest, or all"
    )
    parser.add_argument(
        "--overlap", choices=("leave", "wait"), default="leave", help="when an earlier run is at work: exit 75, or wait"
    )
    parser.add_argument(
        "--start-from", choices=("scratch", "champion"), default="scratch", help="where training starts"
    )
    parser.add_argument("--no-promote", action="store_true", help="leave the champion alone")
    parser.add_argument("--dry-run", action="store_true", help="print what would be handed over, and do nothing")
    parser.add_argument("--date", help="run: this date only, such as 2026-11-24 or 2026-11-24T02:00")
    parser.add_argument("--root", type=at_home, help="list, remove, run: the configuration's root (default runs)")


def run(args: argparse.Namespace) -> int:
    """What was scheduled, or the schedules, or what became of the dates that were due."""
    if args.config == "list":
        return _list(args)
    if args.config in ("remove", "run"):
        if len(args.overrides) != 1:
            raise InputError(f"`duplet schedule {args.config}` needs one name: `duplet schedule list` shows them")
        return (_remove if args.config == "remove" else _run)(args)
    return _make(args)


def _make(args: argparse.Namespace) -> int:
    from jobs import schedule as schedules

    if args.cron is None:
        raise InputError('--cron is missing: when? For example --cron "0 2 * * *", every night at two')
    target = args.target or "cron"
    if target not in TARGETS:
        raise InputError(f"--target {target!r} cannot be scheduled on (allowed: {', '.join(TARGETS)})")
    names = ("workers", "workers_per_host", "gpus_per_worker", "cpus_per_worker", "mem_gb", "walltime_min", "retries")
    settings = {
        "cron": args.cron, "target": target, "missed": args.missed, "overlap": args.overlap,
        "start_from": args.start_from, "promote": not args.no_promote,
    }  # fmt: skip
    made = schedules.make(args.config, args.overrides, {name: getattr(args, name) for name in names}, settings)
    rendered = render(made)
    if args.dry_run:
        show(rendered, {"name": made.name, "target": made.target}, args.json)
        return 0
    said = install(made)
    print(json.dumps({"name": made.name, "folder": str(made.folder), "handle": said}) if args.json
          else f"{made.name}: {said}")  # fmt: skip
    return 0


def render(schedule: "Schedule") -> dict[str, str]:
    """File name -> text of what is handed over."""
    if schedule.target == "cron":
        from jobs import cron

        return {"crontab": cron.block(schedule)}
    if schedule.target == "airflow":
        from jobs import airflow

        return {f"duplet_{schedule.name.replace('-', '_')}.py": airflow.dag(schedule)}
    if schedule.target == "slurm":
        from jobs import slurm_schedule

        return {
            "schedule.sh": slurm_schedule.script(schedule),
            "scrontab (without it: a chain of sbatch --begin)": slurm_schedule.scrontab_block(schedule),
        }
    from jobs import kubernetes, kubernetes_schedule

    return {kubernetes_schedule.MANIFEST: kubernetes.as_yaml(kubernetes_schedule.manifests(schedule))}


def install(schedule: "Schedule") -> str:
    """Hands a schedule over; nothing is left of a new one that is refused."""
    from jobs import folder
    from jobs import schedule as schedules

    needed(schedule)
    there = (schedule.folder / schedules.SCHEDULE).exists()
    try:
        schedules.save(schedule)
        schedules.keep_environment(schedule, dict(os.environ))
        return str(_module(schedule).install(schedule))
    except BaseException as error:
        if not there:
            folder.remove(schedule.folder)
        if isinstance(error, OSError):
            raise folder.refusal(schedule.folder, error) from None
        raise


def needed(schedule: "Schedule") -> None:
    """Raises InputError where the target's client is missing."""
    if schedule.target == "slurm":
        from jobs import slurm

        slurm.target().check(schedule.job)
    elif schedule.target == "kubernetes":
        from jobs import kubernetes

        kubernetes.target().check(schedule.job)
    else:
        _module(schedule).need()


def _module(schedule: "Schedule") -> Any:
    import importlib

    own = {"slurm": "jobs.slurm_schedule", "kubernetes": "jobs.kubernetes_schedule"}
    return importlib.import_module(own.get(schedule.target, f"jobs.{schedule.target}"))


def _root(args: argparse.Namespace) -> Path:
    return Path(args.root or "runs").resolve()


def _list(args: argparse.Namespace) -> int:
    from jobs import dates
    from jobs import schedule as schedules

    rows: list[dict[str, Any]] = []
    for one in schedules.listed(_root(args)):
        done = schedules.verdicts(one.folder)
        coming = dates.following(one.cron, datetime.now()).strftime(schedules.STAMP)
        last = done[-1]._asdict() if done else None
        rows.append({"name": one.name, "cron": one.cron, "target": one.target, "next": coming, "last": last})
    if args.json:
        print(json.dumps({"schedules": rows}))
        return 0
    for row in rows:
        last = row["last"]
        became = f"last {last['due']} exit {last['exit_code']}: {last['reason']}" if last else "not run yet"
        print(f"{row['name']}  {row['cron']}  {row['target']}  next {row['next']}  {became}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from jobs import schedule as schedules

    found = schedules.load(_root(args) / "schedules" / args.overrides[0])
    needed(found)
    _module(found).remove(found)
    (found.folder / schedules.SCHEDULE).unlink()  # verdicts and logs stay
    print(json.dumps({"name": found.name, "removed": True}) if args.json else f"{found.name}: removed")
    return 0


def _run(args: argparse.Namespace) -> int:
    from jobs import dates
    from jobs import schedule as schedules
    from pipeline.talk import Talk

    name = args.overrides[0]
    given = Path(name) if name.endswith(".json") else _root(args) / "schedules" / name
    found = schedules.load(given)
    if name.endswith(".json"):
        schedules.save(found)  # a pod's schedule lives on its volume
    for variable, value in schedules.environment(found).items():
        os.environ.setdefault(variable, value)
    only = dates.read(args.date) if args.date else None
    with Talk() as say:
        made = schedules.run(found, only, say)
    if args.json:
        print(json.dumps({"verdicts": [verdict._asdict() for verdict in made]}))
    else:
        for verdict in made:
            print(f"{verdict.due}: {verdict.reason}")
    return 0

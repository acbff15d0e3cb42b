"""`duplet schedule CONFIG --cron … --target …`, and `duplet schedule list|remove|run`."""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.commands import submit
from jobs.commands.dry_run import show
from pipeline.core.errors import DupletError, InputError
from pipeline.core.naming import root_here
from pipeline.core.progress import Say

if TYPE_CHECKING:
    from jobs.schedule import Schedule

ACTIONS = ("list", "remove", "run", "check", "ready")
TARGETS = ("cron", "slurm", "kubernetes", "airflow", "argo")


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration or job file with a cron expression; or what to do with a schedule that is there."""
    parser.add_argument(
        "config", metavar="CONFIG|list|remove|run|check|ready", help="a configuration, a job file, or what to do"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="NAME|key=value", help="of list, remove, run, check: a name"
    )
    parser.add_argument("--cron", metavar="EXPRESSION", help='"0 2 * * *": every night at two, on the clock of --zone')
    parser.add_argument("--zone", metavar="NAME", help="time zone, such as Europe/Berlin (default: the local one)")
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
    parser.add_argument("--date", help="run, ready: the dates of this day only, 2026-11-24, or one, 2026-11-24T02:00")
    parser.add_argument(
        "--unchecked", action="store_true", help="run: take the data as it is, whatever nights.checks says"
    )
    parser.add_argument(
        "--root", type=root_here, help="list, remove, run, check: the configuration's root (default runs)"
    )


def run(args: argparse.Namespace) -> int:
    """What was scheduled, or the schedules, or what became of the dates that were due."""
    if args.config == "list":
        return _list(args)
    if args.config in ACTIONS:
        if len(args.overrides) != 1:
            raise InputError(f"`duplet schedule {args.config}` needs one name: `duplet schedule list` shows them")
        return {"remove": _remove, "run": _run, "check": _check, "ready": _ready}[args.config](args)
    return _make(args)


def _make(args: argparse.Namespace) -> int:
    from jobs import schedule as schedules

    if args.cron is None:
        raise InputError('--cron is missing: when? For example --cron "0 2 * * *", every night at two')
    if args.stages:
        raise InputError("--stages is for `duplet schedule run`: a schedule's night does all stages")
    target = args.target or "cron"
    if target not in TARGETS:
        raise InputError(f"--target {target!r} cannot be scheduled on (allowed: {', '.join(TARGETS)})")
    _warn_of_clock()
    names = ("workers", "workers_per_host", "gpus_per_worker", "cpus_per_worker", "mem_gb", "walltime_min", "retries")
    settings = {
        "cron": args.cron, "zone": args.zone, "target": target, "missed": args.missed, "overlap": args.overlap,
        "start_from": args.start_from, "promote": not args.no_promote,
    }  # fmt: skip
    schedule = schedules.make(args.config, args.overrides, {name: getattr(args, name) for name in names}, settings)
    rendered = render(schedule)
    if args.dry_run:
        show(rendered, {"name": schedule.name, "target": schedule.target}, args.json)
        return 0
    handle = install(schedule)
    print(json.dumps({"name": schedule.name, "folder": str(schedule.folder), "handle": handle}) if args.json
          else f"{schedule.name}: {handle}")  # fmt: skip
    return 0


def render(schedule: "Schedule") -> dict[str, str]:
    """File name -> text of what is handed over."""
    if schedule.target == "cron":
        from jobs import cron

        return {"crontab": cron.block(schedule)}
    if schedule.target == "airflow":
        from jobs import airflow

        return {airflow.file_name(schedule): airflow.dag(schedule)}
    if schedule.target == "slurm":
        from jobs import slurm_schedule

        return {
            "schedule.sh": slurm_schedule.script(schedule),
            "scrontab (without it: a chain of sbatch --begin)": slurm_schedule.scrontab_block(schedule),
        }
    from jobs import kubernetes, kubernetes_schedule

    return {kubernetes_schedule.MANIFEST: kubernetes.as_yaml(_module(schedule).manifests(schedule))}


def install(schedule: "Schedule") -> str:
    """Hands a schedule over. A refusal leaves nothing of a new one, and one that was there as it was."""
    from jobs import folder
    from jobs import schedule as schedules

    needed(schedule)
    before = schedules.load(schedule.folder) if (schedule.folder / schedules.SCHEDULE).exists() else None
    if before and before.target != schedule.target:
        needed(before)
    files = schedules.kept(schedule.folder)
    try:
        schedules.save(schedule)
        schedules.keep_environment(schedule, dict(os.environ))
        handle = str(_module(schedule).install(schedule))
    except BaseException as error:
        if before is None:
            folder.remove(schedule.folder)
        else:
            schedules.put_back(schedule.folder, files)
        if isinstance(error, OSError):
            raise folder.refusal(schedule.folder, error) from None
        raise
    if before and before.target != schedule.target:
        _module(before).remove(before)
        handle = f"{handle}, no longer {before.target}"
    return handle


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
    from jobs import dates, nights
    from jobs import schedule as schedules

    root = _root(args)
    rows: list[dict[str, Any]] = []
    for schedule in [schedules.find(root, name) for name in args.overrides] or schedules.listed(root):
        done = nights.verdicts(schedule.folder)
        last = done[-1]._asdict() if done else None
        coming = dates.following(schedule.cron, schedule.now()).strftime(schedules.STAMP)
        rows.append({
            "name": schedule.name, "config": schedule.configuration, "cron": schedule.cron,
            "zone": schedule.zone, "target": schedule.target, "next": coming, "lacks": _lacks(schedule), "last": last,
        })  # fmt: skip
    if args.json:
        print(json.dumps({"schedules": rows}))
        return 0
    for row in rows:
        last, when = row["last"], f"next {row['next']}" + (f" {row['zone']}" if row["zone"] else "")
        became = f"last {last['due']} exit {last['exit_code']}: {last['reason']}" if last else "not run yet"
        print(f"{row['name']}  {row['cron']}  {row['target']}  {row['lacks'] or when}  {became}")
    return 0


def _lacks(schedule: "Schedule") -> str:
    """Why the next date will not come, in a word; empty where it will, or nobody can tell from here."""
    from jobs import clock
    from jobs import schedule as schedules

    try:
        moved = schedules.environment(schedule).get(clock.VARIABLE)
    except InputError as error:
        return str(error)
    if moved and not Path(moved).is_file():
        return f"its {clock.VARIABLE}={moved} is gone: schedule it again without"
    if schedule.target != "slurm":
        return ""
    from jobs import slurm_schedule

    try:
        has_job = slurm_schedule.has_scrontab() or slurm_schedule.links(schedule, also_running=True)
    except DupletError:
        return ""
    return "" if has_job else "SLURM has no job of it: schedule it again"


def _remove(args: argparse.Namespace) -> int:
    from jobs import schedule as schedules

    schedule = schedules.find(_root(args), args.overrides[0])
    needed(schedule)
    _module(schedule).remove(schedule)
    (schedule.folder / schedules.SCHEDULE).unlink()  # verdicts and logs stay
    print(json.dumps({"name": schedule.name, "removed": True}) if args.json else f"{schedule.name}: removed")
    return 0


def _mend_chain(schedule: "Schedule", say: Say) -> None:
    from jobs import slurm_schedule

    if os.environ.get(slurm_schedule.BROKEN) and (problem := slurm_schedule.mend(schedule, say, time.sleep)):
        say(f"warning: {problem}")


def _keep(schedule: "Schedule", say: Say) -> None:
    """Removes what nights.keep does not keep; whatever comes of that, the night is as it was."""
    from jobs import nights, retention
    from pipeline.registry import disk

    with contextlib.suppress(InputError):  # a night whose configuration cannot be read has said so
        keep = nights.checked(schedule.job).nights.keep
        if keep.nights is None:
            return
        try:
            done = retention.collect(Path(schedule.job.root), keep.nights, keep.champions, False, say)
            sizes = f"{disk.shown(done.before)} before, {disk.shown(done.after)} after"
            say(f"{len(done.nights)} old nights removed: {sizes}")
        except (DupletError, OSError) as error:
            say(f"warning: old nights were not removed: {error}")


def _send(schedule: "Schedule", say: Say) -> None:
    """Sends the messages that wait, and tells a monitor that the night has a verdict; a dead endpoint costs nothing."""
    from jobs import messages, nights
    from jobs.schedule import STAMP
    from pipeline.tracking import channels

    with contextlib.suppress(DupletError):
        settings = nights.checked(schedule.job).nights.messages
        messages.send(schedule, settings, say)
        last = messages.last_date(schedule)
        judged = last is not None and nights.words(schedule.folder).get(f"{last:{STAMP}}") == ""
        if settings.ping and judged and (problem := channels.ping(settings.ping)):
            say(f"warning: the monitor of nights.messages.ping was not told: {problem}")


def _check(args: argparse.Namespace) -> int:
    """The dead man's switch: a message where the newest date has no verdict; sends what waits. Exits with 1 then."""
    from jobs import messages, nights
    from jobs import schedule as schedules
    from pipeline.core.progress import Talk

    schedule = _found(args)
    settings = nights.checked(schedule.job).nights.messages
    with _telling_of_no_clock(schedule):
        last = messages.last_date(schedule)
    problem = messages.missing(schedule, last, nights.words(schedule.folder), settings) if last else None
    with Talk() as say:
        if last is not None and problem is not None:
            job = nights.dated(schedule, last, None)
            messages.add(schedule, f"{last:{schedules.STAMP}}", 1, problem, job, nights.checked(job))
        left = messages.send(schedule, settings, say)
    message = problem or ("no date was due yet" if last is None else f"{last:{schedules.STAMP}} has its verdict")
    print(
        json.dumps({"name": schedule.name, "problem": problem, "left": left})
        if args.json
        else f"{schedule.name}: {message}"
    )
    return 1 if problem else 0


def _found(args: argparse.Namespace) -> "Schedule":
    """The schedule that a command is for, with its environment set."""
    from jobs import schedule as schedules

    name = args.overrides[0]
    if name.endswith(".json"):
        schedule = schedules.load(Path(name))
        schedules.save(schedule)  # a pod's schedule lives on its volume
    else:
        schedule = schedules.find(_root(args), name)
    for variable, value in schedules.environment(schedule).items():
        os.environ.setdefault(variable, value)
    _warn_of_clock()
    return schedule


def _warn_of_clock() -> None:
    from jobs import clock
    from pipeline.core.progress import Talk

    if warning := clock.warning():
        with Talk() as say:
            say(warning)


@contextlib.contextmanager
def _telling_of_no_clock(schedule: "Schedule") -> Iterator[None]:
    """Tells people, once, where the clock that the schedule goes by is gone: no date is done until they mend it."""
    from jobs import clock, messages, nights
    from pipeline.core.progress import Talk

    try:
        yield
    except clock.NoClock as error:
        os.environ.pop(clock.VARIABLE, None)  # the message goes by the machine's clock
        with Talk() as say, contextlib.suppress(DupletError, OSError):
            again = f"{error}; no date is done until the schedule is made again without {clock.VARIABLE}"
            messages.add(schedule, "has no clock", error.exit_code, again, schedule.job, None)
            messages.send(schedule, nights.checked(schedule.job).nights.messages, say)
        raise


def _named(date: str, schedule: "Schedule") -> list[datetime]:
    """The dates that are meant; a moment with an offset, as Argo gives it, on the schedule's clock."""
    from jobs import dates, zones

    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(date)
        if moment.tzinfo is not None:
            return [zones.clock(schedule.zone, moment).replace(second=0, microsecond=0)]
    return dates.named(date, schedule.cron)


def _part(args: argparse.Namespace, schedule: "Schedule", by_hand: list[datetime] | None, say: Say) -> int:
    from jobs import nights
    from jobs.schedule import PARTS

    if args.stages not in PARTS or by_hand is None or len(by_hand) != 1:
        raise InputError(f"--stages is one of {' '.join(PARTS)}, with one --date")
    nights.part(schedule, by_hand[0], args.stages.rpartition(",")[2], say)
    print(
        json.dumps({"name": schedule.name, "stages": args.stages}) if args.json else f"{schedule.name}: {args.stages}"
    )
    return 0


def _ready(args: argparse.Namespace) -> int:
    """Whether a date's data is there; 75 where it is not."""
    from jobs import nights
    from pipeline.core.progress import Talk

    schedule = _found(args)
    if not args.date:
        raise InputError("`duplet schedule ready` needs --date: of which date?")
    with Talk() as say:
        for when in _named(args.date, schedule):
            nights.ready(schedule, when, say)
    print(json.dumps({"name": schedule.name, "ready": True}) if args.json else f"{schedule.name}: the data is there")
    return 0


def _run(args: argparse.Namespace) -> int:
    from jobs import nights
    from pipeline.core.progress import Talk

    schedule = _found(args)
    if args.unchecked:
        os.environ[nights.UNCHECKED] = "1"
    by_hand = _named(args.date, schedule) if args.date else None
    with _telling_of_no_clock(schedule), Talk() as say:
        if args.stages:
            return _part(args, schedule, by_hand, say)
        try:
            verdicts = nights.run(schedule, by_hand, say)
        finally:
            _mend_chain(schedule, say)
            _keep(schedule, say)
            _send(schedule, say)
    if args.json:
        print(json.dumps({"verdicts": [verdict._asdict() for verdict in verdicts]}))
    else:
        for verdict in verdicts:
            print(f"{verdict.due}: {verdict.reason}")
    return 0

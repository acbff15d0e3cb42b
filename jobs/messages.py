"""Messages of nights that were not normal: on disk first, one per date, then to everybody who is set.

The spool is `messages.jsonl` in the schedule's folder, of the same sealed lines as a run's journal. Nothing waits for
an endpoint that is dead: what it did not take is sent with the next night, or by `duplet schedule check`, for a week.
"""

import contextlib
import errno
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs import clock, dates
from jobs import folder as folders
from jobs.schedule import LOG, STAMP, Schedule, with_spare
from jobs.spec import JobSpec
from jobs.texts import shell
from pipeline.config import Config, MessagesConfig
from pipeline.core.event_log import Lines
from pipeline.core.progress import Say
from pipeline.core.redaction import hide
from pipeline.distributed import job_folder
from pipeline.tracking import address, channels
from pipeline.tracking.channels import Message

SPOOL = "messages.jsonl"
LASTS_S = 7 * 24 * 3600.0


def add(schedule: Schedule, due: str, exit_code: int, reason: str, job: JobSpec, config: Config | None) -> bool:
    """Puts a message of a date into the spool; False where there was one of that date already.

    Args:
        config: of the date's job, where it could be read.

    Raises:
        OSError: the disk takes it not even in the room that is kept for it.
    """
    lines = Lines(schedule.folder / SPOOL)
    if any(entry["do"] == "message" and entry["due"] == due for entry, _ in lines.read()):
        return False
    log = job.folder / folders.LOG if job.folder.exists() else schedule.folder / LOG
    message = Message(schedule.name, due, exit_code, hide(reason), _run(job, config), str(log), channels.host())
    _append(schedule, {"do": "message", "at": clock.seconds(), **message._asdict()})
    return True


def _append(schedule: Schedule, entry: dict[str, Any]) -> None:
    def write() -> None:
        if not Lines(schedule.folder / SPOOL).append(entry):  # which holds it in memory, where it would be lost
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with_spare(schedule.folder, write)


def _run(job: JobSpec, config: Config | None) -> str:
    """Where the MLflow run of a date's job is seen; "" where there is none."""
    run_id = job_folder.run_id(job.folder)
    if run_id is None:
        return ""
    where = address(config.tracking.uri if config else None, Path(job.root))
    if where.uri.startswith("http"):
        return f"{where.shown.rstrip('/')}/#/runs/{run_id}"
    return shell("duplet", "ui", run_id, "--root", job.root)


def send(schedule: Schedule, settings: MessagesConfig, say: Say) -> int:
    """Sends what each way has not taken yet, the oldest first; returns how many messages are left."""
    lines = Lines(schedule.folder / SPOOL)
    entries = [entry for entry, _ in lines.read()]
    done = {(entry["due"], entry["way"]) for entry in entries if entry["do"] == "sent"}
    dead: dict[str, str] = {}
    left = set()
    for entry in entries:
        if entry["do"] != "message" or clock.seconds() - entry["at"] > LASTS_S:
            continue
        message = Message(**{name: entry[name] for name in Message._fields})
        for name, way in channels.named(settings):
            if (message.due, name) in done:
                continue
            if name not in dead and (problem := channels.send(way, message)):
                dead[name] = problem  # the others would wait for it in vain
                say(f"warning: {name} does not take messages ({problem}); they are kept for a week")
            if name in dead:
                left.add(message.due)
            else:
                with contextlib.suppress(OSError):  # a disk that is as full as that: it is sent twice
                    _append(schedule, {"do": "sent", "due": message.due, "way": name})
    return len(left)


def last_date(schedule: Schedule) -> datetime | None:
    """The newest date up to now; None where none was since the schedule was made."""
    return next(iter(dates.due(schedule.cron, schedule.start, schedule.now())[-1:]), None)


def missing(schedule: Schedule, due: datetime, known: dict[str, str], settings: MessagesConfig) -> str | None:
    """Why the newest date has no verdict; None where it has one.

    Args:
        known: the last word on each date, in STAMP's form.
    """
    stamp, by = f"{due:{STAMP}}", f" by {settings.verdict_by}" if settings.verdict_by else ""
    if stamp not in known:
        return f"no verdict{by}: the night did not begin (is the machine, or what should start it, away?)"
    return None if known[stamp] == "" else f"no verdict{by}: {known[stamp]}"

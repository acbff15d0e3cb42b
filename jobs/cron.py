"""Schedules of the target cron: lines between markers in the user's crontab; nothing else in it is touched."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jobs import programs
from jobs.schedule import LOG, Schedule
from jobs.texts import cron_command, shell
from pipeline.core.errors import InputError, TryAgain, one_line

NEEDS = "the target cron needs the program crontab (Debian: apt-get install cron), or choose another --target"


def markers(name: str) -> tuple[str, str]:
    """First and last line of a schedule's part."""
    return f"# >>> duplet schedule {name}", f"# <<< duplet schedule {name}"


def block(schedule: Schedule) -> str:
    """The schedule's part of a crontab. Raises InputError where cron would cut the command."""
    first, last = markers(schedule.name)
    lines = [(schedule.cron, run_command(schedule))]
    if schedule.check_cron:
        lines.append((schedule.check_cron, check_command(schedule)))
    start, log = f"cd {shell(schedule.job.cwd)} && ", f" >>{shell(str(schedule.folder / LOG))} 2>&1"
    body = "".join(f"{cron} {cron_command(start + command + log)}\n" for cron, command in lines)
    return f"{first}\n{body}{last}\n"


def run_command(schedule: Schedule) -> str:
    """The shell command that runs what is due."""
    return command_of(schedule, "run")


def check_command(schedule: Schedule) -> str:
    """The shell command that tells people where the newest date has no verdict."""
    return command_of(schedule, "check")


def command_of(schedule: Schedule, action: str) -> str:
    """The shell command of an action of `duplet schedule` on this schedule."""
    job = schedule.job
    return shell(job.python, "-P", "-m", "pipeline.cli", "schedule", action, schedule.name, "--root", job.root)


def with_block(table: str, name: str, block: str) -> str:
    """A crontab with the schedule's part put in, replaced, or (if empty) taken out; all else byte for byte.

    Raises:
        InputError: somebody removed one of the two markers, so that nobody can tell what is whose.
    """
    first, last = markers(name)
    lines = table.splitlines(keepends=True)
    firsts = [i for i, line in enumerate(lines) if line.rstrip("\r\n") == first]
    lasts = [i for i, line in enumerate(lines) if line.rstrip("\r\n") == last]
    if not firsts and not lasts:
        gap = "\n" if block and table and not table.endswith("\n") else ""
        return table + gap + block
    if len(firsts) != 1 or len(lasts) != 1 or lasts[0] < firsts[0]:
        raise InputError(
            f"the crontab has no single pair of lines {first!r} and {last!r}: mend it with `crontab -e`, and try again"
        )
    return "".join(lines[: firsts[0]]) + block + "".join(lines[lasts[0] + 1 :])


def install(schedule: Schedule) -> str:
    """Puts the schedule's part into the user's crontab."""
    part = block(schedule)
    with alone():
        _write(with_block(read(), schedule.name, part))
    return "crontab"


def remove(schedule: Schedule) -> None:
    """Takes the schedule's part out of the user's crontab."""
    with alone():
        _write(with_block(read(), schedule.name, ""))


def need() -> None:
    """Raises InputError where there is no crontab."""
    if shutil.which("crontab") is None:
        raise InputError(f"no crontab found: {NEEDS}")


def read() -> str:
    """The user's crontab, empty where there is none."""
    need()
    done = programs.run("crontab", "-l")
    if done.returncode and "no crontab" not in done.stderr:
        raise InputError(f"crontab refuses ({' '.join(done.stderr.split())}): fix this and run the same command again")
    return done.stdout if done.returncode == 0 else ""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One of a person's commands at a time between reading a crontab and writing it: else one undoes the other."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, RuntimeError):  # without a home, or on a file system without locks
            home = os.open(Path.home(), os.O_RDONLY)
            held.callback(os.close, home)
            fcntl.flock(home, fcntl.LOCK_EX)
        yield


def _write(table: str) -> None:
    done = programs.run("crontab", "-", stdin=table)
    if done.returncode:
        message = one_line(done.stderr)
        if "space" in message:
            raise TryAgain(f"crontab cannot write ({message}): make room and run the same command again")
        raise InputError(f"crontab refuses ({message}): fix this and run the same command again")

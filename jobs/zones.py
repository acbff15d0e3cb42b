"""Time zones of schedules: their IANA names, this machine's own, and what its clock on the wall shows."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from jobs import clock as clocks
from pipeline.core.errors import InputError, guess

SYSTEM = Path("/etc/localtime")  # of this machine's daemons; a person's TZ may name another
NAMED = Path("/etc/timezone")  # Debian's: where SYSTEM is a copy and no link
_NO_PLACES = {"localtime", "Factory", "posixrules"}


def check(name: str) -> str:
    """The name of a zone. Raises InputError where there is none of this name."""
    known = available_timezones() - _NO_PLACES
    if name in known:
        return name
    raise InputError(
        f"--zone {name!r} is not a time zone{guess(name, known, 0.6, ', ')}: "
        "give an IANA name such as Europe/Berlin, or UTC"
    )


def local() -> str:
    """The zone of the person who calls: that of TZ, else this machine's. Raises InputError where it has no name."""
    return _name(os.environ.get("TZ", "").removeprefix(":")) or system()


def system() -> str:
    """This machine's zone, which cron goes by. Raises InputError where it has no name."""
    if not SYSTEM.exists():
        return "UTC"
    named = NAMED.read_text(encoding="utf-8", errors="replace").strip() if NAMED.exists() else ""
    zone = _name(str(SYSTEM.resolve())) or _name(named)
    if zone is None:
        raise InputError(f"{SYSTEM} does not tell the name of this machine's time zone: give --zone, as Europe/Berlin")
    return zone


def _name(text: str) -> str | None:
    """The zone that a name, or the path of a zone's file, means."""
    parts = text.split("/")
    known = available_timezones() - _NO_PLACES
    return next((name for at in range(len(parts)) if (name := "/".join(parts[at:])) in known), None)


def same(zone: str, other: str) -> bool:
    """Whether clocks in two zones show the same at every hour of the next two years."""
    first, second = ZoneInfo(zone), ZoneInfo(other)
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = (start + timedelta(hours=hour) for hour in range(2 * 366 * 24))
    return zone == other or all(
        hour.astimezone(first).utcoffset() == hour.astimezone(second).utcoffset() for hour in hours
    )


def clock(zone: str | None, now: datetime | None = None) -> datetime:
    """What a clock in a zone (None: this machine's) shows now, or at an aware time; itself without a zone.

    >>> clock("Asia/Shanghai", datetime(2026, 11, 29, 18, 0, tzinfo=UTC)).isoformat()
    '2026-11-30T02:00:00'
    """
    return (now or clocks.now()).astimezone(ZoneInfo(zone) if zone else None).replace(tzinfo=None)


def moment(when: datetime, zone: str | None, after: datetime | None = None) -> datetime:
    """The aware time at which a clock in a zone shows `when`; the second one, where `after` is past the first.

    In the hour that spring leaves out, it is as long after midnight as if there were no change.

    >>> moment(datetime(2026, 11, 30, 2, 0), "Asia/Shanghai").astimezone(UTC).isoformat()
    '2026-11-29T18:00:00+00:00'
    """
    aware = when.replace(tzinfo=ZoneInfo(zone)) if zone else when.astimezone()
    if after is not None and aware <= after:
        later = when.replace(fold=1)
        aware = later.replace(tzinfo=ZoneInfo(zone)) if zone else later.astimezone()
    return aware

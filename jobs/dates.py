"""When a schedule is due: cron expressions as Debian's cron reads them, on the clock of the schedule's zone.

Times are what that clock shows, without an offset: in the night that has an hour twice a date comes once, and one that
falls into the hour left out is due once it is past. `python -m jobs.dates EXPRESSION [ZONE]` prints the next time on
this machine's own clock.
"""

import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from jobs import clock, zones
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from croniter import croniter


class Field(NamedTuple):
    """One of cron's five: its range, and names that stand for numbers from `first` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS = (
    Field("minute", 0, 59), Field("hour", 0, 23), Field("day", 1, 31), Field("month", 1, 12, MONTHS, 1),
    Field("weekday", 0, 7, DAYS),
)  # fmt: skip
HELP = 'minute hour day month weekday, such as "0 2 * * *" for every night at two'
PART = re.compile(
    r"(?:\*|(?P<low>\w{1,9})(?:-(?P<high>\w{1,9}))?)(?:/(?P<step>\d{1,3}))?", re.ASCII
)  # of a field's list
MOST = 1000  # dates that are caught up at once
FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M")


def check(expression: str) -> str:
    """The expression with single spaces, and each field in a form that all readers of such expressions agree on.

    Raises:
        InputError: it is none of cron's five fields, a field is out of range, or no such date ever comes.

    >>> check("0  2 5-5,* * 7-7")
    '0 2 5,1-31 * 7'
    """
    from croniter import CroniterError

    fields = expression.split()
    if len(fields) != len(FIELDS):
        raise InputError(f"cron expression {expression!r} has {len(fields)} fields, it must have five: {HELP}")
    for text, field in zip(fields, FIELDS):
        for part in text.split(","):
            if not _makes_sense(part, field):
                raise InputError(
                    f"cron expression {expression!r}: {field.name} {part!r} is not valid "
                    f"(numbers {field.low} to {field.high}, lists, ranges, and steps such as 1-5/2): {HELP}"
                )
    plain = " ".join(_plain(text, field) for text, field in zip(fields, FIELDS))
    try:
        following(plain, datetime(2026, 1, 1))
    except CroniterError:
        raise InputError(f"cron expression {expression!r} names a day that never comes") from None
    return plain


def _makes_sense(part: str, field: Field) -> bool:
    match = PART.fullmatch(part)
    if match is None or (match["step"] and not 0 < int(match["step"]) <= field.high - field.low + 1):
        return False
    if match["step"] and match["low"] and not match["high"]:
        return False  # a step follows * or a range; of 5/2 cron reads the 5, and others 5-59/2
    numbers = [_number(end, field) for end in match.group("low", "high") if end]
    return all(field.low <= number <= field.high for number in numbers) and numbers == sorted(numbers)


def _number(end: str, field: Field) -> int:
    """The number or name of a field's value; -1 for what is neither."""
    if end.lower() in field.names:
        return field.names.index(end.lower()) + field.first
    return int(end) if end.isdigit() else -1


def _plain(text: str, field: Field) -> str:
    """A field without what croniter, or another reader, takes for something else: 7-7, */1, and a * within a list."""
    parts = [_plain_part(part, field) for part in text.split(",")]
    if text[0] == "*":
        return "*" if "*" in parts else ",".join([parts[0], *(_ranged(part, field) for part in parts[1:])])
    return ",".join(_ranged(part, field) for part in parts)


def _plain_part(part: str, field: Field) -> str:
    match = PART.fullmatch(part)
    assert match is not None
    low, high = match.group("low", "high")
    step = "" if int(match["step"] or 1) == 1 else f"/{int(match['step'])}"
    if low is None:
        return f"*{step}"
    return low if high is None or _number(low, field) == _number(high, field) else f"{low}-{high}{step}"


def _ranged(part: str, field: Field) -> str:
    return part.replace("*", f"{field.low}-{field.high}")


def means_two_things(expression: str) -> bool:
    """Whether a step stands beside a weekday, as in `0 2 */2 * mon`.

    Cron takes days of which both are true, because a field begins with *; Kubernetes and Airflow take days of which
    one is true.
    """
    day, weekday = expression.split()[2], expression.split()[4]
    return "*" not in (day, weekday) and "*" in (day[0], weekday[0])


def following(expression: str, after: datetime) -> datetime:
    """The first due time after another.

    >>> following("0 2 * * *", datetime(2026, 11, 24, 2, 0)).isoformat()
    '2026-11-25T02:00:00'
    """
    next_date: datetime = _croniter(expression, after).get_next(datetime)
    return next_date


def due(expression: str, after: datetime, now: datetime) -> list[datetime]:
    """All due times after one and up to another, oldest first; of more than a thousand the newest.

    >>> [f"{d:%d}" for d in due("0 2 * * *", datetime(2026, 11, 21, 2, 0), datetime(2026, 11, 24, 2, 0, 9))]
    ['22', '23', '24']
    """
    dates: list[datetime] = []
    back = _croniter(expression, now.replace(second=0, microsecond=0), inclusive=True)
    while len(dates) < MOST:
        date: datetime = back.get_prev(datetime)
        if date <= after:
            break
        dates.append(date)
    return dates[::-1]


def _croniter(expression: str, start: datetime, inclusive: bool = False) -> "croniter":
    """`inclusive`: going back, the start itself may be the first."""
    from croniter import croniter

    # as cron does: a day must fit both fields where one of them begins with *
    return croniter(expression, start + timedelta(seconds=1) if inclusive else start, implement_cron_bug=True)


def named(text: str, expression: str) -> list[datetime]:
    """The dates that a person means: one with its time, or all those of the expression on a day.

    Raises:
        InputError: it is not a date, or a day without one.

    >>> [f"{when:%d %H:%M}" for when in named("2026-11-24", "0 2,14 * * *")]
    ['24 02:00', '24 14:00']
    """
    when = read(text)
    if "T" in text:
        return [when]
    dates = due(expression, when - timedelta(minutes=1), when + timedelta(days=1, minutes=-1))
    if not dates:
        coming = following(expression, when)
        raise InputError(
            f"--date {text}: {expression!r} has no date on that day, the next one is {coming:{FORMATS[1]}}; "
            "a day with a time, such as 2026-11-24T02:00, is run all the same"
        )
    return dates


def read(text: str) -> datetime:
    """A date, or a date and time. Raises InputError."""
    for form in FORMATS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise InputError(f"--date {text!r} is not a date such as 2026-11-24 or 2026-11-24T02:00")


def fill(text: str, when: datetime) -> str:
    """`{date}` and `{time}` in a text replaced.

    >>> fill("logs/{date}/{time}.tsv", datetime(2026, 11, 24, 2, 0))
    'logs/2026-11-24/0200.tsv'
    """
    return text.replace("{date}", f"{when:%Y-%m-%d}").replace("{time}", f"{when:%H%M}")


def begin(expression: str, zone: str | None, now: datetime) -> str:
    """The next due time after an aware one, as this machine's clock will show it; what `sbatch --begin` takes."""
    when = zones.moment(following(expression, zones.clock(zone, now)), zone, now)
    return f"{zones.clock(None, when):%Y-%m-%dT%H:%M:%S}"


if __name__ == "__main__":
    print(begin(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None, clock.now()))

"""When a schedule is due: cron expressions in local time. `python -m jobs.dates EXPRESSION` prints the next time."""

import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import InputError

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
MOST = 1000  # dates that are caught up at once
FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M")


def check(expression: str) -> str:
    """The expression with single spaces.

    Raises:
        InputError: it is none of cron's five fields, a field is out of range, or no such date ever comes.
    """
    from croniter import CroniterError

    fields = expression.split()
    if len(fields) != len(FIELDS):
        raise InputError(f"cron expression {expression!r} has {len(fields)} fields, it must have five: {HELP}")
    for text, field in zip(fields, FIELDS):
        for part in text.split(","):
            if not _makes_sense(part, field):
                raise InputError(
                    f"cron expression {expression!r}: {field.name} {part!r} makes no sense "
                    f"({field.low} to {field.high}, lists, ranges and steps such as 1-5/2): {HELP}"
                )
    try:
        following(expression, datetime(2026, 1, 1))
    except CroniterError:
        raise InputError(f"cron expression {expression!r} names a day that never comes") from None
    return " ".join(fields)


def _makes_sense(part: str, field: Field) -> bool:
    match = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", part, re.ASCII)
    if match is None or match[3] == "0":
        return False
    ends = [
        field.names.index(x.lower()) + field.first if x.lower() in field.names else x for x in match.group(1, 2) if x
    ]
    if not all(str(end).isdigit() for end in ends):
        return False
    numbers = [int(end) for end in ends]
    return all(field.low <= number <= field.high for number in numbers) and numbers == sorted(numbers)


def following(expression: str, after: datetime) -> datetime:
    """The first due time after another.

    >>> following("0 2 * * *", datetime(2026, 11, 24, 2, 0)).isoformat()
    '2026-11-25T02:00:00'
    """
    found: datetime = _croniter(expression, after).get_next(datetime)
    return found


def due(expression: str, after: datetime, now: datetime) -> list[datetime]:
    """All due times after one and up to another, oldest first; of more than a thousand the newest.

    >>> [f"{d:%d}" for d in due("0 2 * * *", datetime(2026, 11, 21, 2, 0), datetime(2026, 11, 24, 2, 0, 9))]
    ['22', '23', '24']
    """
    found: list[datetime] = []
    back = _croniter(expression, now.replace(second=0, microsecond=0), inclusive=True)
    while len(found) < MOST:
        one: datetime = back.get_prev(datetime)
        if one <= after:
            break
        found.append(one)
    return found[::-1]


def _croniter(expression: str, start: datetime, inclusive: bool = False) -> "croniter":
    """`inclusive`: going back, the start itself may be the first."""
    from croniter import croniter

    return croniter(expression, start + timedelta(seconds=1) if inclusive else start)


def read(text: str) -> datetime:
    """A date, or a date and time. Raises InputError."""
    for form in FORMATS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise InputError(f"--date {text!r} is no date such as 2026-11-24 or 2026-11-24T02:00")


def fill(text: str, when: datetime) -> str:
    """`{date}` and `{time}` in a text replaced.

    >>> fill("logs/{date}/{time}.tsv", datetime(2026, 11, 24, 2, 0))
    'logs/2026-11-24/0200.tsv'
    """
    return text.replace("{date}", f"{when:%Y-%m-%d}").replace("{time}", f"{when:%H%M}")


if __name__ == "__main__":
    print(f"{following(sys.argv[1], datetime.now()):%Y-%m-%dT%H:%M:%S}")

"""What time it is, for everything that happens on dates: the machine's clock, which a rehearsal moves.

DUPLET_CLOCK names a file with the seconds that this clock is ahead of the machine's. It is a file, so that work that is
started by cron or SLURM, with the environment of long ago, sees it move as well. What works by a moved clock says so.
"""

import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.errors import InputError

VARIABLE = "DUPLET_CLOCK"


class NoClock(InputError):
    """The clock that DUPLET_CLOCK names cannot be read: nobody knows which dates are due."""


def seconds() -> float:
    """As time.time(). Raises NoClock where the file of DUPLET_CLOCK holds no number."""
    path = os.environ.get(VARIABLE)
    return time.time() + (_ahead(Path(path)) if path else 0.0)


def now() -> datetime:
    """An aware time. Raises NoClock as `seconds` does, and where the clock is moved out of the calendar."""
    moved = seconds()
    try:
        return datetime.fromtimestamp(moved, UTC)
    except (ValueError, OverflowError, OSError):
        raise NoClock(f"{VARIABLE}={os.environ[VARIABLE]} moves the clock out of the calendar") from None


def warning() -> str:
    """What to tell a person of a clock that is moved; empty where it is the machine's."""
    path = os.environ.get(VARIABLE)
    return f"warning: dates go by {VARIABLE}={path}, a clock for rehearsals: without it, schedule again" if path else ""


def _ahead(path: Path) -> float:
    try:
        ahead = float(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise NoClock(f"{VARIABLE}={path} must name a file with a number of seconds ({error})") from None
    if not math.isfinite(ahead):
        raise NoClock(f"{VARIABLE}={path} must name a file with a number of seconds, not {ahead}")
    return ahead

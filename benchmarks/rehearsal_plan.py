"""What goes wrong in the thirty nights of `make rehearsal`, and what must be seen of it."""

from collections import Counter
from typing import NamedTuple

NIGHTS, KEPT = 30, 14
SUMMER_TIME = 24  # the night on which clocks change
FLAT = 1.05  # most of the last nights' bytes a model, as a multiple of those when the oldest nights began to go


class Fault(NamedTuple):
    """What is wrong on a night, and what must be seen of it."""

    what: str
    code: int | None  # of the verdict in the morning; None: there is none
    last: int  # of the last verdict on this date
    message: bool = True


LATE, BROKEN = Fault("data late", 75, 0), Fault("data broken", 2, 0)  # broken data a person mends, and runs the night
DRIFTED, WORSE = Fault("data drifted", 3, 3), Fault("a worse model", 3, 3)
DEAD, FULL = Fault("MLflow dead", 75, 0), Fault("disk full", 75, 0)
KILLED, AWAY = Fault("a rank killed", 0, 0), Fault("cron away", None, 0)
CLOCKS, NORMAL = Fault("clocks changed", 0, 0, message=False), Fault("", 0, 0, message=False)
FAULTS = {3: LATE, 7: BROKEN, 11: DRIFTED, 13: DEAD, 14: DEAD, 15: DEAD, 17: FULL, 19: KILLED, 20: AWAY,
          SUMMER_TIME: CLOCKS, 26: WORSE}  # fmt: skip


def fault(night: int) -> Fault:
    """What is wrong on a night."""
    return FAULTS.get(night, NORMAL)


class Morning(NamedTuple):
    """What is seen at eight o'clock."""

    night: int
    verdict: int | None
    champion: int  # the night whose model is live; 0: none
    told: int  # messages of this date so far
    models: int  # trained folders under the root: of the kept nights, some leave none
    root_bytes: int
    mlflow_bytes: int  # of the runs' files: rows of removed runs stay until `mlflow gc`
    seconds: float
    cpu_s: float  # processor time of all its processes, but the server's


def judge(mornings: list[Morning], told: Counter[int], last: dict[int, int]) -> list[str]:
    """What is not as it must be, empty where all is.

    Args:
        told: messages of each night in the end; 0: of what is none. last: the last verdict of each night.
    """
    wrong, live = [], 0
    for morning in mornings:
        night, must_be = morning.night, fault(morning.night)
        if must_be.code == 0:
            live = night
        elif fault(night - 1) == BROKEN:
            live = night - 1  # a person ran it at noon
        for name, seen, must in (
            ("verdict", morning.verdict, must_be.code), ("champion of night", morning.champion, live),
            ("messages by eight", morning.told, int(must_be.message)),
            ("messages in the end", told[night], int(must_be.message)),
            ("last verdict", last.get(night), must_be.last),
        ):  # fmt: skip
            if seen != must:
                wrong.append(f"night {night}: {name} {seen}, must be {must}")
    if told[0]:
        wrong.append(f"{told[0]} messages of what is no night")
    return wrong + not_flat(mornings)


def not_flat(mornings: list[Morning]) -> list[str]:
    """Whether the disk grows once nights are removed: bytes of each kept model, the mean of the last five mornings
    beside that of the first five."""
    if len(mornings) < NIGHTS:
        return []
    wrong = []
    for name in ("root_bytes", "mlflow_bytes"):
        sizes = [getattr(morning, name) / max(1, morning.models) for morning in mornings]
        before, after = sum(sizes[KEPT + 1 : KEPT + 6]) / 5, sum(sizes[-5:]) / 5
        if after > FLAT * before:
            wrong.append(f"{name} a model grew from {before:,.0f} to {after:,.0f} after night {KEPT}")
    return wrong

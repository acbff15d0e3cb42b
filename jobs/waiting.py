"""Data that may come late: whether it is there, whole, and waiting for it."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jobs import clock
from pipeline.config import WaitForConfig
from pipeline.core.errors import TryAgain
from pipeline.core.progress import Say

POLL_S = 30.0
QUIET_S = 60.0  # a file that was not written for so long is whole; one that grows between two looks is not
MB = 2**20


class Late(TryAgain):
    """A night's data did not come in time; the date stays due."""


class Look(NamedTuple):
    """What was there: how many files, their bytes, and when the newest was written."""

    files: int
    bytes: int
    written: float


def look(pattern: Path) -> Look:
    """The files of a path: itself, those within a folder, or those that a pattern names; hidden ones are left out."""
    paths = [pattern] if pattern.exists() else [Path(path) for path in glob.glob(str(pattern), recursive=True)]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    stats = []
    for file in files:
        if any(part.startswith(".") for part in file.parts[len(pattern.parts) :]):
            continue
        try:
            if file.is_file():
                stats.append(file.stat())
        except FileNotFoundError:  # moved meanwhile
            continue
    return Look(len(stats), sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0))


def wait(
    settings: WaitForConfig, folder: Path, patient: bool, say: Say, pause: Callable[[float], None],
) -> None:  # fmt: skip
    """Returns when the data is there, large enough and no longer growing.

    Args:
        folder: where a relative path starts; patient: waits; else looks, and once more where it may be growing.
        pause: waits for so many seconds.

    Raises:
        Late: it did not come, or not whole.
    """
    if settings.path is None:
        return
    path = folder / settings.path
    left = 60.0 * settings.max_wait_min if patient else POLL_S
    before, told = None, False
    while True:
        seen = look(path)
        enough = seen.files > 0 and seen.bytes >= settings.min_mb * MB
        if enough and (seen == before or clock.seconds() - seen.written > QUIET_S):
            return
        if left <= 0:
            raise Late(f"no data: {_lack(settings, path, seen, enough)}")
        if not told and patient:
            say(f"waiting for {path}, at most {settings.max_wait_min} min: {_lack(settings, path, seen, enough)}")
            told = True
        before = seen
        pause(min(left, POLL_S))
        left -= POLL_S


def _lack(settings: WaitForConfig, path: Path, seen: Look, enough: bool) -> str:
    if not seen.files:
        return f"nothing is at {path}"
    if enough:
        return f"{path} is still being written ({seen.bytes / MB:.3g} MiB)"
    return f"{path} has {seen.bytes / MB:.3g} MiB, and nights.wait_for.min_mb asks for {settings.min_mb:g}"

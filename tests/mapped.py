"""How much memory this process holds: of the files that it has mapped, and of Python's objects."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def resident(folder: Path) -> int:
    """kB of the maps of a folder's files that are in memory."""
    held, own = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            own = line.rpartition(" ")[2].startswith(str(folder))
        elif own and line.startswith("Rss:"):
            held += int(line.split()[1])
    return held


def most_traced(work: Callable[[], T]) -> tuple[T, int]:
    """What some work returns, and the most bytes that Python's objects took meanwhile."""
    gc.collect()
    gc.freeze()  # the more a process holds, the rarer it looks for cycles; what earlier tests left must not count here
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()

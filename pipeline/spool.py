"""Measured points on disk: the training writes them line by line, and whoever tracks the run reads them from there."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline import files


class Point(NamedTuple):
    update: int
    time_ms: int  # since 1970
    values: dict[str, float]


class Spool:
    """An append-only file of points, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, update: int, values: dict[str, float]) -> None:
        """Appends a point; one write call, so that a reader never takes half a line for a whole one."""
        line = json.dumps({"update": update, "time_ms": int(time.time() * 1000), "values": values})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def keep_until(self, update: int) -> None:
        """Drops points after an update: a training that goes on from a checkpoint measures them again."""
        if self.path.exists():
            kept = [point for point, _ in self.read(0) if point.update <= update]
            files.write_text(self.path, "".join(json.dumps(point._asdict()) + "\n" for point in kept))

    def read(self, offset: int) -> Iterator[tuple[Point, int]]:
        """Whole points from a byte offset on, each with the offset behind it."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                try:
                    point = Point(**json.loads(line))
                except (ValueError, TypeError):  # a line cut by a kill, with a later one behind it
                    continue
                yield point, offset

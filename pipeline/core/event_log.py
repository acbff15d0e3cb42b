"""Measured points on disk: the training writes them line by line, and whoever tracks the run reads them from there."""

import contextlib
import json
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pipeline.core import atomic_files

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_CHECK = ', "crc": "'
_HELD = 10_000  # entries that wait in memory while the disk takes none


def sealed(entry: dict[str, Any]) -> bytes:
    """An entry (not empty) as a JSON line that ends with a checksum of what stands before it."""
    body = json.dumps(entry)[:-1]
    return f'{body}{_CHECK}{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def unsealed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None of one that is cut or changed."""
    body, check, rest = line.rpartition(_CHECK.encode())
    if not check or rest != f'{zlib.crc32(body):08x}"}}\n'.encode():
        return None
    try:
        entry = json.loads(body + b"}")
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


class Lines:
    """An append-only file of sealed lines that a failing disk holds up but never stops, and that has a bound.

    Args:
        max_bytes: past it, entries that may be dropped are thinned, the older half of them, where they stand closest,
            again until the file has three quarters of it. None: no bound.
        place: where in the row of those that may be dropped an entry stands; None: it is never dropped.
    """

    def __init__(
        self, path: Path, max_bytes: int | None = None, place: Callable[[dict[str, Any]], int | None] = lambda _: None
    ) -> None:
        self.path, self.max_bytes, self.place = path, max_bytes, place
        self._thin_at = max_bytes
        self._held: deque[dict[str, Any]] = deque(maxlen=_HELD)

    def append(self, entry: dict[str, Any]) -> bool:
        """Adds an entry in one write call; False where it waits in memory for the disk to take it."""
        self._held.append(entry)
        try:
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(file).st_size
                # a line that a kill or a full disk cut short ends here, so that it spoils no other
                start = b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""
                while self._held:
                    line = start + sealed(self._held[0])
                    if os.write(file, line) != len(line):
                        return False  # cut short: written once more, whole
                    self._held.popleft()
                    size, start = size + len(line), b""
            finally:
                os.close(file)
        except OSError:
            return False
        if self._thin_at is not None and size > self._thin_at:
            self._thin()
        return True

    @property
    def held(self) -> int:
        """Entries that wait in memory."""
        return len(self._held)

    def read(self, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole entries from a byte offset on, each with the offset behind it; cut or changed lines are left out."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                if (entry := unsealed(line)) is not None:
                    yield entry, offset

    def rewrite(self, lines: list[bytes]) -> None:
        """Puts other lines in the file's place: a new file, as a reader sees by `identity`."""
        atomic_files.write_text(self.path, b"".join(lines).decode())

    def identity(self) -> int:
        """Changes when the file is rewritten, so that offsets no longer hold; 0 where there is none."""
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0

    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def _thin(self) -> None:
        assert self.max_bytes is not None
        with contextlib.suppress(OSError):
            rows = [(sealed(entry), self.place(entry)) for entry, _ in self.read()]
            while (size := sum(len(line) for line, _ in rows)) > 0.75 * self.max_bytes:
                may = {i: place for i, (_, place) in enumerate(rows) if place is not None}
                if not (drop := _to_drop(may)):
                    break
                rows = [row for i, row in enumerate(rows) if i not in drop]
            self.rewrite([line for line, _ in rows])
            self._thin_at = max(self.max_bytes, int(1.25 * size))  # what may not be dropped may exceed the bound


def _to_drop(places: dict[int, int]) -> set[int]:
    """Every second entry of the older half, in its densest stretches, so that the rest is evenly spaced."""
    older = list(places)[: (len(places) + 1) // 2]
    gaps = [places[after] - places[before] for before, after in pairwise(older)]
    if not gaps:
        return set()
    most, drop = sorted(gaps)[len(gaps) // 2], set[int]()
    for before, row, gap in zip(older, older[1:], gaps):
        if gap <= most and before not in drop:
            drop.add(row)
    return drop


class Point(NamedTuple):
    update: int
    time_ms: int  # since 1970
    values: dict[str, float]


def is_training(values: dict[str, float]) -> bool:
    """Whether a point may be thinned out: one of validation never is."""
    return not any(name.startswith("valid/") for name in values)


def _place(entry: dict[str, Any]) -> int | None:
    return int(entry["update"]) if is_training(entry["values"]) else None


class Spool:
    """An append-only file of points, one checksummed JSON line each; see `Lines` for its bound."""

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        self.path = path
        self._lines = Lines(path, max_bytes, _place)

    def write(self, update: int, values: dict[str, float]) -> None:
        """Appends a point; where the disk takes none it is held in memory until it does."""
        self._lines.append({"update": update, "time_ms": int(time.time() * 1000), "values": values})

    def keep_until(self, update: int) -> None:
        """Drops points after an update: a training that goes on from a checkpoint measures them again."""
        if self.path.exists():
            points = [point for point, _ in self.read(0) if point.update <= update]
            self._lines.rewrite([sealed(point._asdict()) for point in points])

    def read(self, offset: int) -> Iterator[tuple[Point, int]]:
        """Whole points from a byte offset on, each with the offset behind it."""
        for entry, end in self._lines.read(offset):
            with contextlib.suppress(TypeError):  # sealed, and of another kind
                yield Point(**entry), end

    def identity(self) -> int:
        """As of `Lines`."""
        return self._lines.identity()

    def size(self) -> int:
        """As of `Lines`."""
        return self._lines.size()


class Growing(Protocol[T_co]):
    """What a `Reader` reads: `Lines` or a `Spool`."""

    def identity(self) -> int: ...

    def size(self) -> int: ...

    def read(self, offset: int) -> Iterator[tuple[T_co, int]]: ...


class Reader(Generic[T]):
    """Reads what a file gains. After the file was rewritten it begins anew: the caller knows what it had."""

    def __init__(self, growing: Growing[T]) -> None:
        self.growing, self._offset, self._identity = growing, 0, 0

    def again(self) -> None:
        """Lets the next call begin anew."""
        self._offset = 0

    def new(self) -> Iterator[T]:
        """What has come since the last call."""
        identity = self.growing.identity()
        if identity != self._identity or self.growing.size() < self._offset:
            self._offset, self._identity = 0, identity
        for entry, offset in self.growing.read(self._offset):
            self._offset = offset
            yield entry

"""The rows that texts get by their keys, found by sorted hashes on disk: no process holds all keys."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

RANGE_KEYS, MOST_RANGES = 1 << 17, 256  # keys that are sorted at once, of so many files that are open at once
AT_ONCE = 1 << 16
_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<i8")])


class Rows:
    """(N,) rows of N texts: those of one key share a row, and rows are numbered as keys first appear."""

    def __init__(self, keys: Iterable[list[str]], count: int, folder: Path) -> None:
        """Two keys of 10^9 share a hash with a chance below 10^-20.

        Args:
            keys: of the texts, in their order, some at a time.
            count: of all keys.
            folder: holds what is worked on, in files without a name.
        """
        self._folder = folder
        first = self._new(count)  # the place where each text's key stands first
        with ExitStack() as files:
            for entries in self._in_ranges(keys, count, files):
                order = np.lexsort((entries["low"], entries["high"]))  # stable: places stay in their order
                entries = entries[order]
                begins = np.ones(len(entries), bool)
                begins[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
                first[entries["place"]] = entries["place"][begins][np.cumsum(begins) - 1]
        numbers, self.texts = self._new(count), 0  # of the rows that began before a place
        for at in range(0, count, AT_ONCE):
            own = first[at : at + AT_ONCE]
            begun = np.cumsum(own == np.arange(at, at + len(own)))
            numbers[at : at + AT_ONCE] = self.texts + begun - 1
            self.texts += int(begun[-1])
        self._first, self._numbers = first, numbers

    def of(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) int64 rows of the texts from one place to another."""
        return np.asarray(self._numbers[self._first[start:stop]])

    def begins(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) bool: which of them are the first of their key."""
        first = self._first[start:stop]
        return np.asarray(first == np.arange(start, start + len(first)))

    def _in_ranges(self, keys: Iterable[list[str]], count: int, files: ExitStack) -> Iterable[np.ndarray]:
        """All hashes with their places, a range of hashes at a time."""
        ranges = min(MOST_RANGES, -(-count // RANGE_KEYS))
        new = lambda: files.enter_context(TemporaryFile(dir=self._folder))  # noqa: SIM115
        parts: list[IO[bytes]] = [new() for _ in range(ranges)]
        place = 0
        for some in _gathered(keys):
            digests = b"".join([hashlib.blake2b(key.encode(), digest_size=16).digest() for key in some])
            hashes = np.frombuffer(digests, "<u8").reshape(-1, 2)
            entries = np.empty(len(some), _ENTRY)
            entries["high"], entries["low"] = hashes.T
            entries["place"] = np.arange(place, place + len(some))
            place += len(some)
            range_of = (entries["high"] >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32)
            entries = entries[np.argsort(range_of, kind="stable")]
            ends = np.cumsum(np.bincount(range_of.astype(np.int64), minlength=ranges))
            for part, mine in zip(parts, np.split(entries, ends[:-1])):
                part.write(mine.tobytes())
        for part in parts:
            part.seek(0)
            yield np.frombuffer(part.read(), _ENTRY)
            part.close()

    def _new(self, count: int) -> Any:
        """(count,) int64 of 0, in a file without a name where there are many."""
        if count <= RANGE_KEYS:
            return np.zeros(count, np.int64)
        with TemporaryFile(dir=self._folder) as file:
            return np.memmap(file, np.int64, "w+", shape=(count,))


def _gathered(keys: Iterable[list[str]]) -> Iterable[list[str]]:
    """The same, so many at a time that each range gets more than a few."""
    some: list[str] = []
    for more in keys:
        some += more
        if len(some) >= AT_ONCE:
            yield some
            some = []
    if some:
        yield some

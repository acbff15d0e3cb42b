"""Hashes of rows on disk, sorted, with what must be known of each: equal ones are found a range at a time.

A block has a file of each kind, in ascending order. A range of all blocks' hashes is what one process holds at once; so
nothing is held of all rows, however many there are. What is found is sorted by block and row, and read in that order.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core.executors import Executor

# Hashes that are looked at together; of many blocks more, for each is opened once per range.
RANGE_ROWS, RANGE_ROWS_PER_BLOCK = 1 << 14, 64
BLOCKS = "blocks.json"
_HASH = [("high", "<u8"), ("low", "<u8"), ("row", "<u4")]
KINDS = {
    # of a record's keys, split and file
    "keys": np.dtype([*_HASH, ("relevance", "<f4"), ("train", "?")]),
    # of an id that the source gives a text, and its file
    "names": np.dtype([*_HASH, ("field", "<u4"), ("text", "<u8")]),
    # of a document's id without endings ~SPLIT
    "documents": np.dtype([*_HASH, ("own", "<u8"), ("text", "<u8")]),
    # of a record's id without endings ~NUMBER, and its split
    "ids": np.dtype([*_HASH, ("own", "<u8")]),
}
_AT_ONCE = 4096


class Block(NamedTuple):
    """A block's name, and how many rows it has; see `blocks`."""

    name: str
    kept: int
    bad: int


class Range(NamedTuple):
    """A part of all hashes of a kind: the n-th of so many equal ones."""

    folder: Path
    kind: str
    number: int
    of: int


def unique() -> str:
    """What no other process puts into a file's name."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def write(path: Path, kind: str, unsorted: Path) -> None:
    """Writes what a file holds in ascending order, column by column, so that a range of it is read by itself."""
    with path.open("wb") as file:
        if unsorted.stat().st_size:
            entries = np.memmap(unsorted, KINDS[kind], "r")
            order = np.argsort(entries["high"], kind="stable")
            for name in KINDS[kind].names or ():
                entries[name][order].tofile(file)


def columns(path: Path, kind: str) -> dict[str, np.ndarray]:
    """The columns of a file, each (N,), mapped."""
    size = path.stat().st_size // KINDS[kind].itemsize
    if not size:
        return {name: np.empty(0, KINDS[kind][name]) for name in KINDS[kind].names or ()}
    data, at, found = np.memmap(path, np.uint8, "r"), 0, {}
    for name in KINDS[kind].names or ():
        end = at + size * KINDS[kind][name].itemsize
        found[name] = data[at:end].view(KINDS[kind][name])
        at = end
    return found


class Hashes(NamedTuple):
    """Entries of several blocks, in the order of their rows where their hash is equal."""

    entries: np.ndarray  # (N,) of the kind
    block: np.ndarray  # (N,) uint32


def blocks_of(folder: Path) -> list[Block]:
    """All blocks, in their order."""
    return [Block(*block) for block in json.loads((folder / BLOCKS).read_text(encoding="utf-8"))]


def read(part: Range) -> Hashes:
    """The hashes of a range, those of each block one after the other."""
    first, end = (number * 2**64 // part.of for number in (part.number, part.number + 1))
    entries, numbers = [np.empty(0, KINDS[part.kind])], [np.empty(0, np.uint32)]
    for number, block in enumerate(blocks_of(part.folder)):
        mapped = columns(part.folder / f"{block.name}.{part.kind}", part.kind)
        start = np.searchsorted(mapped["high"], np.uint64(first), "left")
        stop = np.searchsorted(mapped["high"], np.uint64(end - 1), "right")
        some = np.empty(stop - start, KINDS[part.kind])
        for name, column in mapped.items():
            some[name] = column[start:stop]
        if (gone := _gone(part.folder, block)).exists():
            some = some[~np.isin(some["row"], np.load(gone))]
        entries.append(some)
        numbers.append(np.full(len(some), number, np.uint32))
    return Hashes(np.concatenate(entries), np.concatenate(numbers))


def leave_out(folder: Path, block: Block, rows: np.ndarray) -> None:
    """From now on these rows of a block are in no range."""
    gone = _gone(folder, block)
    np.save(gone, np.union1d(np.load(gone), rows) if gone.exists() else rows)


def forget(folder: Path) -> None:
    """Removes what an earlier run left out and found."""
    for left in (*folder.glob("*.gone.npy"), *folder.glob("*-found-*.npy")):
        left.unlink()


def _gone(folder: Path, block: Block) -> Path:
    return folder / f"{block.name}.gone.npy"


def alike(hashes: Hashes) -> Iterator[Hashes]:
    """Each group of two entries or more whose hashes are equal, in the order of their rows."""
    entries, block = in_groups(hashes)
    bounds = np.flatnonzero(begins(entries))
    for start, stop in zip(bounds.tolist(), [*bounds[1:].tolist(), len(entries)]):
        yield Hashes(entries[start:stop], block[start:stop])


def in_groups(hashes: Hashes) -> Hashes:
    """The entries whose hash another one has, group by group."""
    entries, block = hashes
    order = np.argsort(entries["high"], kind="stable")
    high = entries["high"][order]
    equal = high[1:] == high[:-1]
    order = order[np.append(equal, False) | np.append(False, equal)] if equal.any() else order[:0]
    order = order[np.lexsort((entries["low"][order], entries["high"][order]))]  # stable: rows stay in their order
    return Hashes(entries[order], block[order])


def begins(entries: np.ndarray) -> np.ndarray:
    """(N,) bool: where another group begins."""
    high, low = entries["high"], entries["low"]
    return np.append(True, (high[1:] != high[:-1]) | (low[1:] != low[:-1]))[: len(entries)]


def groups(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G,) the first entry of each group, and (N,) each entry's group."""
    begin = begins(entries)
    return np.flatnonzero(begin), np.cumsum(begin) - 1


def find(
    kind: str, look: Callable[[Range], tuple[Range, np.ndarray]], every: Sequence[Block], folder: Path,
    executor: Executor,
) -> "Callable[[], Found]":  # fmt: skip
    """Looks through all hashes of a kind, range by range, and keeps what is found.

    Args:
        look: a function of a module, which any process may run: a range -> the same, and (F,) entries of one kind whose
            first columns are `block` and `row`.

    Returns:
        What reads the findings, from the first block on.
    """
    (folder / BLOCKS).write_text(json.dumps(every), encoding="utf-8")
    entries = sum((folder / f"{block.name}.{kind}").stat().st_size for block in every) // KINDS[kind].itemsize
    count = -(-entries // max(RANGE_ROWS, RANGE_ROWS_PER_BLOCK * len(every)))
    paths = []
    for part, found in executor.map(look, (Range(folder, kind, number, count) for number in range(count))):
        if len(found):
            paths.append(folder / f"{kind}-found-{part.number}.npy")
            np.save(paths[-1], found[np.lexsort((found["row"], found["block"]))])
    return lambda: Found(paths)


class Found:
    """What was found of all rows, read block after block."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [np.load(path, mmap_mode="r") for path in paths]
        self._places = [0] * len(self._files)

    def of(self, block: int, kind: np.dtype) -> np.ndarray:
        """The findings of a block, of their kind, ascending by row. Blocks are asked for in their order."""
        found = np.concatenate([np.empty(0, kind), *(self._take(file, block) for file in range(len(self._files)))])
        return found[np.argsort(found["row"], kind="stable")]

    def _take(self, number: int, block: int) -> np.ndarray:
        file, start = self._files[number], self._places[number]
        stop = start
        while len(some := file["block"][stop : stop + _AT_ONCE]):
            ahead = int(np.searchsorted(some, block, "right"))
            stop += ahead
            if ahead < len(some):
                break
        self._places[number] = stop
        return np.array(file[start:stop])

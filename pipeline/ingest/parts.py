"""A table's files cut into parts that can be read by themselves: at ends of lines, or at Parquet's row groups.

The rule looks at the files alone, so that the parts are the same whatever runs them. What cannot be read from its midst
(packed files, quoted CSV, one JSON array, Arrow, files at an address) is one part.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config.sources import Column, PairsSource
from pipeline.core import atomic_files, fingerprints
from pipeline.ingest import delimited, jsonl, line_batches, listing, parquet, places, tables
from pipeline.ingest.cells import Cells
from pipeline.ingest.delimited import Layout
from pipeline.ingest.rows import Row

PART_BYTES = 16 << 20
_PIECE = 1 << 18
_BATCH_ROWS, _BATCH_CHARACTERS = 500, 4 << 20


class Part(NamedTuple):
    """Some rows of a file that follow each other."""

    address: str
    name: str  # what the file is called in records and messages
    start: int = 0  # a byte of a file of lines, a row group of Parquet
    stop: int | None = None  # where the next part starts; None: this is the whole file
    before: int = 0  # lines, or rows of Parquet, that stand before it
    layout: Layout | None = None  # of TSV and CSV, where the part does not begin with the file


def cut(source: PairsSource, files: Sequence[str], wanted: Sequence[Column], limit_bytes: int) -> Iterator[Part]:
    """The parts of some files, in their order.

    Raises:
        InputError: a file is not there; a large one cannot be read, or has not the wanted columns.
    """
    for address, name in listing.names(files).items():
        whole = Part(address, name)
        if places.is_remote(address) or (size := places.local_path(address).stat().st_size) <= PART_BYTES:
            yield whole
        elif source.format == "parquet":
            for start, stop, rows in parquet.row_groups(address, PART_BYTES):
                yield whole._replace(start=start, stop=stop, before=rows) if stop else whole
        elif _has_plain_lines(source, address):
            layout = None
            if source.format == "jsonl":  # looks at some rows, more than the first part may have
                next(jsonl.read_pairs(source, address, wanted, limit_bytes, None), None)
            for start, stop, lines in _ends(places.path_of(address)):
                if start and source.format != "jsonl" and layout is None:
                    layout = delimited.layout(source, address, wanted, limit_bytes)
                yield (
                    whole
                    if stop - start == size
                    else whole._replace(start=start, stop=stop, before=lines, layout=layout)
                )
        else:
            yield whole


def _has_plain_lines(source: PairsSource, address: str) -> bool:
    """Whether every line end of a file is one between two rows, as a part of it shows them."""
    if source.format != "jsonl" and not _in_lines(source):
        return False
    with places.open_packed(address) as stream:
        head = stream.peek(_PIECE)
    return places.is_plain(head) and not (source.format == "jsonl" and jsonl.is_array(head))


def _ends(path: Path) -> Iterator[tuple[int, int, int]]:
    """Where each part of a file of lines starts and stops, and how many lines stand before it."""
    start = at = before = lines = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            counted = 0
            while (end := piece.find(b"\n", max(start + PART_BYTES - 1 - at, counted))) >= 0:
                lines += piece.count(b"\n", counted, end + 1)
                counted = end + 1
                yield start, at + counted, before
                start, before = at + counted, lines
            lines += piece.count(b"\n", counted)
            at += len(piece)
    if at > start:
        yield start, at, before


def stamp(part: Part) -> str:
    """What tells whether a part is the same as before, its file included."""
    if places.is_remote(part.address):
        return atomic_files.digest([str(part), places.fingerprint(part.address)])
    return atomic_files.digest([str(part), fingerprints.stamp_of(places.local_path(part.address))])


def batches(
    source: PairsSource, part: Part, wanted: Sequence[Column], limit_bytes: int, scratch: Path
) -> Iterator[Cells | list[Row]]:
    """The rows of a part, some at a time, each with its file's name. Raises InputError as `tables.read` does."""
    if _in_lines(source):
        between = None if part.stop is None else (part.start, part.stop)
        lines = line_batches.batches(part.address, source.encoding, limit_bytes, between, part.before)
        read = delimited.read_batches(source, lines, limit_bytes, part.address, wanted, part.layout)
        yield from map(functools.partial(_of_part, part), read)
    else:
        yield from in_batches(_rows(source, part, wanted, limit_bytes, scratch))


def rows(source: PairsSource, part: Part, wanted: Sequence[Column], limit_bytes: int, scratch: Path) -> Iterator[Row]:
    """As `batches`, one by one."""
    for batch in batches(source, part, wanted, limit_bytes, scratch):
        yield from map(batch.row, range(len(batch.lines))) if isinstance(batch, Cells) else batch


def in_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Some rows at a time, of a bounded size."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if len(batch) == _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rows(source: PairsSource, part: Part, wanted: Sequence[Column], limit_bytes: int, scratch: Path) -> Iterator[Row]:
    if part.stop is None:
        read = tables.read(source, part.address, wanted, limit_bytes, scratch)
    elif source.format == "parquet":
        groups = range(part.start, part.stop)
        read = parquet.read_pairs(source, part.address, wanted, limit_bytes, scratch, groups, part.before)
    else:
        between = (part.start, part.stop)
        lines = line_batches.batches(part.address, source.encoding, limit_bytes, between, part.before)
        each = itertools.chain.from_iterable(map(line_batches.each, lines))
        read = (row for row, _ in jsonl.rows_of(each, part.address, wanted))
    return (_named(row, part) for row in read)


def _of_part(part: Part, batch: Cells | list[Row]) -> Cells | list[Row]:
    if isinstance(batch, Cells):
        return batch._replace(source=part.name)
    return [_named(row, part) for row in batch]


def _named(row: Row, part: Part) -> Row:
    return row if row.source == part.name else row._replace(source=part.name)


def _in_lines(source: PairsSource) -> bool:
    """Whether each line is a row whose fields are divided by one character."""
    return source.format in ("tsv", "csv") and not source.quoting

"""TSV and CSV. With quoting a row may run over lines; without, a line is a row and quotes are ordinary characters."""

import csv
import sys
from collections.abc import Iterator, Sequence

from pipeline.config.sources import Column, PairsSource
from pipeline.errors import InputError
from pipeline.ingest import places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, check_columns, shorten


def read_pairs(
    source: PairsSource, address: str, wanted: Sequence[Column], limit_bytes: int, scratch: object
) -> Iterator[Row]:
    """The rows of a source of pairs; blank lines are no rows. Every row must have as many columns as the first.

    Raises:
        InputError: the header lacks a wanted column, or there is no header to find a name in.
    """
    delimiter = "\t" if source.format == "tsv" else ","
    lines = places.lines(address, source.encoding, limit_bytes)
    rows = _quoted(lines, delimiter, limit_bytes) if source.quoting else _plain(lines, delimiter)
    name, shown = places.name_of(address), places.shown_address(address)
    width, positions = 0, {}
    for line, fields in rows:
        if not width and (line.problem is None or source.header):
            if line.problem:
                raise InputError(f"{shown}: the header on line {line.number} cannot be read: {line.problem}")
            positions, width = _positions(shown, fields, wanted, source.header), len(fields)
            if source.header:
                continue
        problem = line.problem
        if problem is None and len(fields) != width:
            problem = BadRow("wrong number of columns", f"{len(fields)} instead of the first row's {width}")
        values = {} if problem else {column: fields[position] for column, position in positions.items()}
        yield Row(name, line.number, values, shorten(line.text), problem)


def _positions(address: str, first: list[str], wanted: Sequence[Column], header: bool) -> dict[Column, int]:
    if header:
        names = [field.strip("\ufeff \t") for field in first]
        check_columns(address, wanted, names)
        return {column: names.index(column) if isinstance(column, str) else column for column in wanted}
    named = [column for column in wanted if isinstance(column, str)]
    if named:
        raise InputError(
            f"{address} is read with header: false, so column {named[0]!r} must be a position from 0; "
            f"first row: {shorten(first)}"
        )
    check_columns(address, wanted, first)
    return {column: int(column) for column in wanted}


def _plain(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[Line, list[str]]]:
    for line in lines:
        if line.problem or line.text.strip("\r\ufeff"):
            yield line, line.text.split(delimiter)


class _RunOn(Exception):
    """A row that is over the limit: a quote was not closed, or a line of it is too long by itself."""


class _Feed:
    """Hands lines to a csv reader and remembers of the row being read its first line, its size and what is wrong."""

    def __init__(self, lines: Iterator[Line], limit_bytes: int) -> None:
        self._lines, self._limit = lines, limit_bytes
        self.start()

    def start(self) -> None:
        self.head: Line | None = None
        self.problem: BadRow | None = None
        self._size = 0

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.problem = self.problem or line.problem
        self._size += len(line.text) + 1
        if line.cut or self._size > self._limit + 1:
            self.head = self.head or line
            self.problem = self.problem or BadRow("too long", f"a quoted row over {self._limit // 1024} KiB")
            raise _RunOn
        # a byte order mark would hide the first quote
        text = line.text if self.head else line.text.lstrip("\ufeff")
        self.head = self.head or line
        return text + "\n"


def _quoted(lines: Iterator[Line], delimiter: str, limit_bytes: int) -> Iterator[tuple[Line, list[str]]]:
    """Rows by the csv module, strictly, fed line by line so that an open quote cannot swallow the whole file.

    A row with a bad line in it is bad as a whole, and reading goes on with the line after the one that showed it.
    """
    csv.field_size_limit(sys.maxsize)  # the feed bounds a row, not only a field
    feed = _Feed(lines, limit_bytes)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (_RunOn, csv.Error) as error:
            feed.problem = feed.problem or BadRow("bad quoting", str(error))
            reader = csv.reader(feed, delimiter=delimiter, strict=True)
        if feed.head and (feed.problem or fields):
            yield feed.head._replace(problem=feed.problem), fields
        feed.start()

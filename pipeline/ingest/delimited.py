"""TSV and CSV. With quoting a row may run over lines; without, a line is a row and quotes are ordinary characters."""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline.config.sources import Column, PairsSource
from pipeline.core.errors import InputError
from pipeline.ingest import places
from pipeline.ingest.cells import Cells
from pipeline.ingest.line_batches import Lines, each
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, check_columns, shorten, too_long


class Layout(NamedTuple):
    """Where the wanted columns of a file stand, and how many columns it has: what its first row tells."""

    positions: dict[Column, int]
    width: int
    header: int  # the number of the header's line; 0: there is none


def columns(source: PairsSource, address: str, limit_bytes: int, scratch: object) -> list[str]:
    """The names in the header; none of an empty file. Raises InputError where the header cannot be read."""
    for line, fields in _fields(source, places.lines(address, source.encoding, limit_bytes), limit_bytes):
        return _names(places.shown_address(address), line, fields)
    return []


def _fields(source: PairsSource, lines: Iterator[Line], limit_bytes: int) -> Iterator[tuple[Line, list[str]]]:
    """The fields of each row that is not blank, and the line it begins on."""
    rows = (
        _quoted(lines, source.delimiter, limit_bytes)
        if source.quoting
        else ((line, line.text.split(source.delimiter)) for line in lines)
    )
    return ((line, fields) for line, fields in rows if line.problem or len(fields) > 1 or fields[0].strip())


def _names(shown: str, line: Line, fields: list[str]) -> list[str]:
    if line.problem:
        raise InputError(f"{shown}: the header on line {line.number} cannot be read: {line.problem}")
    return [field.strip() for field in fields]


def read_pairs(
    source: PairsSource, address: str, wanted: Sequence[Column] | None, limit_bytes: int, scratch: object
) -> Iterator[Row]:
    """The rows of a table; blank lines are no rows. Every row must have as many columns as the first.

    Raises:
        InputError: the header lacks a wanted column, or there is no header to find a name in.
    """
    return read_lines(source, places.lines(address, source.encoding, limit_bytes), limit_bytes, address, wanted)


def layout(source: PairsSource, address: str, wanted: Sequence[Column], limit_bytes: int) -> Layout | None:
    """What the first row of a file tells; None: no row can be read. Raises InputError as `read_pairs` does."""
    return _first(source, places.lines(address, source.encoding, limit_bytes), limit_bytes, address, wanted)


def _first(
    source: PairsSource, lines: Iterator[Line], limit_bytes: int, address: str, wanted: Sequence[Column] | None
) -> Layout | None:
    for line, fields in _fields(source, lines, limit_bytes):
        if line.problem is None or source.header:
            return _layout(source, places.shown_address(address), line, fields, wanted)
    return None


def read_lines(
    source: PairsSource, lines: Iterator[Line], limit_bytes: int, address: str, wanted: Sequence[Column] | None,
    layout: Layout | None = None,
) -> Iterator[Row]:  # fmt: skip
    """As `read_pairs`, of some lines of a file; `layout` is what its first row tells, where they come after it."""
    name, shown = places.name_of(address), places.shown_address(address)
    for line, fields in _fields(source, lines, limit_bytes):
        if layout is None and (line.problem is None or source.header):
            layout = _layout(source, shown, line, fields, wanted)
            if source.header:
                continue
        yield _row(name, line, fields, layout)


def _row(name: str, line: Line, fields: list[str], layout: Layout | None) -> Row:
    problem = line.problem
    if problem is None and layout is not None and len(fields) != layout.width:
        problem = BadRow("wrong number of columns", f"{len(fields)} instead of the first row's {layout.width}")
    positions = {} if problem or layout is None else layout.positions
    values = {column: fields[position] for column, position in positions.items()}
    return Row(name, line.number, values, shorten(line.text), problem)


def read_batches(
    source: PairsSource, batches: Iterable[Lines | list[Line]], limit_bytes: int, address: str,
    wanted: Sequence[Column], layout: Layout | None,
) -> Iterator[Cells | list[Row]]:  # fmt: skip
    """As `read_lines`, of lines without quoting, many at a time; `layout` is None where they begin with the first."""
    name = places.name_of(address)

    def read(batch: Lines | list[Line]) -> Cells | list[Row]:
        nonlocal layout
        if layout is None:
            layout = _first(source, iter(each(batch)), limit_bytes, address, wanted)
        header = layout.header if layout is not None else 0
        if isinstance(batch, Lines) and layout is not None:
            texts = batch.texts[max(header - batch.before, 0) :]
            return _cells(name, texts, max(header, batch.before) + 1, source.delimiter, layout)
        rows = _fields(source, (line for line in each(batch) if line.number > header), limit_bytes)
        return [_row(name, line, fields, layout) for line, fields in rows]

    return map(read, batches)


def _cells(name: str, texts: list[str], first: int, delimiter: str, layout: Layout) -> Cells:
    """The cells of lines, of which the first has a number."""
    fields = [text.split(delimiter) for text in texts]
    numbers: Sequence[int] = range(first, first + len(texts))
    odd: dict[int, Row] = {}
    if set(map(len, fields)) - {layout.width} or (layout.width == 1 and not all(map(str.strip, texts))):
        kept = [place for place, row in enumerate(fields) if len(row) > 1 or row[0].strip()]
        numbers, texts = [first + place for place in kept], [texts[place] for place in kept]
        fields = [fields[place] for place in kept]
        for place, row in enumerate(fields):
            if len(row) != layout.width:
                odd[place] = _row(name, Line(numbers[place], texts[place], None), row, layout)
                fields[place] = [""] * layout.width
    columns = list(zip(*fields)) or [()] * layout.width
    values = {column: columns[position] for column, position in layout.positions.items()}
    return Cells(name, numbers, texts, values, odd)


def _layout(source: PairsSource, shown: str, line: Line, fields: list[str], wanted: Sequence[Column] | None) -> Layout:
    if source.header:
        fields = _names(shown, line, fields)
    positions = _positions(source, shown, fields, fields if wanted is None else wanted)
    return Layout(positions, len(fields), line.number if source.header else 0)


def _positions(source: PairsSource, shown: str, first: list[str], wanted: Sequence[Column]) -> dict[Column, int]:
    """Where each wanted column stands, by the first row. Raises InputError."""
    named = [column for column in wanted if isinstance(column, str)]
    if not source.header and named:
        raise InputError(
            f"{shown} is read with header: false, so column {named[0]!r} must be a position from 0; "
            f"first row: {shorten(first)}"
        )
    try:
        check_columns(shown, wanted, first)
    except InputError as error:
        raise InputError(f"{error}{_other_delimiter(source, first)}") from None
    return {column: first.index(column) if isinstance(column, str) else column for column in wanted}


def _other_delimiter(source: PairsSource, first: list[str]) -> str:
    """What to say of a first row that is all in one field."""
    likely = max((sign for sign in ";,\t|" if sign != source.delimiter), key=lambda sign: first[0].count(sign))
    if len(first) > 1 or likely not in first[0]:
        return ""
    return f"; its fields seem to be divided by {likely!r}: set the delimiter (ingest.source.delimiter, or --delimiter)"


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
            self.problem = self.problem or too_long(self._limit, "a quoted row of ")
            raise _RunOn
        self.head = self.head or line
        return line.text + "\n"


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

"""JSON Lines: an object (columns are keys) or an array (columns are positions) a line; JSON: one array of objects."""

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from pipeline.config.sources import Column, PairsSource
from pipeline.core.errors import one_line
from pipeline.ingest import places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, check_columns, shorten, too_long

_PIECE = 1 << 16
_BETWEEN = "\ufeff \t\r\n,["  # what may stand before an object of an array
_LOOK_AT = 20  # rows in which a column must appear at least once


def read(
    address: str, wanted: Sequence[Column] | None, encoding: str, limit_bytes: int
) -> Iterator[tuple[Row, Sequence[str]]]:
    """The rows, each with the names of its columns; blank lines are no rows."""
    return rows_of(_lines(address, encoding, limit_bytes), address, wanted)


def rows_of(
    lines: Iterable[Line], address: str, wanted: Sequence[Column] | None
) -> Iterator[tuple[Row, Sequence[str]]]:
    """As `read`, of lines already opened; of all columns where `wanted` is None."""
    for line in lines:
        if line.problem:
            yield places.bad_line(address, line), ()
            continue
        text = line.text.strip()
        if not text:
            continue
        values: dict[Column, Any] = {}
        names: list[str] = []
        problem = None
        try:
            row = json.loads(text)
            if isinstance(row, dict):
                names = list(row)
                values = {name: row[str(name)] for name in (names if wanted is None else wanted) if str(name) in row}
            elif isinstance(row, list) and any(isinstance(column, int) for column in wanted or ()):
                names = [str(i) for i in range(len(row))]
                values = {i: row[i] for i in wanted or () if isinstance(i, int) and 0 <= i < len(row)}
            else:
                problem = BadRow("no JSON object", f"a {type(row).__name__}")
        except (ValueError, RecursionError) as error:
            problem = BadRow("no JSON", one_line(error, 80))
        yield Row(places.name_of(address), line.number, values, shorten(line.text), problem), names


def _lines(address: str, encoding: str, limit_bytes: int) -> Iterator[Line]:
    """The lines of a file; of one that is an array of objects, in any layout, each object as a line of its own.

    It is one where its first signs are [ and {. Its lines are numbered by objects, from 1.
    """
    with places.open_binary(address) as stream:
        if not is_array(stream.peek(_PIECE)):  # type: ignore[attr-defined]
            yield from places.lines_of(stream, encoding, limit_bytes, address)
            return
        with places.sentences(places.shown_address(address), address):
            yield from _objects(stream, encoding, limit_bytes)


def is_array(head: bytes) -> bool:
    """Whether a file that begins so is one array of objects."""
    return re.match(rb"\s*\[\s*\{", head.removeprefix(codecs.BOM_UTF8)) is not None


def _objects(stream: IO[bytes], encoding: str, limit_bytes: int) -> Iterator[Line]:
    """The objects of an array as text. What is none, or is too long, is a bad line, and the last."""
    text = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
    parser, held, number = json.JSONDecoder(), "", 1
    while piece := stream.read(_PIECE):
        held += text.decode(piece)
        while held := held.lstrip(_BETWEEN):
            try:
                _, end = parser.raw_decode(held)
            except (ValueError, RecursionError):
                break
            yield Line(number, held[:end], None)
            held, number = held[end:], number + 1
        if len(held) > limit_bytes + _PIECE:
            yield Line(number, shorten(held), too_long(limit_bytes, "an object of "))
            return
    if held.strip(_BETWEEN + "]"):
        yield Line(number, shorten(held), BadRow("no JSON", "the array is damaged or cut here"))


def columns(source: PairsSource, address: str, limit_bytes: int, scratch: object) -> list[str]:
    """The keys of the first rows."""
    return _names(itertools.islice(read(address, (), source.encoding, limit_bytes), _LOOK_AT))


def _names(rows: Iterable[tuple[Row, Sequence[str]]]) -> list[str]:
    return list(dict.fromkeys(name for _, names in rows for name in names))


def read_pairs(
    source: PairsSource, address: str, wanted: Sequence[Column] | None, limit_bytes: int, scratch: object
) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        InputError: a wanted column is in none of the first rows.
    """
    rows = read(address, wanted, source.encoding, limit_bytes)
    first = list(itertools.islice(rows, _LOOK_AT))
    if wanted is not None and any(row.problem is None for row, _ in first):
        check_columns(places.shown_address(address), map(str, wanted), _names(first))
    yield from (row for row, _ in itertools.chain(first, rows))

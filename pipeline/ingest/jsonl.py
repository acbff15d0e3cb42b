"""JSON Lines: one object (columns are keys) or one array (columns are positions) a line."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.config.sources import Column, PairsSource
from pipeline.errors import one_line
from pipeline.ingest import places
from pipeline.ingest.rows import BadRow, Row, check_columns, shorten

_LOOK_AT = 20  # rows in which a column must appear at least once


def read(
    address: str, wanted: Sequence[Column], encoding: str, limit_bytes: int
) -> Iterator[tuple[Row, Sequence[str]]]:
    """The rows, each with the names of its columns; blank lines are no rows."""
    for line in places.lines(address, encoding, limit_bytes):
        if line.problem:
            yield places.bad_line(address, line), ()
            continue
        text = line.text.strip("\ufeff \t\r")
        if not text:
            continue
        values: dict[Column, Any] = {}
        names: list[str] = []
        problem = None
        try:
            row = json.loads(text)
            if isinstance(row, dict):
                names = list(row)
                values = {column: row[str(column)] for column in wanted if str(column) in row}
            elif isinstance(row, list) and any(isinstance(column, int) for column in wanted):
                names = [str(i) for i in range(len(row))]
                values = {i: row[i] for i in wanted if isinstance(i, int) and 0 <= i < len(row)}
            else:
                problem = BadRow("no JSON object", f"a {type(row).__name__}")
        except (ValueError, RecursionError) as error:
            problem = BadRow("no JSON", one_line(error, 80))
        yield Row(places.name_of(address), line.number, values, shorten(line.text), problem), names


def read_pairs(
    source: PairsSource, address: str, wanted: Sequence[Column], limit_bytes: int, scratch: object
) -> Iterator[Row]:
    """The rows of a source of pairs.

    Raises:
        InputError: a wanted column is in none of the first rows.
    """
    rows = read(address, wanted, source.encoding, limit_bytes)
    first = list(itertools.islice(rows, _LOOK_AT))
    good = [names for row, names in first if row.problem is None]
    if good:
        every = dict.fromkeys(name for names in good for name in names)
        check_columns(places.shown_address(address), map(str, wanted), every)
    yield from (row for row, _ in itertools.chain(first, rows))

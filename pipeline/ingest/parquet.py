"""Parquet and Arrow, of which only the wanted columns are read, some rows at a time.

A row group's pages are read as they are needed; the memory that takes is bounded by the file's page size, which its
writer chose (1 MB as a rule), not by its rows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.sources import Column, PairsSource
from pipeline.core.errors import InputError
from pipeline.ingest import places
from pipeline.ingest.rows import Row, check_columns, shorten, too_long

_ROWS_AT_ONCE = 256
# What a column of a row group may unpack to: so many times its size, or so many bytes where that is more.
_UNPACKED_TIMES, _UNPACKED_BYTES = 200, 64 << 20
_TOO_MUCH = f"unpacks to more than {_UNPACKED_TIMES} times its size: write it anew without compression if that is meant"
_DAMAGE = (pa.ArrowException, OSError, ValueError)  # ValueError: a column name that is no UTF-8


def arrow_columns(source: PairsSource, address: str, limit_bytes: int, scratch: Path) -> list[str]:
    """The columns' names of an Arrow file. Raises InputError for what is none."""
    with places.open_seekable(address, scratch) as stream:
        return list(_arrow(stream, places.shown_address(address)).schema.names)


def read_arrow(
    source: PairsSource, address: str, wanted: Sequence[Column] | None, limit_bytes: int, scratch: Path
) -> Iterator[Row]:
    """The rows of a file of Arrow's streaming or file format, as Hugging Face's `datasets` saves them.

    Raises:
        InputError: no Arrow file, a damaged one, or a wanted column is not in it.
    """
    shown, name = places.shown_address(address), places.name_of(address)
    with places.open_seekable(address, scratch) as stream:
        file = _arrow(stream, shown)
        names = list(file.schema.names)
        chosen = _chosen(shown, wanted, names)
        number = 0
        try:
            for batch in _batches(file):
                batch.validate(full=True)  # else a damaged offset would be read as an address
                for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    part = batch.slice(start, _ROWS_AT_ONCE)
                    columns = {column: _plain(part.column(names.index(title))) for column, title in chosen.items()}
                    for i in range(part.num_rows):
                        number += 1
                        yield _row(name, number, {column: cells[i] for column, cells in columns.items()}, limit_bytes)
        except _DAMAGE as error:
            raise InputError(f"{shown} cannot be read to its end: {_first_line(error)}") from None


def _arrow(stream: IO[bytes], shown: str) -> Any:
    try:
        if stream.read(6) == b"ARROW1":
            return pa.ipc.open_file(stream)
        stream.seek(0)
        return pa.ipc.open_stream(stream)
    except _DAMAGE as error:
        raise InputError(f"{shown} is not an Arrow file: {_first_line(error)}") from None


def _batches(file: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(file, "num_record_batches"):
        return (file.get_batch(number) for number in range(file.num_record_batches))
    return iter(file)


def _chosen(shown: str, wanted: Sequence[Column] | None, names: list[str]) -> dict[Column, str]:
    """The title of each wanted column. Raises InputError where it is not there, or not the only one."""
    wanted = names if wanted is None else wanted
    check_columns(shown, wanted, names)
    chosen = {column: column if isinstance(column, str) else names[column] for column in wanted}
    check_columns(shown, chosen.values(), names)  # Arrow finds a column by its name alone
    return chosen


def columns(source: PairsSource, address: str, limit_bytes: int, scratch: Path) -> list[str]:
    """The columns' names. Raises InputError for what is not a Parquet file."""
    with places.open_seekable(address, scratch) as stream:
        return _opened(stream, places.shown_address(address))[1]


def _opened(stream: IO[bytes], shown: str) -> tuple[pq.ParquetFile, list[str]]:
    try:
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        return file, list(file.schema_arrow.names)
    except _DAMAGE as error:
        raise InputError(f"{shown} is not a Parquet file: {_first_line(error)}") from None


def row_groups(address: str, part_bytes: int) -> Iterator[tuple[int, int | None, int]]:
    """Runs of row groups of a local file that hold so many bytes: the first, the one after the last, rows before them.

    One without an end, where the file is packed or no Parquet file at all.
    """
    path = places.path_of(address)
    with path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            yield 0, None, 0
            return
        file, _ = _opened(stream, places.shown_address(address))
        start = size = rows = before = 0
        for group in range(file.metadata.num_row_groups):
            row_group = file.metadata.row_group(group)
            size, rows = size + row_group.total_byte_size, rows + row_group.num_rows
            if size >= part_bytes or group + 1 == file.metadata.num_row_groups:
                yield start, group + 1, before
                start, size, before = group + 1, 0, rows
        if not rows:
            yield 0, None, 0


def read_pairs(
    source: PairsSource,
    address: str,
    wanted: Sequence[Column] | None,
    limit_bytes: int,
    scratch: Path,
    groups: Sequence[int] | None = None,
    before: int = 0,
) -> Iterator[Row]:
    """The rows of a table, or of some of its row groups, before which so many rows stand.

    Raises:
        InputError: no Parquet file, a damaged one, one of far more rows than its size, or a wanted column is not in it.
    """
    shown, name = places.shown_address(address), places.name_of(address)
    with places.open_seekable(address, scratch) as stream:
        left = max(_UNPACKED_BYTES, _UNPACKED_TIMES * stream.seek(0, 2))
        file, names = _opened(stream, shown)
        _check_pages(file, shown)
        chosen = _chosen(shown, wanted, names)
        titles = list(dict.fromkeys(chosen.values()))
        batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=titles, use_threads=False)
        number = before
        while True:
            try:
                batch = next(batches, None)
            except _DAMAGE as error:
                raise InputError(f"{shown} cannot be read to its end: {_first_line(error)}") from None
            if batch is None:
                return
            left -= batch.nbytes
            if left < 0:  # millions of equal cells fit into some bytes of a dictionary
                raise InputError(f"{shown} {_TOO_MUCH}")
            columns = {column: _plain(batch.column(title)) for column, title in chosen.items()}
            for i in range(batch.num_rows):
                number += 1
                yield _row(name, number, {column: cells[i] for column, cells in columns.items()}, limit_bytes)


def _check_pages(file: pq.ParquetFile, shown: str) -> None:
    """Raises InputError for a file whose pages would unpack to far more than any table does: a page is held whole."""
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for column in range(row_group.num_columns):
            chunk = row_group.column(column)
            if chunk.total_uncompressed_size > max(_UNPACKED_BYTES, _UNPACKED_TIMES * chunk.total_compressed_size):
                raise InputError(f"{shown} has a column that {_TOO_MUCH}")


def _plain(cells: pa.Array) -> list[Any]:
    """The cells as Python values, strings as bytes: Arrow does not check UTF-8, and one bad cell must not stop all."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells, kind = cells.dictionary_decode(), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        cells = cells.cast(pa.large_binary())
    return list(cells.to_pylist())


def _row(name: str, number: int, cells: dict[Column, Any], limit_bytes: int) -> Row:
    shown = shorten({key: cell[:80] if isinstance(cell, bytes) else cell for key, cell in cells.items()})
    if sum(len(cell) for cell in cells.values() if isinstance(cell, bytes)) > limit_bytes:
        return Row(name, number, {}, shown, too_long(limit_bytes))
    try:
        values = {key: cell.decode("utf-8") if isinstance(cell, bytes) else cell for key, cell in cells.items()}
    except UnicodeDecodeError as error:
        return Row(name, number, {}, shown, places.undecodable(error, "utf-8"))
    return Row(name, number, values, shorten(values), None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

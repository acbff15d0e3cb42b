"""Tables: JSON Lines, CSV, TSV, Parquet and Arrow, read in one way for ingest, prediction and search."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from pydantic import ValidationError

from pipeline.config.sources import Column, PairsSource
from pipeline.core.errors import InputError
from pipeline.ingest import delimited, jsonl, parquet, places
from pipeline.ingest.rows import Row

Format = Literal["jsonl", "csv", "tsv", "parquet", "arrow"]
ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".pq": "parquet", ".arrow": "arrow",
}  # fmt: skip
How = Mapping[str, str | None]  # `encoding` and `delimiter` of a table, where they are not the format's own
PACKED = (".gz", ".zst")
# source, address, the columns to read (None: all), row limit in bytes, a folder for temporary files -> rows
Read = Callable[[PairsSource, str, Sequence[Column] | None, int, Path], Iterator[Row]]
_READ: dict[str, Read] = {
    "jsonl": jsonl.read_pairs, "csv": delimited.read_pairs, "tsv": delimited.read_pairs, "parquet": parquet.read_pairs,
    "arrow": parquet.read_arrow,
}  # fmt: skip
_COLUMNS: dict[str, Callable[[PairsSource, str, int, Path], list[str]]] = {
    "jsonl": jsonl.columns, "csv": delimited.columns, "tsv": delimited.columns, "parquet": parquet.columns,
    "arrow": parquet.arrow_columns,
}  # fmt: skip


def format_of(address: str) -> Format | None:
    """The format that a name's ending tells, before .gz or .zst; None: it tells none.

    >>> format_of("a.csv.gz"), format_of("https://host/a.pq?key=1"), format_of("a.txt")
    ('csv', 'parquet', None)
    """
    name = places.name_of(address).lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return ENDINGS.get(Path(name).suffix)


def source_of(address: str, form: str, how: How | None) -> PairsSource:
    """A table as a source.

    Raises:
        InputError: no such delimiter.
    """
    settings = {name: value for name, value in (how or {}).items() if value is not None}
    try:
        return PairsSource(format=cast(Format, form), path=address, **settings)  # type: ignore[arg-type]
    except ValidationError:
        raise InputError(
            f"the delimiter {settings.get('delimiter')!r} must be one character, no quote and no line end"
        ) from None


def columns(source: PairsSource, address: str, limit_bytes: int, scratch: Path) -> list[str]:
    """The columns of a table, in its order; of JSON, the keys in its first rows. Raises InputError as `read` does."""
    return _COLUMNS[source.format](source, address, limit_bytes, scratch)


def read(
    source: PairsSource, address: str, wanted: Sequence[Column] | None, limit_bytes: int, scratch: Path
) -> Iterator[Row]:
    """The rows with the wanted columns (None: with all); those that cannot be read carry their problem.

    Raises:
        InputError: no such file, one that is damaged or of another format, or a wanted column is not in it.
    """
    return _READ[source.format](source, address, wanted, limit_bytes, scratch)

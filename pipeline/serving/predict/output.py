"""What predicting a file writes: the rows with their predictions beside them, in each format, no column lost."""

import csv
import itertools
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import atomic_files
from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError

ROWS_AT_ONCE = 1024
Pair = tuple[dict[str, Any], dict[str, Any]]  # a row of the input, and its prediction


def names_beside(names: Iterable[str], columns: Collection[str]) -> dict[str, str]:
    """Under which name each part of a prediction is written, so that no column of the input is lost.

    >>> names_beside(["label", "probabilities"], ["text", "label"])
    {'label': 'predicted_label', 'probabilities': 'probabilities'}
    >>> names_beside(["label"], ["label", "predicted_label"])
    {'label': 'predicted_label_2'}
    """
    written_names = {}
    for name in names:
        numbered = (f"predicted_{name}_{number}" for number in itertools.count(2))
        candidates = itertools.chain([name, f"predicted_{name}"], numbered)
        written_names[name] = next(other for other in candidates if other not in columns)
    return written_names


def json_line(value: Any) -> bytes:
    """A line of JSON, in which a number that JSON does not have is null."""
    text = as_json(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def finish(partial: Path, output: Path, kind: str) -> dict[str, str]:
    """The gathered rows become the output, whole or not at all; returns the names that had to be others."""
    columns, parts = dict[str, None](), dict[str, None]()
    for pairs in _pairs(partial):
        for row, prediction in pairs:
            columns |= dict.fromkeys(row)
            parts |= dict.fromkeys(prediction)
    names = names_beside(parts, columns)
    whole = Gathered(partial, list(columns) + list(names.values()), names)
    new = output.with_name(f".{output.name}.new")
    try:
        {"parquet": _write_parquet, "jsonl": _write_lines}.get(kind, _write_table)(whole, new, kind)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.rename(output)
        atomic_files.fsync_folder(output.parent)
    finally:
        new.unlink(missing_ok=True)
    return {name: other for name, other in names.items() if other != name}


def _pairs(partial: Path) -> Iterator[list[Pair]]:
    with partial.open("rb") as lines:
        yield from iter(lambda: [json.loads(line) for line in itertools.islice(lines, ROWS_AT_ONCE)], [])


class Gathered(NamedTuple):
    """What `.OUTPUT.partial` holds, and how the output names it."""

    partial: Path
    columns: list[str]  # of the output
    names: dict[str, str]  # of each part of a prediction

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """The output's rows."""
        for pairs in _pairs(self.partial):
            yield [row | {self.names[name]: value for name, value in prediction.items()} for row, prediction in pairs]


def _write_lines(whole: Gathered, path: Path, kind: str) -> None:
    with path.open("wb") as file:
        for rows in whole.chunks():
            file.writelines(map(json_line, rows))


def _write_table(whole: Gathered, path: Path, kind: str) -> None:
    """CSV, quoted where it must be; TSV as it is read here, without quotes, so tabs and line ends become blanks."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        write = writer.writerow if kind == "csv" else lambda cells: file.write("\t".join(map(_flat, cells)) + "\n")
        write(whole.columns)
        for rows in whole.chunks():
            for row in rows:
                write([_cell(row.get(name)) for name in whole.columns])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(cell: str) -> str:
    return " ".join(cell.replace("\t", " ").splitlines())


def _write_parquet(whole: Gathered, path: Path, kind: str) -> None:
    """Twice over the rows: what type each column has, then the writing."""
    empty = dict.fromkeys(whole.columns)
    tables = lambda: (pa.Table.from_pylist([empty | row for row in rows]) for rows in whole.chunks())
    try:
        schema = pa.unify_schemas([table.schema for table in tables()], promote_options="permissive")
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in tables():
                writer.write_table(table.cast(schema))
    except (pa.ArrowException, OverflowError) as error:  # an integer of more than 64 bits is the latter
        raise InputError(
            f"the rows do not fit Parquet's columns ({' '.join(str(error).split())[:150]}): "
            "name an --output that ends in .jsonl"
        ) from None

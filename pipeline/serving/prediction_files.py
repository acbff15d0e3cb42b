"""Predicting a file: rows streamed in, predictions out in order, bad rows aside, going on where a run was cut off.

Whatever the output's format, predictions gather as JSON Lines in `.OUTPUT.partial` beside it, with what has been done
in `.OUTPUT.position`; at the end they become the output. So a cut-off run loses one batch at the most.
"""

import contextlib
import csv
import fcntl
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import files
from pipeline.config.sources import PairsSource
from pipeline.errors import InputError, TryAgain, one_line
from pipeline.ingest import delimited, parquet, places
from pipeline.ingest.rows import SHOWN, BadRow, Row, shorten
from pipeline.serving.predictor import Predictor

FORMATS = ("jsonl", "csv", "tsv", "parquet")
ROWS_PER_BATCH = 1024
STDIN = STDOUT = "-"

Say = Callable[[str], None]


@dataclass
class Position:
    """How far a run has come. Byte counts are of the partial output and of the quarantine."""

    identity: str  # of input, model and how it is asked
    read: int = 0
    predicted: int = 0
    refused: int = 0
    output_bytes: int = 0
    quarantine_bytes: int = 0
    first_refusal: str = ""


# --- reading ----------------------------------------------------------------------------------------------------------
def format_of(address: str, given: str | None) -> str:
    """The format of a file by its name, a packing ending left out. Raises InputError."""
    if given or address == STDIN:
        return given or "jsonl"
    name = places.name_of(address).lower().removesuffix(".gz").removesuffix(".zst")
    ending = {"ndjson": "jsonl", "pq": "parquet"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    if ending not in FORMATS:
        raise InputError(f"{address} does not end in {', '.join(FORMATS)}: name its format with --format")
    return ending


def read(address: str, kind: str, limit_bytes: int, scratch: Path) -> Iterator[Row]:
    """All rows with all their columns; those that cannot be read carry their problem. Raises InputError."""
    if kind == "jsonl":
        lines = _stdin_lines(limit_bytes) if address == STDIN else places.lines(address, "utf-8", limit_bytes)
        yield from (_json_row(address, line) for line in lines if line.problem or line.text.strip("\ufeff \t\r"))
    elif address == STDIN:
        raise InputError(f"standard input is read as JSON Lines, not as {kind}")
    elif kind == "parquet":
        with places.open_seekable(address, scratch) as stream:
            try:
                names: list[str] = pq.ParquetFile(stream).schema_arrow.names
            except (pa.ArrowException, OSError, ValueError):
                names = []  # the reader says it in a sentence
        source = PairsSource(format="parquet", path=address)
        yield from parquet.read_pairs(source, address, names, limit_bytes, scratch)
    else:
        source = PairsSource(format="csv" if kind == "csv" else "tsv", path=address)
        header = next((line.text for line in places.lines(address, "utf-8", limit_bytes) if line.text.strip()), "")
        delimiter = "," if kind == "csv" else "\t"
        try:
            names = next(csv.reader([header.strip("\ufeff")], delimiter=delimiter)) if kind == "csv" else (
                header.strip("\ufeff\r").split(delimiter)
            )  # fmt: skip
        except csv.Error as error:
            raise InputError(f"{places.shown_address(address)}: the header cannot be read ({error})") from None
        if not header:
            raise InputError(f"{places.shown_address(address)} is empty")
        yield from delimited.read_pairs(source, address, [name.strip() for name in names], limit_bytes, scratch)


def _json_row(address: str, line: places.Line) -> Row:
    values: dict[Any, Any] = {}
    problem = line.problem
    if problem is None:
        try:
            found = json.loads(line.text.strip("\ufeff \t\r"))
            if isinstance(found, dict):
                values = found
            else:
                problem = BadRow("no JSON object", f"a {type(found).__name__}")
        except (ValueError, RecursionError) as error:
            problem = BadRow("no JSON", one_line(error, 80))
    return Row(places.name_of(address), line.number, values, shorten(line.text), problem)


def _stdin_lines(limit_bytes: int) -> Iterator[places.Line]:
    number = 0
    while raw := sys.stdin.buffer.readline(limit_bytes + 2):
        number += 1
        content = raw.removesuffix(b"\n").removesuffix(b"\r")
        problem, text = None, content.decode("utf-8", "replace")
        if len(content) > limit_bytes:
            while not raw.endswith(b"\n") and (raw := sys.stdin.buffer.readline(1 << 16)):
                pass
            problem, text = BadRow("too long", f"more than {limit_bytes // 1024} KiB"), text[:SHOWN]
        else:
            try:
                content.decode("utf-8")
            except UnicodeDecodeError:
                problem = BadRow("undecodable bytes", "no utf-8")
        yield places.Line(number, text, problem)


def count_rows(address: str, kind: str, scratch: Path) -> int | None:
    """How many rows there are, about (lines), for the progress bar; None where that cannot be known."""
    if address == STDIN or places.is_remote(address):
        return None
    try:
        if kind == "parquet":
            with places.open_seekable(address, scratch) as stream:
                return int(pq.ParquetFile(stream).metadata.num_rows)
        with places.open_binary(address) as lines:
            return sum(piece.count(b"\n") for piece in iter(lambda: lines.read(1 << 20), b"")) - (kind != "jsonl")
    except Exception:  # whatever is wrong with the file, reading it says so in a sentence
        return None


# --- predicting -------------------------------------------------------------------------------------------------------
def predict_file(
    predictor: Predictor, address: str, kind: str, output: Path, output_kind: str, identity: str, limit_bytes: int,
    restart: bool, say: Say,
) -> Position:  # fmt: skip
    """Predicts all rows of a file into another; bad ones go to OUTPUT.quarantine.jsonl.

    Args:
        identity: of input, model and how it is asked; a run that was cut off goes on only where it is the same.
        restart: begin anew whatever stands there.

    Raises:
        InputError: a run of something else was cut off here; no row is good. TryAgain: another run writes this output.
    """
    partial, place = (output.with_name(f".{output.name}.{what}") for what in ("partial", "position"))
    quarantine = output.with_name(f"{output.name}.quarantine.jsonl")
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as made, contextlib.ExitStack() as stack:
        try:
            fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TryAgain(f"another run is writing {output}: wait for it, or name another --output") from None
        at = _resumed(place, identity, output, restart)
        refused = stack.enter_context(quarantine.open("ab"))
        if made.tell() < at.output_bytes or refused.tell() < at.quarantine_bytes:  # what was done is gone
            at = Position(identity)
        for file, size in ((made, at.output_bytes), (refused, at.quarantine_bytes)):
            file.truncate(size)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        total = count_rows(address, kind, scratch)
        if at.read:
            say(f"going on after row {at.read:,}")
        rows = itertools.islice(read(address, kind, limit_bytes, scratch), at.read, None)
        began, before = time.monotonic(), at.read
        for batch in iter(lambda: list(itertools.islice(rows, ROWS_PER_BATCH)), []):
            _predict_batch(predictor, batch, made, refused, at)
            files.write_text(place, json.dumps(asdict(at)))
            rate = (at.read - before) / max(1e-9, time.monotonic() - began)
            said = f"{rate:,.0f} rows/s" + (f", {at.refused:,} refused" if at.refused else "")
            say(f"predicted {at.read:,}/{max(total, at.read):,}: {said}" if total else f"{at.read:,} rows, {said}")
        if not at.predicted:
            place.unlink(missing_ok=True)
            partial.unlink()
            raise InputError(_nothing_good(at, address) + (f" (see {quarantine})" if at.read else ""))
        _finish(partial, output, output_kind)
        place.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    if not at.refused:
        quarantine.unlink()
    return at


def predict_stream(predictor: Predictor, address: str, rows: Iterator[Row], stream: IO[bytes], say: Say) -> Position:
    """Predicts rows as they come, JSON Lines to a stream, bad rows said. Raises InputError where no row is good."""
    at = Position("")
    for batch in iter(lambda: list(itertools.islice(rows, ROWS_PER_BATCH)), []):
        with tempfile.TemporaryFile() as refused:
            _predict_batch(predictor, batch, stream, refused, at)
            refused.seek(0)
            for line in refused:
                entry = json.loads(line)
                say(f"row {entry['row']} left out: {entry['reason']}")
    if not at.predicted:
        raise InputError(_nothing_good(at, address))
    return at


def _nothing_good(at: Position, address: str) -> str:
    shown = "standard input" if address == STDIN else places.shown_address(address)
    if not at.read:
        return f"{shown} holds no rows"
    form = "; standard input is read as JSON Lines: give a file of another format by its name"
    return (
        f"none of the {at.read:,} rows of {shown} can be predicted; the first: {at.first_refusal}"
        + (form if address == STDIN and "no JSON" in at.first_refusal else "")
    )  # fmt: skip


def _predict_batch(predictor: Predictor, batch: list[Row], made: IO[bytes], refused: IO[bytes], at: Position) -> None:
    for row, prediction in _predictions(predictor, batch):
        if isinstance(prediction, BadRow):
            entry = {"source": row.source, "row": row.number, "reason": str(prediction), "copy": row.shown}
            refused.write(_line(entry))
            at.refused += 1
            at.first_refusal = at.first_refusal or f"row {row.number}: {prediction}"
        else:
            made.write(_line({**{str(key): value for key, value in row.values.items()}, **prediction}))
            at.predicted += 1
    at.read += len(batch)
    for file in (made, refused):
        file.flush()
        with contextlib.suppress(OSError, ValueError):  # a pipe
            os.fsync(file.fileno())
    if made.seekable():
        at.output_bytes, at.quarantine_bytes = made.tell(), refused.tell()


def _predictions(predictor: Predictor, batch: list[Row]) -> Iterator[tuple[Row, dict[str, Any] | BadRow]]:
    """Each row with its prediction, or with what is wrong with it, in order."""
    bad: dict[int, BadRow] = {}
    values = [{str(key): value for key, value in row.values.items()} for row in batch]
    for place, row in enumerate(batch):
        try:
            if row.problem:
                raise row.problem
            predictor.check(values[place])
        except BadRow as problem:
            bad[place] = _with_names(problem, values[place])
    good = [place for place in range(len(batch)) if place not in bad]
    found: dict[int, dict[str, Any]] = {}
    try:
        found = dict(zip(good, predictor.predict([values[place] for place in good]) if good else []))
    except InputError:  # a row that only predicting it shows to be bad: find it
        for place in good:
            try:
                found[place] = predictor.predict([values[place]])[0]
            except InputError as error:
                bad[place] = BadRow("cannot be predicted", str(error))
    for place, row in enumerate(batch):
        yield row, bad[place] if place in bad else found[place]


def _with_names(problem: BadRow, values: dict[str, Any]) -> BadRow:
    """A missing field, and beside it what the row has: names are mistaken more often than left out."""
    names = [name for name, value in values.items() if value is not None]
    if problem.kind != "missing field" or not names:
        return problem
    detail = str(problem).removeprefix(f"{problem.kind}: ")
    return BadRow(problem.kind, f"{detail}; the row has {shorten(', '.join(names))}")


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"


def _resumed(place: Path, identity: str, output: Path, restart: bool) -> Position:
    if restart or not place.exists():
        return Position(identity)
    try:
        at = Position(**json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InputError(f"{place} is damaged: begin anew with --restart") from None
    if at.identity != identity:
        raise InputError(
            f"a run that was cut off left {output.name} unfinished, with another input, model or setting: "
            "give those again, or begin anew with --restart"
        )
    return at


# --- the output's formats ---------------------------------------------------------------------------------------------
def _finish(partial: Path, output: Path, kind: str) -> None:
    """The gathered JSON Lines become the output, whole or not at all."""
    if kind == "jsonl":
        partial.rename(output)
        files.fsync_folder(output.parent)
        return
    new = output.with_name(f".{output.name}.new")
    try:
        _write_parquet(partial, new) if kind == "parquet" else _write_table(partial, new, kind)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.rename(output)
        files.fsync_folder(output.parent)
    finally:
        new.unlink(missing_ok=True)


def _chunks(partial: Path) -> Iterator[list[dict[str, Any]]]:
    with partial.open("rb") as lines:
        yield from iter(lambda: [json.loads(line) for line in itertools.islice(lines, ROWS_PER_BATCH)], [])


def _write_table(partial: Path, path: Path, kind: str) -> None:
    """CSV, quoted where it must be; TSV as it is read here, without quotes, so tabs and line ends become blanks."""
    names = list(dict.fromkeys(name for rows in _chunks(partial) for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        line = writer.writerow if kind == "csv" else lambda cells: file.write("\t".join(map(_flat, cells)) + "\n")
        line(names)
        for rows in _chunks(partial):
            for row in rows:
                line([_cell(row.get(name)) for name in names])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(cell: str) -> str:
    return " ".join(cell.replace("\t", " ").splitlines())


def _write_parquet(partial: Path, path: Path) -> None:
    """Twice over the rows: what type each column has, then the writing."""
    names = list(dict.fromkeys(name for rows in _chunks(partial) for row in rows for name in row))
    empty = dict.fromkeys(names)
    tables = lambda: (pa.Table.from_pylist([empty | row for row in rows]) for rows in _chunks(partial))
    try:
        schema = pa.unify_schemas([table.schema for table in tables()], promote_options="permissive")
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in tables():
                writer.write_table(table.cast(schema))
    except pa.ArrowException as error:
        raise InputError(
            f"the rows do not fit Parquet's columns ({' '.join(str(error).split())[:150]}): "
            "name an --output that ends in .jsonl"
        ) from None

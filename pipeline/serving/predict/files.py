"""Predicting a file: rows streamed in, predictions out in order, bad rows aside, going on where a run was cut off.

Whatever the output's format, rows gather in `.OUTPUT.partial` beside it, each a line of JSON, [row, prediction], with
what has been done in `.OUTPUT.position`; at the end they become the output, when all columns' names are known. So a
cut-off run loses one batch at the most.
"""

import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.progress import Say
from pipeline.ingest import jsonl, places, tables
from pipeline.ingest.rows import BadRow, Row, shorten, without_nan
from pipeline.serving.predict.base import Predictor
from pipeline.serving.predict.output import Pair, finish, json_line, names_beside

FORMATS = ("jsonl", "csv", "tsv", "parquet")
ROWS_PER_BATCH = 1024
PARTIAL_FORMAT = 2  # of what gathers beside the output
STDIN = STDOUT = "-"


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
def format_of(address: str, option: str | None) -> str:
    """The format of a file by its name, a packing ending left out. Raises InputError."""
    if option or address == STDIN:
        return option or "jsonl"
    kind = tables.format_of(address)
    if kind is None:
        raise InputError(f"{address} does not end in {', '.join(FORMATS)}: name its format with --format")
    return kind


def read(address: str, kind: str, limit_bytes: int, scratch: Path, how: tables.How | None = None) -> Iterator[Row]:
    """All rows with all their columns, a value that is not a number (NaN) as None; bad ones carry their problem.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    if address == STDIN and kind != "jsonl":
        raise InputError(f"standard input is read as JSON Lines, not as {kind}")
    if address == STDIN:
        rows: Iterator[Row] = (row for row, _ in jsonl.rows_of(places.stdin_lines(limit_bytes), address, None))
    else:
        source = tables.source_of(address, kind, how)
        if kind != "jsonl" and not tables.columns(source, address, limit_bytes, scratch):
            raise InputError(f"{places.shown_address(address)} is empty")
        rows = tables.read(source, address, None, limit_bytes, scratch)
    for row in rows:
        yield row._replace(values={name: without_nan(value) for name, value in row.values.items()})


def count_rows(address: str, kind: str, limit_bytes: int, scratch: Path, how: tables.How | None = None) -> int | None:
    """How many rows there are, for the progress bar; None where that cannot be known before they are read."""
    if address == STDIN or places.is_remote(address):
        return None
    try:
        if kind == "parquet":
            with places.open_seekable(address, scratch) as stream:
                return int(pq.ParquetFile(stream).metadata.num_rows)
        return sum(1 for _ in tables.read(tables.source_of(address, kind, how), address, (), limit_bytes, scratch))
    except Exception:  # whatever is wrong with the file, reading it says so in a sentence
        return None


# --- predicting -------------------------------------------------------------------------------------------------------
def predict_file(
    predictor: Predictor, address: str, kind: str, output: Path, output_kind: str, identity: str, limit_bytes: int,
    restart: bool, say: Say, how: tables.How | None = None,
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
    with contextlib.ExitStack() as stack:
        try:
            output_file = stack.enter_context(atomic_files.owned(partial))
        except BlockingIOError:
            raise TryAgain(f"another run is writing {output}: wait for it, or name another --output") from None
        at = _resumed(place, identity, output, restart)
        refused = stack.enter_context(quarantine.open("ab"))
        if output_file.tell() < at.output_bytes or refused.tell() < at.quarantine_bytes:  # what was done is gone
            at = Position(identity)
        for file, size in ((output_file, at.output_bytes), (refused, at.quarantine_bytes)):
            file.truncate(size)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        total = count_rows(address, kind, limit_bytes, scratch, how)
        if at.read:
            say(f"going on after row {at.read:,}")
        rows = itertools.islice(read(address, kind, limit_bytes, scratch, how), at.read, None)
        began, before = time.monotonic(), at.read
        for batch in iter(lambda: list(itertools.islice(rows, ROWS_PER_BATCH)), []):
            output_file.writelines(map(json_line, _predict_batch(predictor, batch, refused, at)))
            _flush(output_file, refused, at)
            atomic_files.write_text(place, json.dumps(asdict(at)))
            rate = (at.read - before) / max(1e-9, time.monotonic() - began)
            speed = f"{rate:,.0f} rows/s" + (f", {at.refused:,} refused" if at.refused else "")
            say(f"predicted {at.read:,}/{max(total, at.read):,}: {speed}" if total else f"{at.read:,} rows, {speed}")
        if not at.predicted:
            place.unlink(missing_ok=True)
            partial.unlink()
            raise InputError(_nothing_good(at, address) + (f" (see {quarantine})" if at.read else ""))
        _say_renamed(finish(partial, output, output_kind), say)
        place.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    if not at.refused:
        quarantine.unlink()
    return at


def predict_stream(predictor: Predictor, address: str, rows: Iterator[Row], stream: IO[bytes], say: Say) -> Position:
    """Predicts rows as they come, JSON Lines to a stream, bad rows said. Raises InputError where no row is good.

    A column that only later rows have may be named as a part of the predictions is: from then on that has another name.
    """
    at, columns, names = Position(""), set[str](), dict[str, str]()
    for batch in iter(lambda: list(itertools.islice(rows, ROWS_PER_BATCH)), []):
        with tempfile.TemporaryFile() as refused:
            pairs = _predict_batch(predictor, batch, refused, at)
            refused.seek(0)
            for entry in map(json.loads, refused):
                say(f"row {entry['row']} left out: {entry['reason']}")
        columns |= {name for row, _ in pairs for name in row}
        before, parts = names, dict.fromkeys([*names, *(name for _, prediction in pairs for name in prediction)])
        names = names_beside(parts, columns)
        _say_renamed({name: other for name, other in names.items() if other not in (name, before.get(name))}, say)
        for row, prediction in pairs:
            stream.write(json_line(row | {names[name]: value for name, value in prediction.items()}))
        stream.flush()
    if not at.predicted:
        raise InputError(_nothing_good(at, address))
    return at


def _say_renamed(names: dict[str, str], say: Say) -> None:
    for name, other in names.items():
        say(f"the input has a column {name!r}: the prediction is in {other!r}")


def _nothing_good(at: Position, address: str) -> str:
    shown = "standard input" if address == STDIN else places.shown_address(address)
    if not at.read:
        return f"{shown} holds no rows"
    form = "; standard input is read as JSON Lines: give a file of another format by its name"
    return (
        f"none of the {at.read:,} rows of {shown} can be predicted; the first: {at.first_refusal}"
        + (form if address == STDIN and "no JSON" in at.first_refusal else "")
    )  # fmt: skip


def _predict_batch(predictor: Predictor, batch: list[Row], refused: IO[bytes], at: Position) -> list[Pair]:
    """The good rows with their predictions, in order; the bad ones go to `refused`, and `at` counts both."""
    pairs = []
    for row, prediction in _predictions(predictor, batch):
        if isinstance(prediction, BadRow):
            entry = {"source": row.source, "row": row.number, "reason": str(prediction), "copy": row.shown}
            refused.write(json_line(entry))
            at.refused += 1
            at.first_refusal = at.first_refusal or f"row {row.number}: {prediction}"
        else:
            pairs.append(({str(key): value for key, value in row.values.items()}, prediction))
            at.predicted += 1
    at.read += len(batch)
    return pairs


def _flush(output_file: IO[bytes], refused: IO[bytes], at: Position) -> None:
    """Brings both files to the disk, and notes how long they are."""
    for file in (output_file, refused):
        file.flush()
        os.fsync(file.fileno())
    at.output_bytes, at.quarantine_bytes = output_file.tell(), refused.tell()


def _predictions(predictor: Predictor, batch: list[Row]) -> Iterator[tuple[Row, dict[str, Any] | BadRow]]:
    """Each row with its prediction, or with what is wrong with it, in order."""
    bad: dict[int, dict[str, Any] | BadRow] = {}
    values = [{str(key): value for key, value in row.values.items()} for row in batch]
    for place, row in enumerate(batch):
        try:
            if row.problem:
                raise row.problem
            predictor.check(values[place])
        except BadRow as problem:
            bad[place] = _with_names(problem, values[place])
    good = [place for place in range(len(batch)) if place not in bad]
    outcomes = bad | _by_halves(predictor, values, good)
    for place, row in enumerate(batch):
        yield row, outcomes[place]


def _by_halves(
    predictor: Predictor, values: list[dict[str, Any]], places: list[int]
) -> dict[int, dict[str, Any] | BadRow]:
    """By place its prediction, or what only predicting shows to be wrong with it. Halves find such a row: the others
    are still predicted together."""
    try:
        return dict(zip(places, _said(predictor, [values[place] for place in places])))
    except InputError as error:
        if len(places) == 1:
            return {places[0]: BadRow("cannot be predicted", str(error))}
    middle = len(places) // 2
    return _by_halves(predictor, values, places[:middle]) | _by_halves(predictor, values, places[middle:])


def _said(predictor: Predictor, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A prediction per row."""
    predictions = predictor.predict(rows) if rows else []
    if len(predictions) != len(rows):
        raise DupletError(f"the model gave {len(predictions)} predictions for {len(rows)} rows: export it again")
    return predictions


def _with_names(problem: BadRow, values: dict[str, Any]) -> BadRow:
    """A missing field, and beside it what the row has: names are mistaken more often than left out."""
    names = [name for name, value in values.items() if value is not None]
    if problem.kind != "missing field" or not names:
        return problem
    detail = str(problem).removeprefix(f"{problem.kind}: ")
    return BadRow(problem.kind, f"{detail}; the row has {shorten(', '.join(names))}")


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

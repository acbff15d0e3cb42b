"""Rows with a column per field of the task -> records."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Config, task_spec
from pipeline.config.sources import Column, Columns, PairsSource, SplitName
from pipeline.core.errors import InputError
from pipeline.core.record_schema import RESERVED, Field, Record
from pipeline.ingest import listing, tables
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.rows import (
    TWO_TEXTS,
    BadRow,
    Row,
    as_id,
    as_metadata,
    as_relevance,
    as_text,
    as_verbatim,
    short_hash,
)
from pipeline.ingest.scratch import Scratch
from pipeline.ingest.splits import shares_to_cut, split_of

Files = Iterable[tuple[SplitName | None, Iterable[Row]]]  # the rows of each file, and the split it was given for
# what is read of a folder that holds other files too, as those of `datasets` do
ENDINGS = {"parquet": (".parquet", ".pq")}
GROUP_SEPARATOR = "\x1f"  # no cleaned field holds it
COPIES = "copies of rows in valid and test, each of which counts"
OWN_DOCUMENTS = "rows whose document id has another text in another split's file, told apart as ID~SPLIT"
SHARED_IDS = "rows whose id an earlier row has, told apart as ID~2, ID~3, …"


def addresses(source: Any) -> dict[SplitName | None, Any]:
    """Where the rows lie, by the split they were given for (None: all in one): a place, or one per field."""
    path = getattr(source, "path", None)
    found: dict[SplitName | None, Any] = {None: path} if path else {}
    return found | getattr(source, "paths", {})


def files(source: Any) -> dict[SplitName | None, list[str]]:
    """The files of each split of a source, in their order. Raises InputError or TryAgain as `listing.files` does."""
    endings = ENDINGS.get(source.format, ())
    return {given: listing.files(place, source.marker, endings) for given, place in addresses(source).items()}


def wanted_columns(columns: Columns, task: str) -> list[Column]:
    """Every column that the configuration names, and the task's records need, once."""
    names = (name for field in task_spec(task).fields for name in (field, f"{field}_id"))
    given = [getattr(columns, name, None) for name in names]
    single = (*given, columns.relevance, columns.id)
    return list(dict.fromkeys(c for c in (*single, *columns.group, *columns.metadata) if c is not None))


def to_record(row: Row, columns: Columns, grades: Mapping[str, float], task: str) -> tuple[Record, str]:
    """The record of a row and the group that must not be split: by default, what has its first field's key.

    Raises:
        BadRow: a field is missing or cannot be read.
    """
    if row.problem:
        raise row.problem
    values, keys, texts = row.values, [], []
    for field, form in task_spec(task).fields.items():
        text = _text(values, getattr(columns, field), form)
        named = getattr(columns, f"{field}_id", None)
        made = f"{row.source}:{row.number}" if form.verbatim else short_hash(text)
        keys.append(made if named is None else as_id(values, named))
        texts.append(text)
    if check := task_spec(task).check_record:
        try:
            check(tuple(texts))
        except ValueError as problem:
            raise BadRow(str(problem.args[0]), str(problem.args[-1])) from None
    record = Record(
        id=(short_hash(*keys) if len(keys) > 1 else keys[0]) if columns.id is None else as_id(values, columns.id),
        keys=tuple(keys),
        texts=tuple(texts),
        relevance=1.0 if columns.relevance is None else as_relevance(values, columns.relevance, grades),
        metadata=as_metadata(values, columns.metadata),
    )
    return record, GROUP_SEPARATOR.join(as_id(values, column) for column in columns.group) or keys[0]


def _text(values: Mapping[Column, Any], column: Column, form: Field) -> str:
    """A field's text; of labels, tags and names in one form. Raises BadRow."""
    if form.verbatim:
        return as_verbatim(values, column)
    if not form.names:
        return as_text(values, column)
    text = as_id(values, column)
    for name in text.split() if form.tokens == "whitespace" else [text]:
        if name in RESERVED:
            raise BadRow("reserved name", f"{column!r} is {name!r}, which stands for what a vocabulary does not have")
    return text


def file_rows(source: PairsSource, task: str, limit_bytes: int, scratch: Path) -> Files:
    """The rows of each file of a source; a packed Parquet file is unpacked into `scratch`."""
    wanted = wanted_columns(source.columns, task)
    for given, found in files(source).items():
        yield given, listing.rows(found, lambda address: tables.read(source, address, wanted, limit_bytes, scratch))


def ingest(
    read: Files,
    origin: Mapping[SplitName | None, str],
    columns: Columns,
    grades: Mapping[str, float],
    config: Config,
    tools: tuple[Ledger, Scratch, Output],
) -> None:
    """Turns rows into records and gives each its split.

    Of rows of equal fields in a file, train keeps one, with the highest relevance; valid and test keep them all, since
    an evaluation counts what the file has. Each record of a split has an id of its own.

    Args:
        origin: the address of each file, for messages.

    Raises:
        InputError: a file holds no rows.
    """
    ledger, scratch, output = tools
    own_ids = config.task == "matching" and columns.document_id is not None
    for given, rows in read:
        cut, before = shares_to_cut(given, origin, config.ingest.split), ledger.total_read()
        for row in rows:
            try:
                record, group = to_record(row, columns, grades, config.task)
                _check_names(record, given or "", columns, config.task, scratch)
            except BadRow as problem:
                ledger.quarantine("records", row, problem)
                continue
            if own_ids:
                record = _own_document(record, given, scratch, ledger)
            split = given if given and given != "train" else split_of(group, config.split_seed, cut)
            learnt = split == "train"
            relevance = record.relevance if learnt else None
            if scratch.seen(split, output.places[split], relevance, given or "", split, *record.keys):
                if learnt:
                    ledger.duplicate("records")
                    continue
                ledger.note(COPIES)
            own = scratch.own_id(split, record.id)
            if own != record.id and columns.id is not None:
                ledger.note(SHARED_IDS)
            ledger.keep_record(split)
            output.add_record(split, record._replace(id=own))
        if ledger.total_read() == before:
            raise InputError(f"{origin[given]} holds no rows; give a file that does")


def _check_names(record: Record, scope: str, columns: Columns, task: str, scratch: Scratch) -> None:
    """Raises BadRow where an id that the source gives a text, in this file, stood for another text before."""
    named = [
        (record.texts[i], (scope, field, record.keys[i]))
        for i, field in enumerate(task_spec(task).fields)
        if getattr(columns, f"{field}_id", None) is not None
    ]
    for text, names in named:
        if scratch.named_otherwise(text, *names):
            raise BadRow(TWO_TEXTS, f"{names[1]} id {names[2][:60]!r} is another text's")
    for text, names in named:
        scratch.name(text, *names)


def _own_document(record: Record, given: SplitName | None, scratch: Scratch, ledger: Ledger) -> Record:
    """The record of a pair, its document id changed where that stands for another text in another split's file.

    The documents of all splits are ranked together, and ids often count from 1 in each file.
    """
    query, document = record.keys
    own = document
    while scratch.named_otherwise(record.texts[1], "*", "document", own):
        own = f"{own}~{given}"
    scratch.name(record.texts[1], "*", "document", own)
    if own == document:
        return record
    ledger.note(OWN_DOCUMENTS)
    return record._replace(keys=(query, own))

"""Rows with a column per field of the task -> records."""

from collections.abc import Iterable, Iterator, Mapping
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
    is_missing,
    short_hash,
    with_title,
)
from pipeline.ingest.scratch import Scratch
from pipeline.ingest.splits import shares_to_cut, split_of

Files = Iterable[tuple[SplitName | None, Iterable[Row]]]  # the rows of each file, and the split it was given for
# what is read of a folder that holds other files too, as those of `datasets` do
ENDINGS = {"parquet": (".parquet", ".pq"), "arrow": (".arrow",)}
_BATCH_ROWS, _BATCH_CHARACTERS = 500, 4 << 20
_MOST_LABELS = 1000  # whose relevance is kept
UNFOLDED = "\0relevance"  # where `unfolded` leaves the relevance that a row's columns tell
GROUP_SEPARATOR = "\x1f"  # no cleaned field holds it
COPIES = "copies of rows in valid and test, each of which counts"
OWN_DOCUMENTS = "rows whose document id has another text in another split's file, told apart as ID~SPLIT"
SHARED_IDS = "rows whose id an earlier row has, told apart as ID~2, ID~3, …"


def addresses(source: Any) -> dict[SplitName | None, Any]:
    """Where the rows lie, by the split they were given for (None: all in one): a place, or one per field."""
    path = getattr(source, "path", None)
    by_split: dict[SplitName | None, Any] = {None: path} if path else {}
    return by_split | getattr(source, "paths", {})


def files(source: Any) -> dict[SplitName | None, list[str]]:
    """The files of each split of a source, in their order. Raises InputError or TryAgain as `listing.files` does."""
    endings = ENDINGS.get(source.format, ())
    return {file_split: listing.files(place, source.marker, endings) for file_split, place in addresses(source).items()}


def wanted_columns(columns: Columns, task: str) -> list[Column]:
    """Every column that the configuration names, and the task's records need, once."""
    names = (name for field in task_spec(task).fields for name in (field, f"{field}_id"))
    field_columns = [getattr(columns, name, None) for name in names]
    told = None if columns.negative is not None else columns.relevance
    single = (*field_columns, columns.negative if task_spec(task).relevance else None, told, columns.id)
    return list(dict.fromkeys(c for c in (*single, *columns.group, *columns.metadata) if c is not None))


class Reading:
    """How the rows of a source become records of a task: what the configuration says of it, looked up once."""

    def __init__(self, columns: Columns, grades: Mapping[str, float], task: str) -> None:
        self._columns, self._grades, self._check = columns, grades, task_spec(task).check_record
        self._fields = [
            (getattr(columns, name), form, getattr(columns, f"{name}_id", None))
            for name, form in task_spec(task).fields.items()
        ]
        self._known: dict[str, float] = {}  # relevance of labels seen
        self._relevance, self._id, self._group = columns.relevance, columns.id, columns.group

    def record(self, row: Row) -> tuple[Record, str]:
        """The record of a row and the group that must not be split: by default, what has its first field's key.

        Raises:
            BadRow: a field is missing or cannot be read.
        """
        if row.problem:
            raise row.problem
        values, keys, texts = row.values, [], []
        for column, form, named in self._fields:
            text = _text(values, column, form)
            if named is not None:
                keys.append(as_id(values, named))
            else:
                keys.append(f"{row.source}:{row.number}" if form.verbatim else short_hash(text))
            texts.append(text)
        if self._check:
            try:
                self._check(tuple(texts))
            except ValueError as problem:
                raise BadRow(str(problem.args[0]), str(problem.args[-1])) from None
        record_id = as_id(values, self._id) if self._id is not None else None
        record = Record(
            (short_hash(*keys) if len(keys) > 1 else keys[0]) if record_id is None else record_id,
            tuple(keys),
            tuple(texts),
            1.0 if self._relevance is None else self._relevance_of(values),
            as_metadata(values, self._columns.metadata) if self._columns.metadata else "{}",
        )
        if not self._group:
            return record, keys[0]
        return record, GROUP_SEPARATOR.join(as_id(values, column) for column in self._group) or keys[0]

    def _relevance_of(self, values: Mapping[Column, Any]) -> float:
        label = values.get(self._relevance)  # type: ignore[arg-type]
        if type(label) is not str:
            return as_relevance(values, self._relevance, self._grades)  # type: ignore[arg-type]
        relevance = self._known.get(label)
        if relevance is None:
            relevance = as_relevance(values, self._relevance, self._grades)  # type: ignore[arg-type]
            if len(self._known) < _MOST_LABELS:
                self._known[label] = relevance
        return relevance


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
    for file_split, split_files in files(source).items():
        rows = listing.rows(split_files, lambda address: tables.read(source, address, wanted, limit_bytes, scratch))
        lists = source.format not in ("tsv", "csv") or source.columns.negative is not None
        yield file_split, unfolded(rows, source.columns) if task_spec(task).relevance and lists else rows


def unfolded(rows: Iterable[Row], columns: Columns) -> Iterator[Row]:
    """A row for each document of a row that has some: a list of them, or a column of negatives beside it."""
    for row in rows:
        value = row.values.get(columns.document)
        if row.problem or (columns.negative is None and not isinstance(value, (list, dict))):
            yield row
            continue
        documents = [(document, 1.0) for document in _items(value)]
        if columns.negative is not None:
            documents += [(document, 0.0) for document in _items(row.values.get(columns.negative))]
        if not documents:
            yield row._replace(problem=BadRow("missing field", f"no {columns.document!r}"))
        for document, relevance in documents:
            yield row._replace(values={**row.values, columns.document: _document(document), UNFOLDED: relevance})


def _items(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if is_missing(value) or value == "" else [value]


def _document(document: Any) -> Any:
    """The text of a document that is an object of title and text, as DPR and Tevatron have it; else what it is."""
    if not isinstance(document, dict):
        return document
    title, text = (document.get(name) or "" for name in ("title", "text"))
    return with_title(str(title), str(text))


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
    ledger, scratch, _ = tools
    if columns.negative is not None and config.spec.relevance:
        columns = columns.model_copy(update={"relevance": UNFOLDED})
    reading = Reading(columns, grades, config.task)
    named = [
        i for i, field in enumerate(task_spec(config.task).fields) if getattr(columns, f"{field}_id", None) is not None
    ]
    fields, seed = tuple(task_spec(config.task).fields), config.split_seed
    own_documents = config.spec.relevance and columns.document_id is not None
    for file_split, rows in read:
        cut, before = shares_to_cut(file_split, origin, config.ingest.split), ledger.total_read()
        for some in _batches(rows):
            ready: list[tuple[SplitName, Record]] = []
            of_group: dict[str, SplitName] = {}
            for row in some:
                try:
                    record, group = reading.record(row)
                    if named:
                        _check_names(record, file_split or "", [(i, fields[i]) for i in named], scratch)
                except BadRow as problem:
                    ledger.quarantine("records", row, problem)
                    continue
                if own_documents:
                    record = _own_document(record, file_split, scratch, ledger)
                split: SplitName | None = file_split if file_split != "train" else None
                if split is None and (split := of_group.get(group)) is None:  # rows of one group often stand together
                    split = of_group[group] = split_of(group, seed, cut)
                ready.append((split, record))
            _keep(ready, file_split or "", columns.id is not None, own_documents, tools)
        if ledger.total_read() == before:
            raise InputError(f"{origin[file_split]} holds no rows; give a file that does")


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Some rows at a time, of a bounded size."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if len(batch) == _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _keep(
    ready: list[tuple[SplitName, Record]], scope: str, ids_given: bool, own_documents: bool,
    tools: tuple[Ledger, Scratch, Output],
) -> None:  # fmt: skip
    """Writes records in their order, but for copies in train, each with an id of its own.

    An id that is made of the record's keys is its own unless the keys were seen before.
    """
    ledger, scratch, output = tools
    asked = [
        (split, record.relevance if split == "train" else None, (scope, split, *record.keys)) for split, record in ready
    ]
    for (split, record), seen in zip(ready, scratch.seen_all(asked, output.places)):
        if seen and split == "train":
            ledger.duplicate("records")
            continue
        if seen:
            ledger.note(COPIES)
        if ids_given or own_documents:
            own = scratch.own_id(split, record.id)
        else:
            own = scratch.own_id(split, record.id, again=True) if seen else record.id
        if own != record.id:
            if ids_given:
                ledger.note(SHARED_IDS)
            record = record._replace(id=own)
        ledger.keep_record(split)
        output.add_record(split, record)


def _check_names(record: Record, scope: str, named: list[tuple[int, str]], scratch: Scratch) -> None:
    """Raises BadRow where an id that the source gives a text, in this file, stood for another text before."""
    names = [(record.texts[i], (scope, field, record.keys[i])) for i, field in named]
    for text, name in names:
        if scratch.named_otherwise(text, *name):
            raise BadRow(TWO_TEXTS, f"{name[1]} id {name[2][:60]!r} is another text's")
    for text, name in names:
        scratch.name(text, *name)


def _own_document(record: Record, file_split: SplitName | None, scratch: Scratch, ledger: Ledger) -> Record:
    """The record of a pair, its document id changed where that stands for another text in another split's file.

    The documents of all splits are ranked together, and ids often count from 1 in each file.
    """
    query, document = record.keys
    own = document
    while scratch.named_otherwise(record.texts[1], "*", "document", own):
        own = f"{own}~{file_split}"
    scratch.name(record.texts[1], "*", "document", own)
    if own == document:
        return record
    ledger.note(OWN_DOCUMENTS)
    return record._replace(keys=(query, own))

"""A row with a column per field of the task -> a record."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.config import task_spec
from pipeline.config.sources import Column, Columns, SplitName
from pipeline.core.record_schema import RESERVED, Field, Record
from pipeline.ingest import listing
from pipeline.ingest.rows import (
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

# what is read of a folder that holds other files too, as those of `datasets` do
ENDINGS = {"parquet": (".parquet", ".pq"), "arrow": (".arrow",)}
_MOST_LABELS = 1000  # whose relevance is kept
UNFOLDED = "\0relevance"  # where `unfolded` leaves the relevance that a row's columns tell
GROUP_SEPARATOR = "\x1f"  # no cleaned field holds it


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

    def __init__(self, columns: Any, grades: Mapping[str, float], task: str) -> None:
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
            text = self.text(values, column, form)
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
            1.0 if self._relevance is None else self.relevance(values),
            as_metadata(values, self._columns.metadata) if self._columns.metadata else "{}",
        )
        if not self._group:
            return record, keys[0]
        return record, GROUP_SEPARATOR.join(as_id(values, column) for column in self._group) or keys[0]

    @staticmethod
    def text(values: Mapping[Column, Any], column: Column, form: Field) -> str:
        """A field's text; of labels, tags and names in one form. Raises BadRow."""
        if form.verbatim:
            return as_verbatim(values, column)
        if not form.names:
            return as_text(values, column)
        text = as_id(values, column)
        for name in text.split() if form.tokens == "whitespace" else [text]:
            if name in RESERVED:
                raise BadRow(
                    "reserved name", f"{column!r} is {name!r}, which stands for what a vocabulary does not have"
                )
        return text

    def relevance(self, values: Mapping[Column, Any]) -> float:
        """What a row's label says. Raises BadRow."""
        label = values.get(self._relevance)
        if type(label) is not str:
            return as_relevance(values, self._relevance, self._grades)
        relevance = self._known.get(label)
        if relevance is None:
            relevance = as_relevance(values, self._relevance, self._grades)
            if len(self._known) < _MOST_LABELS:
                self._known[label] = relevance
        return relevance


def unfolded(rows: Iterable[Row], columns: Any) -> Iterator[Row]:
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

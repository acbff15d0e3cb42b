"""The documents of a collection: id, title, text and other fields, from a table or from a folder of files.

A table is a file of JSON Lines, CSV, TSV or Parquet (`Table`); `files.Files` reads a folder.
"""

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.sources import Column
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.ingest import places, tables
from pipeline.ingest.rows import BadRow, Row, as_id, as_metadata, as_text, check_columns, clean, one_form, short_hash
from pipeline.search.catalogue import Catalogue, Place

FIELDS = ("id", "title", "text")
# Names looked for, in this order and whatever their case, where no column is named for a field.
NAMES = {
    "id": ("id", "_id", "document_id", "doc_id", "docid", "key", "url"),
    "title": ("title", "name", "heading", "subject", "question"),
    "text": ("text", "document", "body", "content", "contents", "answer", "passage", "abstract"),
    "url": ("url", "link", "href", "uri"),
    "date": ("date", "published", "updated", "created", "year"),
    "author": ("author", "authors", "creator"),
    "language": ("language", "lang"),
}
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
MAX_ROW_BYTES = 8 << 20
MAX_FIELD_CHARACTERS = 1_000
REASONS_SHOWN = 3


class Document(NamedTuple):
    id: str
    title: str  # may be empty
    text: str
    fields: str = ""  # what else is known of it, as `written` gives it: shown and filtered, not searched

    @property
    def hash(self) -> str:
        """32 hex digits of all that is encoded and shown."""
        return atomic_files.digest([self.title, self.text, *([self.fields] if self.fields else [])])[:32]

    @property
    def known(self) -> dict[str, Any]:
        """The other fields: texts and numbers by name."""
        fields = json.loads(self.fields) if self.fields else {}
        return fields if isinstance(fields, dict) else {}


def written(fields: Mapping[str, Any]) -> str:
    """Fields as a document keeps them: a JSON object with its names in order, "" of none; blank ones are left out.

    Raises:
        BadRow: one of them cannot be written as JSON or UTF-8.

    >>> written({"date": "2024-03-01", "author": " ", "pages": 3})
    '{"date": "2024-03-01", "pages": 3}'
    """
    metadata: dict[Column, Any] = {}
    for name, value in fields.items():
        if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
            value = ", ".join(map(str, value))
        if isinstance(value, str):
            value = one_form(clean(value, name))[:MAX_FIELD_CHARACTERS]
        if value is not None and value != "" and not isinstance(value, dict | list | tuple):
            metadata[name] = value
    text = as_metadata(metadata, metadata)
    return "" if text == "{}" else text


class Documents(ABC):
    """Iterates over documents, each id once; what is none goes to the quarantine with its reason.

    A document that repeats an id with the same content is a duplicate; with another it goes to the quarantine.

    Args:
        quarantine: a file of JSON Lines, written where something is bad; an older one is removed.
        scratch: a folder for temporary files.

    Attributes:
        counts: read, kept, duplicates, quarantined.
        reasons: of the first bad ones.
        what: the name of what is read one by one: "rows".
    """

    what = "rows"

    def __init__(self, quarantine: Path, scratch: Path) -> None:
        self._quarantine, self._scratch = quarantine, scratch
        self.counts: Counter[str] = Counter()
        self.reasons: list[str] = []

    @abstractmethod
    def found(self) -> Iterator[tuple[Row, Document | BadRow]]:
        """Each row or file, and the document it makes or why it makes none; nothing is counted or put aside."""

    def __iter__(self) -> Iterator[Document]:
        self._quarantine.unlink(missing_ok=True)
        self.counts.clear()
        self.reasons.clear()
        with Catalogue(self._scratch / ".seen.sqlite") as seen:
            for row, document in self.found():
                self.counts["read"] += 1
                before = None if isinstance(document, BadRow) else seen.live(document.id)
                if isinstance(document, BadRow):
                    self._put_aside(row, document)
                elif before is None:
                    seen.put([(document.id, Place("", row.number, document.hash))])
                    self.counts["kept"] += 1
                    yield document
                elif before.hash != document.hash:
                    self._put_aside(row, BadRow("id twice", f"{document.id!r} is another document's id in a row above"))
                else:
                    self.counts["duplicates"] += 1

    def unread(self) -> Iterator[str]:
        """What the last iteration could not look at: ids, and folders below which ids lie. None of a table."""
        return iter(())

    def _put_aside(self, row: Row, problem: BadRow) -> None:
        self.counts["quarantined"] += 1
        where = f"{row.source}:{row.number}" if row.number else row.source
        if len(self.reasons) < REASONS_SHOWN:
            self.reasons.append(f"{where}: {problem}")
        entry = {"source": row.source, "row": row.number, "reason": str(problem), "copy": row.shown}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
        with self._quarantine.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class Table(Documents):
    """The documents of a table. Without a column for ids, a document's id is a hash of its text.

    Args:
        address: a local path or an fsspec address, plain, gzip or zstandard.
        columns: field -> the column's name, or its position from 0; others are looked for by NAMES.
        how: its encoding and delimiter.

    Raises:
        InputError: no such file, an unknown format, or no column for the text.
    """

    def __init__(
        self, address: str, columns: Mapping[str, Column], quarantine: Path, scratch: Path,
        how: tables.How | None = None,
    ) -> None:  # fmt: skip
        super().__init__(quarantine, scratch)
        self._address = address
        self._source = tables.source_of(address, format_of(address), how)
        names = tables.columns(self._source, address, MAX_ROW_BYTES, scratch)
        self.columns = _choose(columns, names, places.shown_address(address))

    def found(self) -> Iterator[tuple[Row, Document | BadRow]]:
        wanted = list(dict.fromkeys(self.columns.values()))
        for row in tables.read(self._source, self._address, wanted, MAX_ROW_BYTES, self._scratch):
            try:
                yield row, self._document(row)
            except BadRow as problem:
                yield row, problem

    def _document(self, row: Row) -> Document:
        if row.problem is not None:
            raise row.problem
        with_title = "title" in self.columns  # which alone is a document too, as in ingest
        title = as_text(row.values, self.columns["title"], required=False) if with_title else ""
        text = as_text(row.values, self.columns["text"], required=not title)
        title, text = (title, text) if text else ("", title)
        name = as_id(row.values, self.columns["id"]) if "id" in self.columns else short_hash(title, text)
        others = {field: row.values.get(column) for field, column in self.columns.items() if field not in FIELDS}
        return Document(name, " ".join(title.split()), text, written(others))


def format_of(address: str) -> tables.Format:
    """The format that a name's ending tells, before .gz or .zst. Raises InputError."""
    file_format = tables.format_of(address)
    if file_format is None:
        raise InputError(
            f"--documents {places.shown_address(address)}: the name must end in one of {', '.join(tables.ENDINGS)} "
            "(and .gz or .zst), so that its format is known"
        )
    return file_format


def _choose(columns: Mapping[str, Column], names: list[str], shown: str) -> dict[str, Column]:
    """A column per field that there is one for."""
    if not names:
        raise InputError(f"{shown} holds no documents: it must have rows with at least a text each")
    check_columns(shown, [column for column in columns.values() if isinstance(column, str)], names)
    lowered = {name.lower(): name for name in reversed(names)}
    chosen = dict(columns)
    for field, likely in NAMES.items():
        column = next((lowered[name] for name in likely if name in lowered), None)
        free = column not in chosen.values() or (field == "url" and chosen.get("id") == column)
        if field not in chosen and column is not None and free:
            chosen[field] = column
    if "text" not in chosen:
        raise InputError(
            f"{shown} has no column that looks like a document's text; columns found: {', '.join(names)}; "
            "name it with --columns text=COLUMN (and id=…, title=…)"
        )
    return chosen


def parse_columns(items: list[str] | None) -> dict[str, Column]:
    """`text=answer title=0 topic=category` as field -> column. Raises InputError."""
    columns: dict[str, Column] = {}
    for item in items or []:
        field, equals, column = item.partition("=")
        if not equals or not FIELD_NAME.fullmatch(field) or not column:
            raise InputError(
                f"--columns {item!r} must be FIELD=COLUMN: a field is {', '.join(FIELDS)}, or another name in small "
                "letters that is kept for showing and filtering"
            )
        columns[field] = int(column) if column.isdecimal() else column
    return columns

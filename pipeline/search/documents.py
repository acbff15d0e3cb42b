"""The documents of a collection, from a file of JSON Lines, CSV, TSV or Parquet: id, title, text."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.config.sources import Column
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.ingest import places, tables
from pipeline.ingest.rows import BadRow, Row, as_id, as_text, check_columns, short_hash
from pipeline.search.catalogue import Catalogue, Place

FIELDS = ("id", "title", "text")
# Names looked for, in this order and whatever their case, where no column is named for a field.
NAMES = {
    "id": ("id", "_id", "document_id", "doc_id", "docid", "key", "url"),
    "title": ("title", "name", "heading", "subject", "question"),
    "text": ("text", "document", "body", "content", "contents", "answer", "passage", "abstract"),
}
MAX_ROW_BYTES = 8 << 20
REASONS_SHOWN = 3


class Document(NamedTuple):
    id: str
    title: str  # may be empty
    text: str

    @property
    def hash(self) -> str:
        """32 hex digits of all that is encoded and shown."""
        return atomic_files.digest([self.title, self.text])[:32]


class Reader:
    """Iterates over the documents of a file; rows without id or text go to the quarantine with their reason.

    Without a column for ids, a document's id is a hash of its text. A row that repeats an id with the same title and
    text is a duplicate; with others it goes to the quarantine.

    Args:
        address: a local path or an fsspec address, plain, gzip or zstandard.
        columns: field -> the column's name, or its position from 0; others are looked for by NAMES.
        quarantine: a file of JSON Lines, written where a row is bad; an older one is removed.
        scratch: a folder for temporary files.
        how: its encoding and delimiter.

    Raises:
        InputError: no such file, an unknown format, or no column for the text.
    """

    def __init__(
        self, address: str, columns: Mapping[str, Column], quarantine: Path, scratch: Path,
        how: tables.How | None = None,
    ) -> None:  # fmt: skip
        self._address, self._quarantine, self._scratch = address, quarantine, scratch
        self._source = tables.source_of(address, format_of(address), how)
        names = tables.columns(self._source, address, MAX_ROW_BYTES, scratch)
        self.columns = _choose(columns, names, places.shown_address(address))
        self.counts: Counter[str] = Counter()  # read, kept, duplicates, quarantined
        self.reasons: list[str] = []  # of the first bad rows

    def __iter__(self) -> Iterator[Document]:
        self._quarantine.unlink(missing_ok=True)
        self.counts.clear()
        self.reasons.clear()
        with Catalogue(self._scratch / ".seen.sqlite") as seen:
            yield from self._documents(seen)

    def _documents(self, seen: Catalogue) -> Iterator[Document]:
        wanted = list(self.columns.values())
        for row in tables.read(self._source, self._address, wanted, MAX_ROW_BYTES, self._scratch):
            self.counts["read"] += 1
            try:
                document = self._document(row)
                digest, before = document.hash, seen.live(document.id)
                if before is not None and before.hash != digest:
                    raise BadRow("id twice", f"{document.id!r} is another document's id in a row above")
            except BadRow as problem:
                self._put_aside(row, problem)
                continue
            if before is not None:
                self.counts["duplicates"] += 1
            else:
                seen.put([(document.id, Place("", row.number, digest))])
                self.counts["kept"] += 1
                yield document

    def _document(self, row: Row) -> Document:
        if row.problem is not None:
            raise row.problem
        with_title = "title" in self.columns  # which alone is a document too, as in ingest
        title = as_text(row.values, self.columns["title"], required=False) if with_title else ""
        text = as_text(row.values, self.columns["text"], required=not title)
        title, text = (title, text) if text else ("", title)
        name = as_id(row.values, self.columns["id"]) if "id" in self.columns else short_hash(title, text)
        return Document(name, " ".join(title.split()), text)

    def _put_aside(self, row: Row, problem: BadRow) -> None:
        self.counts["quarantined"] += 1
        if len(self.reasons) < REASONS_SHOWN:
            self.reasons.append(f"{row.source}:{row.number}: {problem}")
        entry = {"source": row.source, "row": row.number, "reason": str(problem), "copy": row.shown}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
        with self._quarantine.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def format_of(address: str) -> tables.Format:
    """The format that a name's ending tells, before .gz or .zst. Raises InputError."""
    found = tables.format_of(address)
    if found is None:
        raise InputError(
            f"--documents {places.shown_address(address)}: the name must end in one of {', '.join(tables.ENDINGS)} "
            "(and .gz or .zst), so that its format is known"
        )
    return found


def _choose(given: Mapping[str, Column], names: list[str], shown: str) -> dict[str, Column]:
    """A column per field that there is one for."""
    if not names:
        raise InputError(f"{shown} holds no documents: it must have rows with at least a text each")
    check_columns(shown, [column for column in given.values() if isinstance(column, str)], names)
    lowered = {name.lower(): name for name in reversed(names)}
    chosen = dict(given)
    for field in FIELDS:
        found = next((lowered[name] for name in NAMES[field] if name in lowered), None)
        if field not in chosen and found is not None and found not in chosen.values():
            chosen[field] = found
    if "text" not in chosen:
        raise InputError(
            f"{shown} has no column that looks like a document's text; columns found: {', '.join(names)}; "
            "name it with --columns text=COLUMN (and id=…, title=…)"
        )
    return chosen


def parse_columns(given: list[str] | None) -> dict[str, Column]:
    """`text=answer title=0` as field -> column. Raises InputError."""
    found: dict[str, Column] = {}
    for item in given or []:
        field, equals, column = item.partition("=")
        if not equals or field not in FIELDS or not column:
            raise InputError(f"--columns {item!r} must be one of {', '.join(f'{f}=COLUMN' for f in FIELDS)}")
        found[field] = int(column) if column.isdecimal() else column
    return found

"""A log of what was shown for queries and what was clicked -> graded pairs, by a model of clicks.

The log is read once, onto disk; the model goes over it as often as it needs. Who searched is not kept: a row's copy in
the quarantine is without its session unless the configuration says otherwise.
"""

import hashlib
import hmac
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.config.sources import ClicksSource, Column, PairsSource
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.core.record_schema import Record
from pipeline.core.scratch_database import ScratchDatabase
from pipeline.ingest import click_models, document_rows, id_text, listing, pages, tables
from pipeline.ingest.click_models import MOST_SHOWN, Fit, Impressions
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.pages import Pages
from pipeline.ingest.rows import (
    BadRow,
    Row,
    as_id,
    as_text,
    is_missing,
    one_form,
    short_hash,
    shorten,
    with_title,
    without_title,
)
from pipeline.ingest.scratch import Scratch
from pipeline.ingest.splits import split_of
from pipeline.ingest.web import read_pages
from pipeline.ingest.web_text import Page, one_address

NAME = "clicks.json"  # in the stage's folder: what the model found
SALT = "DUPLET_SALT"
MISSING = "pairs whose document is not there"
RARE = "pairs that were shown too rarely (ingest.source.min_views)"


class Shown(ScratchDatabase):
    """The pairs of a query and a document that were shown, numbered as they come."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder / ".shown.sqlite",
            "CREATE TABLE pairs (query TEXT, document TEXT, number INTEGER, PRIMARY KEY (query, document)) "
            "WITHOUT ROWID",
            "CREATE TABLE numbers (number INTEGER PRIMARY KEY, query TEXT, document TEXT)",
        )
        self.size = 0

    def number(self, query: str, document: str) -> int:
        added = self._db.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", (query, document, self.size)).rowcount
        if added:
            self._db.execute("INSERT INTO numbers VALUES (?, ?, ?)", (self.size, query, document))
            self.size += 1
            return self.size - 1
        wanted = "SELECT number FROM pairs WHERE query = ? AND document = ?"
        return int(self._db.execute(wanted, (query, document)).fetchone()[0])

    def pairs(self) -> Iterator[tuple[int, str, str]]:
        """Number, query and document of all, in the order they came."""
        yield from self._db.execute("SELECT number, query, document FROM numbers ORDER BY number")


class Ingest:
    """One run over a log and what it shows."""

    def __init__(
        self, config: Config, source: ClicksSource, folder: Path, tools: tuple[Ledger, Scratch, Output]
    ) -> None:
        self._config, self._source, self._folder = config, source, folder
        self._ledger, self._scratch, self._output = self._tools = tools
        self._limit = config.ingest.max_row_kb * 1024
        self._salt = os.environ.get(SALT, "").encode("utf-8")
        if source.sessions == "hash" and not self._salt:
            raise InputError(
                f"ingest.source.sessions=hash needs a secret in the environment variable {SALT}: set it, or "
                "ingest.source.sessions=drop"
            )

    def run(self) -> None:
        """Raises InputError: a file is absent, cannot be read or holds no rows."""
        if self._source.pages is not None:
            with Pages(self._folder, self._source.near_duplicates) as known:
                read_pages(self._config, self._source, self._source.pages, known, self._ledger, self._keep_page)
                self._clicks(known)
        else:
            read = lambda file: id_text.read_texts(file, self._source.encoding, self._limit)
            document_rows.keep(listing.rows(listing.files(self._source.documents or ""), read), self._tools)
            self._clicks(None)

    def _keep_page(self, page_id: str, page: Page) -> None:
        body = without_title(page.title, page.text)
        self._scratch.add_document(page_id, page.title, body)
        self._output.add_document(page_id, with_title(page.title, body))

    def _clicks(self, known: Pages | None) -> None:
        """Reads the log, fits the model and writes the pairs."""
        with Shown(self._folder) as shown:
            log = Impressions(self._folder)
            try:
                self._read(known, shown, log)
                source = self._source
                if not log.count:
                    raise InputError(f"{listing.shown(source.path)} holds no list of results that can be used")
                fit = click_models.MODELS[source.model](log, source.smoothing, source.iterations)
            finally:
                log.close()
            self._write(shown, fit)
        summary = {
            "model": source.model, "iterations": fit.iterations, "lists": log.count, "pairs": shown.size,
            "views": int(fit.views.sum()), "clicks": int(fit.clicks.sum()),
            "examination": [round(float(chance), 6) for chance in fit.examination],
        }  # fmt: skip
        (self._folder / NAME).write_text(atomic_files.as_json(summary, indent=1), encoding="utf-8")

    def _read(self, known: Pages | None, shown: Shown, log: Impressions) -> None:
        source = self._source
        table = PairsSource(format=source.log, path=source.path, header=source.header, encoding=source.encoding)
        named = source.columns
        single = (named.session, named.query, named.shown, named.clicked, named.time)
        wanted = [column for column in single if column is not None]
        read = lambda file: tables.read(table, file, wanted, self._limit, self._folder)
        for row in listing.rows(listing.files(source.path, source.marker), read):
            try:
                query, documents, clicked = self._parse(row)
            except BadRow as problem:
                self._ledger.quarantine("lists", row._replace(shown=self._shown(row)), problem)
                continue
            if self._seen(row, query, documents):
                self._ledger.duplicate("lists")
                continue
            self._ledger.kept("lists")
            document_ids = [self._document(known, document) for document in documents]
            log.add(
                [shown.number(query, document) for document in document_ids],
                [document in clicked for document in documents],
            )

    def _parse(self, row: Row) -> tuple[str, list[str], set[str]]:
        """The query, the documents shown, each once and from the top, and those clicked. Raises BadRow."""
        values, columns = row.checked(), self._source.columns
        query = one_form(as_text(values, columns.query))
        documents = list(dict.fromkeys(self._list(values, columns.shown)))
        if not documents:
            raise BadRow("missing field", f"{columns.shown!r} names no document")
        if len(documents) > MOST_SHOWN:
            raise BadRow("too long", f"{columns.shown!r} names more than {MOST_SHOWN} documents")
        clicked = set(self._list(row.values, columns.clicked))
        if not clicked <= set(documents):
            raise BadRow("click", "a document was clicked that was not shown")
        return query, documents, clicked

    def _list(self, values: Mapping[Column, Any], column: Column) -> list[str]:
        """The names in a field: a list, or a text of some, or none. Raises BadRow."""
        value = values.get(column)
        if is_missing(value):
            return []
        names = value if isinstance(value, list | tuple) else str(value).split(self._source.separator)
        return [as_id({column: name}, column) for name in names if not is_missing(name) and name != ""]

    def _seen(self, row: Row, query: str, documents: list[str]) -> bool:
        """Whether the log has this list a second time: of one session, at one time; a row without them has no copy."""
        who, when = (_told(row, column) for column in (self._source.columns.session, self._source.columns.time))
        return bool(who and when) and self._scratch.seen("", 0, None, "list", who, when, query, *documents)

    def _document(self, known: Pages | None, name: str) -> str:
        """The id of the document that a name in the log means, or the name."""
        if known is None:
            return name
        return known.id_of(one_address(name)) or known.id_of(name) or name

    def _shown(self, row: Row) -> str:
        """A bad row as it may be kept."""
        if self._source.sessions == "keep":
            return row.shown
        columns = self._source.columns
        values: dict[str, Any] = {
            str(column): row.values[column]
            for column in (columns.query, columns.shown, columns.clicked)
            if column in row.values
        }
        if self._source.sessions == "hash" and (who := _told(row, columns.session)):
            hashed = hmac.new(self._salt, who.encode("utf-8"), hashlib.sha256)
            values[str(columns.session)] = hashed.hexdigest()[:20]
        return shorten(values) if values else ""

    def _write(self, shown: Shown, fit: Fit) -> None:
        grades = list(self._source.grades)
        for number, query, document_id in shown.pairs():
            views, clicks, chance = int(fit.views[number]), int(fit.clicks[number]), float(fit.relevance[number])
            document = self._scratch.document(document_id)
            if document is None or views < self._source.min_views:
                self._ledger.note(MISSING if document is None else RARE)
                continue
            told = {"chance": round(chance, 4), "views": views, "clicks": clicks, "title": document[0]}
            metadata = json.dumps({k: v for k, v in told.items() if v != ""}, ensure_ascii=False, sort_keys=True)
            keys = (short_hash(query), document_id)
            split = split_of(query, self._config.split_seed, self._config.ingest.split)
            texts = (query, with_title(*document))
            record = Record(short_hash(*keys), keys, texts, float(bisect_right(grades, chance)), metadata)
            self._ledger.keep_record(split)
            self._output.add_record(split, record)


def _told(row: Row, column: Column | None) -> str:
    """A session or a time as text; "" where there is none, whatever the format writes for that.

    A whole number has no point: Parquet has a column of whole numbers with gaps as floats.
    """
    value = None if column is None else row.values.get(column)
    if is_missing(value):
        return ""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # JSON may hold half a character


def ingest(source: ClicksSource, config: Config, folder: Path, tools: tuple[Ledger, Scratch, Output]) -> None:
    """Reads a log and what it shows. Raises InputError as Ingest.run does."""
    Ingest(config, source, folder, tools).run()


def files(source: ClicksSource) -> dict[str, list[str]]:
    """All files by what they are for."""
    log_files = {"log": listing.files(source.path, source.marker)}
    if source.pages is not None:
        return log_files | {"pages": listing.files(source.pages, source.marker, pages.ENDINGS)}
    return log_files | {"documents": listing.files(source.documents or "")}

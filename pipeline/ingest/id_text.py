"""Files of a collection that are plain lines: id and text, and judgements (qrels)."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.config.sources import Column
from pipeline.ingest import jsonl, places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, shorten

_NAMES = {
    "id": ("id", "_id", "pid", "docid", "qid"),
    "title": ("title",),
    "text": ("text", "passage", "body", "contents", "query"),
}
_COLUMNS = {2: ("id", "text"), 3: ("id", "title", "text"), 4: ("id", "url", "title", "text")}
_QRELS = {3: ("query", "document", "relevance"), 4: ("query", "iteration", "document", "relevance")}
# What a first row that names the columns has first and last, without the signs between words.
_FIRST = {"id", "qid", "pid", "did", "docid", "queryid", "documentid", "passageid", "corpusid", "query", "topic"}
_LAST = {"text", "passage", "document", "body", "content", "contents", "query", "question"}
_SMART = re.compile(r"\s*[0-9]+\s+0*[1-9][0-9]*\s+0\s+0(?:\.0+)?\s*")  # TREC's second column is 0 or Q0
_LAST_OF_QRELS = {"relevance", "score", "rel", "label", "grade", "judgement", "judgment"}


def read_texts(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """TSV of id and text; id, title and text; or id, URL, title and text (MS MARCO documents), as in its first row.

    JSON Lines, as MS MARCO v2 has them, are known by their first character.
    """
    lines = places.lines(address, encoding, limit_bytes)
    first = next((line for line in lines if line.text.strip()), None)
    if first is None:
        return
    every = itertools.chain([first], lines)
    if first.text.lstrip().startswith("{"):
        for row, _ in jsonl.rows_of(every, address, None):
            yield row._replace(values=_as_named(row.values)) if row.problem is None else row
        return
    yield from texts_of(address, every)


def _as_named(values: Mapping[Column, Any]) -> dict[Column, Any]:
    """`id`, `title` and `text` of an object, under whichever of their names it has them."""
    by_field = {
        field: next((values[name] for name in names if name in values), None) for field, names in _NAMES.items()
    }
    return {field: value for field, value in by_field.items() if value is not None}


def read_triples(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """Triples of ids: a query, a document that is relevant and one that is not; as two judgements."""
    for line in places.lines(address, encoding, limit_bytes):
        if line.problem:
            yield places.bad_line(address, line)
        elif line.text.strip():
            fields = line.text.split()
            if len(fields) == 3:
                yield _row(address, line, _QRELS[3], [fields[0], fields[1], "1"], "")
                yield _row(address, line, _QRELS[3], [fields[0], fields[2], "0"], "")
            else:
                problem = BadRow("wrong number of columns", f"{len(fields)} instead of 3 (query, relevant, irrelevant)")
                yield Row(places.name_of(address), line.number, {}, shorten(line.text), problem)


def texts_of(address: str, lines: Iterable[Line]) -> Iterator[Row]:
    """As `read_texts`, of lines already opened."""
    names: tuple[str, ...] = ()
    for line in lines:
        if line.problem:
            yield places.bad_line(address, line)
        elif line.text.strip():
            fields = line.text.split("\t")
            if not names and len(fields) > 1 and _names_columns(fields, _LAST):
                continue
            names = names or _COLUMNS.get(len(fields), ())
            yield _row(address, line, names, fields, "2 (id, text), 3 (id, title, text) or 4 (id, url, title, text)")


def read_judgements(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """Qrels: query, (iteration,) document, relevance, divided by tabs or blanks; a row of names is skipped.

    Two older kinds are told by their first line, and hold relevant documents alone: query, document, 0, 0 (SMART, its
    numbers with leading zeros); and a query's number on a line of its own, lines of documents, and a line `/`.
    """
    read = (line for line in places.lines(address, encoding, limit_bytes) if line.problem or line.text.strip())
    first = next(read, None)
    if first is None:
        return
    lines = itertools.chain([first], read)
    if first.text.strip().isdecimal():
        yield from _lists(address, lines)
        return
    smart = _SMART.fullmatch(first.text)
    for line in lines:
        if line.problem:
            yield places.bad_line(address, line)
            continue
        text = line.text.strip()
        fields = text.split("\t") if "\t" in text else text.split()
        if line is first and _names_columns(fields, _LAST_OF_QRELS):
            continue
        if smart and len(text.split()) == 4:
            fields = [*(field.lstrip("0") or "0" for field in text.split()[:2]), "1"]
        names = _QRELS.get(len(fields), ())
        yield _row(address, line, names, fields, "3 (query, document, relevance) or 4 (query, 0, document, relevance)")


def _lists(address: str, lines: Iterable[Line]) -> Iterator[Row]:
    """A row for each document in blocks of a query's number, documents, and `/`."""
    query = ""
    for line in lines:
        if line.problem:
            yield places.bad_line(address, line)
            continue
        fields = line.text.split()
        if fields == ["/"]:
            query = ""
        elif query:
            for document in fields:
                yield _row(address, line, _QRELS[3], [query, document, "1"], "")
        else:
            query, *more = fields
            if more:
                problem = BadRow("wrong number of columns", "a query's number must stand on a line of its own")
                yield Row(places.name_of(address), line.number, {}, shorten(line.text), problem)


def _names_columns(fields: list[str], last: set[str]) -> bool:
    """Whether a first row is the columns' names, such as query-id, corpus-id, score.

    >>> _names_columns(["query_id", "doc_id", "relevance"], _LAST_OF_QRELS), _names_columns(["q1", "d1", "1"], _LAST)
    (True, False)
    """
    plain = [re.sub(r"[\W_]", "", field).lower() for field in fields]
    return plain[0] in _FIRST and plain[-1] in last


def _row(address: str, line: Line, names: tuple[str, ...], fields: list[str], allowed: str) -> Row:
    problem = None
    if len(names) != len(fields):
        expected = f"{len(names)} as in the first row" if names else allowed
        problem = BadRow("wrong number of columns", f"{len(fields)} instead of {expected}")
    return Row(places.name_of(address), line.number, dict(zip(names, fields)), shorten(line.text), problem)

"""Files of a collection that are plain tables: id and text, and judgements (qrels)."""

from collections.abc import Iterator

from pipeline.ingest import places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, shorten

_COLUMNS = {2: ("id", "text"), 3: ("id", "title", "text"), 4: ("id", "url", "title", "text")}
_QRELS = {3: ("query", "document", "relevance"), 4: ("query", "iteration", "document", "relevance")}


def read_texts(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """TSV of id and text; id, title and text; or id, URL, title and text (MS MARCO documents), as in its first row."""
    yield from texts_of(address, places.lines(address, encoding, limit_bytes))


def texts_of(address: str, lines: Iterator[Line]) -> Iterator[Row]:
    """As `read_texts`, of lines already opened."""
    names: tuple[str, ...] = ()
    for line in lines:
        if line.problem:
            yield places.bad_line(address, line)
        elif line.text.strip():
            fields = line.text.split("\t")
            names = names or _COLUMNS.get(len(fields), ())
            yield _row(address, line, names, fields, "2 (id, text), 3 (id, title, text) or 4 (id, url, title, text)")


def read_judgements(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """Qrels: query, (iteration,) document, relevance, divided by tabs or blanks; BEIR's header is skipped."""
    for line in places.lines(address, encoding, limit_bytes):
        if line.problem:
            yield places.bad_line(address, line)
            continue
        text = line.text.strip("\ufeff \t\r")
        if not text or (line.number == 1 and text.split() == ["query-id", "corpus-id", "score"]):
            continue
        fields = text.split("\t") if "\t" in text else text.split()
        names = _QRELS.get(len(fields), ())
        yield _row(address, line, names, fields, "3 (query, document, relevance) or 4 (query, 0, document, relevance)")


def _row(address: str, line: Line, names: tuple[str, ...], fields: list[str], allowed: str) -> Row:
    problem = None
    if len(names) != len(fields):
        expected = f"{len(names)} as in the first row" if names else allowed
        problem = BadRow("wrong number of columns", f"{len(fields)} instead of {expected}")
    return Row(places.name_of(address), line.number, dict(zip(names, fields)), shorten(line.text), problem)

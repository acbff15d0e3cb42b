"""TREC collections: SGML topics and documents, the older SMART style (.I, .T, .W) of Cranfield, or TSV of id and text.

Which of the three a file is in shows in its first line that is not blank. A document or topic is a block of lines; one
that is over the row limit, or has an undecodable line, is one bad row.
"""

import html
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pipeline.ingest import places, tables
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, shorten
from pipeline.sources import Column

_TAG = re.compile(r"<[^<>]*>")
_SMART_FIELD = re.compile(r"\.([A-Z])\s*$")
_OPEN = {
    "documents": re.compile(r"<DOC>", re.IGNORECASE),
    "queries": re.compile(r"<top>|<topic\b[^>]*>", re.IGNORECASE),
}
_CLOSE = {
    "documents": re.compile(r"</DOC>", re.IGNORECASE),
    "queries": re.compile(r"</top>|</topic>", re.IGNORECASE),
}


class Block(NamedTuple):
    """The lines of one document or topic."""

    number: int  # of its first line
    lines: list[str]
    problem: BadRow | None


def read_documents(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """Documents with the fields id, title (where there is one) and text."""
    return _read(address, encoding, limit_bytes, "documents")


def read_queries(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """Queries with the fields id and text: a topic's title (else its query or description), a SMART query's .W."""
    return _read(address, encoding, limit_bytes, "queries")


def _read(address: str, encoding: str, limit_bytes: int, kind: str) -> Iterator[Row]:
    lines = places.lines(address, encoding, limit_bytes)
    blank = lambda line: not line.problem and not line.text.strip("\ufeff \t\r")
    lines = itertools.dropwhile(blank, lines)
    first = next(lines, None)
    if first is None:
        return
    first = first._replace(text=first.text.lstrip("\ufeff"))
    lines = itertools.chain([first], lines)
    start = first.text.lstrip()
    if start.startswith(".I"):
        blocks, parse = _smart_blocks(lines, limit_bytes), _smart_fields
    elif start.startswith("<"):
        blocks = _sgml_blocks(lines, limit_bytes, _OPEN[kind], _CLOSE[kind])
        parse = _sgml_document if kind == "documents" else _sgml_topic
    else:
        yield from tables.texts_of(address, lines)
        return
    yield from _rows(address, blocks, parse)


def _rows(address: str, blocks: Iterable[Block], parse: Callable[[list[str]], dict[Column, Any]]) -> Iterator[Row]:
    for block in blocks:
        values: dict[Column, Any] = {} if block.problem else parse(block.lines)
        yield Row(places.name_of(address), block.number, values, shorten(" ".join(block.lines[:9])), block.problem)


class _Gatherer:
    """Collects a block's lines up to the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._left = 0
        self.block: Block | None = None

    def start(self, line: Line, problem: BadRow | None = None) -> None:
        self._left = self._limit
        self.block = Block(line.number, [], problem)

    def add(self, line: Line) -> None:
        assert self.block is not None
        self._left -= len(line.text) + 1
        problem = self.block.problem or line.problem
        if self._left < 0:
            problem = problem or BadRow("too long", f"more than ingest.max_row_kb={self._limit // 1024} KiB")
        else:
            self.block.lines.append(line.text)
        self.block = self.block._replace(problem=problem)

    def take(self) -> Iterator[Block]:
        if self.block:
            yield self.block
        self.block = None


def _smart_blocks(lines: Iterable[Line], limit_bytes: int) -> Iterator[Block]:
    gather = _Gatherer(limit_bytes)
    for line in lines:
        if line.text.startswith(".I") and line.text[2:3] in ("", " ", "\t"):
            yield from gather.take()
            gather.start(line)
        gather.add(line)
    yield from gather.take()


def _smart_fields(lines: list[str]) -> dict[Column, Any]:
    """The fields of a block: .I id, .T title, .W text; .A, .B and others are passed over.

    >>> _smart_fields([".I 001", ".W", "what similarity laws"])
    {'id': '001', 'text': 'what similarity laws'}
    """
    fields: dict[str, list[str]] = {}
    name = ""
    for line in lines[1:]:
        if found := _SMART_FIELD.match(line):
            name = found[1]
        else:
            fields.setdefault(name, []).append(line)
    texts = {
        "id": lines[0][2:].strip(),
        "title": "\n".join(fields.get("T", [])),
        "text": "\n".join(fields.get("W", [])),
    }
    return {key: text for key, text in texts.items() if key != "title" or text.strip()}


def _sgml_blocks(
    lines: Iterable[Line], limit_bytes: int, opening: re.Pattern[str], closing: re.Pattern[str]
) -> Iterator[Block]:
    """Blocks between an opening and a closing tag; other text is one bad row a stretch, tags of a frame are nothing."""
    gather = _Gatherer(limit_bytes)
    inside = False
    for line in lines:
        rest = line.text
        while True:
            edge = (closing if inside else opening).search(rest)
            if inside:
                # a closing tag that is missing must not join two documents
                again = opening.search(rest)
                if again and (edge is None or again.start() < edge.start()):
                    gather.add(line._replace(text=rest[: again.start()]))
                    assert gather.block is not None
                    unclosed = gather.block.problem or BadRow("unclosed block", f"no {closing.pattern} before the next")
                    gather.block = gather.block._replace(problem=unclosed)
                    edge = again
                else:
                    gather.add(line._replace(text=rest[: edge.start()] if edge else rest))
                if edge is None:
                    break
                yield from gather.take()
                rest, inside = (rest[edge.start() :] if edge is again else rest[edge.end() :]), False
                continue
            between = _TAG.sub("", rest[: edge.start()] if edge else rest).strip()
            if between or (line.problem and rest is line.text and not edge):
                if not gather.block:
                    gather.start(line, BadRow("text outside", f"between the blocks of {opening.pattern}"))
                gather.add(line._replace(text=between))
            if edge is None:
                break
            yield from gather.take()
            gather.start(line)
            gather.add(line._replace(text=edge[0]))
            rest, inside = rest[edge.end() :], True
    if inside and gather.block:
        gather.block = gather.block._replace(
            problem=gather.block.problem or BadRow("unclosed block", "the file ends within it")
        )
    yield from gather.take()


def _element(text: str, *names: str) -> str:
    """The text of the first of these elements that is not empty, without tags; it may lack its closing tag."""
    for name in names:
        closed = re.findall(rf"<{name}\b[^>]*>(.*?)</{name}>", text, re.IGNORECASE | re.DOTALL)
        found = closed or re.findall(rf"<{name}\b[^>]*>([^<]*)", text, re.IGNORECASE)
        joined = html.unescape(_TAG.sub(" ", "\n".join(found))).strip()
        if joined:
            return joined
    return ""


def _sgml_document(lines: list[str]) -> dict[Column, Any]:
    """DOCNO; TITLE, HEADLINE or HEAD; and TEXT, or without one everything else."""
    block = "\n".join(lines)
    title = _element(block, "TITLE", "HEADLINE", "HEAD", "TI")
    text = _element(block, "TEXT")
    if not text:
        others = r"<(DOC(?:NO|ID|HDR)|TITLE|HEADLINE|HEAD|TI)\b[^>]*>.*?</\1>"
        text = html.unescape(_TAG.sub(" ", re.sub(others, " ", block, flags=re.IGNORECASE | re.DOTALL))).strip()
    return {"id": _element(block, "DOCNO"), "text": text, **({"title": title} if title else {})}


def _sgml_topic(lines: list[str]) -> dict[Column, Any]:
    """Number and title (else query, else description); the labels `Number:`, `Topic:` and `Description:` go."""
    block = "\n".join(lines)
    given = re.match(r"""<topic\b[^>]*\bnumber\s*=\s*["']?([^"'\s>]+)""", block, re.IGNORECASE)
    number = given[1] if given else re.sub(r"^\s*Number:\s*", "", _element(block, "num"), flags=re.IGNORECASE)
    text = _element(block, "title", "query", "desc", "description")
    return {"id": number, "text": re.sub(r"^\s*(Topic|Description):\s*", "", text, flags=re.IGNORECASE)}

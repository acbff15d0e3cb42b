"""TREC collections: SGML or XML, the older SMART style (.I, .T, .W) of Cranfield, blocks ended by `/`, or TSV.

Which of them a file is in shows in its first line that is not blank. A document or topic is a block of lines; one
that is over the row limit, or has an undecodable line, is one bad row.
"""

import html
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pipeline.config.sources import Column
from pipeline.ingest import id_text, places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, shorten, too_long

_TAG = re.compile(r"<[^<>]*>")
_SMART_FIELD = re.compile(r"\.([A-Z])\s*$")
_OPEN = {
    "documents": re.compile(r"<DOC(?:\s[^<>]*)?>", re.IGNORECASE),
    "queries": re.compile(r"<top(?:ic)?(?:\s[^<>]*)?>", re.IGNORECASE),
}
_CLOSE = {
    "documents": re.compile(r"</DOC>", re.IGNORECASE),
    "queries": re.compile(r"</top>|</topic>", re.IGNORECASE),
}
_NUMBER = "number|num|docno|docid|qid|id"  # attributes and elements that hold an id
_TITLES, _ASIDE = "TITLE|HEADLINE|HEAD|TI", "DOCNO|DOCID|DOCHDR"


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
    blank = lambda line: not line.problem and not line.text.strip()
    lines = itertools.dropwhile(blank, lines)
    first = next(lines, None)
    if first is None:
        return
    lines = itertools.chain([first], lines)
    if _begins_smart(first.text):
        blocks, parse = _smart_blocks(lines, limit_bytes), _smart_fields
    elif first.text.strip().isdecimal():
        blocks, parse = _slash_blocks(lines, limit_bytes), _slash_fields
    elif first.text.lstrip().startswith("<"):
        blocks = _sgml_blocks(lines, limit_bytes, _OPEN[kind], _CLOSE[kind])
        parse = _sgml_document if kind == "documents" else _sgml_topic
    else:
        yield from id_text.texts_of(address, lines)
        return
    yield from _rows(address, blocks, parse)


def _rows(address: str, blocks: Iterable[Block], parse: Callable[[list[str]], dict[Column, Any]]) -> Iterator[Row]:
    for block in blocks:
        values: dict[Column, Any] = {}
        problem = block.problem
        if problem is None:
            try:
                values = parse(block.lines)
            except ValueError as error:  # &#…; with more digits than Python makes a number of
                problem = BadRow("markup", str(error)[:80])
        yield Row(places.name_of(address), block.number, values, shorten(" ".join(block.lines[:9])), problem)


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
            problem = problem or too_long(self._limit)
        else:
            self.block.lines.append(line.text)
        self.block = self.block._replace(problem=problem)

    def blame(self, problem: BadRow) -> None:
        """Says what is wrong with the block, unless that is known already."""
        assert self.block is not None
        self.block = self.block._replace(problem=self.block.problem or problem)

    def take(self) -> Iterator[Block]:
        if self.block:
            yield self.block
        self.block = None


def _begins_smart(line: str) -> bool:
    return line.startswith(".I") and line[2:3] in ("", " ", "\t")


def _smart_blocks(lines: Iterable[Line], limit_bytes: int) -> Iterator[Block]:
    gather = _Gatherer(limit_bytes)
    for line in lines:
        if _begins_smart(line.text):
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
        if match := _SMART_FIELD.match(line):
            name = match[1]
        else:
            fields.setdefault(name, []).append(line)
    texts = {
        "id": lines[0][2:].strip(),
        "title": "\n".join(fields.get("T", [])),
        "text": "\n".join(fields.get("W", [])),
    }
    return {key: text for key, text in texts.items() if key != "title" or text.strip()}


def _slash_blocks(lines: Iterable[Line], limit_bytes: int) -> Iterator[Block]:
    """Blocks that end with a line `/`; the end of the file ends one too."""
    gather = _Gatherer(limit_bytes)
    for line in lines:
        if line.text.strip() == "/" and not line.problem:
            yield from gather.take()
        elif gather.block or line.problem or line.text.strip():
            if not gather.block:
                gather.start(line)
            gather.add(line)
    yield from gather.take()


def _slash_fields(lines: list[str]) -> dict[Column, Any]:
    """The id on the first line, the text on the others.

    >>> _slash_fields(["1", "compact memories", "have capacities"])
    {'id': '1', 'text': 'compact memories\\nhave capacities'}
    """
    return {"id": lines[0], "text": "\n".join(lines[1:])}


def _sgml_blocks(
    lines: Iterable[Line], limit_bytes: int, opening: re.Pattern[str], closing: re.Pattern[str]
) -> Iterator[Block]:
    """Blocks between an opening and a closing tag; other text is one bad row a stretch, tags of a frame are nothing.

    Each line is gone through once, however many tags stand on it.
    """
    gather, inside = _Gatherer(limit_bytes), False
    edges = re.compile(f"(?P<opening>{opening.pattern})|{closing.pattern}", re.IGNORECASE)
    for line in lines:
        at = 0
        for edge in edges.finditer(line.text):
            if inside:
                gather.add(line._replace(text=line.text[at : edge.start()]))
                at, inside = edge.end(), False
                if edge["opening"]:  # a closing tag that is missing must not join two documents
                    gather.blame(BadRow("unclosed block", f"no {closing.pattern} before the next"))
                    at = edge.start()
                yield from gather.take()
            if edge["opening"]:
                _between(gather, line, line.text[at : edge.start()], opening)
                yield from gather.take()
                gather.start(line)
                gather.add(line._replace(text=edge[0]))
                at, inside = edge.end(), True
        if inside:
            gather.add(line._replace(text=line.text[at:]))
        else:
            _between(gather, line, line.text[at:], opening, whole=at == 0)
    if inside:
        gather.blame(BadRow("unclosed block", "the file ends within it"))
    yield from gather.take()


def _between(gather: _Gatherer, line: Line, text: str, opening: re.Pattern[str], whole: bool = False) -> None:
    """Gathers what stands outside of blocks, tags left out; of a bad line even where that is nothing."""
    text = _TAG.sub("", text).strip()
    if text or (whole and line.problem):
        if not gather.block:
            gather.start(line, BadRow("text outside", f"between the blocks of {opening.pattern}"))
        gather.add(line._replace(text=text))


def _element(text: str, *names: str) -> str:
    """The text of the first of these elements that is not empty, without tags; it may lack its closing tag."""
    for name in names:
        contents = _closed(text, name) or re.findall(rf"<{name}\b[^<>]*>([^<]*)", text, re.IGNORECASE)
        joined = html.unescape(_TAG.sub(" ", "\n".join(contents))).strip()
        if joined:
            return joined
    return ""


def _closed(text: str, name: str) -> list[str]:
    """The contents of an element each time it is closed; one pass, where a pattern would look for each end anew."""
    contents: list[str] = []
    start = None
    for tag in re.finditer(rf"<(/?){name}\b[^<>]*>", text, re.IGNORECASE):
        if tag[1] and start is not None:
            contents.append(text[start : tag.start()])
            start = None
        elif not tag[1] and start is None:
            start = tag.end()
    return contents


def _without(text: str, names: str) -> str:
    """The text without the elements of these names (a pattern's alternatives) that are closed; one pass, too."""
    tags = list(re.finditer(rf"<(/?)({names})\b[^<>]*>", text, re.IGNORECASE))
    last = {tag[2].upper(): tag.start() for tag in tags if tag[1]}
    parts, at, inside = [], 0, ""
    for tag in tags:
        name = tag[2].upper()
        if not inside and not tag[1] and last.get(name, -1) > tag.start():
            parts.append(text[at : tag.start()])
            inside = name
        elif inside == name and tag[1]:
            at, inside = tag.end(), ""
    return " ".join([*parts, text[at:]])


def _sgml_document(lines: list[str]) -> dict[Column, Any]:
    """DOCNO, DOCID or an attribute; TITLE, HEADLINE or HEAD; and TEXT, or without one everything else."""
    block = _without_sections("\n".join(lines))
    title = _element(block, *_TITLES.split("|"))
    text = _element(block, "TEXT")
    if not text:
        text = html.unescape(_TAG.sub(" ", _without(block, f"{_ASIDE}|{_TITLES}"))).strip()
    number = _element(block, "DOCNO", "DOCID") or _attribute(lines[0])
    return {"id": number, "text": text, **({"title": title} if title else {})}


def _sgml_topic(lines: list[str]) -> dict[Column, Any]:
    """Number and title (else query, question, description, or all); the labels `Number:`, `Topic:` and so on go."""
    block = _without_sections("\n".join(lines))
    number = _element(block, "num", "number") or _attribute(lines[0]) or _element(block, "qid", "id")
    text = _element(block, "title", "query", "question", "desc", "description")
    if not text:
        text = html.unescape(_TAG.sub(" ", _without(block, "num|number|qid|id"))).strip()
    number = re.sub(r"^\s*Number:\s*", "", number, flags=re.IGNORECASE)
    return {"id": number, "text": re.sub(r"^\s*(Topic|Description):\s*", "", text, flags=re.IGNORECASE)}


def _attribute(opening: str) -> str:
    """The id that a block's opening tag has as an attribute, or "".

    >>> _attribute('<topic lang="en" number="7">')
    '7'
    """
    match = re.search(rf"""\s(?:{_NUMBER})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", opening, re.IGNORECASE)
    return html.unescape(next(filter(None, match.groups()), "")) if match else ""


def _without_sections(block: str) -> str:
    """The block with the text of CDATA sections in place of them."""
    head, *sections = block.split("<![CDATA[")
    parts = (section.partition("]]>") for section in sections)
    return head + "".join(html.escape(text, quote=False) + after for text, _, after in parts)

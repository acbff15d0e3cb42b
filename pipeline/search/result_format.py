"""Results as JSON, and on a terminal."""

from typing import Any

from pipeline.search.documents import Document
from pipeline.search.searcher import Answer, Result
from pipeline.tokenization.passages import Span

SHOWN_CHARACTERS = 320  # of a passage, where most of the query's words stand
MAX_CHARACTERS = 20_000  # of a passage that are sent: one without white space may be as long as a document
MAX_TITLE = 1_000


def as_json(answer: Answer) -> dict[str, Any]:
    """The results with their passages, whole up to MAX_CHARACTERS each; marks are places within the passage."""
    known = {} if answer.sure is None else {"probability": answer.probability, "sure": answer.sure}
    return {"notices": answer.notices, **known, "results": [_as_json(result) for result in answer.results]}


def _as_json(result: Result) -> dict[str, Any]:
    document, (start, end) = result.document, result.passage
    passage = document.text[start:end]
    part = excerpt(passage, result.marks, MAX_CHARACTERS)
    inside = [mark for mark in result.marks if part.start <= mark.start and mark.end <= part.end]
    return {
        "rank": result.rank,
        "id": document.id,
        "title": title_of(result),
        "fields": document.known,
        "link": link_of(document),
        "score": round(result.score, 6),
        "passage": passage[part.start : part.end],
        "passage_start": start + part.start,
        "passage_row": result.passage_row,
        "characters": len(document.text),
        "marks": [[mark.start - part.start, mark.end - part.start] for mark in inside],
    }


def title_of(result: Result) -> str:
    """The title, up to MAX_TITLE characters, or the id of a document that has none."""
    return _shortened(result.document.title or result.document.id, MAX_TITLE)


def link_of(document: Document) -> str | None:
    """The document's address on the web; None where `url` is none, or an address that does something else."""
    address = str(document.known.get("url", ""))
    return address if address.startswith(("http://", "https://")) else None


def told(document: Document) -> str:
    """What a terminal shows of the other fields: author, date and address, where they are known."""
    known = document.known
    return " · ".join(str(known[name]) for name in ("author", "date", "url") if known.get(name))


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def excerpt(passage: str, marks: list[Span], limit: int = SHOWN_CHARACTERS) -> Span:
    """The part of a passage, of at most `limit` characters, with most marks; ends are moved to white space."""
    if len(passage) <= limit:
        return Span(0, len(passage))
    start = 0
    if marks:
        held = [sum(1 for mark in marks if first.start <= mark.start and mark.end <= first.start + limit * 3 // 4)
                for first in marks]  # fmt: skip
        start = max(0, min(marks[held.index(max(held))].start - limit // 8, len(passage) - limit))
    end = min(len(passage), start + limit)
    if start and (space := passage.find(" ", start, start + 40)) >= 0:
        start = space + 1
    if end < len(passage) and (space := passage.rfind(" ", end - 40, end)) > start:
        end = space
    return Span(start, end)


def print_answer(answer: Answer, full: bool) -> None:
    """Prints to stdout: marked words bold and yellow on a terminal, plain elsewhere."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    wraps = console.is_terminal  # elsewhere a line stays one, however long

    def say(text: Text, left: int = 0) -> None:
        console.print(Padding(text, (0, 0, 0, left)) if wraps else Text(" " * left) + text, soft_wrap=not wraps)

    for notice in answer.notices:
        say(Text(f"({notice})", "italic"))
    for result in answer.results:
        heading = Text(f"{result.rank:3}  {result.score:.3f}  ")
        heading.append(title_of(result), "bold")
        if result.document.title:
            heading.append(f"  {result.document.id}", "dim")
        say(heading)
        if about := told(result.document):
            say(Text(about, "dim"), left=12)
        passage = result.document.text[result.passage.start : result.passage.end]
        part = Span(0, len(passage)) if full else excerpt(passage, result.marks)
        text = Text(passage[part.start : part.end])
        for mark in result.marks:
            text.stylize("bold yellow", max(0, mark.start - part.start), max(0, mark.end - part.start))
        if not full:  # on one line
            text = Text(" ").join(word for line in text.split() for word in line.split(" ") if word.plain)
        ends = ("… " if part.start else "", " …" if part.end < len(passage) else "")
        say(Text.assemble(ends[0], text, ends[1]), left=12)

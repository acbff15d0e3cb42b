"""Results as JSON, and on a terminal."""

from typing import Any

from pipeline.serving.search.passages import Span
from pipeline.serving.search.searching import Answer, Result

SHOWN_CHARACTERS = 320  # of a passage, where most of the query's words stand


def as_json(answer: Answer) -> dict[str, Any]:
    """The results with their passages whole; marks are places within the passage."""
    return {"notices": answer.notices, "results": [_as_json(result) for result in answer.results]}


def _as_json(result: Result) -> dict[str, Any]:
    document, (start, end) = result.document, result.passage
    return {
        "rank": result.rank,
        "id": document.id,
        "title": title_of(result),
        "score": round(result.score, 6),
        "passage": document.text[start:end],
        "passage_start": start,
        "passage_row": result.passage_row,
        "characters": len(document.text),
        "marks": [list(mark) for mark in result.marks],
    }


def title_of(result: Result) -> str:
    """The title, or the beginning of a text that has none."""
    if result.document.title:
        return result.document.title
    first = next((line.strip() for line in result.document.text.splitlines() if line.strip()), result.document.id)
    return first if len(first) <= 80 else first[:79].rstrip() + "…"


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
        heading.append(f"  {result.document.id}", "dim")
        say(heading)
        passage = result.document.text[result.passage.start : result.passage.end]
        part = Span(0, len(passage)) if full else excerpt(passage, result.marks)
        text = Text(passage[part.start : part.end])
        for mark in result.marks:
            text.stylize("bold yellow", max(0, mark.start - part.start), max(0, mark.end - part.start))
        if not full:  # on one line
            text = Text(" ").join(word for line in text.split() for word in line.split(" ") if word.plain)
        ends = ("… " if part.start else "", " …" if part.end < len(passage) else "")
        say(Text.assemble(ends[0], text, ends[1]), left=12)

"""CoNLL-U: a sentence is a run of lines of ten columns, one per word (universaldependencies.org/format.html)."""

from collections.abc import Iterator

from pipeline.config import Config
from pipeline.config.sources import ConlluSource, SplitName
from pipeline.ingest import places
from pipeline.ingest.rows import BadRow, Row, shorten

COLUMNS = 10
FORM, TAGS = 1, {"UPOS": 3, "XPOS": 4}


def read(source: ConlluSource, config: Config, limit_bytes: int) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `text`, the word forms, and `tags`, each joined by blanks; blanks within a form become underscores.

    Multiword tokens (ids such as 3-4) and empty nodes (8.1) are no words of their own and are left out.
    """
    for split, path in source.paths.items():
        yield split, _sentences(path, TAGS[source.tag], limit_bytes)


def _sentences(address: str, column: int, limit_bytes: int) -> Iterator[Row]:
    name = places.name_of(address)
    forms: list[str] = []
    tags: list[str] = []
    begins, size, problem = 0, 0, None
    for line in places.lines(address, "utf-8", limit_bytes):
        if line.text.startswith("#"):
            continue
        if not line.text.strip() and line.problem is None:
            if forms or problem:
                yield _row(name, begins, forms, tags, problem)
            forms, tags, begins, size, problem = [], [], 0, 0, None
            continue
        begins = begins or line.number
        size += len(line.text)
        cells = line.text.split("\t")
        if line.problem or len(cells) != COLUMNS:
            problem = line.problem or BadRow("wrong number of columns", f"{len(cells)} instead of {COLUMNS}")
        elif size > limit_bytes:  # no blank line to end it: it must not fill the memory
            problem = BadRow("too long", f"a sentence over ingest.max_row_kb={limit_bytes // 1024} KiB")
        elif cells[0].isdigit() and problem is None:
            form, tag = "_".join(cells[FORM].split()), "_".join(cells[column].split())
            if not (form and tag):
                problem = BadRow("empty text", "a word without its form or tag")
            forms.append(form)
            tags.append(tag)
    if forms or problem:
        yield _row(name, begins, forms, tags, problem)


def _row(name: str, begins: int, forms: list[str], tags: list[str], problem: BadRow | None) -> Row:
    text = " ".join(forms)
    return Row(name, begins, {"text": text, "tags": " ".join(tags)}, shorten(text), problem)

"""Sentences as a line per word with blank lines between them: CoNLL-U's ten columns, or a word and its tags."""

import re
from collections.abc import Callable, Iterator

from pipeline.config import Config
from pipeline.config.sources import ConllSource, ConlluSource, SplitName
from pipeline.ingest import listing, pairs, places
from pipeline.ingest.rows import BadRow, Row, clean, shorten, too_long

COLUMNS = 10
FORM, TAGS = 1, {"UPOS": 3, "XPOS": 4}
_BLANKS = re.compile(" +")  # no other blank divides columns: a word may hold a no-break space
_WORD, _OTHER = re.compile("[1-9][0-9]*"), re.compile(r"[1-9][0-9]*-[1-9][0-9]*|[0-9]+\.[1-9][0-9]*")

# a line -> its word and tag; None: the line is no word. Raises BadRow.
Parse = Callable[[str], tuple[str, str] | None]


def read(
    source: ConlluSource | ConllSource, config: Config, limit_bytes: int
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `text`, the words, and `tags`, each joined by blanks; blanks within a word become underscores."""
    for split, files in pairs.files(source).items():
        yield split, listing.rows(files, lambda address: _sentences(address, source, limit_bytes))


def _sentences(address: str, source: ConlluSource | ConllSource, limit_bytes: int) -> Iterator[Row]:
    name = places.name_of(address)
    parse = _conllu(TAGS[source.tag]) if isinstance(source, ConlluSource) else _conll()
    words: list[tuple[str, str]] = []
    begins, size, problem = 0, 0, None
    for line in places.lines(address, source.encoding, limit_bytes):
        if not line.text.strip() and line.problem is None:
            if words or problem:
                yield _row(name, begins, words, problem)
            words, begins, size, problem = [], 0, 0, None
            continue
        size += len(line.text)
        try:
            if line.problem:
                raise line.problem
            word = parse(line.text)
            if size > limit_bytes:  # no blank line to end it: it must not fill the memory
                raise too_long(limit_bytes, "a sentence of ")
        except BadRow as error:
            word, problem = None, problem or error
        if word or problem:
            begins = begins or line.number
        if word and problem is None:
            words.append(word)
    if words or problem:
        yield _row(name, begins, words, problem)


def _row(name: str, begins: int, words: list[tuple[str, str]], problem: BadRow | None) -> Row:
    text, tags = (" ".join(part) for part in zip(*words)) if words else ("", "")
    return Row(name, begins, {"text": text, "tags": tags}, shorten(text), problem)


def _conllu(column: int) -> Parse:
    """universaldependencies.org/format.html; multiword tokens (3-4) and empty nodes (8.1) are no words of their own."""

    def parse(line: str) -> tuple[str, str] | None:
        if line.startswith("#"):
            return None
        cells = line.split("\t")
        if len(cells) != COLUMNS:
            raise BadRow("wrong number of columns", f"{len(cells)} instead of {COLUMNS}")
        if _OTHER.fullmatch(cells[0]):
            return None
        if not _WORD.fullmatch(cells[0]):
            raise BadRow("word id", f"{cells[0][:20]!r} is not a number (1), a range (1-2) or an empty node (1.1)")
        return _word(cells[FORM], cells[column])

    return parse


def _conll() -> Parse:
    """Lines of a word, maybe more, and last its tag, divided by tabs or blanks; -DOCSTART- lines are left out."""
    width = 0

    def parse(line: str) -> tuple[str, str] | None:
        nonlocal width
        cells = line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))
        if cells[0] == "-DOCSTART-":
            return None
        width = width or len(cells)
        if len(cells) != width or width < 2:
            expected = width if width > 1 else "2 or more (a word and its tag)"
            raise BadRow("wrong number of columns", f"{len(cells)} instead of {expected}")
        return _word(cells[0], cells[-1])

    return parse


def _word(form: str, tag: str) -> tuple[str, str]:
    word = "_".join(clean(form, "form").split()), "_".join(clean(tag, "tag").split())
    if not all(word):
        raise BadRow("empty text", "a word without its form or tag")
    return word

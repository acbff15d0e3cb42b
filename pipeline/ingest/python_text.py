"""Python code as text: the standard library's code, prose and kinds of tokens; functions by package."""

import heapq
import io
import keyword
import token
import tokenize
from collections.abc import Iterator
from typing import Any

from pipeline.config import Config
from pipeline.config.sources import Column, Columns, DocstringsSource, PythonSource, SplitName
from pipeline.ingest import docstrings
from pipeline.ingest.places import Line
from pipeline.ingest.rows import Row, short_hash, shorten
from pipeline.ingest.text import blocks, in_order

LIBRARY = DocstringsSource(format="docstrings")
COLUMNS = Columns(group=("module",), metadata=("module",))
# What the label of `package` is chosen from: each has thousands of documented functions in more than a hundred modules.
# The standard library's own packages have few modules, so that a split by module leaves whole labels out.
PACKAGES = DocstringsSource(
    format="docstrings", packages=("matplotlib", "mxnet", "numpy", "pandas", "scikit-learn", "SQLAlchemy")
)
MIN_TOKENS, MAX_TOKENS = 4, 60  # of a line or statement whose tokens are tagged


def read(source: PythonSource, config: Config, limit_bytes: int) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows of the kind asked for. `code` is cut by position into splits, the others by the module they stand in."""
    if source.of == "code":
        yield from _code(source, config)
        return
    rows = {"prose": _prose, "package": _packages, "kinds": _kinds}[source.of](limit_bytes)
    yield None, _first(rows, source.max_records)


def _first(rows: Iterator[Row], count: int | None) -> Iterator[Row]:
    """The `count` rows with the smallest hashes, so that a smaller number gives a part of what a larger one gives."""
    if count is None:
        yield from rows
        return
    everything = {short_hash(row.source, str(row.number), row.shown): row for row in rows}
    chosen = set(heapq.nsmallest(count, everything))
    yield from (row for key, row in everything.items() if key in chosen)


def _code(source: PythonSource, config: Config) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    lines: list[str] = []
    for module in docstrings.modules(LIBRARY):
        try:
            with tokenize.open(module.path) as file:  # finds the encoding as Python does
                lines += file.read().replace("\f", "").split("\n")
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        if source.max_records and len(lines) >= source.max_records * source.lines_per_record:
            break
    if source.max_records:
        lines = lines[: source.max_records * source.lines_per_record]
    name = "library.py"
    yield from in_order(
        "the standard library",
        lambda: ((name, Line(i, line, None)) for i, line in enumerate(lines, 1) if "\0" not in line),
        config.ingest.split,
        lambda part: blocks(part, source.lines_per_record, keep_blank=True),
    )  # fmt: skip


def _functions(limit_bytes: int, source: DocstringsSource = LIBRARY) -> Iterator[Row]:
    for row in docstrings.read(source, limit_bytes):
        if row.problem is None:
            yield row


def _prose(limit_bytes: int) -> Iterator[Row]:
    for row in _functions(limit_bytes):
        values: dict[Column, Any] = {"text": row.values["query"], "module": row.values["module"]}
        yield row._replace(values=values)


def _packages(limit_bytes: int) -> Iterator[Row]:
    for row in _functions(limit_bytes, PACKAGES):
        package = str(row.values["module"]).split(".")[0]
        values: dict[Column, Any] = {"text": row.values["document"], "label": package}
        yield row._replace(values=values | {"module": row.values["module"]})


def _kinds(limit_bytes: int) -> Iterator[Row]:
    for row in _functions(limit_bytes):
        lines = str(row.values["document"])
        for number, (words, kinds) in enumerate(_statements(lines)):
            if MIN_TOKENS <= len(words) <= MAX_TOKENS:
                text = " ".join(words)
                values: dict[Column, Any] = {"text": text, "tags": " ".join(kinds), "module": row.values["module"]}
                yield Row(row.source, row.number + number, values, shorten(text))


def _statements(code: str) -> Iterator[tuple[list[str], list[str]]]:
    """The tokens of each logical line and their kinds; strings and numbers stand as STRING and NUMBER."""
    words: list[str] = []
    kinds: list[str] = []
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    for current, following in zip(tokens, [*tokens[1:], tokens[-1]]):
        if current.type == token.NEWLINE:
            if words:
                yield words, kinds
            words, kinds = [], []
        elif current.type in (token.NAME, token.OP):
            kinds.append(_kind(current.string, words[-1] if words else "", following.string))
            words.append(current.string)
        elif current.type in (token.STRING, token.NUMBER):
            kinds.append(token.tok_name[current.type].lower())
            words.append(token.tok_name[current.type])


def _kind(word: str, before: str, after: str) -> str:
    """What a name or sign is, from its neighbours: a word-by-word table cannot tell a call from a variable."""
    if keyword.iskeyword(word):
        return "keyword"
    if not word.isidentifier():
        return "operator" if word not in "()[]{},:.;" else "punctuation"
    if before in ("def", "class"):
        return "definition"
    if before == "@":
        return "decorator"
    if before == ".":
        return "method" if after == "(" else "attribute"
    return "call" if after == "(" else "argument" if after == "=" else "variable"

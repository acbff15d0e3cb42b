"""Pairs from Python source: a function's docstring asks, its code answers (the task of CodeSearchNet,
Husain et al. 2019, arXiv:1909.09436, and with its cleaning: the first paragraph, no test code, no short ones)."""

import ast
import heapq
import importlib.metadata
import io
import platform
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pipeline.config.sources import Column, Columns, DocstringsSource
from pipeline.core.errors import InputError, guess, one_line
from pipeline.ingest.rows import BadRow, Row, short_hash, shorten, too_long

STDLIB = "stdlib"
COLUMNS = Columns(
    query="query", document="document", group=("module",), metadata=("module", "qualname", "line")
)  # what `read` yields, so that these rows go the way of all pairs
_TEST_FOLDERS = {"test", "tests", "idle_test"}
_NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
_HOLDS_FUNCTIONS = (ast.stmt, ast.ExceptHandler, ast.match_case)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    name: str  # dotted, such as json.decoder
    path: Path


def versions(source: DocstringsSource) -> dict[str, str]:
    """What the pairs depend on: the version of Python, whose standard library and parser are used, and of each package.

    Raises:
        InputError: a package is not installed.
    """
    packages = {name: _distribution(name).version for name in source.packages if name != STDLIB}
    return {"python": platform.python_version(), **packages}


def read(source: DocstringsSource, limit_bytes: int) -> Iterator[Row]:
    """One row a function or method that has a docstring and passes the filters, by module and line.

    A file that cannot be parsed is one bad row. `max_pairs` keeps the rows with the smallest hashes, so that a smaller
    number gives a part of what a larger one gives.
    """
    if source.max_pairs is None:
        for module in modules(source):
            yield from _read_module(module, source, limit_bytes)
        return
    # a dictionary by hash, since copies would otherwise take the place of others
    by_hash = {_hash(row): row for module in modules(source) for row in _read_module(module, source, limit_bytes)}
    chosen = set(heapq.nsmallest(source.max_pairs, by_hash))
    yield from (row for key, row in by_hash.items() if key in chosen)


def _hash(row: Row) -> str:
    if row.problem:
        return short_hash(row.source, str(row.number))
    return short_hash(row.values["query"], row.values["document"])


def modules(source: DocstringsSource) -> Iterator[Module]:
    """All modules of the named packages but those of tests, each once, sorted by path within a package.

    Raises:
        InputError: a package is not installed, or its files are not known.
    """
    for name in dict.fromkeys(source.packages):
        files = sorted(_stdlib_files() if name == STDLIB else _package_files(name))
        if not files:
            raise InputError(f"package {name!r} has no Python files that could be read; take it out of source.packages")
        for relative, path in files:
            yield Module(".".join(relative.with_suffix("").parts).removesuffix(".__init__"), path)


def _stdlib_files() -> Iterator[tuple[PurePath, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if not _is_test(relative):
            yield relative, path


def _package_files(name: str) -> Iterator[tuple[PurePath, Path]]:
    for entry in _distribution(name).files or ():
        path = Path(str(entry.locate()))
        if entry.suffix == ".py" and ".." not in entry.parts and not _is_test(entry) and path.is_file():
            yield PurePath(entry), path


def _is_test(path: PurePath) -> bool:
    folders = set(path.parts[:-1])
    return bool(folders & (_TEST_FOLDERS | _NOT_LIBRARY)) or path.name.startswith("test_") or path.name == "conftest.py"


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        installed = {str(entry.metadata["Name"]) for entry in importlib.metadata.distributions()}
        meant = guess(name, [STDLIB, *installed])
        raise InputError(f"ingest.source.packages names {name!r}, which is not installed here{meant}") from None


def _read_module(module: Module, source: DocstringsSource, limit_bytes: int) -> Iterator[Row]:
    try:
        raw = module.path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in other people's strings
            tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield Row(module.name, 1, {}, "", BadRow("no Python", one_line(error, 80)))
        return
    lines = [line.encode("utf-8") for line in text.split("\n")]
    for qualname, function in _functions(tree, ""):
        docstring = ast.get_docstring(function) or ""
        query = " ".join(docstring.split("\n\n")[0].split())
        if len(query.split()) < source.min_query_tokens:
            continue
        document = _without_docstring(function, lines)
        if sum(1 for line in document.split("\n") if line.strip()) < source.min_document_lines:
            continue
        long = len(document) + len(query) > limit_bytes
        problem = too_long(limit_bytes) if long else None
        values: dict[Column, Any] = {"query": query, "document": document, "module": module.name}
        values |= {"qualname": qualname, "line": function.lineno}
        yield Row(module.name, function.lineno, values, shorten(query), problem)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Function]]:
    """All functions below a node in the order of the file, with their names as `Class.method` or `outer.inner`."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _HOLDS_FUNCTIONS):
            continue  # an expression: most nodes of a tree are
        named = isinstance(child, _Function | ast.ClassDef)
        name = f"{prefix}{child.name}" if isinstance(child, _Function | ast.ClassDef) else ""
        if isinstance(child, _Function):
            yield name, child
        yield from _functions(child, f"{name}." if named else prefix)


def _without_docstring(function: _Function, lines: list[bytes]) -> str:
    """The function's source with its decorators, without its docstring, moved to the left margin.

    Args:
        lines: of the module in UTF-8, in which ast counts its columns.
    """
    first = min(node.lineno for node in [function, *function.decorator_list]) - 1
    docstring = function.body[0]
    assert docstring.end_lineno is not None and docstring.end_col_offset is not None and function.end_lineno is not None
    before = [*lines[first : docstring.lineno - 1], lines[docstring.lineno - 1][: docstring.col_offset]]
    after = [
        lines[docstring.end_lineno - 1][docstring.end_col_offset :],
        *lines[docstring.end_lineno : function.end_lineno],
    ]
    if not before[-1].strip():
        before.pop()
        after[0] = after[0].lstrip()
    if not after[0].strip():
        after.pop(0)
    while after and not after[0].strip():  # the blank line that is usual below a docstring
        after.pop(0)
    return textwrap.dedent(b"\n".join([*before, *after]).decode("utf-8", "replace"))

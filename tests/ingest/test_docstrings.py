"""Pairs from Python source."""

import ast
import json
import platform
import textwrap
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from pipeline.config.sources import DocstringsSource
from pipeline.core.errors import InputError
from pipeline.ingest import docstrings, stage

SOURCE = textwrap.dedent(
    '''\
    """Of the module itself."""
    import functools


    class Shelf:
        """Of a class: not taken."""

        @property
        def books(self, n=1):
            """Return the    books
            of é this shelf.

            More that is left out.
            """

            found = self._books  # kept
            return found[:n]

        @functools.cache
        async def lend(self):  \n            'Lend one book out.'; a = 1
            return a

    if True:
        def outer(
            a,
        ):
            """Does outer things well."""
            def inner():
                r"""Does inner \\things well."""
                x = 1
                return x
            return inner

    def short():
        """Too short to be taken."""
        return 1

    def mute():
        """Hi."""
        a = 1
        return a

    def silent():
        a = 1
        return a
    '''
)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library with test folders and a file that is no Python."""
    root = tmp_path / "lib"
    files = {
        "shelf/__init__.py": SOURCE,
        "shelf/copy.py": SOURCE,
        "shelf/test/test_shelf.py": SOURCE.replace("books", "tested"),
        "idlelib/idle_test/a.py": SOURCE.replace("books", "tested"),
        "test_top.py": SOURCE.replace("books", "tested"),
        "site-packages/other.py": SOURCE.replace("books", "other"),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(docstrings.sysconfig, "get_paths", lambda *_, **__: {"stdlib": str(root)})
    return root


def test_queries_documents_and_places(shelf: Path) -> None:
    rows = [
        r
        for r in docstrings.read(DocstringsSource(format="docstrings", min_document_lines=3), 1 << 20)
        if r.source == "shelf"
    ]
    found = {row.values["qualname"]: row.values for row in rows}
    assert list(found) == ["Shelf.books", "Shelf.lend", "outer", "outer.inner"]
    assert found["Shelf.books"]["query"] == "Return the books of é this shelf."
    assert found["Shelf.books"]["document"] == (
        "@property\ndef books(self, n=1):\n    found = self._books  # kept\n    return found[:n]"
    )
    assert found["Shelf.books"]["module"] == "shelf" and found["Shelf.books"]["line"] == 9
    assert "Lend" not in found["Shelf.lend"]["document"]
    assert found["outer"]["document"].startswith("def outer(\n    a,\n):\n    def inner():\n")
    assert (
        "outer things" not in found["outer"]["document"]
        and found["outer.inner"]["query"] == r"Does inner \things well."
    )


def test_duplicates_tests_and_broken_files(shelf: Path, ingest: Any) -> None:
    (shelf / "broken.py").write_bytes(b"def f(:\n")
    (shelf / "latin.py").write_bytes(b"# \xff\n")
    result = ingest({"format": "docstrings", "min_document_lines": 3}, max_quarantined_share=0.5)
    assert result.counts["records"]["read"] == 10 and result.counts["records"]["duplicates"] == 4
    assert [(e["source"], e["row"], e["reason"][:9]) for e in result.quarantine] == [
        ("broken", 1, "no Python"), ("latin", 1, "no Python")
    ]  # fmt: skip
    assert {json.loads(r["metadata"])["module"] for r in result.records()} == {"shelf"}


def test_splits_go_by_module(shelf: Path, ingest: Any) -> None:
    for i in range(30):
        (shelf / f"m{i}.py").write_text(SOURCE.replace("books", f"books{i}").replace("a = 1", f"a = {i}"))
    result = ingest({"format": "docstrings", "min_document_lines": 3}, split={"valid": 0.3, "test": 0.3})
    modules = [{json.loads(r["metadata"])["module"] for r in result.records(s)} for s in ("train", "valid", "test")]
    assert all(modules) and sum(map(len, modules)) == len(set.union(*modules))


def test_max_pairs_is_part_of_more_and_keeps_the_order(shelf: Path) -> None:
    read = lambda n: [
        (r.source, r.number)
        for r in docstrings.read(DocstringsSource(format="docstrings", max_pairs=n, min_document_lines=3), 1 << 20)
    ]
    few, more, most = read(2), read(3), read(100)
    assert (len(few), len(more), len(most)) == (2, 3, 4), "copies take no place"
    assert (
        set(few) < set(more) and few == [row for row in more if row in few] and more == [r for r in most if r in more]
    )


def test_a_package_and_an_unknown_one(ingest: Any) -> None:
    config = lambda name: check_config(
        {"name": "t", "ingest": {"source": {"format": "docstrings", "packages": ["stdlib", name]}}}, "test"
    )
    libraries = stage.parts(config("fsspec")).libraries
    assert libraries["python"] == platform.python_version() and libraries["fsspec"]
    result = ingest({"format": "docstrings", "packages": ["fsspec"]})
    assert result.counts["records"]["kept"] > 100
    assert not [r for r in result.records() if "tests" in json.loads(r["metadata"])["module"].split(".")]
    with pytest.raises(InputError, match="did you mean fsspec"):
        stage.parts(config("fsspecc"))


def test_the_real_standard_library() -> None:
    """The embedded default: enough pairs, each a whole piece of Python that no longer holds its query."""
    source = DocstringsSource(format="docstrings")
    rows = list(docstrings.read(source, 1 << 20))
    assert 4000 < len(rows) < 8000
    assert not [row for row in rows if row.problem]
    assert not {"test", "tests", "idle_test"} & {part for row in rows for part in row.source.split(".")}
    for row in rows[::50]:
        tree = ast.parse(row.values["document"])
        assert isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef)
        assert row.values["query"] not in " ".join(row.values["document"].split())

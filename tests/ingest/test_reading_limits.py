"""Whatever the bytes and whatever the size: counted, bounded, and never an error but InputError."""

import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.ingest import places, stage
from tests.mapped import most_traced

SOURCES: dict[str, tuple[dict[str, Any], bytes]] = {
    "jsonl": ({"format": "jsonl"}, b'{"query": "a", "document": "b"}\n'),
    "tsv": ({"format": "tsv", "columns": {"relevance": "r"}}, b"query\tdocument\tr\n"),
    "tsv without header": ({"format": "tsv", "header": False, "columns": {"query": 0, "document": 1}}, b"a\tb\n"),
    "csv": ({"format": "csv"}, b"query,document\n"),
    "parquet": ({"format": "parquet"}, b""),
}
PIECES = [
    *(
        b"\t",
        b"\n",
        b"\r",
        b",",
        b'"',
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"1",
        b"text",
        b"\x1f\x8b",
        b"[" * 50,
        b"x" * 1500,
    ),
    *(b'{"query": "', b'", "document": "x"}', b"\\ud800"),
    *(b"<DOC>", b"</DOC>", b"<DOCNO>1</DOCNO>", b"<TEXT>", b"<top>", b".I 1\n", b".T\n", b".W\n"),
]
anything = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))


def check(source: dict[str, Any], folder: Path) -> None:
    ingest = {"source": source, "max_quarantined_share": 0.999, "max_row_kb": 1}
    try:
        counts = stage.run(check_config({"name": "t", "ingest": ingest}, "test"), folder)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return
    kinds = [counts[kind] for kind in ("records", "documents", "queries") if kind in counts]
    for kind in kinds:
        assert kind["read"] == kind["kept"] + kind["quarantined"] + kind["duplicates"]
    lines = (folder / "quarantine.jsonl").read_text(encoding="utf-8").count("\n")
    assert lines == sum(kind["quarantined"] for kind in kinds) == sum(counts["quarantine_reasons"].values())


@pytest.mark.parametrize("name", SOURCES)
@given(head=st.booleans(), body=anything)
@settings(max_examples=40, deadline=None)
def test_any_bytes_in_pairs(name: str, head: bool, body: bytes) -> None:
    source, start = SOURCES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "source")
        path.write_bytes((start if head else b"") + body)
        check({**source, "path": str(path)}, Path(folder))


@pytest.mark.parametrize("form", ["trec", "msmarco"])
@given(documents=anything, queries=anything, judgements=anything)
@settings(max_examples=40, deadline=None)
def test_any_bytes_in_collections(form: str, documents: bytes, queries: bytes, judgements: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = {"documents": documents, "queries": b"1\tone\n" + queries, "judgements": b"1 1 1\n" + judgements}
        for part, content in parts.items():
            Path(folder, part).write_bytes(content)
        check({"format": form, **{part: str(Path(folder, part)) for part in parts}}, Path(folder))


def peak(source: dict[str, Any], folder: Path) -> int:
    """Bytes that Python held at the most during a run."""
    folder.mkdir()
    # one split, for each has a row group of its own to fill
    ingest = {"source": source, "split": {"valid": 0, "test": 0}}
    config = check_config({"name": "t", "ingest": ingest}, "test")
    return most_traced(lambda: stage.run(config, folder))[1]


def pair_rows(n: int) -> str:
    return "query\tdocument\n" + "".join(f"query {i}\t{i} {'word ' * 40}\n" for i in range(n))


def test_memory_does_not_grow_with_a_source_of_pairs(tmp_path: Path) -> None:
    peaks = []
    for n in (2000, 2000, 20_000):  # the first run pays for what is loaded once
        path = tmp_path / f"{n}.tsv"
        path.write_text(pair_rows(n))
        peaks.append(peak({"format": "tsv", "path": str(path)}, tmp_path / f"run{len(peaks)}"))
    assert peaks[2] < 1.1 * peaks[1], peaks
    assert peaks[2] < path.stat().st_size


def test_memory_does_not_grow_with_a_collection(tmp_path: Path) -> None:
    peaks = []
    for n in (1500, 1500, 6000):
        files = {
            "documents": "".join(f"{i}\t{i} {'word ' * 40}\n" for i in range(n)),
            "queries": "".join(f"{i}\tquery {i}\n" for i in range(n)),
            "judgements": "".join(f"{i} {i} 1\n" for i in range(n)),
        }
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        source = {"format": "msmarco", **{name: str(tmp_path / name) for name in files}}
        peaks.append(peak(source, tmp_path / f"run{len(peaks)}"))
    assert peaks[2] < 1.1 * peaks[1], peaks


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_line_that_unpacks_to_sixty_megabytes_is_one_bad_row(pack: Any, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(pack(b"query\tdocument\na\tb\n" + b"x" * 60_000_000 + b"\nc\td\n"))
    ingest = {"source": {"format": "tsv", "path": str(path)}, "max_row_kb": 64, "max_quarantined_share": 0.5}
    config = check_config({"name": "t", "ingest": ingest}, "test")
    counts, held = most_traced(lambda: stage.run(config, tmp_path))
    assert counts["records"]["kept"] == 2 and counts["quarantine_reasons"] == {"too long": 1}
    assert held < 5_000_000


def test_lines_at_the_limit_and_over_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for end in (b"\n", b"\r\n"):
        path.write_bytes(b"a" * 10 + end + b"b" * 11 + end + end + b"c" * 10)
        found = [(line.number, line.text, line.problem is None) for line in places.lines(str(path), "utf-8", 10)]
        assert found == [(1, "a" * 10, True), (2, "b" * 11, False), (3, "", True), (4, "c" * 10, True)]


def test_a_hopeless_source_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.ledger._HOPELESS", 100)
    path = tmp_path / "a.tsv"
    path.write_text("query\tdocument\n" + "bad\n" * 5000)
    with pytest.raises(InputError, match="100 of 100 rows are bad"):
        stage.run(
            check_config({"name": "t", "ingest": {"source": {"format": "tsv", "path": str(path)}}}, "t"), tmp_path
        )
    assert os.path.getsize(tmp_path / "quarantine.jsonl") < 50_000

"""One reader of tables: what ingest, prediction and the index make of the same file."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.ingest import tables
from pipeline.search.documents import Document, Table
from pipeline.serving.predict import files

NAN = float("nan")
COLUMNS = {"query": "q", "document": "d"}


def predicted(path: str, kind: str, **how: str) -> list[dict[Any, Any]]:
    rows = list(files.read(path, kind, 1 << 20, Path(path).parent, how))
    assert not any(row.problem for row in rows)
    return [dict(row.values) for row in rows]


def indexed(path: str, **how: str) -> list[Document]:
    return list(Table(path, {}, Path(path).with_name("bad.jsonl"), Path(path).parent, how))


@pytest.mark.parametrize("content", [
    "id, title, text\n1, T, alpha\n", '\ufeff"id","title","text"\r\n\r\n  \n1,T,alpha\r\n', "id,title ,text\r1,T,alpha",
])  # fmt: skip
def test_a_header_is_read_alike(content: str, ingest: Any, write: Any) -> None:
    path = write("a.csv", content)
    assert indexed(path) == [Document("1", "T", "alpha")]
    (row,) = predicted(path, "csv")
    assert {name: value.strip() for name, value in row.items()} == {"id": "1", "title": "T", "text": "alpha"}
    found = ingest({"format": "csv", "path": path, "columns": {"query": "title", "document": "text"}})
    assert [(r["query"], r["document"]) for r in found.records()] == [("T", "alpha")]
    assert files.count_rows(path, "csv", 1 << 20, Path(path).parent) == 1


def test_a_document_may_be_a_title_alone(write: Any) -> None:
    rows = [{"_id": "1", "title": "only a title", "text": ""}, {"_id": "2", "title": "t", "text": "body"},
            {"_id": "3", "title": "", "text": " "}, {"_id": "4", "title": "no text"}]  # fmt: skip
    path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert indexed(path) == [
        Document("1", "", "only a title"), Document("2", "t", "body"), Document("4", "", "no text")
    ]  # fmt: skip
    [bad] = [json.loads(line) for line in Path(path).with_name("bad.jsonl").read_text().splitlines()]
    assert (bad["row"], bad["reason"]) == (3, "empty text: 'text' is empty")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_numbers_that_are_none_are_null_in_what_is_predicted_and_missing_elsewhere(form: str, tmp_path: Path) -> None:
    path = str(tmp_path / f"a.{form}")
    rows = [
        {"id": 1.0, "text": "x", "price": NAN, "more": [1.5, NAN]},
        {"id": NAN, "text": "y", "price": 2.0, "more": []},
    ]
    if form == "jsonl":
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert predicted(path, form) == [
        {"id": 1.0, "text": "x", "price": None, "more": [1.5, None]},
        {"id": None, "text": "y", "price": 2.0, "more": []}
    ]  # fmt: skip
    assert indexed(path) == [Document("1", "", "x")]


def test_another_delimiter_and_encoding(ingest: Any, write: Any) -> None:
    path = write("a.csv", 'id;text;q;d\r\n1;für;wie;"a;b"\r\n'.encode("cp1252"))
    how = {"delimiter": ";", "encoding": "cp1252"}
    found = ingest({"format": "csv", "path": path, "columns": COLUMNS, **how})
    assert [(row["query"], row["document"]) for row in found.records()] == [("wie", "a;b")]
    assert predicted(path, "csv", **how) == [{"id": "1", "text": "für", "q": "wie", "d": "a;b"}]
    assert indexed(path, **how) == [Document("1", "", "für")]


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_wrong_delimiter_is_told_with_the_likely_one(sign: str, ingest: Any, write: Any) -> None:
    path = write("a.csv", sign.join(("question", "answer", "label")) + "\na\n")
    source = {"format": "csv", "path": path, "columns": {"query": "question", "document": "answer"}}
    with pytest.raises(InputError) as caught:
        ingest(source)
    assert "has no column 'question'" in str(caught.value)
    assert f"divided by {sign!r}: set the delimiter (ingest.source.delimiter, or --delimiter)" in str(caught.value)
    assert [r["query"] for r in ingest({**source, "delimiter": sign, "path": write(
        "b.csv", f"question{sign}answer\na{sign}b\n")}).records()] == ["a"]  # fmt: skip


@pytest.mark.parametrize("sign", ["", ";;", '"', "\n"])
def test_a_delimiter_that_is_none_is_refused(sign: str, ingest: Any, write: Any) -> None:
    path = write("a.csv", "q;d\n")
    with pytest.raises(InputError, match="delimiter"):
        ingest({"format": "csv", "path": path, "columns": COLUMNS, "delimiter": sign})
    with pytest.raises(InputError, match="must be one character"):
        tables.source_of(path, "csv", {"delimiter": sign})


def test_lines_of_blanks_are_no_rows_and_rows_of_empty_fields_are_bad(ingest: Any, write: Any) -> None:
    for form, sign in (("csv", ","), ("tsv", "\t")):
        content = f"q{sign}d\na{sign}b\n   \n\u3000\n{sign}\n"
        found = ingest({"format": form, "path": write("a", content), "columns": COLUMNS}, max_quarantined_share=0.5)
        assert (found.counts["records"]["read"], found.quarantine[0]["row"]) == (2, 5)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz", "a.parquet"])
def test_rows_are_counted_as_they_are_read(name: str, tmp_path: Path) -> None:
    content = {"csv": '\nq,d\n"a\nb",c\n\n  \nd,e', "jsonl": '\n{"q": 1}\n \n{"q": 2}'}
    kind = name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.table({"q": ["a", "b"]}), raw := io.BytesIO())
        data = raw.getvalue()
    else:
        data = content[kind].encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    path = str(tmp_path / name)
    assert files.count_rows(path, kind, 1 << 20, tmp_path) == len(predicted(path, kind)) == 2


def test_parquet_of_millions_of_equal_cells_is_refused(tmp_path: Path, ingest: Any, monkeypatch: Any) -> None:
    from pipeline.ingest import parquet

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["x" * 50] * 200_000, "d": ["y"] * 200_000}), path)
    assert path.stat().st_size < 10_000  # 10 MB in some bytes of a dictionary
    monkeypatch.setattr(parquet, "_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        ingest({"format": "parquet", "path": str(path), "columns": COLUMNS})

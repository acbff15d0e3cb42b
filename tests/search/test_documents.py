"""Documents from files of every format, and what becomes of bad rows."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.search.documents import Document, Table, parse_columns
from tests.search.conftest import write_lines

ROWS = [("a", "First", "one two"), ("b", "", "three, four")]


def reader_of(path: Path, *columns: str) -> Table:
    return Table(str(path), parse_columns(list(columns)), path.with_name("bad.jsonl"), path.parent)


def quarantined(path: Path) -> list[tuple[int, str]]:
    lines = path.with_name("bad.jsonl").read_text().splitlines()
    return [(entry["row"], entry["reason"]) for entry in map(json.loads, lines)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "jsonl.gz"])
def test_every_format_gives_the_same_documents(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"docs.{kind}"
    names = ("_id", "Title", "body")
    if kind.startswith("jsonl"):
        text = "".join(json.dumps(dict(zip(names, row))) + "\n" for row in ROWS)
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    elif kind == "parquet":
        pq.write_table(pa.table(dict(zip(names, zip(*ROWS)))), path)
    elif kind == "csv":
        path.write_text('_id,Title,body\na,First,one two\nb,,"three, four"\n')
    else:
        path.write_text("\n".join("\t".join(row) for row in [names, *ROWS]) + "\n")
    reader = reader_of(path)
    assert [*reader] == [Document(*row) for row in ROWS]
    assert reader.columns == {"id": "_id", "title": "Title", "text": "body"}
    assert [*reader_of(path, "text=Title", "id=_id")] == [Document("a", "", "First")]


def test_bad_rows_are_put_aside_with_their_reason(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "docs.jsonl",
        [{"id": "a", "text": "fine"}, {"text": "no id"}, {"id": "b"}, {"id": "c", "text": " "}, "no json",
         {"id": "a", "text": "fine"}, {"id": "a", "text": "another"}, {"id": 7, "text": 8}],
    )  # fmt: skip
    reader = reader_of(path)
    for _ in range(2):  # an update iterates twice
        assert [*reader] == [Document("a", "", "fine"), Document("7", "", "8")]
    assert dict(reader.counts) == {"read": 8, "kept": 2, "duplicates": 1, "quarantined": 5}
    assert [(row, reason.split(":")[0]) for row, reason in quarantined(path)] == [
        (2, "missing field"), (3, "missing field"), (4, "empty text"), (5, "no JSON"), (7, "id twice"),
    ]  # fmt: skip
    assert reader.reasons[0] == "docs.jsonl:2: missing field: no 'id'"
    good = write_lines(tmp_path / "docs.jsonl", [{"id": "a", "text": "fine"}])
    assert len([*reader_of(good)]) == 1 and not path.with_name("bad.jsonl").exists()


def test_without_ids_a_hash_of_the_text_is_one(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "docs.jsonl", [{"text": "one"}, {"text": "two"}, {"text": "one"}])
    reader = reader_of(path)
    names = [document.id for document in reader]
    assert len({*names}) == 2 and all(len(name) == 20 for name in names) and reader.counts["duplicates"] == 1


@pytest.mark.parametrize(
    ("name", "content", "columns", "sentence"),
    [
        ("docs.jsonl", "", [], "holds no documents"),
        ("docs.csv", "", [], "holds no documents"),
        ("docs.jsonl", '{"words": "x"}\n', [], "no column that looks like a document's text; columns found: words"),
        ("docs.jsonl", '{"text": "x"}\n', ["text=txet"], "has no column 'txet'.*nearest name: 'text'"),
        (
            "docs.jsonl",
            '{"text": "x"}\n',
            ["Body=text"],
            "must be FIELD=COLUMN: a field is id, title",
        ),
        ("docs.xml", "<a/>", [], "the name must end in one of .jsonl"),
        ("docs.parquet", "no parquet", [], "is not a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, name: str, content: str, columns: list[str], sentence: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        list(reader_of(path, *columns))


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source at"):
        reader_of(tmp_path / "none.jsonl")


def test_of_an_absent_file_the_likely_ones_are_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".hidden.jsonl", *(f"a{i}" for i in range(9)), "papers.jsonl"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        reader_of(Path("paper.jsonl"))
    assert f"the working directory {tmp_path} holds papers.jsonl, a0, a1" in str(caught.value)
    assert ".hidden" not in str(caught.value)

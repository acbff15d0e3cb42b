"""Files as other programs leave them: lists of positives and negatives, triples, arrays, MS MARCO, Arrow folders."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError

WHOLE = {"valid": 0, "test": 0}


def pairs(result: Any) -> set[tuple[str, str, float]]:
    return {(row["query"], row["document"], row["relevance"]) for row in result.records()}


EXPECTED = {("q1", "a", 1.0), ("q1", "b", 1.0), ("q1", "x", 0.0), ("q2", "c", 1.0), ("q2", "y", 0.0), ("q2", "z", 0.0)}
LISTS = [
    {"query": "q1", "pos": ["a", "b"], "neg": ["x"]},
    {"query": "q2", "pos": ["c"], "neg": ["y", "z"]},
]  # fmt: skip
COLUMNS = {"document": "pos", "negative": "neg"}


def test_lists_of_positives_and_negatives(ingest: Any, write: Any) -> None:
    path = write("x.jsonl", "\n".join(map(json.dumps, LISTS)))
    result = ingest({"format": "jsonl", "path": path, "columns": COLUMNS}, split=WHOLE)
    assert pairs(result) == EXPECTED
    assert result.counts["records"]["read"] == 6


def test_passages_with_titles_as_tevatron_has_them(ingest: Any, write: Any) -> None:
    rows = [
        {
            "query_id": "1", "query": "q1",
            "positive_passages": [{"docid": "7", "title": "T", "text": "a"}],
            "negative_passages": [{"docid": "8", "title": "", "text": "x"}, {"docid": "9", "text": "y"}],
        }
    ]  # fmt: skip
    columns = {"document": "positive_passages", "negative": "negative_passages"}
    columns |= {"query_id": "query_id"}
    path = write("x.jsonl", json.dumps(rows[0]))
    result = ingest({"format": "jsonl", "path": path, "columns": columns}, split=WHOLE)
    assert pairs(result) == {("q1", "T\na", 1.0), ("q1", "x", 0.0), ("q1", "y", 0.0)}
    assert {row["query_id"] for row in result.records()} == {"1"}


def test_triples_of_texts(ingest: Any, write: Any) -> None:
    path = write("triples.tsv", "q1\ta\tx\nq1\tb\tx\nq2\tc\ty\nq2\tc\tz\n")
    source = {"format": "tsv", "path": path, "header": False, "columns": {"query": 0, "document": 1, "negative": 2}}
    assert pairs(ingest(source, split=WHOLE)) == EXPECTED


def test_a_row_without_any_document_is_bad(ingest: Any, write: Any) -> None:
    path = write("x.jsonl", "\n".join(map(json.dumps, [*LISTS, {"query": "q3", "pos": [], "neg": []}])))
    source = {"format": "jsonl", "path": path, "columns": COLUMNS}
    result = ingest(source, split=WHOLE, max_quarantined_share=0.5)
    assert pairs(result) == EXPECTED
    assert [row["reason"] for row in result.quarantine] == ["missing field: no 'pos'"]


def test_negatives_and_relevance_exclude_each_other(ingest: Any, write: Any) -> None:
    with pytest.raises(InputError, match=r"either negative .* or relevance"):
        ingest({"format": "jsonl", "path": write("x", ""), "columns": {"negative": "neg", "relevance": "label"}})


ARRAYS = {
    "on one line": json.dumps(LISTS),
    "indented": json.dumps(LISTS, indent=2),
    "an object a line": "[\n" + ",\n".join(map(json.dumps, LISTS)) + "\n]\n",
    "with a mark and blanks": "\ufeff \n" + json.dumps(LISTS) + "\n\n",
}


@pytest.mark.parametrize("layout", ARRAYS)
def test_json_arrays(layout: str, ingest: Any, write: Any) -> None:
    path = write("x.json", ARRAYS[layout])
    assert pairs(ingest({"format": "jsonl", "path": path, "columns": COLUMNS}, split=WHOLE)) == EXPECTED


def test_an_array_longer_than_any_row_may_be(ingest: Any, write: Any) -> None:
    rows = [{"query": f"q{n}", "document": f"d{n} " + "word " * 50} for n in range(2000)]
    path = write("x.json.gz", gzip.compress(json.dumps(rows).encode()))
    result = ingest({"format": "jsonl", "path": path}, split=WHOLE, max_row_kb=4)
    assert result.counts["records"] | {"splits": None} == {
        "read": 2000, "kept": 2000, "quarantined": 0, "duplicates": 0, "splits": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "kept", "reason"),
    [
        (lambda text: text[:-30], 1, "no JSON: the array is damaged or cut here"),
        (lambda text: text.replace('"q2"', '"q2" q2'), 1, "no JSON: the array is damaged or cut here"),
        (lambda text: text.replace("q2", "q" * 300_000), 1, "too long: an object of more than 4 KiB"),
    ],
)
def test_a_damaged_array_gives_what_stands_before(damage: Any, kept: int, reason: str, ingest: Any, write: Any) -> None:
    rows = [{"query": "q1", "document": "d1"}, {"query": "q2", "document": "d2"}]
    path = write("x.json", damage(json.dumps(rows)))
    result = ingest({"format": "jsonl", "path": path}, split=WHOLE, max_row_kb=4, max_quarantined_share=0.9)
    assert result.counts["records"]["kept"] == kept
    assert result.quarantine[0]["reason"].startswith(reason)


def test_arrow_and_parquet_folders_of_datasets(ingest: Any, tmp_path: Path) -> None:
    """As `datasets.save_to_disk` (Arrow streams beside JSON files) and its Parquet export lay them out."""
    table = pa.Table.from_pylist(LISTS)
    for name in ("dataset_info.json", "state.json"):
        for form in ("arrow", "parquet"):
            (tmp_path / form).mkdir(exist_ok=True)
            (tmp_path / form / name).write_text("{}", encoding="utf-8")
    for part in range(2):
        with pa.ipc.new_stream(tmp_path / "arrow" / f"data-{part:05d}-of-00002.arrow", table.schema) as writer:
            writer.write_table(table.slice(part, 1))
        pq.write_table(table.slice(part, 1), tmp_path / "parquet" / f"train-{part:05d}-of-00002.parquet")
    for form in ("arrow", "parquet"):
        source = {"format": form, "path": str(tmp_path / form), "columns": COLUMNS}
        assert pairs(ingest(source, split=WHOLE)) == EXPECTED, form


def test_arrows_file_format_and_damage(ingest: Any, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(LISTS)
    with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    source = {"format": "arrow", "path": str(tmp_path / "x.arrow"), "columns": COLUMNS}
    assert pairs(ingest(source, split=WHOLE)) == EXPECTED
    (tmp_path / "x.arrow").write_bytes(b"no arrow")
    with pytest.raises(InputError, match=r"x\.arrow is not an Arrow file"):
        ingest(source)
    with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "x.arrow").write_bytes((tmp_path / "x.arrow").read_bytes()[:-60])
    with pytest.raises(InputError, match=r"x\.arrow cannot be read to its end"):
        ingest(source)


# Layouts by microsoft.github.io/msmarco: passages v1 (TSV) and v2 (JSON Lines in a folder), documents v2
V1 = {"collection.tsv": "0\tfry an egg\n1\tboil rice\n2\tbake bread\n"}
V2 = {
    "passages/p_00.gz": '{"pid": "0", "passage": "fry an egg", "spans": "(0,5)", "docid": "d0"}\n',
    "passages/p_01.gz": '{"pid": "1", "passage": "boil rice"}\n{"pid": "2", "passage": "bake bread"}\n',
}
V2_DOCUMENTS = {
    "docs/d_00.gz": '{"docid": "0", "url": "http://a", "title": "", "headings": "", "body": "fry an egg"}\n',
    "docs/d_01.gz": '{"docid": "1", "title": "", "body": "boil rice"}\n{"docid": "2", "body": "bake bread"}',
}


@pytest.mark.parametrize("files", [V1, V2, V2_DOCUMENTS])
@pytest.mark.parametrize("triples", [False, True])
def test_ms_marco(files: dict[str, str], triples: bool, ingest: Any, write: Any) -> None:
    paths = [write(name, gzip.compress(text.encode()) if name.endswith("gz") else text) for name, text in files.items()]
    documents = paths[0] if len(paths) == 1 else str(Path(paths[0]).parent)
    qrels = write("qrels.tsv", "7\t0\t0\t1\n7\t0\t1\t0\n8\t0\t1\t1\n8\t0\t2\t0\n")
    source = {
        "format": "msmarco", "documents": documents, "queries": write("queries.tsv", "7\thow to fry\n8\thow to boil\n"),
        "judgements": write("triples.tsv", "7\t0\t1\n8\t1\t2\n") if triples else qrels, "triples": triples,
    }  # fmt: skip
    result = ingest(source, split=WHOLE)
    assert pairs(result) == {
        ("how to fry", "fry an egg", 1.0), ("how to fry", "boil rice", 0.0),
        ("how to boil", "boil rice", 1.0), ("how to boil", "bake bread", 0.0),
    }  # fmt: skip
    assert result.collection() == {"0": "fry an egg", "1": "boil rice", "2": "bake bread"}


def test_a_triple_of_other_length_is_a_bad_row(ingest: Any, write: Any) -> None:
    source = {
        "format": "msmarco", "documents": write("c.tsv", V1["collection.tsv"]), "queries": write("q.tsv", "7\tfry\n"),
        "judgements": write("t.tsv", "7\t0\t1\n7\t0\n"), "triples": True,
    }  # fmt: skip
    result = ingest(source, split=WHOLE, max_quarantined_share=0.5)
    assert [row["reason"] for row in result.quarantine] == [
        "wrong number of columns: 2 instead of 3 (query, relevant, irrelevant)"
    ]


def test_csv_with_line_ends_in_quotes(ingest: Any, write: Any) -> None:
    path = write("x.csv", 'query,document\r\n"two\r\nlines","a ""quoted"" word"\r\nplain,"b\nc"\r\n')
    result = ingest({"format": "csv", "path": path}, split=WHOLE)
    assert pairs(result) == {("two\nlines", 'a "quoted" word', 1.0), ("plain", "b\nc", 1.0)}

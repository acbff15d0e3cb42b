"""Sources of pairs: formats, columns, splits, duplicates, bad rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.core.record_schema import schema
from pipeline.ingest import stage

ROWS = [("how to fry an egg", "Heat the oil.", 1), ("boil rice", "Rinse it.", 0), ("boil rice", "Use a lid.", 2)]
TSV = "query\tdocument\tlabel\n" + "".join(f"{q}\t{d}\t{r}\n" for q, d, r in ROWS)
COLUMNS = {"relevance": "label"}


def pairs(result: Any, *splits: str) -> list[tuple[str, str, float]]:
    return sorted((r["query"], r["document"], r["relevance"]) for r in result.records(*splits))


def same_in_every_format() -> dict[str, tuple[str, bytes]]:
    jsonl = "\n".join(json.dumps({"query": q, "document": d, "label": r}) for q, d, r in ROWS)
    csv = "query,document,label\r\n" + "".join(f'"{q}",{d},{r}\r\n' for q, d, r in ROWS)
    sink = pa.BufferOutputStream()
    table = pa.table({"query": [r[0] for r in ROWS], "document": [r[1] for r in ROWS], "label": [r[2] for r in ROWS]})
    pq.write_table(table, sink)
    plain = {
        "tsv": TSV.encode(),
        "tsv, CRLF and byte order mark": b"\xef\xbb\xbf" + TSV.replace("\n", "\r\n").encode(),
        "tsv, no end of line after the last": TSV.rstrip("\n").encode(),
        "csv": csv.encode(),
        "jsonl": jsonl.encode(),
        "parquet": sink.getvalue().to_pybytes(),
    }
    packed = {
        f"{k}, {n}": f(v) for k, v in plain.items() for n, f in (("gz", gzip.compress), ("zst", zstandard.compress))
    }
    return {name: (name.split(",")[0], content) for name, content in {**plain, **packed}.items()}


@pytest.mark.parametrize("name", same_in_every_format())
def test_every_format_packed_or_not_gives_the_same_records(name: str, ingest: Any, write: Any) -> None:
    form, content = same_in_every_format()[name]
    result = ingest({"format": form, "path": write("source", content), "columns": COLUMNS})
    assert pairs(result) == sorted(ROWS)
    assert result.counts["records"] | {"splits": None} == {
        "read": 3, "kept": 3, "quarantined": 0, "duplicates": 0, "splits": None
    }  # fmt: skip
    for split in ("train", "valid", "test"):
        assert pq.read_schema(result.folder / f"records-{split}.parquet").equals(schema(("query", "document")))


def test_a_newcomers_tsv_needs_no_settings(ingest: Any, write: Any) -> None:
    result = ingest({"format": "tsv", "path": write("mine.tsv", "query\tdocument\na\tb\n")})
    assert pairs(result) == [("a", "b", 1.0)]
    assert set(result.counts["warnings"]) < {"no records in train", "no records in valid", "no records in test"}
    assert len(result.counts["warnings"]) == 2


def test_positions_names_ids_and_metadata(ingest: Any, write: Any) -> None:
    path = write("a.tsv", "7\tq\td\t3\tx y\n")
    columns = {"id": 0, "query": 1, "document": 2, "relevance": 3, "query_id": 4, "document_id": 0, "metadata": [3, 4]}
    [record] = ingest({"format": "tsv", "path": path, "header": False, "columns": columns}).records()
    assert record == {
        "id": "7", "query_id": "x y", "query": "q", "document_id": "7", "document": "d", "relevance": 3.0,
        "metadata": '{"3": "3", "4": "x y"}',
    }  # fmt: skip


def test_made_ids_follow_the_text_alone(ingest: Any, write: Any) -> None:
    first = ingest({"format": "tsv", "path": write("a.tsv", TSV)}).records()
    turned = "\n".join([TSV.split("\n")[0], *reversed(TSV.strip().split("\n")[1:])])
    second = ingest({"format": "tsv", "path": write("b.tsv", turned)}).records()
    ids = lambda records: {(r["query"], r["document"]): (r["id"], r["query_id"], r["document_id"]) for r in records}
    assert ids(first) == ids(second)
    assert len({r["query_id"] for r in first}) == 2 and len({r["id"] for r in first}) == 3


def test_json_arrays_numbers_and_nested_metadata(ingest: Any, write: Any) -> None:
    columns = {"query": 0, "document": 1, "metadata": [2]}
    [record] = ingest(
        {"format": "jsonl", "path": write("a.jsonl", '[12, "d", {"k": [1, "ü"]}]'), "columns": columns}
    ).records()
    assert record["query"] == "12" and json.loads(record["metadata"]) == {"2": {"k": [1, "ü"]}}


def test_quotes_are_ordinary_in_tsv_and_span_lines_in_csv(ingest: Any, write: Any) -> None:
    tsv = write("a.tsv", 'query\tdocument\n"open\tsay "hi"\n')
    assert pairs(ingest({"format": "tsv", "path": tsv})) == [('"open', 'say "hi"', 1.0)]
    csv = write("a.csv", '\ufeff"query",document\r\n"a, ""b""\r\n\r\nc",d\r\n\r\ne,f\r\n')
    assert pairs(ingest({"format": "csv", "path": csv})) == [('a, "b"\n\nc', "d", 1.0), ("e", "f", 1.0)]


def test_a_quote_left_open_costs_one_row_of_limited_size(ingest: Any, write: Any) -> None:
    rows = "".join(f"q{i},{'x' * 100}\n" for i in range(60))
    path = write("a.csv", 'query,document\nq,d\n"never closed,d\n' + rows)
    result = ingest({"format": "csv", "path": path}, max_row_kb=1, max_quarantined_share=0.5)
    assert [(entry["row"], entry["reason"][:8]) for entry in result.quarantine] == [(3, "too long")]
    assert result.counts["records"]["kept"] > 45
    badly = write("b.csv", 'query,document\nq,d\n"a"b,d\nr,s\n')
    result = ingest({"format": "csv", "path": badly}, max_quarantined_share=0.5)
    assert [entry["row"] for entry in result.quarantine] == [3] and result.counts["records"]["kept"] == 2


BAD = {
    "undecodable bytes": b"\xff\xfe\tdocument\t1",
    "empty text": "​query\t \ufeff  \t1".encode(),
    "relevance": b"query\tdocument\tyes",
    "relevance: 'nan' is not finite": b"query\tdocument\tnan",
    "relevance: '-inf' is not finite": b"query\tdocument\t-inf",
    "relevance: '1e39' is not finite": b"query\tdocument\t1e39",
    "relevance: '1_0' is not a number": b"query\tdocument\t1_0",
    "NUL character": b"query\tdocu\0ment\t1",
    "wrong number of columns": b"query\tdocument",
    "wrong number of columns: 4": b"query\tdocument\t1\t2",
    "too long": b"query\t" + b"d" * 2000 + b"\t1",
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_rows_go_to_the_quarantine_with_their_place(reason: str, ingest: Any, write: Any) -> None:
    path = write("bad.tsv", TSV.encode() + BAD[reason] + b"\nlast\trow\t1\n")
    source = {"format": "tsv", "path": path, "columns": COLUMNS}
    result = ingest(source, max_row_kb=1, max_quarantined_share=0.5)
    [entry] = result.quarantine
    assert entry["source"] == "bad.tsv" and entry["row"] == 5 and entry["reason"].startswith(reason)
    assert 0 < len(entry["copy"]) <= 200
    assert result.counts["records"]["kept"] == 4 and result.counts["quarantine_reasons"] == {reason.split(":")[0]: 1}
    assert ("last", "row", 1.0) in pairs(result)


BAD_JSON = {
    "no JSON": '{"query": ',
    "no JSON object": "12",
    "no JSON object: a list": '["a", "b", 1]',
    "missing field": '{"query": "a", "label": 1}',
    "missing field: no 'label'": '{"query": "a", "document": "b", "label": null}',
    "no text": '{"query": ["a"], "document": "b", "label": 1}',
    "lone surrogate": '{"query": "\\ud800", "document": "b", "label": 1}',
    "relevance": '{"query": "a", "document": "b", "label": NaN}',
    "relevance: ": '{"query": "a", "document": "b", "label": {"a": 1}}',
    "metadata": '{"query": "a", "document": "b", "label": 1, "more": [NaN]}',
    "lone surrogate: 'more'": '{"query": "a", "document": "b", "label": 1, "more": "\\udfff"}',
    "no JSON: ": "[" * 1000,
}


@pytest.mark.parametrize("reason", BAD_JSON)
def test_bad_json_rows(reason: str, ingest: Any, write: Any) -> None:
    good = '{"query": "q", "document": "d", "label": 1, "more": 1}'
    path = write("bad.jsonl", f"{good}\n{BAD_JSON[reason]}\n\n")
    columns = {**COLUMNS, "metadata": ["more"]}
    result = ingest({"format": "jsonl", "path": path, "columns": columns}, max_quarantined_share=0.5)
    [entry] = result.quarantine
    assert entry["row"] == 2 and entry["reason"].startswith(reason)
    assert result.counts["records"]["kept"] == 1


def test_bad_parquet_cells(ingest: Any, tmp_path: Path) -> None:
    table = pa.table(
        {
            "query": pa.array([b"a", b"\xff", b"c", None, b"e"], pa.binary()),
            "document": pa.array(["b"] * 5).dictionary_encode(),
            "label": pa.array([1.0, 1.0, float("nan"), 1.0, 2.0]),
            "more": pa.array([float("nan"), 1.0, 1.0, 1.0, 0.5]),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    source = {
        "format": "parquet",
        "path": str(path),
        "columns": {**COLUMNS, "metadata": ["more"]},
        "grades": {"1": 1, "2": 2},
    }
    result = ingest(source, max_quarantined_share=0.9)
    assert [(e["row"], e["reason"].split(":")[0]) for e in result.quarantine] == [
        (2, "undecodable bytes"), (3, "relevance"), (4, "missing field")
    ]  # fmt: skip
    assert {r["query"]: r["metadata"] for r in result.records()} == {"a": '{"more": null}', "e": '{"more": 0.5}'}


def test_text_is_cleaned_the_same_way_everywhere(ingest: Any, write: Any) -> None:
    row = json.dumps({"query": "\ufeff \ufeffa\x0bb\x85c\ufeff", "document": " one\r\ntwo\rthree\tfour\u200b "})
    [record] = ingest({"format": "jsonl", "path": write("a.jsonl", row)}).records()
    assert (record["query"], record["document"]) == ("a b c", "one\ntwo\nthree\tfour\u200b")


def test_grades_translate_labels_and_refuse_others(ingest: Any, write: Any) -> None:
    path = write("a.tsv", "query\tdocument\tlabel\na\tb\tBad\nc\td\tPerfect\ne\tf\tGood\n")
    source = {"format": "tsv", "path": path, "columns": COLUMNS, "grades": {"Bad": 0, "Perfect": 4}}
    result = ingest(source, max_quarantined_share=0.5)
    assert pairs(result) == [("a", "b", 0.0), ("c", "d", 4.0)]
    assert result.quarantine[0]["reason"] == "relevance: 'Good' is not among the grades Bad, Perfect"


TRAIN_ONLY = {"split": {"valid": 0, "test": 0}}


def test_train_keeps_one_of_equal_pairs_with_the_highest_relevance(ingest: Any, write: Any) -> None:
    rows = "a\tb\t0\t1\na\tb\t2\t2\na\tc\t1\t1\na\tb\t1\t1\n"
    path = write("a.tsv", f"query\tdocument\tlabel\tq\n{rows}")
    made = ingest({"format": "tsv", "path": path, "columns": COLUMNS}, **TRAIN_ONLY)
    assert pairs(made) == [("a", "b", 2.0), ("a", "c", 1.0)] and made.counts["records"]["duplicates"] == 2
    given = ingest({"format": "tsv", "path": path, "columns": {**COLUMNS, "query_id": "q"}}, **TRAIN_ONLY)
    assert pairs(given) == [("a", "b", 1.0), ("a", "b", 2.0), ("a", "c", 1.0)]
    assert given.counts["records"]["duplicates"] == 1


def test_relevance_is_raised_in_any_row_group(ingest: Any, write: Any) -> None:
    rows = [f"q{i}\td\t{label}\n" for label in (0, 1) for i in range(2500)]
    path = write("a.tsv", "query\tdocument\tlabel\n" + "".join(rows[:-1]))
    made = ingest({"format": "tsv", "path": path, "columns": COLUMNS}, **TRAIN_ONLY).records("train")
    assert [r["query"] for r in made] == [f"q{i}" for i in range(2500)]
    assert [r["relevance"] for r in made] == [1.0] * 2499 + [0.0]


def test_valid_and_test_keep_every_row_and_each_has_an_id_of_its_own(ingest: Any, write: Any) -> None:
    path = write("a.tsv", "query\tdocument\tlabel\n" + "a\tb\t1\na\tb\t0\n" * 2)
    paths = dict.fromkeys(("train", "valid", "test"), path)
    result = ingest({"format": "tsv", "paths": paths, "columns": COLUMNS})
    assert result.counts["records"]["splits"] == {"train": 1, "valid": 4, "test": 4}
    assert result.counts["records"]["duplicates"] == 3
    assert list(result.counts["notes"].values()) == [6]
    test = result.records("test")
    assert [row["relevance"] for row in test] == [1.0, 0.0, 1.0, 0.0]
    first = test[0]["id"]
    assert [row["id"] for row in test] == [first, f"{first}~2", f"{first}~3", f"{first}~4"]


def test_an_id_of_several_rows_is_told_apart(ingest: Any, write: Any) -> None:
    rows = "7\ta\tb\n7~2\tc\td\n7\te\tf\n7\tg\th\n8\ti\tj\n"
    source = {"format": "tsv", "path": write("a.tsv", f"id\tquery\tdocument\n{rows}"), "columns": {"id": "id"}}
    result = ingest(source, **TRAIN_ONLY)
    assert [row["id"] for row in result.records("train")] == ["7", "7~2", "7~3", "7~4", "8"]
    assert list(result.counts["notes"].values()) == [2]


@pytest.mark.parametrize("column", ["query_id", "document_id"])
def test_an_id_with_two_texts_is_put_aside(column: str, ingest: Any, write: Any) -> None:
    field = column.removesuffix("_id")
    other = {"query": "document", "document": "query"}[field]
    rows = "1\tfirst\tx\n1\tfirst\ty\n1\tsecond\tz\n2\tsecond\tz\n"
    path = write("a.tsv", f"i\t{field}\t{other}\n{rows}")
    source = {"format": "tsv", "path": path, "columns": {column: "i"}}
    result = ingest(source, max_quarantined_share=0.25, **TRAIN_ONLY)
    assert [(e["row"], e["reason"]) for e in result.quarantine] == [
        (4, f"id used with two texts: {field} id '1' is another text's")
    ]
    assert {(row[column], row[field]) for row in result.records()} == {("1", "first"), ("2", "second")}
    # each file is by itself: the ids of train and test may be counted from 1 in both
    paths = {"train": path, "test": write("b.tsv", f"i\t{field}\t{other}\n1\tthird\tx\n")}
    source = {"format": "tsv", "paths": paths, "columns": {column: "i"}}
    assert ingest(source, max_quarantined_share=0.25).records("test")[0][field] == "third"


def test_the_same_pair_in_two_given_splits_is_no_duplicate(ingest: Any, write: Any) -> None:
    paths = {"train": write("a.tsv", "query\tdocument\na\tb\n"), "test": write("b.tsv", "query\tdocument\na\tb\n")}
    result = ingest({"format": "tsv", "paths": paths}, split={"valid": 0, "test": 0.5})
    assert result.counts["records"]["splits"] == {"train": 1, "valid": 0, "test": 1}
    assert result.counts["warnings"] == {"no records in valid": 1}


def many(start: int, stop: int, per_query: int = 3) -> str:
    rows = (f"query {i // per_query}\tdocument {i}\tgroup {i // 12}\n" for i in range(start, stop))
    return "query\tdocument\tgroup\n" + "".join(rows)


@pytest.mark.parametrize("columns,key", [({}, "query"), ({"group": ["group"], "metadata": ["group"]}, "metadata")])
def test_groups_stay_together(columns: Any, key: str, ingest: Any, write: Any) -> None:
    path = write("a.tsv", many(0, 1200))
    result = ingest({"format": "tsv", "path": path, "columns": columns}, split={"valid": 0.2, "test": 0.2})
    found = {split: {r[key] for r in result.records(split)} for split in ("train", "valid", "test")}
    assert all(found.values())
    assert (
        not found["train"] & found["valid"]
        and not found["train"] & found["test"]
        and not found["valid"] & found["test"]
    )
    again = ingest({"format": "tsv", "path": path, "columns": columns}, split={"valid": 0.2, "test": 0.2})
    assert again.records() == result.records()
    other = ingest({"format": "tsv", "path": path, "columns": columns}, split={"valid": 0.2, "test": 0.2}, seed=2)
    assert {r[key] for r in other.records("test")} != found["test"]


def test_given_splits_stay_and_missing_ones_are_cut_out_of_train(ingest: Any, write: Any) -> None:
    train, test = write("train.tsv", many(0, 900)), write("test.tsv", many(3000, 3060))
    result = ingest({"format": "tsv", "paths": {"train": train, "test": test}}, split={"valid": 0.3, "test": 0.3})
    splits = result.counts["records"]["splits"]
    assert splits["test"] == 60 and splits["train"] + splits["valid"] == 900 and 150 < splits["valid"] < 400
    alone = ingest({"format": "tsv", "paths": {"test": test}})
    assert alone.counts["records"]["splits"] == {"train": 0, "valid": 0, "test": 60}


def failing(source: dict[str, Any], tmp_path: Path, **settings: Any) -> str:
    config = check_config({"name": "t", "ingest": {"source": source, **settings}}, "test")
    folder = tmp_path / "failing"
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError) as error:
        stage.run(config, folder)
    assert not list(folder.glob(".*")) and "\n" not in str(error.value)
    return str(error.value)


def test_too_many_bad_rows_fail_and_show_the_first_five(write: Any, tmp_path: Path) -> None:
    bad = "".join(f"q{i}\t\n" for i in range(7))
    path = write("bad.tsv", "query\tdocument\n" + bad + "".join(f"q{i}\td\n" for i in range(93)))
    source = {"format": "tsv", "path": path}
    message = failing(source, tmp_path, max_quarantined_share=0.06)
    assert "7 of 100 rows are bad (7.0%), more than ingest.max_quarantined_share=0.06" in message
    assert message.count("bad.tsv:") == 5 and "bad.tsv:2: empty text: 'document' is empty" in message
    config = check_config({"name": "t", "ingest": {"source": source, "max_quarantined_share": 0.07}}, "test")
    assert stage.run(config, tmp_path)["records"]["quarantined"] == 7  # at the limit is not over it


def test_wrong_columns_name_what_is_there(write: Any, tmp_path: Path) -> None:
    tsv = write("a.tsv", "Question\tAnswer\nq\ta\n")
    message = failing({"format": "tsv", "path": tsv, "columns": {"query": "question", "document": "Answer"}}, tmp_path)
    assert message == f"{tsv} has no column 'question'; columns found: 'Question', 'Answer'; nearest name: 'Question'"
    jsonl = write("a.jsonl", '{"query": "a", "answer": "b"}\n')
    message = failing({"format": "jsonl", "path": jsonl, "columns": {"document": "answers"}}, tmp_path)
    assert jsonl in message and "nearest name: 'answer'" in message
    pq.write_table(pa.table({"query": ["a"], "text": ["b"]}), tmp_path / "a.parquet")
    message = failing({"format": "parquet", "path": str(tmp_path / "a.parquet")}, tmp_path)
    assert "no column 'document'; columns found: 'query', 'text'" in message
    message = failing({"format": "tsv", "path": tsv, "header": False}, tmp_path)
    assert "must be a position from 0" in message
    message = failing({"format": "tsv", "path": tsv, "columns": {"query": 0, "document": 5}}, tmp_path)
    assert "no column at position 5: it has 2" in message


def test_two_columns_of_one_name_are_refused(write: Any, tmp_path: Path) -> None:
    tsv = write("a.tsv", "query\tdocument\tquery\na\tb\tc\n")
    assert "has 2 columns named 'query'" in failing({"format": "tsv", "path": tsv}, tmp_path)
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["query", "document", "query"])
    pq.write_table(table, tmp_path / "a.parquet")
    source = {"format": "parquet", "path": str(tmp_path / "a.parquet"), "columns": {"query": 0}}
    assert "has 2 columns named 'query'" in failing(source, tmp_path)


def test_missing_empty_and_damaged_sources(write: Any, tmp_path: Path) -> None:
    source = {"format": "tsv", "path": str(tmp_path / "queris.tsv")}
    write("queries.tsv", TSV)
    message = failing(source, tmp_path)
    assert f"no source at {source['path']}" in message and "queries.tsv" in message
    with pytest.raises(InputError, match="no source at"):
        stage.parts(check_config({"name": "t", "ingest": {"source": source}}, "test"))
    (tmp_path / "no-files").mkdir()
    assert "no-files holds no file" in failing({"format": "tsv", "path": str(tmp_path / "no-files")}, tmp_path)
    for content in ("", "query\tdocument\n", "\n\n"):
        assert "holds no rows" in failing({"format": "tsv", "path": write("e.tsv", content)}, tmp_path)
    assert "is not a Parquet file" in failing({"format": "parquet", "path": write("e.parquet", "PAR1 no")}, tmp_path)
    for pack in (gzip.compress, zstandard.compress):
        cut = write("cut.tsv.packed", pack(many(0, 3000).encode())[:-40])
        assert "cannot be read to its end" in failing({"format": "tsv", "path": cut}, tmp_path)
    utf16 = {"format": "tsv", "path": write("u.tsv", TSV.encode("utf-16")), "encoding": "utf-16"}
    assert "encoding 'utf-16'" in failing(utf16, tmp_path) and "iconv" in failing(utf16, tmp_path)
    assert "encoding 'utf-9'" in failing({**utf16, "encoding": "utf-9"}, tmp_path)
    message = failing({"format": "tsv", "path": write("q.tsv", TSV)}, tmp_path, split={"valid": 0.5, "test": 0.5})
    assert "must be below 1" in message


def test_other_encodings(ingest: Any, write: Any) -> None:
    path = write("a.tsv", "query\tdocument\nnaïve\tcafé\n".encode("latin-1"))
    assert pairs(ingest({"format": "tsv", "path": path, "encoding": "latin-1"})) == [("naïve", "café", 1.0)]


def test_any_fsspec_address_and_a_missing_driver(ingest: Any, tmp_path: Path) -> None:
    with fsspec.open("memory://shelf/a.tsv.gz", "wb") as file:
        file.write(gzip.compress(TSV.encode()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"query": ["a"], "document": ["b"]}), sink)
    with fsspec.open("memory://shelf/a.parquet", "wb") as file:
        file.write(sink.getvalue().to_pybytes())
    source = {"format": "tsv", "path": "memory://shelf/a.tsv.gz", "columns": COLUMNS}
    assert pairs(ingest(source)) == sorted(ROWS)
    assert pairs(ingest({"format": "parquet", "path": "memory://shelf/a.parquet"})) == [("a", "b", 1.0)]
    key = lambda: stage.parts(check_config({"name": "t", "ingest": {"source": source}}, "test")).key
    before = key()
    assert key() == before
    with fsspec.open("memory://shelf/a.tsv.gz", "wb") as file:
        file.write(gzip.compress(TSV.encode() + b"more\trows\t1\n"))
    assert key() != before
    fsspec.register_implementation("shelftest", "no_such_module.Shelf", errtxt="install shelffs", clobber=True)
    assert "install shelffs" in failing({"format": "tsv", "path": "shelftest://me:secret@b/a.tsv?key=1"}, tmp_path)
    message = failing({"format": "tsv", "path": "nosuch://me:secret@b/a.tsv?key=1"}, tmp_path)
    assert "nosuch" in message and "secret" not in message and "key=1" not in message


def test_the_key_follows_content_and_settings_but_not_paths(write: Any) -> None:
    def key(path: str, seed: int = 1, **settings: Any) -> str:
        source = {"format": "tsv", "path": path}
        return stage.parts(check_config({"name": "t", "seed": seed, "ingest": {"source": source, **settings}}, "t")).key

    first, copy = write("a.tsv", TSV), write("elsewhere/b.tsv", TSV)
    assert key(first) == key(copy)
    others = {key(write("c.tsv", TSV + "x\ty\t1\n")), key(first, seed=2), key(first, max_row_kb=5)}
    assert len({key(first), *others}) == 4
    one = {"format": "tsv", "paths": {"train": first}}
    assert stage.parts(check_config({"name": "t", "ingest": {"source": one}}, "t")).key != key(first)


def test_a_document_id_that_two_splits_use_for_two_texts_is_two_documents(ingest: Any, write: Any) -> None:
    """Ids often count from 1 in each file, and the documents of all splits are ranked together."""
    head = "qid\tquery\tdid\tdocument\n"
    paths = {
        "train": write("train.tsv", head + "1\ta\t1\tfirst\n2\tb\t2\tsame\n"),
        "valid": write("valid.tsv", head + "1\tc\t1\tsecond\n2\td\t1~test\tthird\n"),
        "test": write("test.tsv", head + "1\te\t1\tfourth\n2\tf\t1\tfourth\n3\tg\t2\tsame\n4\th\t1\tfifth\n"),
    }
    columns = {"query_id": "qid", "document_id": "did"}
    found = ingest({"format": "tsv", "paths": paths, "columns": columns}, max_quarantined_share=0.5)
    documents = [(row["query"], row["document_id"], row["document"]) for row in found.records()]
    assert sorted(documents) == [
        ("a", "1", "first"), ("b", "2", "same"), ("c", "1~valid", "second"), ("d", "1~test", "third"),
        ("e", "1~test~test", "fourth"), ("f", "1~test~test", "fourth"), ("g", "2", "same"),
    ]  # fmt: skip
    assert [entry["reason"] for entry in found.quarantine] == [
        "id used with two texts: document id '1' is another text's"
    ]
    assert [found.counts["notes"][note] for note in found.counts["notes"]] == [3]
    texts = {}
    for _, key, text in documents:
        assert texts.setdefault(key, text) == text

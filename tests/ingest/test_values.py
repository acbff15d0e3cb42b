"""What a field is worth whatever the format: missing numbers, booleans, whole numbers, names in two spellings."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.ingest.rows import BadRow, as_id, as_relevance, as_text

HALF = {"max_quarantined_share": 0.9}
NAN = float("nan")
COLUMNS = {"query": "q", "document": "d", "relevance": "r"}


def reasons(found: Any) -> list[tuple[int, str]]:
    return [(entry["row"], entry["reason"]) for entry in found.quarantine]


def relevances(found: Any) -> dict[str, float]:
    return {row["query"]: row["relevance"] for row in found.records()}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_number_that_is_none_is_a_missing_field(form: str, tmp_path: Path, ingest: Any) -> None:
    path = tmp_path / f"a.{form}"
    values = [NAN, float("inf"), float("-inf"), 2.0]
    if form == "jsonl":  # json writes NaN, Infinity and -Infinity
        path.write_text("".join(json.dumps({"q": value, "d": "doc"}) + "\n" for value in values))
    else:
        pq.write_table(pa.table({"q": values, "d": ["doc"] * 4}), path)
    found = ingest({"format": form, "path": str(path), "columns": {"query": "q", "document": "d"}}, **HALF)
    assert reasons(found) == [(row, "missing field: no 'q'") for row in (1, 2, 3)]
    assert [row["query"] for row in found.records()] == ["2"]


def test_booleans_are_a_relevance_and_labels(ingest: Any, write: Any) -> None:
    rows = '{"q": "a", "d": "b", "r": true}\n{"q": "c", "d": "d", "r": false}\n'
    source = {"format": "jsonl", "path": write("a.jsonl", rows), "columns": COLUMNS}
    assert relevances(ingest(source)) == {"a": 1.0, "c": 0.0}
    assert relevances(ingest({**source, "grades": {"true": 3, "false": 1}})) == {"a": 3.0, "c": 1.0}
    table = {"format": "csv", "path": write("a.csv", "q,d,r\na,b,True\nc,d,False\n"), "columns": COLUMNS}
    assert relevances(ingest(table)) == {"a": 1.0, "c": 0.0}  # as pandas writes them
    assert relevances(ingest({**table, "grades": {"true": 3, "false": 1}})) == {"a": 3.0, "c": 1.0}
    labels = write("l.jsonl", '{"text": "a", "label": true}\n{"text": "c", "label": false}\n')
    found = ingest({"format": "jsonl", "path": labels}, task="classification")
    assert {row["text"]: row["label"] for row in found.records()} == {"a": "true", "c": "false"}


def test_whole_numbers_that_parquet_has_as_floats(tmp_path: Path, ingest: Any) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1.0, 2.5], "text": ["a", "c"], "label": [1.0, 0.0]}), path)
    found = ingest({"format": "parquet", "path": str(path), "columns": {"id": "id"}}, task="classification")
    assert {row["id"]: row["label"] for row in found.records()} == {"1": "1", "2.5": "0"}


def test_labels_of_words_name_the_setting_that_takes_them(ingest: Any, write: Any) -> None:
    path = write("a.csv", "q,d,r\na,b,yes\nc,d,no\n")
    source = {"format": "csv", "path": path, "columns": COLUMNS}
    assert relevances(ingest({**source, "grades": {"yes": 1, "no": 0}})) == {"a": 1.0, "c": 0.0}
    with pytest.raises(InputError, match=r"'yes' is not a number; ingest.source.grades .*: \{yes: 1, no: 0\}"):
        ingest(source)


@pytest.mark.parametrize(
    ("value", "grades", "right"),
    [("1.0", {"1": 2}, 2.0), (1.0, {"1": 2}, 2.0), ("1", {"1.0": 2}, 2.0), ("cafe\u0301", {"caf\u00e9": 3}, 3.0),
     ("TRUE", {"true": 1}, 1.0), ("Good", {"Good": 1, "good": 2}, 1.0)],
)  # fmt: skip
def test_grades_by_other_spellings_of_their_label(value: Any, grades: dict[str, float], right: float) -> None:
    assert as_relevance({"r": value}, "r", grades) == right


def test_grades_differ_by_their_case() -> None:
    with pytest.raises(BadRow, match="'Good' is not among the grades good"):
        as_relevance({"r": "Good"}, "r", {"good": 1})


def test_ids_have_one_form_and_texts_stay_as_they_are() -> None:
    values = {"x": " cafe\u0301\u00a0 1\n"}
    assert as_id(values, "x") == "caf\u00e9 1"
    assert as_text(values, "x") == "cafe\u0301\u00a0 1"
    assert as_id({"x": 10**400}, "x") == "1" + "0" * 400
    with pytest.raises(BadRow, match="too many digits"):
        as_id({"x": 10**5000}, "x")


def test_two_spellings_of_a_label_are_one(ingest: Any, write: Any) -> None:
    path = write("a.csv", "text,label\na,caf\u00e9\nb,cafe\u0301\n")
    found = ingest({"format": "csv", "path": path}, task="classification")
    assert {row["label"] for row in found.records()} == {"caf\u00e9"}


@pytest.mark.parametrize("label", ["<unk>", "<pad>"])
def test_a_label_that_a_vocabulary_cannot_hold_is_a_bad_row(label: str, ingest: Any, write: Any) -> None:
    path = write("a.csv", f"text,label\na,good\nb, {label}\nc,<unknown>\n")
    found = ingest({"format": "csv", "path": path}, task="classification", **HALF)
    assert [(row, reason.split(",")[0]) for row, reason in reasons(found)] == [
        (3, f"reserved name: 'label' is '{label}'")
    ]
    tags = write("t.csv", f"text,tags\na b,X Y\nc d,X {label}\n")
    found = ingest({"format": "csv", "path": tags}, task="tagging", **HALF)
    assert [row for row, _ in reasons(found)] == [3]


# --- tags -------------------------------------------------------------------------------------------------------------
def test_a_sentence_with_a_tag_too_few_is_a_bad_row(ingest: Any, write: Any) -> None:
    path = write("t.csv", "text,tags\na b c,X Y Z\nd e,X\nf\x7fg,X\nh\x7fi,X Y\n")
    found = ingest({"format": "csv", "path": path}, task="tagging", **HALF)
    told = "tags: {} words and 1 tags: give one tag per word, both separated by blanks"
    assert reasons(found) == [(3, told.format(2)), (4, told.format(2))]
    assert {row["text"] for row in found.records()} == {"a b c", "h i"}

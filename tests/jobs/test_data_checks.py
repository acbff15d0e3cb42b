"""A night's data beside that of the nights before it; figures by hand, and by numpy where there are many."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import data_checks
from pipeline.config import ChecksConfig, check_config
from pipeline.core import manifest
from pipeline.core.manifest import KeyParts
from pipeline.core.record_schema import Record, schema


def night(**changes: Any) -> dict[str, Any]:
    """A night of 1,000 rows."""
    base = {
        "rows": 1000, "put_aside": 0.01, "lengths": {"query": 5.0, "document": 40.0}, "unknown_tokens": 0.02,
        "labels": {"0.0": 0.5, "1.0": 0.5}, "words": [100] * data_checks.WORD_BINS, "word_count": 6400,
        "query_lengths": [0, 100, 400, 400, 100, 0, 0, 0],
    }  # fmt: skip
    return copy.deepcopy(base) | changes


BEFORE = [night(rows=rows) for rows in (900, 1000, 1100, 950, 1050, 1000, 1000)]


@pytest.mark.parametrize(
    ("changes", "outside"),
    [
        ({}, ""),
        ({"rows": 500}, ""),
        ({"rows": 499}, "rows 499 is below 500 (median 1,000)"),
        ({"rows": 0}, "rows 0 is below 500 (median 1,000)"),
        ({"rows": 2001}, "rows 2,001 is above 2,000 (median 1,000)"),
        ({"put_aside": 0.07}, "share put aside 0.07 is above 0.06 (median 0.01)"),
        ({"labels": {"0.0": 0.9, "1.0": 0.1}}, "share of label 0.0 0.9 is above 0.65 (median 0.5); "
         "share of label 1.0 0.1 is below 0.35 (median 0.5)"),
        ({"labels": {"0.0": 0.4, "1.0": 0.4, "2.0": 0.2}}, "share of label 2.0 0.2 is above 0.15 (median 0)"),
        ({"lengths": {"query": 5.0, "document": 20.0}}, "mean tokens of document 20 is below 26.67 (median 40)"),
        ({"unknown_tokens": 0.2}, "share of unknown tokens 0.2 is above 0.07 (median 0.02)"),
        ({"query_lengths": [0, 0, 0, 0, 100, 400, 400, 100]}, "drift of lengths (PSI)"),
        ({"words": [400] * 16 + [0] * 48}, "drift of words (PSI)"),
        ({"words": [8] * 16 + [0] * 48, "word_count": 128}, ""),  # too few to say
    ],
)  # fmt: skip
def test_what_lies_outside_is_named_with_its_bound(changes: dict[str, Any], outside: str) -> None:
    rows = data_checks.compare(night(**changes), BEFORE, ChecksConfig())
    said = data_checks.sentence(rows)
    assert said.startswith(outside) and bool(said) == bool(outside)


def test_a_bound_that_is_null_is_not_checked() -> None:
    off = ChecksConfig(rows_from=None, rows_to=None, put_aside=None, label_shares=None, lengths=None,
                       unknown_tokens=None, drift=None)  # fmt: skip
    assert data_checks.compare(night(rows=0), BEFORE, off) == []
    only = ChecksConfig(**(off.model_dump() | {"rows_to": 2.0}))
    assert data_checks.sentence(data_checks.compare(night(rows=0), BEFORE, only)) == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=9), st.randoms(use_true_random=False))
def test_the_stability_index_by_numpy(new: list[int], random: Any) -> None:
    old = [random.randint(0, 1000) for _ in new]
    if not sum(new) or not sum(old):
        return
    p, q = (np.maximum(np.array(bins) / sum(bins), 1e-4) for bins in (new, old))
    want = float(np.sum((p - q) * np.log(p / q)))
    assert data_checks.stability_index(list(map(float, new)), list(map(float, old))) == pytest.approx(want)
    assert want >= 0


def test_a_bad_night_is_no_part_of_the_median_and_the_last_of_a_date_counts(tmp_path: Path) -> None:
    assert data_checks.kept(tmp_path, "2026-11-30T02:00", 7) == []
    for day, rows in ((21, 1), (22, 2), (23, 3), (22, 4), (25, 5)):
        data_checks.keep(tmp_path, f"2026-11-{day}T02:00", night(rows=rows))
    with (tmp_path / data_checks.PROFILES).open("a") as file:
        file.write('{"due": "2026-11-24T02:00", "prof')
    assert [one["rows"] for one in data_checks.kept(tmp_path, "2026-11-25T02:00", 7)] == [1, 4, 3]
    assert [one["rows"] for one in data_checks.kept(tmp_path, "2026-11-30T02:00", 2)] == [3, 5]
    assert data_checks.kept(tmp_path, "2026-11-30T02:00", 0) == []


def test_a_line_that_was_cut_costs_no_other_night(tmp_path: Path) -> None:
    data_checks.keep(tmp_path, "2026-01-01 02:00", {"rows": 1})
    path = tmp_path / data_checks.PROFILES
    path.write_bytes(path.read_bytes() + b'{"due": "2026-01-02 02:00", "pro')  # a full disk
    data_checks.keep(tmp_path, "2026-01-03 02:00", {"rows": 3})
    assert data_checks.kept(tmp_path, "2026-02-01 02:00", 9) == [{"rows": 1}, {"rows": 3}]


def test_a_profile_of_folders(tmp_path: Path) -> None:
    """Three records: words and labels are counted by hand."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    ingested, tokenized = tmp_path / "ingest", tmp_path / "tokenize"
    for folder in (ingested, tokenized):
        folder.mkdir()
    records = [Record("1", ("a", "x"), ("What is it?", "d"), 1.0), Record("2", ("b", "y"), ("问 问 7", "d"), 0.0),
               Record("3", ("c", "z"), ("what", "d"), 1.0)]  # fmt: skip
    columns = list(zip(*(record.row() for record in records)))
    form = schema(("query", "document"))
    parquet.write_table(pa.table(dict(zip(form.names, columns)), schema=form), ingested / "records-train.parquet")
    counts = {"records": {"read": 4, "kept": 3, "quarantined": 1}}
    manifest.write(ingested, "ingest", KeyParts(1, {}, {}, {}), counts, 0.0)
    field = {"texts": 2, "tokens": 10, "unknown_tokens": 1}
    split = {"query": field, "document": field | {"tokens": 30}}
    manifest.write(
        tokenized, "tokenize", KeyParts(1, {}, {}, {}), dict.fromkeys(("train", "valid", "test"), split), 0.0
    )
    config = check_config({"name": "x", "ingest": {"source": {"format": "tsv", "path": "x"}}}, "x")
    found = data_checks.profile(config, ingested, tokenized)
    assert json.loads(json.dumps(found)) == found
    assert (found["rows"], found["put_aside"], found["lengths"]) == (3, 0.25, {"query": 5.0, "document": 15.0})
    assert found["unknown_tokens"] == pytest.approx(6 / 120)
    assert found["labels"] == {"0.0": pytest.approx(1 / 3), "1.0": pytest.approx(2 / 3)}
    assert found["word_count"] == 7 and sum(found["words"]) == 7
    assert found["query_lengths"] == [1, 0, 2, 0, 0, 0, 0, 0]  # one word; three words, twice


def test_table_and_picture(tmp_path: Path) -> None:
    rows = data_checks.compare(night(rows=100), BEFORE, ChecksConfig())
    text = data_checks.table(rows, 7)
    assert "! rows                         100      1,000    500  2,000\n" in text
    assert "median of the last 7 good nights; ! lies outside" in text
    data_checks.draw(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_bounds_that_make_no_sense() -> None:
    for given_settings, sentence in (
        ({"rows_from": 2.0, "rows_to": 1.0}, "rows_from=2 is above rows_to=1"),
        ({"nights": 2, "least_nights": 3}, "least_nights=3 is more than nights=2"),
        ({"lengths": 1.0}, "greater than 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ChecksConfig.model_validate(given_settings)

"""Training records that stand in valid or test too: counted, named, left out or refused; each by hand."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.ingest import leaks, stage
from pipeline.orchestration import summary
from tests.ingest.conftest import Result

DATA = os.environ.get("DUPLET_DATA", "")
LABELLED = {
    "train": "text\tlabel\nA  GOOD film!\tgood\nquite new\tbad\na good film\tgood\nonly here\tbad\n",
    "valid": "text\tlabel\nQuite new.\tbad\nof valid\tgood\n",
    "test": "text\tlabel\na good film\tgood\nof test\tbad\n",
}
PAIRS = {
    "train": "query\tdocument\tlabel\none\tshared\t1\ntwo\tshared\t1\nshared\tthree\t0\n",
    "valid": "query\tdocument\tlabel\nfour\tshared\t1\n",
    "test": "query\tdocument\tlabel\nThree\tshared\t1\ntwo\tother\t1\n",
}


def source(write: Callable[[str, str], str], files: dict[str, str], relevance: bool = False) -> dict[str, Any]:
    columns = {"columns": {"relevance": "label"}} if relevance else {}
    return {"format": "tsv", "paths": {split: write(f"{split}.tsv", text) for split, text in files.items()}, **columns}


def texts(result: Result, split: str = "train", field: str = "text") -> list[str]:
    return [row[field] for row in result.records(split)]


def test_texts_that_differ_in_case_spacing_and_points_are_counted_and_one_is_named(
    ingest: Callable[..., Result], write: Callable[[str, str], str]
) -> None:
    result = ingest(source(write, LABELLED), task="classification")
    found = result.counts["leaks"]
    assert {name: found[name] for name in ("rows", "test", "valid")} == {"rows": 3, "test": 1, "valid": 1}
    assert found["example"]["text"] == "A  GOOD film!" and found["example"]["split"] == "test"
    assert len(texts(result)) == 4, "only counted"
    given = {"name": "t", "task": "classification", "ingest": {"source": {"format": "tsv", "path": "x"}}}
    config = check_config(given, "test")
    (line,) = summary.leaks(result.counts, config)
    assert line.startswith(
        "warning: 3 records of the train split have the text of another split (1 of test, 1 of valid)"
    )
    assert "'A  GOOD film!'" in line and "ingest.leaks=put_aside" in line


def test_they_are_left_out_of_train(ingest: Callable[..., Result], write: Callable[[str, str], str]) -> None:
    result = ingest(source(write, LABELLED), task="classification", leaks="put_aside")
    assert texts(result) == ["only here"]
    assert len(texts(result, "test")) == len(texts(result, "valid")) == 2
    assert result.counts["records"]["splits"]["train"] == 1


def test_they_are_refused(ingest: Callable[..., Result], write: Callable[[str, str], str]) -> None:
    with pytest.raises(InputError, match=r"3 records of the train split have the text .*ingest\.leaks=put_aside"):
        ingest(source(write, LABELLED), task="classification", leaks="refuse")


def test_nothing_is_said_of_splits_without_any(ingest: Callable[..., Result], write: Callable[[str, str], str]) -> None:
    clean = {**LABELLED, "train": "text\tlabel\nonly here\tbad\nand here\tgood\n"}
    assert "leaks" not in ingest(source(write, clean), task="classification", leaks="refuse").counts


def test_of_a_ranking_the_queries_count_and_never_the_documents(
    ingest: Callable[..., Result], write: Callable[[str, str], str]
) -> None:
    result = ingest(source(write, PAIRS, relevance=True), leaks="put_aside")
    assert texts(result, field="query") == ["one", "shared"]


def test_of_grades_the_pair_counts_in_either_order(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    given = {
        "name": "t", "ingest": {"source": source(write, PAIRS, relevance=True), "leaks": "put_aside"},
        "train": {"loss": {"kind": "pointwise"}}, "evaluate": {"kinds": ["graded"]},
    }  # fmt: skip
    folder = tmp_path / "graded"
    folder.mkdir()
    stage.run(check_config(given, "test"), folder)
    rows = pq.read_table(folder / "records-train.parquet").to_pylist()
    assert [row["query"] for row in rows] == ["one", "two"], "shared/three is three/shared of test"


@pytest.mark.parametrize(("one", "other"), [("don't", "DON’T"), ("ﬁlm  noir", "film, noir"), ("5-4", "5 4")])
def test_what_counts_as_equal(one: str, other: str) -> None:
    assert leaks.normalized(one) == leaks.normalized(other)


@pytest.mark.parametrize(("one", "other"), [("!", "?"), ("ab", "ba"), ("née", "nee")])
def test_what_does_not(one: str, other: str) -> None:
    assert leaks.normalized(one) != leaks.normalized(other)


def test_what_a_training_started_from_has_read_counts_too(
    ingest: Callable[..., Result], write: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Its texts are kept as numbers, those of the training before it among them."""
    before, now = ingest(source(write, LABELLED), task="classification"), tmp_path / "trained"
    given = {"name": "t", "task": "classification", "ingest": {"source": {"format": "tsv", "path": "x"}}}
    config = check_config(given, "test")
    texts_read, said = leaks.read_before(config, before.folder, None)
    assert (len(texts_read), said) == (3, None)
    now.mkdir()
    np.save(now / leaks.READ, texts_read)
    fresh = {
        "train": "text\tlabel\nall new\tbad\nand this\tgood\n",
        "valid": LABELLED["valid"],
        "test": LABELLED["test"],
    }
    after = ingest(source(write, fresh), task="classification", leaks="refuse")
    together, said = leaks.read_before(config, after.folder, now)
    assert len(together) == 5 and said is not None
    assert f"train.start_from={now} is from has read texts" in said and "(1 of test, 1 of valid)" in said
    strict = check_config({**given, "ingest": {**given["ingest"], "leaks": "refuse"}}, "test")
    with pytest.raises(InputError, match="take one that has not"):
        leaks.read_before(strict, after.folder, now)


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="DUPLET_DATA names no folder with the public sets")
def test_sst2_in_mr(ingest: Callable[..., Result], write: Callable[[str, str], str]) -> None:
    """1,431 of SST-2's 1,821 test sentences stand in MR, counted by another program that compares less loosely."""
    folder = Path(DATA) / "sentence_classification"
    films = gzip.decompress((folder / "rt-polarity.all.gz").read_bytes()).decode("latin-1")
    paths = {"train": write("mr", films), "test": str(folder / "stsa.binary.test")}
    given = {"format": "labelled", "paths": paths}
    found = ingest(given, task="classification", split={"valid": 0.0, "test": 0.0}).counts["leaks"]
    assert 1431 <= found["test"] <= 1821

"""`duplet run --seeds`: the same splits, other trainings, and means that scipy finds too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from scipy import stats

from pipeline.orchestration.seeds import spread
from tests.conftest import last_json


def test_intervals_are_those_of_a_t_test() -> None:
    values = [0.31, 0.35, 0.28, 0.33]
    found = spread(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


@pytest.mark.mlflow
def test_seeds_share_splits_and_differ_in_training(
    small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any], tmp_path: Path
) -> None:
    config = small_config(train={"max_updates": 6})
    found = last_json(duplet("run", config, "--seeds", "2", "--json"))
    root = tmp_path / "runs"
    assert found["seeds"] == [1, 2]
    assert len(list((root / "ingest").glob("[0-9a-f]*/manifest.json"))) == 1
    assert len(list((root / "train").glob("[0-9a-f]*/manifest.json"))) == 2
    one = found["metrics"]["test/mrr@10"]
    assert one["mean"] == pytest.approx(np.mean(one["values"])) and len(set(one["values"])) == 2
    assert found["metrics"]["test/bm25/mrr@10"]["deviation"] == 0, "the same test data"
    table = (Path(found["folder"]) / "table.txt").read_text()
    assert f"{one['mean']:.4f}" in table and "seed 2" in table
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    assert table.strip("\n") in client.get_run(found["run_id"]).data.tags["mlflow.note.content"]

    # the first of them is the run without --seeds
    alone = last_json(duplet("run", config, "--json"))
    assert {row["state"] for row in alone["stages"].values()} == {"up to date"}
    assert alone["metrics"]["test/mrr@10"] == one["values"][0]

"""`duplet run --refresh-epochs`: each round mines by what the round before has learnt, and goes on from there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tasks.mining import NAME as MINED
from tests.conftest import last_json


def made(root: Path, stage: str) -> list[Path]:
    """A stage's folders, the oldest first."""
    found = [path.parent for path in (root / stage).glob("[0-9a-f]*/manifest.json")]
    return sorted(found, key=lambda folder: (folder / "manifest.json").stat().st_mtime)


def test_each_round_mines_by_the_one_before_and_goes_on_from_it(
    small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any], tmp_path: Path
) -> None:
    config = {**small_config(), "mine": {"by": ["bm25"], "first_rank": 1, "margin": 0.0}}
    config["train"] |= {"epochs": 3, "loss": {"listed_negatives": 2}}
    run = lambda: duplet("run", config, "--refresh-epochs", "2", "--json")
    done, root = run(), tmp_path / "runs"
    found = last_json(done)
    assert "round 2 of 2: 1 epochs" in done.stderr
    stages = ("ingest", "tokenize", "mine", "train", "evaluate")
    assert [len(made(root, stage)) for stage in stages] == [1, 1, 2, 2, 1]
    mines, (before, last) = made(root, "mine"), made(root, "train")
    parts = [json.loads((folder / "manifest.json").read_text())["key_parts"]["config"] for folder in mines]
    assert [part["mine"]["by"] for part in parts] == [["bm25"], ["bm25", "model"]]
    assert [part["seed"] for part in parts] == [1, 2]
    assert not np.array_equal(*(np.load(folder / MINED) for folder in mines))
    settings = json.loads((last / "config.json").read_text())["train"]
    assert (settings["start_from"], settings["epochs"]) == (str(before), 1)
    assert found["stages"]["train"]["folder"] == str(last) and found["metrics"]["test/mrr@10"] > 0

    # the same command does no round twice; a round that is lost is made again, as it was
    again = last_json(run())
    assert {row["state"] for row in again["stages"].values()} == {"up to date"}
    assert {row["folder"] for row in again["stages"].values()} == {row["folder"] for row in found["stages"].values()}
    with np.load(last / "parameters.npz") as arrays:
        parameters = dict(arrays)
    shutil.rmtree(last)
    assert last_json(run())["stages"]["train"]["folder"] == str(last)
    with np.load(last / "parameters.npz") as arrays:
        assert all(np.array_equal(arrays[name], array) for name, array in parameters.items())

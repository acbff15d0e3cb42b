"""Answers that are called sure: a classifier knows which of its texts it can tell, and says so everywhere."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from tests.conftest import last_json
from tests.tasks.test_learns_sentences import FILLERS, configured


@pytest.mark.learns
def test_it_is_sure_of_what_can_be_told_alone(duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Half of the texts name their class; of the others three in four are of one class, whatever they say."""
    rng, rows = random.Random(1), []
    for _ in range(900):
        words, label = rng.choices(FILLERS, k=6), rng.choice(["no", "yes"])
        if rng.random() < 0.5:
            words[rng.randrange(6)] = f"says{label}"
        else:
            label = rng.choice(["no", "no", "no", "yes"])
        rows.append({"text": " ".join(words), "label": label})
    split = {"source": {"format": "jsonl", "path": str(tmp_path / "classification.jsonl")},
             "split": {"valid": 0.3, "test": 0.3}}  # fmt: skip
    train = {"epochs": 4, "sure_precision": 0.99, "max_pairs_per_update": 16, "threads_per_worker": 1,
             "optimizer": {"learning_rate": 0.01}}  # fmt: skip
    config = configured(tmp_path, "classification", rows, train=train, ingest=split)
    done = last_json(duplet("run", config, "--json"))
    assert done["metrics"]["test/sure_precision"] > 0.95
    assert 0.42 < done["metrics"]["test/sure_share"] < 0.58
    folder = Path(done["stages"]["evaluate"]["folder"])
    assert "for a precision of 0.99 on the validation split; " in (folder / "table.txt").read_text()
    told = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    marked = [line["sure"] for line in told if "says" in line["text"]]
    others = [line["sure"] for line in told if "says" not in line["text"]]
    assert all(marked) and sum(others) < 0.2 * len(others)
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"text": "f1 saysno f2"}\n{"text": "f1 f3 f2 f4"}\n')
    duplet("predict", config, "--input", str(asked), "--output", str(tmp_path / "told.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [(row["label"], row["sure"]) for row in answers] == [("no", True), ("no", False)]
    assert answers[1]["probabilities"]["no"] == pytest.approx(0.75, abs=0.15)  # what is true of such texts


@pytest.mark.parametrize("task", ["tagging", "language_model"])
def test_only_labels_and_first_documents_can_be_sure(task: str) -> None:
    settings: dict[str, Any] = {"task": task, "train": {"sure_precision": 0.9}}
    settings["ingest"] = {"source": {"format": "text" if task == "language_model" else "jsonl", "path": "x"}}
    if task == "language_model":
        settings["model"] = {"directions": 1}
    with pytest.raises(Exception, match=r"train.sure_precision=0.9 is for tasks whose answers are right .*classif"):
        check_config(settings | {"name": "t"}, "test")

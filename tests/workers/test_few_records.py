"""Splits of fewer records than workers: a worker without a record judges none, and the figures are the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.orchestration import flow
from pipeline.training.batch_plan import Plan, shares
from tests.updates.cases import CASES, Case
from tests.updates.sources import rows_of
from tests.workers.by_workers import run_by

pytestmark = pytest.mark.workers

TRIED = (
    "classification lstm last", "tagging rnn_relu True True", "cloze sampled", "language_model",
    "translation luong lstm", "captioning vectors first",
)  # fmt: skip


def source_of(task: str, folder: Path) -> dict[str, Any]:
    """One record in valid, one in test (of matching and captioning, one query and one image), the rest in train."""
    if task == "captioning":
        np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(12, 6)))
        (folder / "captions.tsv").write_text(
            "".join(f"{i}\t{'ant bee cat dog'[: 3 + 4 * (i % 4)]}\n" for i in range(12))
        )
        parts = {"train": range(2, 12), "valid": [0], "test": [1]}
        for split, images in parts.items():
            (folder / f"{split}.txt").write_text("".join(f"{i}\n" for i in images))
        paths = {split: str(folder / f"{split}.txt") for split in parts}
        names = {"captions": str(folder / "captions.tsv"), "images": str(folder / "vectors.npy")}
        return {"format": "captions", **names, "splits": paths}
    rows = rows_of(task)
    cuts = {"valid": rows[12:13], "test": rows[13:14], "train": rows[:12] + rows[14:]}
    if task == "matching":
        cuts = {"valid": rows[13:14], "test": rows[15:16], "train": rows[:12] + rows[16:]}
    for split, some in cuts.items():
        (folder / f"{task}-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    columns = {"query_id": "query_id", "relevance": "relevance"} if task == "matching" else {}
    return {"format": "jsonl", "paths": {s: str(folder / f"{task}-{s}.jsonl") for s in cuts}, "columns": columns}


def config_of(case: Case, folder: Path) -> dict[str, Any]:
    task = case["task"]
    data: dict[str, Any] = {
        "name": task,
        "root": str(folder / "runs"),
        "tokenize": {"min_count": 1},
        "tracking": {"system_metrics": False, "send": "later"},
        **{name: values for name, values in case.items() if name != "images"},
        "ingest": {"source": source_of(task, folder)},
    }
    data["model"] = {"embedding": 6, "hidden": 6, "dropout": 0.0, **case.get("model", {})}
    if task == "language_model":
        data["model"]["directions"] = 1
    data["evaluate"] = {"bootstrap_samples": 5, **case.get("evaluate", {})}
    return data


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process and each of two workers found."""
    folder = tmp_path_factory.mktemp("few")
    cases = {}
    for name in TRIED:
        config = config_of(CASES[name], folder)
        stages: dict[str, Any] = flow.run(check_config(config, "test"), "test", "tokenize", lambda line: None).stages
        folders = {"ingested": stages["ingest"]["folder"], "tokenized": stages["tokenize"]["folder"]}
        cases[name] = {"config": config, **folders}
    (folder / "cases.json").write_text(json.dumps(cases))
    for workers in (1, 2):
        done = run_by(workers, Path(__file__).with_name("few_records.py"), str(folder / "cases.json"))
        assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("size-*.json")}


@pytest.mark.parametrize("name", TRIED)
def test_a_worker_without_a_record_changes_no_figure(name: str, judged: dict[str, dict[str, Any]]) -> None:
    alone = judged["size-1-rank-0"][name]
    assert any(key.startswith("test/") for key in alone)
    for rank in (0, 1):
        assert judged[f"size-2-rank-{rank}"][name] == pytest.approx(alone, abs=1e-5, nan_ok=True)


def test_fewer_training_examples_than_workers_are_refused() -> None:
    lengths = np.full((2, 1), 3)
    [batch] = Plan(lengths, 8, 100, 1).batches(0, 0)
    with pytest.raises(InputError, match=r"2 examples cannot be shared by 3 workers: lower train\.workers"):
        shares(batch, lengths, 3)


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("examples", [5, 6, 9, 17, 40])
def test_every_worker_has_an_example_of_every_update(workers: int, examples: int) -> None:
    """With the least pairs and tokens per update that the configuration lets through."""
    longest = 4
    lengths = np.random.default_rng(1).integers(1, longest + 1, (examples, 1))
    plan = Plan(lengths, 2 * workers - 1, 2 * workers * longest, 1)
    for pool in range(plan.pools):
        for batch in plan.batches(0, pool):
            parts = shares(batch, lengths, workers)
            assert all(len(part) for part in parts)
            assert np.concatenate(parts).tolist() == batch.tolist()

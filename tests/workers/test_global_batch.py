"""N workers of B pairs must compute what one worker of N B pairs computes: loss, gradient, step and validation."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.orchestration import flow
from tests.conftest import reversed_pairs
from tests.workers.equality import assert_equal

pytestmark = pytest.mark.workers

CASES: dict[str, dict[str, Any]] = {
    "in-batch softmax, cosine": {"model": {"head": "cosine"}},
    "in-batch softmax, late interaction": {"model": {"head": "late_interaction"}, "graded": True,
                                           "train": {"loss": {"listed_negatives": 2}}},
    "in-batch softmax, bilinear, separate towers": {"model": {"head": "bilinear", "towers": "separate"}},
    "hinge, mlp": {"model": {"head": "mlp"}, "train": {"loss": {"kind": "hinge", "negatives": 3}}},
    "pointwise softmax": {"model": {"head": "mlp"}, "graded": True,
                          "train": {"loss": {"kind": "pointwise", "grades": 3}, "metric": "accuracy"},
                          "evaluate": {"kinds": ["graded"]}},
    "pointwise ordinal": {"model": {"head": "late_interaction"}, "graded": True,
                          "train": {"loss": {"kind": "pointwise", "grades": 3, "link": "ordinal"}, "metric": "map@100"},
                          "evaluate": {"kinds": ["ranking", "graded"], "candidates": "listed"}},
}  # fmt: skip


def graded_rows(count: int) -> list[dict[str, Any]]:
    """Queries with three documents each, of grades 0, 1 and 2, of uneven lengths."""
    rng = np.random.default_rng(5)
    draw = lambda n: " ".join(f"w{i}" for i in rng.integers(0, 30, n))
    return [
        {"qid": f"q{q}", "query": query, "document": draw(rng.integers(1, 8)) + f" {query}"[: 6 * g], "relevance": g}
        for q, query in enumerate(draw(rng.integers(1, 8)) for _ in range(count))
        for g in range(3)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases computed by one process, then by two; starting Horovod once for each."""
    folder = tmp_path_factory.mktemp("global-batch")
    for name, rows in (("plain", reversed_pairs(100)), ("graded", graded_rows(60))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cases = []
    for case in CASES.values():
        graded = case.get("graded", False)
        source = str(folder / ("graded.jsonl" if graded else "plain.jsonl"))
        columns = {"query_id": "qid"} | ({"relevance": "relevance"} if graded else {})
        config = {
            "name": "test",
            "root": str(folder / "runs"),
            "seed": 3,
            "ingest": {"source": {"format": "jsonl", "path": source, "columns": columns}},
            "tokenize": {"max_tokens": {"query": 8, "document": 12}, "min_count": 1},
            "model": {"embedding": 12, "hidden": 10, "layers": 2, "dropout": 0.0, **case.get("model", {})},
            "train": {
                "max_pairs_per_update": 16,
                "optimizer": {"clip_norm": 0.3, "kind": "sgd"},
                **case.get("train", {}),
            },
            "evaluate": case.get("evaluate", {}),
            "tracking": {"system_metrics": False},
        }
        stages = flow.run(check_config(config, "test"), "test", "tokenize", lambda line: None).stages
        cases.append({"config": config, "tokenized": stages["tokenize"]["folder"]})
    (folder / "cases.json").write_text(json.dumps(cases))
    program = [sys.executable, str(Path(__file__).with_name("global_step.py")), str(folder / "cases.json")]
    launcher = [str(Path(sys.executable).with_name("horovodrun")), "--gloo", "-np", "2", "-H", "localhost:2"]
    for command in (program, launcher + program):
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_workers_equal_one(name: str, computed: Path) -> None:
    number = list(CASES).index(name)
    assert_equal(*(computed / f"size-{size}-case-{number}.npz" for size in (1, 2)))

"""Three workers find what one finds, also where there are fewer documents than workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from pipeline.orchestration import flow
from tests.networks import untrained_folder
from tests.workers.by_workers import run_by

pytestmark = pytest.mark.workers

GRADED = {"loss": {"kind": "pointwise", "grades": 3}, "metric": "mrr@10"}
LISTED = {"kinds": ["ranking", "graded"], "candidates": "listed"}
CASES: dict[str, dict[str, Any]] = {
    **{f"{head}, one document": {"model": {"head": head}, "evaluate": {"collection": "split"}, "test": 1}
       for head in ("cosine", "dot", "bilinear", "mlp", "late_interaction", "cross_attention")},
    "graded, one document": {"train": GRADED, "evaluate": LISTED | {"collection": "split"}, "test": 1},
    "all": {"model": {"head": "late_interaction"}},
    "graded, ordinal": {"train": GRADED | {"loss": GRADED["loss"] | {"link": "ordinal"}}, "evaluate": LISTED},
    "listed": {"evaluate": {"candidates": "listed"}},
    "linear": {"evaluate": {"fusion": "linear"}},
    "passages": {"tokenize": {"max_tokens": {"query": 8, "document": 2}, "max_passages": 2}},
    "passages, listed": {"tokenize": {"max_tokens": {"query": 8, "document": 2}, "max_passages": 2},
                         "evaluate": {"candidates": "listed"}},
    "reranked": {"second": {"embedding": 6, "hidden": 5, "head": "cross_attention"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases judged by one process, then by three."""
    folder = tmp_path_factory.mktemp("judging")
    words = ["red", "blue", "green", "round", "square", "big", "small", "old", "new"]
    cases: list[dict[str, Any]] = []
    stages: dict[str, dict[str, str]] = {}
    for case in CASES.values():
        paths = {}
        for name, count in (("train", 8), ("valid", 5), ("test", case.get("test", 5))):
            path = folder / f"{name}-{count}.jsonl"
            rows = [
                {"query": f"{words[i]} {name}", "document": f"{words[i]} {words[-i - 1]} {name}", "relevance": 2}
                for i in range(count)
            ]
            rows += [row | {"document": f"{words[i + 1]} thing", "relevance": i % 2}
                     for i, row in enumerate(rows) if count > 1]  # fmt: skip
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            paths[name] = str(path)
        config = {
            "name": "test",
            "root": str(folder / "runs"),
            "ingest": {"source": {"format": "jsonl", "paths": paths, "columns": {"relevance": "relevance"}}},
            "tokenize": {"max_tokens": {"query": 8, "document": 8}, "min_count": 1, **case.get("tokenize", {})},
            "model": {"embedding": 8, "hidden": 6, "dropout": 0.0, **case.get("model", {})},
            "train": case.get("train", {}),
            "evaluate": {"bootstrap_samples": 5, **case.get("evaluate", {})},
            "tracking": {"system_metrics": False, "send": "later"},
        }
        texts = f"{paths['test']} {case.get('tokenize')}"
        if texts not in stages:
            done = flow.run(check_config(config, "test"), "test", "tokenize", lambda line: None).stages
            stages[texts] = {"tokenized": done["tokenize"]["folder"], "ingested": done["ingest"]["folder"]}
        if "second" in case:
            second, tokenized = (
                check_config({**config, "model": case["second"]}, "test"),
                stages[texts]["tokenized"],
            )
            config["rerank"] = {"model": str(untrained_folder(second, Path(tokenized), folder / "second")), "top": 4}
        cases.append({"config": config, **stages[texts]})
    (folder / "cases.json").write_text(json.dumps(cases))
    for workers in (1, 3):
        ran = run_by(workers, Path(__file__).with_name("judging.py"), str(folder / "cases.json"))
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["metrics.json", "fusion.json", "validation.json"])
def test_three_workers_find_what_one_finds(case: str, name: str, computed: Path) -> None:
    number = list(CASES).index(case)
    one, three = (flat(json.loads((computed / f"size-{size}-case-{number}" / name).read_text())) for size in (1, 3))
    assert one.keys() == three.keys()
    for key in one:
        assert three[key] == pytest.approx(one[key], abs=1e-5), key


def flat(found: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(found, dict):
        return {prefix: found}
    return {key: value for name, part in found.items() for key, value in flat(part, f"{prefix}/{name}").items()}

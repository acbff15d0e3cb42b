"""The flow is a list: a stage is added by one entry, and keys of stages without it stay as they were."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, check_config
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.core.manifest import KeyParts
from pipeline.orchestration import flow
from pipeline.orchestration.stage import Stage, StageContext


class CountRows(Stage):
    """A stage that configurations of seed 7 have: it counts the examples of each split."""

    name = "count"
    logged: list[Any] = []

    def wanted(self, config: Config) -> bool:
        return config.seed == 7

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        return KeyParts(1, {}, {"tokenize": keys["tokenize"]}, {})

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        tokenized = manifest.load(context.plan.folder("tokenize"), "tokenize", "")
        counts = {split: tokenized.counts[split]["examples"] for split in ("train", "valid", "test")}
        (folder / "counts.json").write_text(json.dumps(counts))
        return counts

    def summary(self, context: StageContext, counts: dict[str, Any], needed: Any) -> list[str]:
        return [f"count: {counts['train']} examples to learn from"]

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        self.logged.append(counts)


@pytest.fixture
def longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow with one more entry."""
    monkeypatch.setattr(flow, "STAGES", (*flow.STAGES[:2], CountRows(), *flow.STAGES[2:]))
    monkeypatch.setattr(CountRows, "logged", [])


def test_a_stage_is_added_by_one_entry(
    longer: None, small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = check_config(small_config(root=str(tmp_path), seed=7), "small")
    lines: list[str] = []
    result = flow.run(config, "small.yaml", "count", lines.append)
    folder = Path(result.stages["count"]["folder"])
    counts = json.loads((folder / "counts.json").read_text())
    assert counts["train"] > 0
    assert [row["state"] for row in flow.status(config)] == ["up to date"] * 3 + ["not run"] * 2
    assert f"count: {counts['train']} examples to learn from" in lines
    assert CountRows.logged == [counts]
    assert flow.run(config, "small.yaml", "count", lines.append).stages["count"]["state"] == "up to date"
    assert len(CountRows.logged) == 1  # what is up to date is not logged again
    # the stages behind it rest on it, and their workers get its folder
    parts = flow.plan(config).parts
    assert parts["train"].inputs == {"tokenize": parts["tokenize"].key, "count": parts["count"].key}
    assert parts["evaluate"].inputs == {name: parts[name].key for name in ("ingest", "tokenize", "count", "train")}
    assert flow.plan(config).before("train")["count"] == folder


def test_a_configuration_without_the_stage_keeps_its_keys(
    longer: None, small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = check_config(small_config(root=str(tmp_path), seed=1), "small")
    parts = flow.plan(config).parts
    assert list(parts) == ["ingest", "tokenize", "train", "evaluate"]
    assert parts["train"].inputs == {"tokenize": parts["tokenize"].key}
    assert parts["evaluate"].inputs == {name: parts[name].key for name in ("ingest", "tokenize", "train")}
    with pytest.raises(InputError, match="no stage count"):
        flow.run(config, "small.yaml", "count", lambda line: None)


def test_keys_rest_on_these_parts_alone(small_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    # a folder of an earlier version is found again only while these stay as they are
    parts = flow.plan(check_config(small_config(root=str(tmp_path)), "small")).parts
    assert {name: (part.code, sorted(part.config)) for name, part in parts.items() if name != "tokenize"} == {
        "ingest": (5, ["ingest", "seed", "task"]),  # 5: tables in parts
        "train": (5, ["judged", "model", "options", "seed", "task", "train"]),
        "evaluate": (10, ["evaluate", "seed"]),  # 10: macro F1 of every system that names classes
    }
    assert not {"workers", "gpus", "min_stall_s", "start_from"} & set(parts["train"].config["train"])

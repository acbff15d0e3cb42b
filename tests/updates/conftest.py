"""Configurations of every part of every network, ingested and tokenized once for each source."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, check_config
from pipeline.orchestration import flow
from tests.updates.sources import source_of

Made = Callable[..., tuple[Config, Path, Path]]

SIZES = {"embedding": 6, "hidden": 6, "layers": 2}
TRAIN = {
    "threads_per_worker": 1, "max_pairs_per_update": 8, "schedule": {"warmup_updates": 1}, "log_every_updates": 100,
    "checkpoint_every_updates": 100,
}  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """made(task, images, longest, **sections) -> a configuration, its ingested and its tokenized folder."""
    folder = tmp_path_factory.mktemp("updates")

    @functools.cache
    def prepare(task: str, images: str, longest: int) -> tuple[dict[str, Any], Path, Path]:
        data: dict[str, Any] = {
            "name": task,
            "root": str(folder / "runs"),
            "task": task,
            "ingest": {"source": source_of(task, folder, images, longest), "split": {"valid": 0.2, "test": 0.2}},
            "tokenize": {"min_count": 1},
            "model": {"directions": 1} if task == "language_model" else {},
            "captioning": {} if images == "pictures" else {"features": "given"},
            "tracking": {"system_metrics": False},
            "evaluate": {"bootstrap_samples": 5},
        }
        if images == "grids":
            data["captioning"]["inject"] = "attention"
        stages: dict[str, Any] = flow.run(check_config(data, "test"), "test", "tokenize", lambda line: None).stages
        return data, Path(stages["ingest"]["folder"]), Path(stages["tokenize"]["folder"])

    def make(
        task: str, images: str = "pictures", longest: int = 7, **sections: dict[str, Any]
    ) -> tuple[Config, Path, Path]:
        data, ingested, tokenized = prepare(task, images, longest)
        model = SIZES | data["model"] | sections.pop("model", {})
        train = TRAIN | sections.pop("train", {})
        whole = data | {"model": model, "train": train}
        for name, values in sections.items():
            whole[name] = {**data.get(name, {}), **values}
        return check_config(whole, "test"), ingested, tokenized

    return make

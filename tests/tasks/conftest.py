"""Every small task, ingested and tokenized once."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, check_config
from pipeline.orchestration import flow
from tests.tasks.examples import small

Prepared = tuple[Config, Path, Path]  # configuration, ingested folder, tokenized folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Prepared]:
    """prepared(task) -> its configuration and stage folders."""
    root = str(tmp_path_factory.mktemp("tasks") / "runs")

    @functools.cache
    def make(name: str) -> Prepared:
        config = check_config(small(name, root), "test")
        stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
        return config, Path(stages["ingest"]["folder"]), Path(stages["tokenize"]["folder"])

    return make

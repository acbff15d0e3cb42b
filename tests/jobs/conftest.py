"""What tests of jobs share: a fixed job, a fixed schedule, and files of expected text whose diff a reviewer reads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import schedule as schedules
from jobs.schedule import Schedule
from jobs.spec import JobSpec, check

GOLDEN = Path(__file__).parent.parent / "golden"
CONFIG = """\
ingest:
  source: {format: tsv, path: /data/faq/pairs.tsv}
train:
  epochs: 20
"""


@pytest.fixture
def job_spec() -> Callable[..., JobSpec]:
    """A job of a laptop's folder; arguments replace its settings."""

    def make(**settings: Any) -> JobSpec:
        return check({
            "id": "faq-20261124-020000-1a2b", "name": "faq", "config": "configs/faq.yaml", "config_text": CONFIG,
            "overrides": ["train.epochs=5"], "root": "/data/runs", "cwd": "/home/ann/duplet",
            "python": "/home/ann/duplet/.venv/bin/python", **settings,
        })  # fmt: skip

    return make


@pytest.fixture
def nightly(job_spec: Callable[..., JobSpec]) -> Callable[..., Schedule]:
    """A schedule of every night at two, made on a fixed day."""

    def make(job: dict[str, Any] | None = None, **settings: Any) -> Schedule:
        return schedules.check({
            "name": "faq", "cron": "0 2 * * *", "target": "cron", "zone": "Europe/Berlin",
            "created": "2026-11-20T12:00+01:00",
            "job": job_spec(**(job or {})).model_dump(mode="json"), **settings,
        })  # fmt: skip

    return make


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compares a text with a file of tests/golden; with DUPLET_WRITE_GOLDEN=1 writes it instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("DUPLET_WRITE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path} differs; DUPLET_WRITE_GOLDEN=1 writes it anew"

    return compare

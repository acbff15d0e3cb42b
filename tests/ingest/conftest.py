"""A small ingest in a temporary folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import SPLITS, check_config
from pipeline.ingest import stage


class Result:
    """What a run left behind."""

    def __init__(self, counts: dict[str, Any], folder: Path) -> None:
        self.counts, self.folder = counts, folder
        self.quarantine = [
            json.loads(line) for line in (folder / "quarantine.jsonl").read_text(encoding="utf-8").split("\n") if line
        ]

    def records(self, *splits: str) -> list[dict[str, Any]]:
        return [
            row
            for split in splits or SPLITS
            for row in pq.read_table(self.folder / f"records-{split}.parquet").to_pylist()
        ]

    def collection(self) -> dict[str, str]:
        rows = pq.read_table(self.folder / "collection.parquet").to_pylist()
        assert len({row["document_id"] for row in rows}) == len(rows)
        return {row["document_id"]: row["document"] for row in rows}


def assert_books_balance(counts: dict[str, Any]) -> None:
    """read = kept + quarantined + duplicates in every kind, and the parts add up."""
    kinds = [counts[kind] for kind in ("records", "documents", "queries", "lists") if kind in counts]
    for kind in kinds:
        assert kind["read"] == kind["kept"] + kind["quarantined"] + kind["duplicates"]
    assert sum(counts["records"]["splits"].values()) == counts["records"]["kept"]
    assert sum(counts["quarantine_reasons"].values()) == sum(kind["quarantined"] for kind in kinds)


def run_ingest(
    folder: Path,
    source: dict[str, Any],
    seed: int = 1,
    task: str = "matching",
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> Result:
    folder.mkdir(parents=True)
    given = {"name": "t", "seed": seed, "task": task, "ingest": {"source": source, **settings}, **(more or {})}
    if task == "language_model":
        given["model"] = {"directions": 1}
    config = check_config(given, "test")
    counts = stage.run(config, folder)
    assert_books_balance(counts)
    result = Result(counts, folder)
    assert len(result.quarantine) == sum(counts["quarantine_reasons"].values())
    assert len(result.records()) == counts["records"]["kept"]
    assert not list(folder.glob(".*")), "temporary files are left"
    return result


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., Result]:
    """ingest(source, seed=1, task="matching", **settings of `ingest`) -> Result."""
    runs = iter(range(1000))
    return lambda source, **settings: run_ingest(tmp_path / f"run{next(runs)}", source, **settings)


@pytest.fixture
def ingest_with(tmp_path: Path) -> Callable[..., Result]:
    """As `ingest`, with settings of other sections before the source."""
    runs = iter(range(1000))
    return lambda more, source, **settings: run_ingest(tmp_path / f"with{next(runs)}", source, more=more, **settings)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Writes a file and returns its path as text."""

    def _write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(path)

    return _write

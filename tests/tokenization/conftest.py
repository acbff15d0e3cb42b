"""What the tests of this folder share: records as ingest writes them, and a run of the stage over them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import SPLITS, Config, check_config
from pipeline.core.record_schema import collection_schema, schema
from pipeline.tokenization import stage

Pairs = list[tuple[str, str, str, str, float]]  # query id, query, document id, document, relevance


@pytest.fixture
def configuration() -> Callable[..., Config]:
    def make(**tokenize: Any) -> Config:
        return check_config({"name": "t", "ingest": {"source": {"format": "docstrings"}}, "tokenize": tokenize}, "test")

    return make


@pytest.fixture
def ingested(tmp_path: Path) -> Callable[..., Path]:
    """Writes the Parquet files of ingest's; splits not given are empty."""

    def write(collection: list[tuple[str, str]] | None = None, **splits: Pairs) -> Path:
        folder = tmp_path / "ingested"
        folder.mkdir(exist_ok=True)
        for split in SPLITS:
            rows = [
                {"id": f"{split}{i}", "query_id": qid, "query": query, "document_id": did, "document": document}
                | {"relevance": relevance, "metadata": "{}"}
                for i, (qid, query, did, document, relevance) in enumerate(splits.get(split, []))
            ]
            pq.write_table(
                pa.Table.from_pylist(rows, schema=schema(("query", "document"))), folder / f"records-{split}.parquet"
            )
        if collection is not None:
            rows = [{"document_id": key, "document": text} for key, text in collection]
            pq.write_table(pa.Table.from_pylist(rows, schema=collection_schema()), folder / "collection.parquet")
        return folder

    return write


@pytest.fixture
def tokenized(tmp_path: Path, configuration: Callable[..., Config]) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Runs the stage into a new folder; returns it and the counts."""
    made = iter(range(1000))

    def run(source: Path, workers: int = 1, **tokenize: Any) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / f"tokenized-{next(made)}"
        folder.mkdir()
        return folder, stage.run(configuration(**tokenize), source, folder, workers=workers)

    return run

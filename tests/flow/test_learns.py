"""A bidirectional network must solve what it can only solve when it is right."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import last_json

pytestmark = pytest.mark.learns


@pytest.mark.timeout(400)
def test_order_of_words_decides(duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Documents are their query reversed, and each set of words stands there in several orders.

    A bag of words (BM25 among them) cannot tell the orders apart; an encoder that reads them must.
    """
    rng = random.Random(1)
    rows = []
    for _ in range(220):
        words = rng.sample("abcdefghijklmnop", 4)
        for _ in range(4):
            rng.shuffle(words)
            rows.append(
                {"query": " ".join(words), "document": " ".join(reversed(words)), "set": "".join(sorted(words))}
            )
    source = tmp_path / "orders.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "orders",
        "root": str(tmp_path / "runs"),
        "ingest": {"source": {"format": "jsonl", "path": str(source), "columns": {"group": ["set"]}}},
        "tokenize": {"max_tokens": {"query": 4, "document": 4}, "min_count": 1},
        "model": {"embedding": 24, "hidden": 48, "layers": 1, "dropout": 0.0, "pooling": "last", "towers": "separate",
                  "head": "cosine"},
        "train": {
            "threads_per_worker": 1, "max_pairs_per_update": 64, "epochs": 30, "patience_validations": None,
            "log_every_updates": 50,
            "validate_every_updates": 100, "optimizer": {"learning_rate": 0.01}, "schedule": {"warmup_updates": 10},
        },
        "tracking": {"system_metrics": False, "send": "later"},
    }  # fmt: skip
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    assert metrics["test/bm25/recall@1"] < 0.4
    assert metrics["test/mrr@10"] > 0.9

"""Evaluation folders as the tasks leave them, without a training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation import judged
from pipeline.evaluation.judged import Classes, Judged
from pipeline.reporting.folder import Evaluation, load

Make = Callable[..., Path]


def ranking(size: int, quality: float, seed: int = 0, text: str = "query {}") -> Judged:
    """Reciprocal ranks of a model (better with `quality`) and of bm25, which does not depend on it."""
    noise = np.random.default_rng(seed).random(size)
    bm25 = np.random.default_rng(7).random(size)
    values = {
        ("model", "mrr@10"): np.clip(noise * 0.2 + quality, 0, 1),
        ("model", "map@100"): np.clip(noise * 0.3 + quality, 0, 1),
        ("bm25", "mrr@10"): bm25,
        ("bm25", "map@100"): bm25,
    }
    lengths = np.random.default_rng(3).integers(1, 30, size).astype(float)
    return Judged("queries", [f"q{i}" for i in range(size)], [text.format(i) for i in range(size)], None,
                  {"query length (tokens)": lengths}, values)  # fmt: skip


def with_fused(rows: Judged, fused: float) -> Judged:
    """A ranking's rows with a fused one, as good as this everywhere."""
    values = {("fused", metric): np.full(len(rows.ids), fused) for metric in ("mrr@10", "map@100")}
    return rows._replace(values=values | rows.values)


def grades(size: int, names: list[str]) -> Judged:
    """A classifier that is right about two times in three."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, len(names), size)
    probabilities = rng.dirichlet(np.ones(len(names)), size)
    probabilities[np.arange(size), labels] += 0.7
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    right = (probabilities.argmax(axis=1) == labels).astype(float)
    values = {("model", "accuracy"): right, ("majority", "accuracy"): (labels == 0).astype(float)}
    ids, texts, groups = ([f"{kind}{i // share:04}" for i in range(size)] for kind, share in zip("ptg", (1, 1, 3)))
    return Judged("pairs", ids, texts, groups, {}, values, {}, Classes(names, labels, probabilities, True))


def compared(rows: Judged, reference: str, samples: int = 200) -> dict[str, Any]:
    """The table of metrics.json that belongs to rows."""
    interval = lambda key: judged.intervals(rows, [key], samples, 1)[0]._asdict()
    systems: dict[str, Any] = {}
    for system in rows.systems:
        names = [metric for one, metric in rows.values if one == system]
        systems[system] = {"metrics": {metric: interval((system, metric)) for metric in names}, "difference": {}}
        if system != reference:
            systems[system]["difference"] = {
                metric: judged.difference((rows, (system, metric)), (rows, (reference, metric)), samples, 1)._asdict()
                for metric in names
            }
    return {"unit": rows.unit, "counted": len(rows.ids), "samples": samples, "reference": reference, "systems": systems}


@pytest.fixture
def evaluation(tmp_path: Path) -> Make:
    """Writes a folder: kinds of rows, and what its run.json says otherwise."""

    def make(name: str = "one", rows: dict[str, Judged] | None = None, title: str = "small", **record: Any) -> Path:
        rows = rows or {"ranking": ranking(60, 0.5)}
        folder = tmp_path / "runs" / "evaluate" / name
        folder.mkdir(parents=True)
        for kind, part in rows.items():
            judged.write(folder / f"judged-{kind}.parquet", part)
        tables = {kind: compared(part, part.systems[-1]) for kind, part in rows.items()}
        (folder / "metrics.json").write_text(json.dumps(tables))
        (folder / "run.json").write_text(json.dumps(run_record(name) | {"name": title} | record))
        return folder

    return make


def run_record(name: str) -> dict[str, Any]:
    """A run.json."""
    configuration = {
        "name": "small", "seed": 1, "model": {"layers": 2}, "train": {"metric": "mrr@10"}, "promote": {},
        "ingest": {"source": {"format": "jsonl", "path": "pairs.jsonl"}}, "evaluate": {"kinds": ["ranking"]},
    }  # fmt: skip
    stage = {"created": "2026-01-01T00:00:00Z", "seconds": 1.5, "counts": {"records": 3}, "sha256": {}}
    return {
        "format": 1, "name": "small", "command": "duplet run small.yaml", "made": "2026-01-01T00:00:00Z",
        "git_commit": "0123456789abcdef+", "versions": {"mxnet": "1.9.1"}, "configuration": configuration,
        "stages": {one: {"key": f"{name}-{one}", **stage} for one in ("ingest", "tokenize", "train")},
        "test_data": "d1", "judging": {"kinds": ["ranking"], "candidates": "collection", "depth": 100},
    }  # fmt: skip


@pytest.fixture
def loaded(evaluation: Make) -> Callable[..., Evaluation]:
    """As `evaluation`, read again."""
    return lambda *args, **kwargs: load(evaluation(*args, **kwargs))

"""`duplet run` on each configuration that needs no data but its own, cut down to a few updates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import last_json

CONFIGS = Path(__file__).parents[2] / "configs"
CODE = "ingest.source.max_records=400"
SMALLER = {
    "demo": ["ingest.source.max_pairs=300", "train.workers=1"],
    "classify_code": [CODE],
    "tag_code": [CODE],
    "cloze_prose": [CODE],
    "char_python": ["ingest.source.max_records=60"],
    "words_prose": [CODE],
    "numbers": ["ingest.source.count=600", "tokenize.vocabulary_size=120"],
    "scenes": ["ingest.source.count=300"],
    "scene_questions": ["ingest.source.count=300"],
}
FEW = ["train.max_updates=4", "train.schedule.warmup_updates=2", "evaluate.bootstrap_samples=20",
       "tracking.system_metrics=false", "tracking.max_wait_s=200"]  # fmt: skip


def test_each_embedded_source_has_its_row_here() -> None:
    without = {path.stem for path in CONFIGS.glob("*.yaml") if "DUPLET_DATA" not in path.read_text()}
    # bench: the demo's source, in the benchmarks' sizes; search_engine: files that a benchmark makes up first
    assert without - {"bench", "search_engine"} == SMALLER.keys()


@pytest.mark.parametrize("name", SMALLER)
def test_it_is_trained_judged_and_tracked(
    name: str, duplet: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "embedded"  # one for all: MLflow's database is made once
    done = duplet("run", CONFIGS / f"{name}.yaml", *SMALLER[name], *FEW, f"root={root}", "--json")
    found = last_json(done)
    assert [stage["state"] for stage in found["stages"].values()] == ["ran"] * 4, found["stages"]
    assert any(metric.startswith("test/") for metric in found["metrics"])
    assert len(found["run_id"]) == 32 and "not all of this run is in MLflow" not in done.stderr

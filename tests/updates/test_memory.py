"""What training needs by the estimate, beside the peak that a process of its own was measured at, whole or in parts."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config, memory
from pipeline.core.errors import InputError
from pipeline.orchestration import flow, model_stages
from tests.workers.by_workers import run_by

pytestmark = pytest.mark.workers
FACTOR = 2.0  # within which estimate and measurement are
PAIRS, PARTS = 64, 4
WIDE = {"embedding": 64, "hidden": 128, "layers": 2}
MATCHING = {"task": "matching", "tokenize": {"max_tokens": {"query": 16, "document": 96}}}
CASES: dict[str, dict[str, Any]] = {
    "cosine": {**MATCHING, "model": {**WIDE, "head": "cosine"}},
    "late interaction": {**MATCHING, "model": {**WIDE, "head": "late_interaction"}},
    "cross attention": {**MATCHING, "model": {**WIDE, "head": "cross_attention"},
                        "train": {"loss": {"kind": "pointwise"}}, "evaluate": {"kinds": ["graded"]}},
    "gru, separate": {**MATCHING, "model": {**WIDE, "cell": "gru", "towers": "separate", "head": "dot"}},
    "classification": {"task": "classification", "tokenize": {"max_tokens": {"text": 96}}, "model": WIDE},
    "translation": {"task": "translation", "tokenize": {"max_tokens": {"source": 40, "target": 40}}, "model": WIDE},
    "language model": {"task": "language_model", "language_model": {"streams": 64, "steps": 60},
                       "model": {**WIDE, "directions": 1}},
}  # fmt: skip


def rows_of(task: str) -> list[dict[str, Any]]:
    """Texts as long as the limits, of 2,000 words."""
    rng = np.random.default_rng(0)
    draw = lambda count: " ".join(f"w{i}" for i in rng.integers(0, 2000, count))
    count = range(3 * PAIRS)
    if task == "matching":
        return [{"query": draw(16), "document": draw(96)} for _ in count]
    if task == "classification":
        return [{"text": draw(96), "label": "ab"[i % 2]} for i in count]
    if task == "translation":
        return [{"source": draw(39), "target": draw(39)} for _ in count]
    return [{"text": draw(96)} for _ in count]


def data_of(name: str, folder: Path, parts: int = 1) -> dict[str, Any]:
    case = CASES[name]
    (folder / f"{case['task']}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(case["task"])))
    source = {"format": "jsonl", "path": str(folder / f"{case['task']}.jsonl")}
    tokenize = {"kind": "whitespace", "min_count": 1, **case.get("tokenize", {})}
    return {
        "name": "test", "root": str(folder / "runs"),
        "ingest": {"source": source, "split": {"valid": 0.1, "test": 0.1}},
        **case, "tokenize": tokenize,
        "train": {**case.get("train", {}), "max_pairs_per_update": PAIRS, "accumulate": parts, "threads_per_worker": 1},
        "tracking": {"system_metrics": False, "send": "later"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[int, int]]:
    """measured(case, parts) -> bytes as estimated and as measured, without what a process needs that does nothing."""
    folder = tmp_path_factory.mktemp("memory")

    @functools.cache
    def measure(name: str, parts: int) -> tuple[int, int]:
        config = check_config(data := data_of(name, folder, parts), "test")
        stages = flow.run(config, "test", "tokenize", lambda line: None).stages
        tokenized = Path(stages["tokenize"]["folder"])
        done = run_by(1, Path(__file__).with_name("peak_memory.py"), json.dumps(data), str(tokenized))
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert config.task == "language_model" or found["pairs"] >= PAIRS // 2
        return memory.need(config, model_stages.vocabulary_of(tokenized)).total - memory.PROCESS, found["grew"]

    return measure


@pytest.mark.parametrize("parts", [1, PARTS])
@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_near_what_is_measured(
    name: str, parts: int, measured: Callable[[str, int], tuple[int, int]]
) -> None:
    estimate, peak = measured(name, parts)
    assert peak / FACTOR < estimate < peak * FACTOR, f"estimated {estimate:,}, measured {peak:,}"


@pytest.mark.parametrize("name", CASES)
def test_parts_need_less_memory_than_the_whole(name: str, measured: Callable[[str, int], tuple[int, int]]) -> None:
    whole, parts = (measured(name, count)[1] for count in (1, PARTS))
    assert parts < 0.6 * whole, f"{parts:,} in {PARTS} parts, {whole:,} whole"


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        (
            {"train": {"max_tokens_per_update": 10**8, "max_pairs_per_update": 10**6}},
            "train.max_tokens_per_update=100000000",
        ),
        ({"model": {"hidden": 10**5}}, "model.hidden=100000"),
        ({"train": {"workers": 32}}, "train.workers=32"),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_before_anything_starts(
    change: dict[str, Any], setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of("cosine", tmp_path)
    config = check_config(data | {section: {**data[section], **values} for section, values in change.items()}, "test")
    monkeypatch.setattr(model_stages.machine, "memory_bytes", lambda: 2 * 2**30)
    with pytest.raises(InputError) as refused:
        flow.run(config, "test", "train", lambda line: None)
    assert f"lower {setting}" in str(refused.value)
    assert f"this host has {2 * 2**30:,} (2.0 GiB)" in str(refused.value)
    assert not list((tmp_path / "runs").glob("ingest/*/manifest.json"))
    monkeypatch.setenv("DUPLET_LAUNCHER", "srun")  # the workers' hosts are others
    model_stages.check_memory(config, tmp_path)


def test_gpus_memory_is_what_counts_on_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of("cosine", tmp_path)
    data["train"] |= {"max_tokens_per_update": 10**7, "max_pairs_per_update": 10**5, "gpus": True}
    config = check_config(data, "test")
    monkeypatch.setattr(model_stages.machine, "memory_bytes", lambda: 2**20)
    for card, refused in ((16 * 2**30, True), (2**50, False), (None, False)):
        monkeypatch.setattr(model_stages.machine, "card_bytes", lambda card=card: card)
        if refused:
            with pytest.raises(InputError, match=r"a GPU of this host has .*or raise train\.accumulate=1"):
                model_stages.check_memory(config, tmp_path)
        else:
            model_stages.check_memory(config, tmp_path)

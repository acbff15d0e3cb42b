"""ONNX Runtime on real splits: it judges a task's model as the task's own validation does, and measures eight bits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipeline.config import Config, task_specs
from pipeline.config.plugins import part
from pipeline.distributed.world import World
from pipeline.ingest import pictures as images
from pipeline.serving.export import onnx_export
from pipeline.serving.onnx import graph_cache
from pipeline.tokenization.encoder import forms
from tests.serving.task_models import finish

TASKS = [name for name, task in task_specs().items() if task.onnx and name != "matching"]


def judged(config: Config, *where: Any) -> dict[str, float]:
    """The task's own way of judging by ONNX Runtime."""
    assert config.spec.onnx is not None
    found: dict[str, float] = part(config.spec.onnx.judge)(config, *where)
    return found


@pytest.fixture(scope="module")
def trained(prepared: Callable[..., Any]) -> Callable[[str], Any]:
    """A task's folder beside the data it would have been trained on, random parameters in it."""

    def make(name: str) -> Any:
        config, _, tokenized = prepared(name)
        folder = tokenized.parent.parent / "train" / name
        if folder.exists():
            shutil.rmtree(folder)
        for vocabulary in forms(config):
            (folder / vocabulary).mkdir(parents=True, exist_ok=True)
            for file in ("vocabulary.json", "tokenizer.json", "sentencepiece.model"):
                if (tokenized / vocabulary / file).exists():
                    shutil.copy(tokenized / vocabulary / file, folder / vocabulary)
        if (tokenized / images.SHAPE).exists():
            shutil.copy(tokenized / images.SHAPE, folder)
        scale = 1.0 if name == "visual_question" else 3.0  # attention over an image's places saturates soonest
        task, network = finish(folder, config, tokenized.name, scale)
        task.folder = tokenized
        vars(task).pop("images", None)  # which the network's shape was asked of
        return config, folder, tokenized, task, network

    return make


@pytest.mark.parametrize("name", TASKS)
def test_judged_as_by_validation(name: str, trained: Callable[[str], Any]) -> None:
    config, folder, tokenized, task, network = trained(name)
    found = judged(config, folder, graph_cache.ensure_graphs(folder), tokenized, "valid")
    wanted = task.validate(network, World())
    assert found.keys() <= wanted.keys()
    assert set(config.metrics) & found.keys() == set(config.metrics) & wanted.keys()
    for metric, value in found.items():
        assert value == pytest.approx(wanted[metric], rel=1e-4, abs=1e-6), metric
    assert 0 < found["nats" if "nats" in found else config.train.metric] < 40


@pytest.mark.parametrize("name", TASKS)
def test_eight_bits_are_measured(name: str, trained: Callable[[str], Any], tmp_path: Path) -> None:
    config, folder, tokenized, *_ = trained(name)
    made = onnx_export.export(folder, tmp_path / "out", True, lambda _: None)
    cost = made["int8_cost"]
    assert cost["measured"]
    assert cost["metric"] == config.train.metric
    for kind, graphs in (("fp32", graph_cache.ensure_graphs(folder)), ("int8", tmp_path / "out")):
        assert cost[kind] == judged(config, folder, graphs, tokenized, "valid")
    graphs = (onnx.load(path).graph for path in (tmp_path / "out").glob("*.onnx"))
    assert "DynamicQuantizeLSTM" in {node.op_type for graph in graphs for node in graph.node}
    before, after = cost["fp32"][config.train.metric], cost["int8"][config.train.metric]
    worse = after - before if config.train.metric == "nats" else before - after
    assert cost["loss"] == pytest.approx(worse / before if before else 0, abs=1e-5)
    assert json.loads((tmp_path / "out" / "card.json").read_text())["int8_cost"] == cost
    assert "Eight bits change" in (tmp_path / "out" / "README.md").read_text()

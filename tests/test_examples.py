"""The examples of docs/examples run as they stand. (The package with a task and a source: tests/plugins.)"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.serving.export import onnx_export
from pipeline.serving.loading import open_predictor
from tests.serving.task_models import config_of, write_task

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
BLOCK = "import sys; sys.modules['pipeline'] = sys.modules['mxnet'] = None\n"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_minimal_matcher_learns_the_order_of_words() -> None:
    assert len((EXAMPLES / "minimal_matching.py").read_text().splitlines()) <= 110
    # documents come in twos with the same words: for a bag of words their scores are equal, which gives 0.5
    assert loaded("minimal_matching").main() > 0.9


def test_a_graph_is_used_without_duplet(tmp_path: Path) -> None:
    write_task(tmp_path / "trained", config_of("classification"))
    onnx_export.export(tmp_path / "trained", tmp_path / "out", False, lambda line: None)
    texts = ["a sort b", "zebra", "", "List LIST aB c, d", "a b c d a b c d a b c d"]
    command = [sys.executable, "-P", "-c", BLOCK + (EXAMPLES / "onnx_without_duplet.py").read_text()]
    done = subprocess.run([*command, str(tmp_path / "out"), *texts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line.split("\t") for line in done.stdout.splitlines()]
    wanted = open_predictor(tmp_path / "out").predict([{"review": text or "?"} for text in texts])
    for (label, probability, _), answer in zip(said, wanted):
        assert label == answer["label"]
        assert float(probability) == pytest.approx(answer["probabilities"][label], abs=1e-4)

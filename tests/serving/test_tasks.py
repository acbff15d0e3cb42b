"""The other tasks' folders as a person uses them: predicted, exported, measured in eight bits; bad rows put aside."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pipeline.cli import main
from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.ingest.rows import BadRow
from pipeline.serving import fetching
from pipeline.serving.export import onnx_export
from pipeline.serving.loading import open_predictor
from pipeline.serving.onnx import graph_cache
from tests.conftest import last_json
from tests.serving.task_models import LABELS, WORDS, config_of, rows_of, write_task

TEXTS = ["a b c", "sort", "list zzz d e"]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "train" / "classifier"
    write_task(folder, config_of("classification"))
    return folder


def test_the_graph_alone_gives_what_is_predicted(classifier: Path, tmp_path: Path) -> None:
    predictor = open_predictor(classifier)
    assert predictor.fields == ("review",)
    found = predictor.predict([{"review": text} for text in TEXTS])
    assert found == predictor.predict([{"text": text} for text in TEXTS])
    onnx_export.export(classifier, tmp_path / "out", False, lambda _: None)
    assert fetching.fetch(str(tmp_path / "out"), tmp_path, None)
    assert open_predictor(tmp_path / "out").predict([{"text": text} for text in TEXTS]) == found
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "classifier.onnx"))
    ids = np.zeros((3, 4), np.int32)
    known = {word: i + 2 for i, word in enumerate(WORDS)}
    for line, text in zip(ids, TEXTS):
        line[: len(text.split())] = [known.get(word, 1) for word in text.split()]
    (chances,) = session.run(None, {"ids": ids, "lengths": np.array([3, 1, 4], np.int32)})
    for row, wanted in zip(found, chances):
        assert row["label"] == LABELS[int(wanted.argmax())]
        np.testing.assert_allclose([row["probabilities"][name] for name in LABELS], wanted, atol=1e-4)


def test_a_file_of_texts_gets_labels(classifier: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,review\n1,a b c\n2,\n3,sort list\n")
    output = tmp_path / "out.jsonl"
    command = ["predict", str(classifier), "--input", str(source), "--output", str(output), "--json"]
    done = last_json(subprocess.run([sys.executable, "-m", "pipeline.cli", *command], capture_output=True, text=True))
    assert (done["predicted"], done["refused"]) == (2, 1)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "3"]
    assert {row["label"] for row in rows} <= set(LABELS)


def test_bad_rows_are_told_apart(classifier: Path) -> None:
    predictor = open_predictor(classifier)
    with pytest.raises(BadRow, match="review"):
        predictor.check({"title": "x"})
    with pytest.raises(InputError, match="row 2"):
        predictor.predict([{"review": "a"}, {"review": ["a"]}])


@pytest.mark.parametrize("task", ("classification", "tagging", "cloze", "translation", "captioning", "visual_question"))
def test_an_exported_folder_predicts_without_mxnet(task: str, tmp_path: Path) -> None:
    options = {"tagging": {"characters": True, "crf": True}} if task == "tagging" else {}
    write_task(tmp_path / "trained", config_of(task, **options))
    onnx_export.export(tmp_path / "trained", tmp_path / "out", False, lambda _: None)
    rows = rows_of(task, TEXTS)
    code = f"""
import json, sys
from pathlib import Path
from pipeline.serving.loading import open_predictor
print(json.dumps(open_predictor(Path({str(tmp_path / "out")!r})).predict({rows!r})))
assert not {{"mxnet", "gluonnlp", "horovod", "mlflow"}} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == open_predictor(tmp_path / "trained", "onnx").predict(rows)
    assert f"A {task} model" in (tmp_path / "out" / "README.md").read_text()


def test_a_text_without_a_blank_is_put_aside(tmp_path: Path) -> None:
    write_task(tmp_path / "m", config_of("cloze"))
    predictor = open_predictor(tmp_path / "m")
    predictor.check({"passage": "a ___"})
    with pytest.raises(BadRow, match="write ___ where a word is out"):
        predictor.check({"passage": "a b"})


def test_what_predicts_on_mxnet_alone_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "m", config_of("language_model"))
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": "a b sort"}) + "\n")
    command = ["predict", str(tmp_path / "m"), "--input", str(source), "--output", str(tmp_path / "out.jsonl")]
    assert main.main([*command, "--backend", "onnx"]) == 2
    assert "predict on MXNet alone" in capsys.readouterr().err
    assert main.main(command) == 0
    assert "models of the task language_model predict on MXNet alone" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.jsonl").read_text())["tokens"] == 3


def test_what_has_no_export_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of another package may have none."""
    config = config_of("cloze")
    without = dataclasses.replace(config.spec, onnx=None)
    monkeypatch.setattr(Config, "spec", property(lambda self: without))
    with pytest.raises(InputError, match="cloze have no ONNX export"):
        graph_cache.check(config, False)


def test_parameters_of_another_training_are_one_sentence(classifier: Path) -> None:
    arrays = dict(np.load(classifier / "parameters.npz"))
    del arrays["output.weight"]
    np.savez(classifier / "parameters.npz", **arrays)
    with pytest.raises(InputError, match=r"parameters.npz has no output.weight"):
        open_predictor(classifier, "onnx")

"""A classifier's folder: predicted by its task on MXNet, exported to ONNX, alike; bad rows put aside."""

import json
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import onnxruntime
import pytest

from pipeline import manifest
from pipeline.config import check_config
from pipeline.errors import InputError
from pipeline.ingest.rows import BadRow
from pipeline.manifest import KeyParts
from pipeline.models.classifier import Classifier
from pipeline.serving import models, onnx_export
from pipeline.serving.predictor import open_predictor
from tests.conftest import last_json
from tests.serving.conftest import WORDS
from tests.serving.networks import SMALL, VOCABULARY, randomise

LABELS = ["bad", "good", "so-so"]
TEXTS = ["a b c", "sort", "list zzz d e"]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "train" / "classifier"
    (folder / "label").mkdir(parents=True)
    source = {"format": "jsonl", "path": "reviews.jsonl", "columns": {"text": "review", "label": "stars"}}
    config = check_config(
        {"name": "reviews", "task": "classification", "ingest": {"source": source}, "model": SMALL | {"layers": 2}},
        "test",
    )
    network = Classifier(config.model, VOCABULARY, len(LABELS), prefix="classifier_")
    network.initialize(ctx=mx.cpu())
    np.savez(folder / "parameters.npz", **randomise(network, 1))
    (folder / "config.json").write_text(config.model_dump_json())
    for place, tokens in ((folder, WORDS), (folder / "label", LABELS)):
        ids = {token: i for i, token in enumerate(["<pad>", "<unk>", *tokens])}
        (place / "vocabulary.json").write_text(json.dumps({"token_to_idx": ids}))
    settings = {"kind": "word", "lowercase": True, "max_tokens": {"text": 9}}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    manifest.write(folder, "train", KeyParts(1, {}, {"tokenize": "none"}, {}), {"updates": 1}, 0.0)
    return folder


def test_predicted_by_the_task_and_by_onnx_alike(classifier: Path, tmp_path: Path) -> None:
    predictor = open_predictor(classifier)
    assert predictor.fields == ("review",)
    found = predictor.predict([{"review": text} for text in TEXTS])
    assert found == predictor.predict([{"text": text} for text in TEXTS])
    onnx_export.export(classifier, tmp_path / "out", False, lambda _: None)
    assert models.fetch(str(tmp_path / "out"), tmp_path, None)
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

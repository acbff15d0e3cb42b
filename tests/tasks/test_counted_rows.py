"""An evaluation counts the rows of the test file: beside sacreBLEU, scikit-learn and seqeval on the file's own rows."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np
import pytest
from sacrebleu.metrics import CHRF
from seqeval.metrics import f1_score as span_f1_score
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from pipeline.config import check_config
from pipeline.distributed.world import World
from pipeline.evaluation import judged
from pipeline.ingest import stage as ingest
from pipeline.reporting import page
from pipeline.reporting.system_comparison import comparison
from pipeline.tasks.base import task_of
from pipeline.tokenization import stage as tokenize
from tests.networks import fresh


class Evaluated(NamedTuple):
    metrics: dict[str, float]
    valid: dict[str, float]
    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Of predictions.jsonl."""
        return [json.loads(line) for line in (self.folder / "predictions.jsonl").read_text().splitlines()]


def evaluated(tmp_path: Path, task: str, source: dict[str, Any], **settings: Any) -> Evaluated:
    """What an untrained network's evaluation says."""
    data = {
        "name": "t", "task": task, "ingest": {"source": source}, "tokenize": {"min_count": 1},
        "model": {"embedding": 8, "hidden": 8}, "evaluate": {"bootstrap_samples": 100}, **settings,
    }  # fmt: skip
    config = check_config(data, "test")
    ingested, tokenized, folder = (tmp_path / name for name in ("ingested", "tokenized", "evaluated"))
    for made in (ingested, tokenized, folder):
        made.mkdir()
    ingest.run(config, ingested)
    tokenize.run(config, ingested, tokenized)
    one, world = task_of(config, tokenized), World()
    network = fresh(one, init=mx.init.Uniform(0.5))
    found = one.evaluate(network, world, ingested, folder)
    return Evaluated(found, one.validate(network, world), folder)


def test_a_line_of_a_translation_is_a_segment(tmp_path: Path) -> None:
    sources, references = ["yes now"] * 3 + ["no way sir"], ["yes now", "ja jetzt", "ja jetzt", "nein"]
    texts = {"a": [f"w{i % 5} x{i}" for i in range(20)], "b": [f"v{i % 5} y{i}" for i in range(20)]}
    for name, lines in (texts | {"ta": sources, "tb": references}).items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    place = lambda a, b: {"source": str(tmp_path / a), "target": str(tmp_path / b)}
    files = {"train": place("a", "b"), "valid": place("ta", "tb"), "test": place("ta", "tb")}
    found = evaluated(tmp_path, "translation", {"format": "lines", "paths": files})
    judge = CHRF(lowercase=True)
    assert found.metrics["test/copy/chrf"] == pytest.approx(judge.corpus_score(sources, [references]).score)
    assert round(found.metrics["test/copy/chrf"], 2) == 27.26
    assert found.metrics["test/copy/exact"] == 0.25
    written = [line["target"] for line in found.lines]
    assert [line["source"] for line in found.lines] == sources and len(set(written[:3])) == 1
    assert [line["references"] for line in found.lines] == [[one] for one in references]
    assert found.metrics["test/chrf"] == pytest.approx(judge.corpus_score(written, [references]).score)
    compared = json.loads((found.folder / "metrics.json").read_text())
    assert {kind: one["counted"] for kind, one in compared.items()} == {"corpus": 4, "sentences": 4}
    for system in compared["corpus"]["systems"].values():
        for interval in system["metrics"].values():
            assert 0 <= interval["low"] <= interval["high"] <= 100
    assert len(set(judged.read(found.folder / "judged-sentences.parquet").ids)) == 4


def labelled(tmp_path: Path) -> tuple[dict[str, Any], list[str]]:
    """A source whose test has two labels that training lacks, and repeated rows; and the test's labels."""
    train = [(f"good fine {i}", "a") if i % 2 else (f"bad poor {i}", "b") for i in range(20)]
    test = [("good fine", "a"), ("bad poor", "b"), ("odd", "c"), ("odd", "c"), ("sad", "d")] * 4
    paths = {}
    for name, rows in (("train", train), ("valid", test), ("test", test)):
        paths[name] = str(tmp_path / f"{name}.csv")
        Path(paths[name]).write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return {"format": "csv", "paths": paths}, [label for _, label in test]


def test_labels_that_training_lacks_are_classes_of_their_own(tmp_path: Path) -> None:
    source, labels = labelled(tmp_path)
    found = evaluated(tmp_path, "classification", source)
    said = [line["label"] for line in found.lines]
    assert [line["given"] for line in found.lines] == labels
    accuracy, macro = accuracy_score(labels, said), f1_score(labels, said, average="macro", zero_division=0)
    assert 0 < macro < accuracy
    assert (found.metrics["test/accuracy"], found.metrics["test/macro_f1"]) == pytest.approx((accuracy, macro))
    assert (found.valid["accuracy"], found.valid["macro_f1"]) == pytest.approx((accuracy, macro))
    rows = judged.read(found.folder / "judged-classes.parquet")
    assert rows.classes is not None and rows.classes.names == ["a", "b", "c", "d"]
    counts = page.confusion(rows.classes)
    assert counts["counts"] == confusion_matrix(labels, said, labels=counts["names"]).tolist()
    systems = comparison(rows, "naive_bayes", 50, 1)["systems"]
    assert systems["model"]["metrics"]["macro_f1"]["mean"] == macro
    assert all(
        0 <= one["metrics"]["macro_f1"]["mean"] <= one["metrics"]["accuracy"]["mean"] for one in systems.values()
    )


def test_an_older_evaluation_with_such_labels_can_still_be_shown(tmp_path: Path) -> None:
    classes = judged.Classes(["a", "b"], np.array([0, -1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    values = {("model", "accuracy"): np.array([1.0, 0.0, 1.0])}
    rows = judged.Judged("texts", ["1", "2", "3"], ["x", "y", "z"], None, {}, values, classes=classes)
    judged.write(tmp_path / "judged.parquet", rows)
    read = judged.read(tmp_path / "judged.parquet").classes
    assert read is not None
    counts = page.confusion(read)
    assert counts["names"] == ["a", "b", "(not in training)"] and counts["counts"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_spans_of_tags_that_training_lacks_are_spans_not_found(tmp_path: Path) -> None:
    train = [("w1 w2 w3", "B-A I-A O")] * 12
    test = [("w1 w2 w3", "B-A I-A O"), ("w1 w2 w3", "B-NEW I-NEW O"), ("w1 w2 w3", "B-A I-A O")]
    paths = {}
    for name, rows in (("train", train), ("valid", test), ("test", test)):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps({"text": a, "tags": b}) + "\n" for a, b in rows))
    found = evaluated(tmp_path, "tagging", {"format": "jsonl", "paths": paths})
    given, said = [tags.split() for _, tags in test], [line["tags"] for line in found.lines]
    assert [line["given"] for line in found.lines] == given
    assert found.metrics["test/span_f1"] == pytest.approx(float(span_f1_score(given, said, zero_division=0)))
    assert found.valid["span_f1"] == pytest.approx(found.metrics["test/span_f1"])
    right = [a == b for one, other in zip(given, said) for a, b in zip(one, other)]
    assert found.metrics["test/accuracy"] == pytest.approx(np.mean(right))


def test_words_past_the_limit_are_words_without_their_tag(tmp_path: Path) -> None:
    train = [("w1 w2 w3", "B-A I-A O")] * 12
    test = [("w1 w2 w3 w1 w2", "B-A I-A O B-A I-A"), ("w1 w2 w3", "B-A I-A O")]
    paths = {}
    for name, rows in (("train", train), ("valid", test), ("test", test)):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps({"text": a, "tags": b}) + "\n" for a, b in rows))
    limit = {"tokenize": {"min_count": 1, "max_tokens": {"text": 3}}}
    found = evaluated(tmp_path, "tagging", {"format": "jsonl", "paths": paths}, **limit)
    given, said = [tags.split() for _, tags in test], [line["tags"] for line in found.lines]
    assert [len(tags) for tags in said] == [5, 3] and said[0][3:] == ["", ""]
    assert [(line["words"], line["given"]) for line in found.lines] == [(a.split(), b.split()) for a, b in test]
    right = [a == b for one, other in zip(given, said) for a, b in zip(one, other)]
    assert found.metrics["test/accuracy"] == pytest.approx(sum(right) / 8)
    filled = [[tag or "O" for tag in tags] for tags in said]
    assert found.metrics["test/span_f1"] == pytest.approx(float(span_f1_score(given, filled, zero_division=0)))
    # each word's most frequent tag in training, of the three words that are read
    assert found.metrics["test/word_tags/accuracy"] == pytest.approx(6 / 8)

"""`duplet vectors`: words that no labelled text has, known by the company they keep, or by an encoder."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.orchestration import word_vectors
from pipeline.tokenization import word_vectors as files
from tests.conftest import last_json
from tests.tasks.teachers import WIDTH, vectors_of
from tests.tasks.test_onnx_teacher import WORDS, folder_of

Duplet = Callable[..., subprocess.CompletedProcess[str]]
KINDS = ("a", "b")
LABELLED, ALL = range(6), range(20)  # of each kind's words: those of train and valid, and all


def sentence(draw: random.Random, kind: str, numbers: range) -> str:
    return " ".join([*(f"{kind}{draw.choice(numbers)}" for _ in range(4)), f"filler{draw.randrange(10)}"])


def written(tmp_path: Path) -> dict[str, Any]:
    """Labelled sentences of two kinds of words; those of test stand in further texts alone."""
    draw = random.Random(1)
    seen, unseen = LABELLED, range(len(LABELLED), len(ALL))
    for split, numbers, count in (("train", seen, 160), ("valid", seen, 40), ("test", unseen, 80)):
        rows = [{"text": sentence(draw, kind, numbers), "label": kind} for _ in range(count // 2) for kind in KINDS]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [sentence(draw, kind, ALL) for _ in range(600) for kind in KINDS]
    (tmp_path / "further.txt").write_text("\n".join(lines) + "\n")
    paths = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "valid", "test")}
    return {
        "name": "kinds", "task": "classification", "root": str(tmp_path / "runs"),
        "ingest": {"source": {"format": "jsonl", "paths": paths}},
        "tokenize": {"kind": "whitespace", "min_count": 1},
        "model": {"embedding": 16, "hidden": 12, "dropout": 0.0},
        "train": {"epochs": 20, "threads_per_worker": 1, "join_naive_bayes": False, "max_pairs_per_update": 16,
                  "optimizer": {"learning_rate": 0.01}},
        "tracking": {"send": "later"},
    }  # fmt: skip


@pytest.mark.learns
def test_words_without_labels_are_known_by_the_company_they_keep(tmp_path: Path, duplet: Duplet) -> None:
    config, vectors = written(tmp_path), tmp_path / "words.vec"
    done = duplet("vectors", config, "--output", str(vectors), "--texts", str(tmp_path / "further.txt"), "--epochs",
                  "20", "--json")  # fmt: skip
    assert last_json(done) == {"output": str(vectors), "words": 50, "size": 16}
    assert f"model.vectors={vectors} tokenize.more_words={vectors} model.embedding=16" in done.stderr
    told = [f"tokenize.more_words={vectors}", f"model.vectors={vectors}", "model.vectors_tuned_after=null"]
    found = last_json(duplet("run", config, *told, "--json"))["metrics"]
    assert found["test/accuracy"] > 0.9
    of_none = last_json(duplet("run", config, told[0], "--json"))["metrics"]  # the same words, with random vectors
    assert of_none["test/accuracy"] < 0.75


def test_equal_seeds_give_equal_vectors_and_a_word_once_per_text_counts(tmp_path: Path, duplet: Duplet) -> None:
    config, texts = written(tmp_path), str(tmp_path / "further.txt")
    made = []
    for name, more in (("first", []), ("again", []), ("other", ["seed=2"])):
        path = tmp_path / f"{name}.vec"
        last_json(
            duplet("vectors", config, *more, "--output", str(path), "--texts", texts, texts, "--size", "5", "--json")
        )
        made.append(path.read_bytes())
    assert made[0] == made[1] != made[2]
    sentences = [["w", "x"], ["w", "y"]]
    words, vectors = word_vectors.of_contexts(sentences, 4, 2, 2, 1)  # type: ignore[arg-type]
    assert words == ["w"] and vectors.shape == (1, 4)


def test_a_long_text_is_read_to_its_end_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, tokens = check_config(written(tmp_path), "test"), [f"w{i}" for i in range(25_000)]
    (tmp_path / "further.txt").write_text(" ".join(tokens) + "\nshort one\n\n" + " ".join(tokens) + "\n")
    monkeypatch.setattr(word_vectors, "load_tokenizer", lambda folder: SimpleNamespace(tokens=str.split))
    rows = pa.table({name: pa.array([], pa.string()) for name in config.spec.fields})
    pq.write_table(rows, tmp_path / "records-train.parquet")
    found = list(word_vectors.Sentences(config, tmp_path, tmp_path, [tmp_path / "further.txt"]))
    assert [len(sentence) for sentence in found] == [10_000, 10_000, 5_000, 2]
    assert [token for sentence in found for token in sentence] == [*tokens, "short", "one"]


def test_an_encoder_reads_each_word(tmp_path: Path, duplet: Duplet) -> None:
    rows = [{"query": f"w{i} w{i + 1}", "document": f"w{i} new{i}"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "t", "root": str(tmp_path / "runs"), "tracking": {"send": "later"},
        "tokenize": {"kind": "whitespace", "min_count": 1},
        "ingest": {"source": {"format": "jsonl", "path": str(tmp_path / "pairs.jsonl")}},
    }  # fmt: skip
    encoder = folder_of(tmp_path / "encoder", [*WORDS, "further", "[odd]"])
    path = tmp_path / "words.vec"
    done = duplet("vectors", config, "--output", str(path), "--onnx", str(encoder), "--size", str(WIDTH), "--json")
    assert last_json(done)["size"] == WIDTH
    found = dict(files.entries(path))
    assert {"w1", "further", "new1"} <= found.keys()
    assert "[odd]" not in found and "query:" not in found
    known = [word for word in found if word in WORDS or word == "further"]
    expected = vectors_of(known).astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    got = np.stack([found[word] for word in known]).astype(np.float64)
    distances = lambda points: np.linalg.norm(points[:, None] - points[None], axis=2)
    ratio = distances(got)[~np.eye(len(known), dtype=bool)] / distances(expected)[~np.eye(len(known), dtype=bool)]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)  # all components: turned and scaled, nothing else
    assert abs(np.stack(list(found.values())).std() - word_vectors.SPREAD) < 0.01


def test_fewer_numbers_are_the_principal_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flat:
        """Vectors that differ along two axes alone."""

        def __init__(self, *_: object) -> None:
            self._axes = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0][:2]

        def words(self) -> list[str]:
            return [f"w{i}" for i in range(50)]

        def vectors(self, side: str, words: list[str]) -> np.ndarray:
            angle = np.arange(len(words)) * 0.1
            return np.stack([np.cos(angle), np.sin(angle)], axis=1) @ self._axes

    monkeypatch.setattr(word_vectors, "OnnxTeacher", Flat)
    monkeypatch.setattr(word_vectors, "load_vocabulary", lambda folder: {"<pad>": 0, "<unk>": 1, "w3": 2})
    words, vectors = word_vectors.of_encoder(tmp_path, tmp_path, 2)
    assert words == ["w3", *(f"w{i}" for i in range(50) if i != 3)]
    neighbours = np.linalg.norm(np.diff(vectors[4:], axis=0), axis=1)
    np.testing.assert_allclose(neighbours, neighbours.mean(), rtol=1e-3)  # the circle is whole in two numbers
    with pytest.raises(InputError, match="--size 9 is more than the 8 numbers of a vector"):
        word_vectors.of_encoder(tmp_path, tmp_path, 9)


def test_what_cannot_give_vectors_is_a_sentence(
    tmp_path: Path, duplet: Duplet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = written(tmp_path)
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\n")
    for more, told in (
        (["--texts", str(tmp_path / "odd.txt")], "odd.txt cannot be read as lines of UTF-8 text"),
        (["--texts", str(tmp_path / "none.txt")], "none.txt cannot be read as lines of UTF-8 text"),
        (["--onnx", str(tmp_path)], f"--onnx {tmp_path} has no model.onnx or onnx/model.onnx"),
        (["--onnx", "x", "--texts", "y"], "--onnx and --texts do not go together"),
        (["--epochs", "0"], "must be a whole number of at least 1, not '0'"),
        (["tokenize.min_count=1000"], "no word stands 1000 times (tokenize.min_count)"),
    ):
        done = duplet("vectors", config, *more, "--output", str(tmp_path / "words.vec"))
        assert done.returncode == 2 and told in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and not (tmp_path / "words.vec").exists()
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(InputError, match=r"gensim, which is not installed: pip install 'duplet\[vectors\]'"):
        word_vectors.of_contexts([], 4, 1, 1, 1)  # type: ignore[arg-type]

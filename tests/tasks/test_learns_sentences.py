"""Problems that a task solves only when it reads the right way: order for classes, what follows for tags and blanks,
each word beside the other text's for pairs."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.serving.loading import open_predictor
from tests.conftest import last_json

pytestmark = pytest.mark.learns

FILLERS = [f"f{i}" for i in range(12)]


def configured(folder: Path, task: str, rows: list[dict[str, str]], **sections: Any) -> dict[str, Any]:
    source = folder / f"{task}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"threads_per_worker": 1, "max_pairs_per_update": 16, "optimizer": {"learning_rate": 0.01}}
    base: dict[str, Any] = {
        "name": task,
        "task": task,
        "root": str(folder / "runs"),
        "ingest": {"source": {"format": "jsonl", "path": str(source)}, "split": {"valid": 0.1, "test": 0.2}},
        "tokenize": {"kind": "whitespace", "min_count": 1},
        "model": {"embedding": 16, "hidden": 16, "dropout": 0.0},
        "train": {**train, "epochs": 25, "schedule": {"warmup_updates": 5}, "patience_validations": None},
        "evaluate": {"bootstrap_samples": 20},
        "tracking": {"system_metrics": False, "send": "later"},
    }
    return {name: {**value, **sections.get(name, {})} if isinstance(value, dict) else value
            for name, value in base.items()} | {k: v for k, v in sections.items() if k not in base}  # fmt: skip


@pytest.mark.parametrize("pooling", ["last", "max_mean"])
def test_it_learns_which_of_two_words_came_first(pooling: str, duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Both words are in every text, so that a bag of words knows nothing; each stands between two fillers, so that a
    bag of pairs knows nothing either: at an end of the text a word would have one neighbour less."""
    rng, rows = random.Random(1), []
    for _ in range(700):
        words = rng.choices(FILLERS, k=rng.randint(4, 9))
        first, second = sorted(rng.sample(range(len(words) - 1), 2))
        second += 1  # never side by side, where a bag of pairs would see them
        one, two = rng.sample(["red", "blue"], 2)
        words[first], words[second] = one, two
        words = [rng.choice(FILLERS), *words, rng.choice(FILLERS)]
        rows.append({"text": " ".join(words), "label": one})
    config = configured(tmp_path, "classification", rows, model={"pooling": pooling})
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    assert metrics["test/naive_bayes/accuracy"] < 0.65
    assert metrics["test/accuracy"] > 0.95
    assert metrics["test/fused/accuracy"] > 0.95


@pytest.mark.parametrize("crf", [False, True])
def test_a_tag_that_only_the_next_word_decides(crf: bool, duplet: Callable[..., Any], tmp_path: Path) -> None:
    rng, rows = random.Random(2), []
    for _ in range(400):
        words = rng.choices(["a", "b", "c"], k=rng.randint(3, 8))
        tags = ["before-" + following for following in [*words[1:], "end"]]
        rows.append({"text": " ".join(words), "tags": " ".join(tags)})
    config = configured(tmp_path, "tagging", rows, tagging={"crf": crf, "characters": True})
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    assert metrics["test/word_tags/accuracy"] < 0.6
    assert metrics["test/accuracy"] > 0.97


def test_a_word_that_only_its_right_hand_side_decides(duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Sentences of pairs `key value`, where the value repeats its key: a key in a blank is known by its value alone."""
    rng, rows = random.Random(3), []
    for _ in range(500):
        keys = [rng.randrange(8) for _ in range(rng.randint(2, 4))]
        rows.append({"text": " ".join(f"k{key} v{key}" for key in keys)})
    config = configured(tmp_path, "cloze", rows, cloze={"blank_share": 0.1})  # one blank
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    # left alone knows the values, half of the blanks, and guesses one of eight keys
    assert metrics["test/left/accuracy"] < 0.75
    assert metrics["test/accuracy"] > 0.95


@pytest.mark.parametrize(("head", "least", "most"), [("cross_attention", 0.95, 1.0), ("mlp", 0.0, 0.75)])
def test_cross_attention_sees_whether_one_word_of_a_text_is_missing_in_the_other(
    head: str, least: float, most: float, duplet: Callable[..., Any], tmp_path: Path
) -> None:
    """All five words of a query stand among the ten of its document, or only four. The words of valid and test stand
    nowhere in train and have vectors that nothing trained: what was learned is to compare, and no word. Two vectors,
    one of each text, cannot keep which words there were."""
    rng, words = random.Random(4), [f"w{i}" for i in range(900)]
    vectors = tmp_path / "words.txt"
    vectors.write_text("".join(f"{w} {' '.join(f'{rng.gauss(0, 0.3):.4f}' for _ in range(16))}\n" for w in words))
    paths = {}
    for name, known, count in (("train", words[:600], 2400), ("valid", words[600:], 300), ("test", words[600:], 600)):
        rows = []
        for i in range(count):
            chosen = rng.sample(known, 11)
            document = chosen[i % 2 : i % 2 + 10]  # without the first of the query's, or with it
            rows.append({"query": " ".join(chosen[:5]), "document": " ".join(rng.sample(document, 10)),
                         "relevance": 1 - i % 2})  # fmt: skip
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configured(
        tmp_path, "matching", [], model={"head": head, "vectors": str(vectors), "vectors_tuned_after": None},
        tokenize={"more_words": str(vectors)}, evaluate={"kinds": ["graded"]},
        train={"loss": {"kind": "pointwise"}, "epochs": 8, "max_pairs_per_update": 32},
    )  # fmt: skip
    config["ingest"] = {"source": {"format": "jsonl", "paths": paths, "columns": {"relevance": "relevance"}}}
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    assert least < metrics["test/accuracy"] <= most


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_pair_whose_texts_share_letters_that_no_pair_shared_before(
    metric: str, duplet: Callable[..., Any], tmp_path: Path
) -> None:
    """Does a text begin with the other's letters, or with others? Two towers learn no such thing from 300 pairs; what
    is joined to them knows it, and every way to use the model says what the evaluation found."""
    rng, rows = random.Random(3), []
    for number in range(420):
        letters = rng.sample("abcdefghijklmnopqrstuvwxyz", 18)
        query, grade = "".join(letters[:5]), int(number % 4 == 0)
        document = "".join(letters[:5] if grade else letters[2:4] + letters[5:8]) + "".join(letters[8:])
        rows.append({"query": query, "document": document, "relevance": str(grade)})
    config = configured(
        tmp_path, "matching", rows, tokenize={"kind": "character"}, evaluate={"kinds": ["graded"]},
        train={"loss": {"kind": "pointwise"}, "metric": metric, "epochs": 3},
    )  # fmt: skip
    config["ingest"]["source"]["columns"] = {"relevance": "relevance"}
    found = last_json(duplet("run", config, "--json"))
    metrics, stages = found["metrics"], found["stages"]
    assert metrics[f"test/{metric}"] < 0.85 and metrics["test/majority/accuracy"] < 0.85
    assert metrics[f"test/overlap/{metric}"] > 0.95 and metrics[f"test/fused/{metric}"] > 0.95
    judged = pq.read_table(Path(stages["evaluate"]["folder"]) / "judged-graded.parquet")
    right = [bool(value) for value in judged["fused/accuracy"].to_pylist()]
    test = pq.read_table(Path(stages["ingest"]["folder"]) / "records-test.parquet").to_pylist()
    trained = Path(stages["train"]["folder"])
    exported = tmp_path / "exported"
    duplet("export", str(trained), "--output", str(exported))
    said = [open_predictor(folder, backend=backend).predict(test) for folder, backend in
            ((trained, "onnx"), (trained, "mxnet"), (exported, "onnx"))]  # fmt: skip
    for answers in said:
        assert [row["grade"] == int(one["relevance"]) for row, one in zip(answers, test)] == right
        assert all(abs(a["score"] - b["score"]) < 1e-4 for a, b in zip(answers, said[0]))

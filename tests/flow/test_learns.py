"""A bidirectional network must solve what it can only solve when it is right."""

import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import load_model, open_index
from tests.conftest import last_json

pytestmark = pytest.mark.learns


@pytest.mark.timeout(400)
def test_a_sum_of_features_finds_what_no_mix_does(duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Of three documents with the query's word the relevant one is long and has it first; BM25 prefers the short one.

    The model has learnt nothing, so the mix cannot tell; the sum must, in the evaluation and in an index.
    """
    rng = random.Random(1)
    spelt = lambda begin, number: begin + "".join("bcdfghjkmp"[int(digit)] for digit in f"{number:03}")
    paths, documents = {}, []
    for number, split in enumerate(("train", "valid", "test")):
        rows = []
        for i in range(60):
            word, filler = spelt("w", 60 * number + i), [spelt("x", rng.randrange(300)) for _ in range(30)]
            texts = {"long": [word, *filler], "short": [word, *filler[:11]], "late": [*filler, word]}
            for kind in rng.sample([*texts], 3):
                text = " ".join(texts[kind])
                documents.append({"id": f"{word} {kind}", "text": text})
                rows.append({"query": f"find {word}", "document": text, "relevance": int(kind == "long")})
        paths[split] = str(tmp_path / f"{split}.jsonl")
        Path(paths[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "features",
        "root": str(tmp_path / "runs"),
        "ingest": {"source": {"format": "jsonl", "paths": paths, "columns": {"relevance": "relevance"}}},
        "tokenize": {"max_tokens": {"query": 4, "document": 40}, "min_count": 1},
        "model": {"embedding": 8, "hidden": 8, "head": "cosine"},
        "train": {"threads_per_worker": 1, "max_updates": 2, "schedule": {"warmup_updates": 1}},
        "evaluate": {"bootstrap_samples": 20},
        "tracking": {"system_metrics": False, "send": "later"},
    }
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    assert max(metrics[f"test/{system}mrr@10"] for system in ("", "bm25/", "fused/")) < 0.6
    done = last_json(duplet("run", config, "evaluate.fusion=linear", "--json"))
    assert done["metrics"]["test/fused/mrr@10"] > 0.95
    table = (Path(done["stages"]["evaluate"]["folder"]) / "table.txt").read_text()
    assert re.search(r"fused: [-+][\d.]+ model .* [+][\d.]+ first_words [+][\d.]+ length; chosen by 60", table)
    config["evaluate"] |= {"fusion": "linear"}  # type: ignore[operator]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    named = ("--documents", str(tmp_path / "documents.jsonl"), "--output", str(tmp_path / "index"))
    assert duplet("index", config, *named).returncode == 0
    index = open_index(tmp_path / "index")
    for word in (spelt("w", number) for number in (120, 131, 179)):
        assert [index.search(f"find {word}", 3, mode)[0].id for mode in (None, "words")] == [
            f"{word} long", f"{word} short"
        ]  # fmt: skip


@pytest.mark.timeout(400)
def test_order_of_words_decides(duplet: Callable[..., Any], tmp_path: Path) -> None:
    """Documents are their query reversed, and each set of words stands there in several orders.

    A bag of words (BM25 among them) cannot tell the orders apart; an encoder that reads them must.
    """
    rng = random.Random(1)
    rows = []
    for _ in range(220):
        words = rng.sample("abcdefghijklmnop", 4)
        for _ in range(4):
            rng.shuffle(words)
            rows.append(
                {"query": " ".join(words), "document": " ".join(reversed(words)), "set": "".join(sorted(words))}
            )
    source = tmp_path / "orders.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "orders",
        "root": str(tmp_path / "runs"),
        "ingest": {"source": {"format": "jsonl", "path": str(source), "columns": {"group": ["set"]}}},
        "tokenize": {"max_tokens": {"query": 4, "document": 4}, "min_count": 1},
        "model": {"embedding": 24, "hidden": 48, "layers": 1, "dropout": 0.0, "pooling": "last", "towers": "separate",
                  "head": "cosine"},
        "train": {
            "threads_per_worker": 1, "max_pairs_per_update": 64, "epochs": 30, "patience_validations": None,
            "log_every_updates": 50,
            "validate_every_updates": 100, "optimizer": {"learning_rate": 0.01}, "schedule": {"warmup_updates": 10},
        },
        "tracking": {"system_metrics": False, "send": "later"},
    }  # fmt: skip
    told = last_json(duplet("run", config, "--json"))
    assert told["metrics"]["test/bm25/recall@1"] < 0.4
    assert told["metrics"]["test/mrr@10"] > 0.9
    # one that has learnt next to nothing finds the words, and the trained one places what it finds
    trained = Path(told["stages"]["train"]["folder"])
    short = {"epochs": 1, "max_updates": 2, "schedule": {"warmup_updates": 1}}
    config |= {"name": "twice", "train": config["train"] | short,
               "rerank": {"model": str(trained), "top": 20}}  # fmt: skip
    metrics = last_json(duplet("run", config, "--json"))["metrics"]
    assert metrics["test/fused/recall@1"] < 0.5
    assert metrics["test/reranked/recall@1"] > 0.8
    orders = [" ".join(words) for words in itertools.permutations("adgk")]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps({"id": order, "text": order}) + "\n" for order in orders))
    index = ("--output", str(tmp_path / "index"))
    assert duplet("index", config, "--documents", str(documents), *index).returncode == 0
    said = duplet("search", tmp_path / "index", "a d g k", "--json")
    assert last_json(said)["results"][0]["id"] == "k g d a"
    rows, answers = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows.write_text(json.dumps({"query": "a d g k", "documents": orders}) + "\n")
    assert duplet("predict", config, "--input", str(rows), "--output", str(answers)).returncode == 0
    answer = json.loads(answers.read_text())
    assert orders[answer["ranks"].index(1)] == "k g d a"
    assert (
        sorted(answer["scores"][place] for place, rank in enumerate(answer["ranks"]) if rank > 20)
        == (sorted(answer["scores"])[:4])
    )
    # what else a person uses: the call from Python, an export, and what MLflow serves
    assert load_model(tmp_path / "config.yaml").predict([{"query": "a d g k", "documents": orders}])[0] == {
        name: answer[name] for name in ("scores", "ranks")
    }
    exported = tmp_path / "exported"
    assert duplet("export", config, "--output", str(exported)).returncode == 0
    trained.rename(trained.with_name("elsewhere"))
    assert load_model(exported).predict([{"query": "a d g k", "documents": orders}])[0]["ranks"] == answer["ranks"]
    alone = ("--output", str(tmp_path / "of-export"), "--documents", str(documents))
    assert duplet("index", exported, *alone).returncode == 0
    said = duplet("search", tmp_path / "of-export", "a d g k", "--json")
    assert last_json(said)["results"][0]["id"] == "k g d a"
    gone = duplet("search", tmp_path / "index", "a d g k")
    assert gone.returncode == 2 and "the second model of" in gone.stderr and "build the index again" in gone.stderr

"""Hard negatives: which documents are taken and which not, that blocks change nothing, and what is learnt by them."""

import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Config, check_config
from pipeline.config.mining import MineConfig
from pipeline.core.errors import InputError
from pipeline.orchestration import flow
from pipeline.tasks import mining
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import UNKNOWN_ID
from tests.conftest import last_json, small_configuration
from tests.tasks import teachers

TEXTS = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4, 4], [6, 7], [8], [9], [1, 2, 3, 4, 5], [10], [11]]


class Documents:
    """As much of a table of texts as a sieve reads."""

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        return [np.array(TEXTS[row]) for row in rows.tolist()]


def sieve(cosine: Any = None, **settings: Any) -> mining.Sieve:
    return mining.Sieve(MineConfig(first_rank=2, last_rank=8, **settings), Documents(), 1, cosine)  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_left_is_what_a_hand_leaves(sign: int) -> None:
    """Document 0 is relevant, and 5 too; 2 has 0's words, 6 most of them, 1 some."""
    documents = np.array([8, 2, 5, 6, 1, 3, 0, 4, 7, -1])
    scores = np.array([0.9, 0.8, 0.72, 0.64, 0.61, 0.6, 0.55, 0.5, 0.4, -np.inf]) - (1 if sign < 0 else 0)
    best = float(scores[2])  # of 0.72: 0.648 and below at a margin of 0.1; of -0.28: -0.308
    found = [(documents, scores.astype(np.float32), best)]
    every = sieve(margin=0.1, near=0.7)
    left = every.of(3, np.array([0, 5]), found)
    assert left.tolist() == [1, 3, 4]
    assert (every.counts["ranked"], every.counts["above_margin"]) == (7, 2)
    assert (every.counts["near"], every.counts["kept"]) == (1, 3)
    assert sieve(margin=0.1, near=0.9).of(3, np.array([0, 5]), found).tolist() == [1, 3, 4, 6]
    assert sieve(margin=0.0, near=1.0).of(3, np.array([0, 5]), [(documents, scores, 2.0)]).tolist() == [1, 3, 4, 6]


def test_a_teacher_takes_out_what_it_finds_as_good_as_a_relevant_one() -> None:
    cosines = {0: 0.5, 1: 0.49, 3: 0.1, 4: 0.6}
    found = [(np.array([8, 1, 3, 4]), np.array([0.9, 0.5, 0.4, 0.3]), 1.0)]
    asked = lambda query, rows: np.array([cosines[row] for row in rows.tolist()])
    judged = sieve(asked, veto=0.05)
    assert judged.of(3, np.array([0]), found).tolist() == [3] and judged.counts["vetoed"] == 2
    assert sieve(asked).of(3, np.array([0]), found).tolist() == [1, 3, 4]  # not asked


def test_the_draw_depends_on_the_seed_and_the_query_alone() -> None:
    found = [(np.array([8, 1, 3, 4, 5, 7]), np.array([0.9, 0.5, 0.4, 0.3, 0.2, 0.1]), 1.0)]
    draws = [tuple(sieve(per_query=2).of(query, np.array([0]), found).tolist()) for query in [*range(20), *range(20)]]
    assert draws[:20] == draws[20:] and len(set(draws)) > 5 and all(len(draw) == 2 for draw in draws)


# --- the stage --------------------------------------------------------------------------------------------------------
def tokenized(folder: Path, **sections: Any) -> tuple[Config, Path, Path]:
    config = check_config(small_configuration(folder, tracking={"send": "later"}, **sections), "test")
    stages = flow.run(config, "test", "tokenize", lambda line: None).stages
    return config, Path(stages["ingest"]["folder"]), Path(stages["tokenize"]["folder"])


def test_blocks_of_queries_change_nothing(tmp_path: Path) -> None:
    config, _, folder = tokenized(tmp_path)
    split = shards.open_split(folder, "train")
    by = mining.ByWords(config, folder, split)
    found: dict[int, dict[int, Any]] = {}
    for size in (7, 1000):
        found[size] = {}
        for block in mining.blocks(split, size):
            ranked = by.found(block)
            assert len(block.rows) <= size
            for place, row in enumerate(block.rows.tolist()):
                found[size][row] = (*(array[place].tolist() for array in ranked), block.relevant[place].tolist())
    assert found[7] == found[1000] and len(found[7]) == len(split.fields["query"])
    listed = 0
    for documents, scores, best, relevant in found[7].values():
        own = [score for document, score in zip(documents, scores) if document in relevant]
        listed += bool(own)
        assert not own or best == pytest.approx(max(own))
    assert listed > len(found[7]) / 2


def test_unknown_words_are_no_common_word(tmp_path: Path) -> None:
    """A query and a document that have an unknown word each, and nothing in common, are not found for each other."""
    word = lambda i: "".join("abcdefghij"[int(digit)] for digit in f"{i:03}")
    rows = [{"qid": f"q{i}", "query": f"m{word(i % 40)} x{word(i)}", "document": f"n{word(i % 40)} y{word(i)}"}
            for i in range(200)]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, _, folder = tokenized(tmp_path, tokenize={"min_count": 2})
    split = shards.open_split(folder, "train")
    assert all(UNKNOWN_ID in split.fields[side].ids(0) for side in ("query", "document"))
    (block,) = mining.blocks(split)
    assert (mining.ByWords(config, folder, split).found(block).documents == -1).all()


def test_memory_does_not_grow_with_the_queries(tmp_path: Path) -> None:
    peaks = []
    for times in (1, 8):
        folder = tmp_path / str(times)
        folder.mkdir()
        rows = [{"qid": f"q{i}-{t}", "query": f"a{i} b{i} c{t}", "document": f"a{i} b{i}"} for i in range(150)
                for t in range(times)]  # fmt: skip
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config, _, ids = tokenized(folder)
        split = shards.open_split(ids, "train")
        by = mining.ByWords(config, ids, split)
        tracemalloc.start()
        for block in mining.blocks(split, 50):
            by.found(block)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def mined(folder: Path) -> dict[str, Any]:
    """A configuration of small pairs that mines by words."""
    train = {**small_configuration(folder)["train"], "loss": {"listed_negatives": 2}, "epochs": 1}
    base = small_configuration(folder, tracking={"send": "later"}, train=train)
    return {**base, "mine": {"by": ["bm25"], "first_rank": 1, "margin": 0.0}}


def negatives_of(config: dict[str, Any], duplet: Callable[..., Any]) -> tuple[np.ndarray, str]:
    ran = duplet("mine", config, "--json")
    folder = Path(last_json(ran)["stages"]["mine"]["folder"])
    assert {path.name for path in folder.iterdir()} == {mining.NAME, "manifest.json"}
    return np.load(folder / mining.NAME), ran.stderr


@pytest.mark.timeout(900)  # six commands, one of which trains
def test_the_stage_mines_by_words_by_a_model_and_asks_a_teacher(duplet: Callable[..., Any], tmp_path: Path) -> None:
    config = mined(tmp_path)
    words, said = negatives_of(config, duplet)
    counted = json.loads(next(iter((tmp_path / "runs").glob("mine/*/manifest.json"))).read_text())["counts"]
    assert (words >= 0).sum() == counted["kept"] > 100
    assert f"mine: by bm25: {counted['kept']:,} documents for {counted['queries']:,} queries" in said
    assert "does nothing" not in said  # that no pair is judged irrelevant
    again = {**config, "mine": {**config["mine"], "seed": 5}}
    assert (negatives_of(again, duplet)[0] != words).any()

    split = shards.open_split(next(iter((tmp_path / "runs").glob("tokenize/[0-9a-f]*"))), "train")
    for query, document in zip(split.rows["query"].tolist(), split.rows["document"].tolist()):
        assert document not in words[query]

    trained = last_json(duplet("train", config, "--json"))["stages"]["train"]["folder"]
    config["mine"] |= {"by": ["model"], "model": trained, "first_rank": 3, "last_rank": 30}
    one, _ = negatives_of(config, duplet)
    two, _ = negatives_of({**config, "seed": 1, "train": {**config["train"], "workers": 2}}, duplet)
    assert (one >= 0).any() and (one == two).all()
    [ingested] = (tmp_path / "runs").glob("ingest/[0-9a-f]*")
    texts = teachers.texts(teachers.records(ingested, "train", "valid"))
    vectors = teachers.written(tmp_path / "v.npz", texts, teachers.vectors_of(texts))
    vetoed = {**config, "teach": {"vectors": [vectors]}, "mine": {**config["mine"], "veto": 0.5}}
    left, said = negatives_of(vetoed, duplet)
    assert (left >= 0).sum() < (one >= 0).sum() and ", 0 are vetoed" not in said


def test_bad_mining_is_one_sentence(duplet: Callable[..., Any], tmp_path: Path) -> None:
    config = mined(tmp_path)
    done = duplet("mine", {**config, "mine": {**config["mine"], "first_rank": 400, "last_rank": 500}})
    assert done.returncode == 2 and "no hard negative was found: 0 documents" in done.stderr.splitlines()[-1]
    assert "lower mine.first_rank" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    for section, said in (
        ({"mine": {"by": ["model"]}}, "mine.by=model needs a trained folder"),
        ({"mine": {"by": ["bm25"], "veto": 0.1}}, "is by teach.vectors or teach.onnx, and there is none"),
        ({"train": {"loss": {"listed_negatives": 0}}}, "is drawn by train.loss.listed_negatives=0"),
        ({"mine": {"by": ["bm25"], "first_rank": 9, "last_rank": 8}}, "first_rank=9 must not be above last_rank=8"),
        ({"task": "tagging", "train": {}}, "mine.by is for task matching, not tagging"),
    ):
        with pytest.raises(InputError, match=said):
            check_config({**{k: v for k, v in config.items() if k not in ("tokenize", "model")}, **section}, "test")


# --- what is learnt ---------------------------------------------------------------------------------------------------
@pytest.mark.learns
@pytest.mark.timeout(900)  # trains two models
def test_mined_negatives_teach_what_an_update_cannot(duplet: Callable[..., Any], tmp_path: Path) -> None:
    """A document is relevant if topic and code agree. Its length tells its code, and updates are of like lengths: so
    the documents of an update have one code, and only what is mined, of one topic, shows that codes matter."""
    rng, splits = random.Random(1), {"train": [], "valid": [], "test": []}
    name = lambda form, number: f"{form}{chr(97 + number // 26)}{chr(97 + number % 26)}"
    for code in range(10):
        topics = rng.sample(range(50), 50)
        for split, part in (("train", topics[:40]), ("valid", topics[40:44]), ("test", topics[44:])):
            for topic in part:
                shared, fillers = name("t", topic), ["filler"] * (code + 1)
                splits[split].append({"query": f"{shared} {name('q', code)}",
                                      "document": " ".join([shared, name("d", code), *fillers])})  # fmt: skip
    for split, rows in splits.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {split: str(tmp_path / f"{split}.jsonl") for split in splits}
    config: dict[str, Any] = {
        "name": "mined", "root": str(tmp_path / "runs"), "ingest": {"source": {"format": "jsonl", "paths": paths}},
        "tokenize": {"kind": "whitespace", "min_count": 1},
        "model": {"embedding": 24, "hidden": 24, "head": "cosine", "dropout": 0.0, "towers": "separate"},
        "train": {"threads_per_worker": 1, "max_pairs_per_update": 40, "epochs": 40, "patience_validations": None,
                  "optimizer": {"learning_rate": 0.01}, "schedule": {"warmup_updates": 5},
                  "loss": {"listed_negatives": 4}},
        "evaluate": {"bootstrap_samples": 20, "bm25_k1": 1.5, "bm25_b": 0.0, "stemmer": "none"},
        "tracking": {"system_metrics": False, "send": "later"},
    }  # fmt: skip
    found = {}
    for by in ([], ["bm25"]):
        config["mine"] = {"by": by, "first_rank": 1, "margin": 0.0, "near": 1.0}
        found[bool(by)] = last_json(duplet("run", config, "--json"))["metrics"]["test/mrr@10"]
    assert found[True] > 0.9 and found[False] < 0.5

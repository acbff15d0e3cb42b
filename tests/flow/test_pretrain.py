"""`pretrain.pairs`: a first training on pairs made of the documents, from which the one on the labels starts."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.ingest.leaks import READ, normalized
from pipeline.orchestration import flow, pretrain
from pipeline.tokenization.training_pairs import split_of
from tests.conftest import duplet_command, last_json

NOUNS = [f"noun{a}{b}" for a in "abcd" for b in "abcdefghij"]
ASKED = "Which noun stands here in the dark?"  # a query of test that is also a sentence of documents


def beir(folder: Path, documents: dict[str, str], pairs: dict[str, list[tuple[str, str, int]]]) -> None:
    """A BEIR folder; pairs by split: query, document's id, relevance."""
    write = lambda path, rows: path.write_text("".join(f"{row}\n" for row in rows))
    (folder / "qrels").mkdir(parents=True)
    write(folder / "corpus.jsonl", [json.dumps({"_id": i, "title": "", "text": t}) for i, t in documents.items()])
    queries = {
        query: f"q{n}" for n, query in enumerate(dict.fromkeys(q for rows in pairs.values() for q, _, _ in rows))
    }
    write(folder / "queries.jsonl", [json.dumps({"_id": i, "text": text}) for text, i in queries.items()])
    for split, rows in pairs.items():
        told = ["query-id\tcorpus-id\tscore", *(f"{queries[q]}\t{d}\t{r}" for q, d, r in rows)]
        write(folder / "qrels" / f"{split}.tsv", told)


@pytest.fixture
def configured(tmp_path: Path) -> dict[str, Any]:
    """A collection of 120 documents of five sentences, with thirty labelled pairs."""
    rng = random.Random(1)
    sentence = lambda: f"The {' and the '.join(rng.sample(NOUNS, 3))} went home."
    documents = {f"d{i}": " ".join(sentence() for _ in range(5)) for i in range(120)}
    for name in documents:
        if split_of(name, 0) == "train":  # else it would be left out for those that choose the best update
            documents[name] += f" {ASKED}"
    documents["d119"] += " A zebra walked over the snow."  # a word that no labelled document has
    pairs = {split: [(f"{documents[f'd{i}'].split('.')[0]} again", f"d{i}", 1) for i in some]
             for split, some in (("train", range(10)), ("dev", range(10, 20)), ("test", range(20, 30)))}  # fmt: skip
    pairs["test"].append((ASKED.upper(), "d0", 1))
    beir(tmp_path / "beir", documents, pairs)
    return {
        "name": "small", "root": str(tmp_path / "runs"),
        "ingest": {"source": {"format": "beir", "path": str(tmp_path / "beir")}},
        "tokenize": {"max_tokens": {"query": 16, "document": 32}, "min_count": 1},
        "model": {"embedding": 12, "hidden": 10, "head": "cosine", "dropout": 0.0},
        "pretrain": {"pairs": 300, "epochs": 2},
        "train": {"threads_per_worker": 1, "max_pairs_per_update": 16, "epochs": 1, "schedule": {"warmup_updates": 1}},
        "evaluate": {"bootstrap_samples": 20}, "tracking": {"send": "later", "system_metrics": False},
    }  # fmt: skip


def test_the_labels_are_trained_on_from_what_the_documents_have_taught(
    configured: dict[str, Any], duplet: Callable[..., Any], tmp_path: Path
) -> None:
    done = duplet("run", configured, "--json")
    stages = last_json(done)["stages"]
    first, trained = (Path(stages[stage]["folder"]) for stage in ("pretrain", "train"))
    tokens = len(json.loads((first / "vocabulary.json").read_text())["idx_to_token"])
    assert {*NOUNS, "zebra"} <= {*json.loads((first / "vocabulary.json").read_text())["idx_to_token"]}
    assert f"starting from {first}, which knew {tokens} of {tokens} tokens" in done.stderr
    assert "pretrain: 300 pairs of documents to train on" in done.stderr

    # sentences that stand in the documents, for passages of them
    rows = [json.loads(line) for line in (first / "pairs" / "train.jsonl").read_text().splitlines()]
    corpus = (tmp_path / "beir" / "corpus.jsonl").read_text()
    assert len(rows) == 300 and all(row["query"] in corpus for row in rows)
    assert len(np.load(first / READ)) == len({normalized(row["query"]) for row in rows})
    assert {*np.load(first / READ)} < {*np.load(trained / READ)}

    again = last_json(duplet("run", configured, "--json"))["stages"]
    assert {row["state"] for row in again.values()} == {"up to date"}
    assert [path.name for path in (tmp_path / "runs" / "work").glob("*")] == []
    # without it there is another vocabulary and no such stage, and all keys are as they were before
    off = last_json(duplet("train", configured, "pretrain.pairs=0", "--json"))["stages"]
    assert "pretrain" not in off and off["train"]["folder"] != str(trained)
    assert off["tokenize"]["folder"] != stages["tokenize"]["folder"]
    # another start takes its place, over the same ids, as in the later rounds of --refresh-epochs
    other = duplet("train", configured, f"train.start_from={trained}", "--json")
    assert f"starting from {trained}, which" in other.stderr
    assert [*last_json(other)["stages"]] == ["ingest", "tokenize", "train"]
    assert last_json(other)["stages"]["tokenize"]["folder"] == stages["tokenize"]["folder"]


def test_no_query_of_test_is_one_of_the_pairs(
    configured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for case; without the guard it is."""
    config = check_config(configured, "test")
    stages = flow.run(config, "test", "tokenize", lambda line: None).stages
    ingested, tokenized = (Path(stages[stage]["folder"]) for stage in ("ingest", "tokenize"))
    for name, expected in (("guarded", False), ("unguarded", True)):
        if not expected:
            assert normalized(ASKED) in pretrain._held_out(ingested)
        else:
            monkeypatch.setattr(pretrain, "_held_out", lambda ingested: set())
        (tmp_path / name).mkdir()
        pretrain._write(config, ingested, tokenized, tmp_path / name)
        rows = [json.loads(line) for line in (tmp_path / name / "pairs" / "train.jsonl").read_text().splitlines()]
        assert (ASKED in {row["query"] for row in rows}) == expected


@pytest.mark.workers
def test_a_first_training_that_was_stopped_goes_on_and_by_two_workers_is_the_same(
    configured: dict[str, Any], duplet: Callable[..., Any], tmp_path: Path
) -> None:
    configured["pretrain"]["epochs"] = 6
    configured["train"] |= {"checkpoint_every_updates": 1, "patience_validations": None}
    for workers in (1, 2):
        last_json(
            duplet("pretrain", configured, f"root={tmp_path / str(workers)}", f"train.workers={workers}", "--json")
        )
    command = duplet_command(tmp_path, "pretrain", configured, f"root={tmp_path / 'stopped'}", "train.workers=2")
    stopped = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not [*tmp_path.glob("stopped/work/pretrain-*/checkpoints/update-00000005")] and time.monotonic() < end:
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    assert "goes on from here" in stopped.communicate(timeout=120)[1]
    finished = subprocess.run(command, text=True, capture_output=True, timeout=280)
    assert finished.returncode == 0 and "going on from update-" in finished.stderr
    found = {}
    for name in ("1", "2", "stopped"):
        [path] = tmp_path.glob(f"{name}/pretrain/[0-9a-f]*/parameters.npz")
        found[name] = dict(np.load(path))
    for name, array in found["2"].items():
        assert array.tobytes() == found["stopped"][name].tobytes()
        np.testing.assert_allclose(array, found["1"][name], atol=2e-3)


def test_where_titles_are_queries_those_of_valid_are_not_read(configured: dict[str, Any], tmp_path: Path) -> None:
    config = check_config(configured, "test")
    titles = config.ingest.source.model_copy(update={"train_on_titles": True})
    for source, read in ((config.ingest.source, True), (titles, False)):
        ingest = config.ingest.model_copy(update={"source": source})
        assert pretrain.tokenization.learns_collection(config.model_copy(update={"ingest": ingest})) == read


@pytest.mark.parametrize(("changes", "told"), [
    ({"task": "tagging"}, "pretrain.pairs is for task matching, not tagging"),
    ({"train": {"loss": {"kind": "pointwise"}}, "evaluate": {"kinds": ["graded"]}},
     "makes pairs without grades, and train.loss.kind=pointwise"),
])  # fmt: skip
def test_tasks_and_losses_without_a_first_training_are_refused(changes: dict[str, Any], told: str) -> None:
    data = {"name": "t", "ingest": {"source": {"format": "jsonl", "path": "x"}}, "pretrain": {"pairs": 9}}
    with pytest.raises(Exception, match=told):
        check_config({**data, **changes}, "test")


def test_documents_without_sentences_are_refused(
    small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any]
) -> None:
    """Those of a source of pairs are the documents of its training records, here of four to seven words."""
    refused = duplet("train", {**small_config(), "pretrain": {"pairs": 500}})
    assert refused.returncode == 2
    assert "the documents of the source give 0 pairs to train on and 0 to choose by" in refused.stderr
    assert "a heading or a sentence of 4 to 30 words of a longer text" in refused.stderr


@pytest.mark.learns
def test_few_labels_and_documents_that_tell_which_names_belong_together(
    duplet: Callable[..., Any], tmp_path: Path
) -> None:
    """Sixty concepts have two names. Documents tell of a concept by its first name in one sentence and by its second
    in the next; those to be found, listed for each query, know the second name alone, and queries the first. Labelled
    are ten concepts, and thirty others are asked for."""
    rng, concepts = random.Random(3), range(60)
    filler = lambda: " ".join(rng.choices([f"f{i}" for i in range(15)], k=3))
    documents = {f"m{c}-{i}": f"First {filler()} a{c} is it . Then {filler()} b{c} was it ."
                 for c in concepts for i in range(12)}  # fmt: skip
    documents |= {f"t{c}": f"Then {filler()} b{c} was it ." for c in concepts}
    pairs: dict[str, list[tuple[str, str, int]]] = {}
    for split, some in (("train", range(10)), ("dev", range(10, 30)), ("test", range(30, 60))):
        listed = {c: rng.sample([d for d in concepts if d != c], 19) for c in some}
        pairs[split] = [(f"First {filler()} a{c}", f"t{d}", int(c == d)) for c in some for d in [c]]
        pairs[split] += [(query, f"t{d}", 0) for (query, _, _), others in zip(list(pairs[split]), listed.values())
                         for d in others]  # fmt: skip
    beir(tmp_path / "beir", documents, pairs)
    config = {
        "name": "few", "root": str(tmp_path / "runs"),
        "ingest": {"source": {"format": "beir", "path": str(tmp_path / "beir")}},
        "tokenize": {"kind": "whitespace", "max_tokens": {"query": 12, "document": 16}, "min_count": 1},
        "model": {"embedding": 24, "hidden": 24, "head": "cosine", "dropout": 0.0},
        "pretrain": {"pairs": 2000, "epochs": 12},
        "train": {"threads_per_worker": 1, "max_pairs_per_update": 32, "epochs": 4, "patience_validations": None,
                  "optimizer": {"learning_rate": 0.005}, "schedule": {"warmup_updates": 1}},
        "evaluate": {"bootstrap_samples": 20, "candidates": "listed"},
        "tracking": {"send": "later", "system_metrics": False},
    }  # fmt: skip
    told = last_json(duplet("run", config, "--json"))
    with_it, words = told["metrics"]["test/mrr@10"], Path(told["stages"]["tokenize"]["folder"]) / "vocabulary.json"
    # the same words are known without it, but nothing of them
    without = last_json(duplet("run", config, "pretrain.pairs=0", f"tokenize.more_words={words}", "--json"))["metrics"]
    assert without["test/mrr@10"] < 0.4 and without["test/bm25/mrr@10"] < 0.4  # chance: 0.18
    assert with_it > 0.9

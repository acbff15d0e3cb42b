"""`duplet train-on`: what it writes and says; the training itself on a few documents with real workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.commands import train_on
from pipeline.config import load_config
from pipeline.search import index_store
from pipeline.search.documents import Document
from tests.conftest import last_json
from tests.search.test_commands import run
from tests.search.test_words_alone import put

PROSE = (
    "The {0} carries the lift of the flow. Its drag grows with the angle of the {0} in a climb. "
    "A stall follows when the flow separates from the {0}. Is the tail of the {0} any different here?"
)
NAMES = [f"{a}{b}" for a in ("wing", "tail", "rotor", "sail", "fin", "blade") for b in "abcdefghijklmnop"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "a b, {c}"  # that YAML reads as it is meant
    folder.mkdir()
    put(folder / "air.index", [Document(name, f"About the {name}", PROSE.format(name)) for name in NAMES])
    return folder / "air.index"


def test_pairs_and_a_configuration_are_written(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(train_on, "_train_and_join", lambda config, *_: seen.append(config) or 0)
    done = run("train-on", index, "model.hidden=32", "--pairs", 200, "--root", index.parent / "runs")
    assert done.returncode == 0, done.stderr
    assert "200 pairs to train on" in done.stderr
    [config] = seen
    assert (config.model.hidden, config.name, config.root) == (32, "air", str(index.parent / "runs"))
    path = index.with_name("air.index.training") / "train.yaml"
    own: Any = load_config(path, [])
    assert own.ingest.source.paths["test"] == str(path.with_name("test.jsonl"))
    rows = [json.loads(line) for line in path.with_name("train.jsonl").read_text().splitlines()]
    assert len(rows) == 200 and {"title", "sentence"} == {row["source"] for row in rows}
    before = path.with_name("train.jsonl").read_bytes()
    assert run("train-on", index, "--pairs", 300).returncode == 0
    assert path.with_name("train.jsonl").read_bytes() == before, "the pairs stay, so that a stopped training goes on"
    assert run("train-on", index, "--pairs", 250, "--anew").returncode == 0
    assert path.with_name("train.jsonl").read_bytes() != before


def test_that_the_index_answers_with_the_model_is_said_also_without_tracking(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained; a root may look like a variable."""
    from pipeline.cli.commands import index as index_command
    from pipeline.orchestration import flow

    joined: list[Any] = []
    stages = {"train": {"folder": "made"}}
    monkeypatch.setattr(flow, "run", lambda *_: flow.Result(None, stages, {}, "the table"))
    monkeypatch.setattr(index_command, "run", lambda args: joined.append(args) or 0)
    done = run("train-on", index, "--pairs", 200, "--root", "a ${b}", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "the index answers with the model now" in done.stderr
    [args] = joined
    assert (args.model, str(args.root)) == ("made", "a ${b}")


def test_mistakes_are_told(index: Path, tmp_path: Path) -> None:
    put(tmp_path / "small", [Document("a", "Title of it", "Words here.")])
    cases = [
        (("train-on", tmp_path / "nowhere"), "does not exist"),
        (("train-on", tmp_path / "small"), "give 1 pairs to train on"),
    ]
    for arguments, sentence in cases:
        done = run(*arguments)
        assert done.returncode == 2 and sentence in done.stderr, done
    assert not (tmp_path / "small.training").exists()


@pytest.mark.workers
def test_a_model_is_trained_and_joins(index: Path) -> None:
    given = (
        "train-on", index, "--pairs", 200, "train.epochs=1", "model.hidden=8", "model.embedding=8",
        "train.max_pairs_per_update=16", "tracking.system_metrics=false", "--root", index.parent / "runs",
    )  # fmt: skip
    done = run(*given)
    assert done.returncode == 0, done.stderr
    assert "mrr@10" in done.stdout and f"{len(NAMES)} documents" in done.stdout
    state = index_store.read_state(index)
    assert state.model is not None and state.model.head == "late_interaction"
    assert state.settings.model_scale is not None, "the mix is the evaluation's"
    found = last_json(run("search", index, "lift of the rotora", "--json"))
    assert found["results"] and found["mode"] in ("hybrid", "words", "model")
    again = run(*given)
    assert again.returncode == 0 and "nothing to do" in again.stdout

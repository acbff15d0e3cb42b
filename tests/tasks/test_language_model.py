"""Streams that read on, judging of every token once, writing that a seed decides, and a model that learns brackets."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from gluonnlp.model import BeamSearchSampler
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet import autograd, nd

from pipeline.config import LanguageModelConfig, ModelConfig, check_config
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.models import writing
from pipeline.models.language_model import LanguageModel
from pipeline.models.parameters import parameters_of
from pipeline.models.sampled import Sampler
from pipeline.models.writing import Choice, choose
from pipeline.tasks.language_model import NEVER_WRITTEN, READ_IN, LanguageModelTask
from pipeline.training.batch_plan import StreamPlan, shares
from tests.conftest import duplet_command, last_json

SIZE = 11


class OverText(LanguageModelTask):
    """The task over a text in memory instead of a folder."""

    def __init__(self, text: np.ndarray, streams: int, steps: int, **model: Any) -> None:
        config = {
            "name": "t",
            "task": "language_model",
            "ingest": {"source": {"format": "text", "path": "none"}},
            "tokenize": {"kind": "verbatim"},
            "model": {"embedding": 6, "hidden": 5, "directions": 1, "dropout": 0.0, **model},
            "language_model": {"streams": streams, "steps": steps},
        }
        super().__init__(check_config(config, "test"), Path("none"))
        self.__dict__["text"] = text


def network_of(sampled: int = 0, tied: bool = False, variational: bool = False, **model: Any) -> LanguageModel:
    sizes = {"embedding": 6, "hidden": 6, "directions": 1, "dropout": 0.0, "layers": 2, **model}
    mx.random.seed(5)
    np.random.seed(5)
    network = LanguageModel(
        ModelConfig(**sizes), LanguageModelConfig(sampled=sampled, tied=tied, variational=variational), SIZE
    )
    network.initialize(mx.init.Uniform(0.5), force_reinit=True)
    for parameter in network.collect_params().values():
        parameter.set_data(nd.random.uniform(-0.5, 0.5, parameter.shape))
    return network


# --- streams ----------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(2, 400), streams=st.integers(1, 9), steps=st.integers(1, 40), workers=st.integers(1, 4))
def test_each_stream_is_read_once_from_its_beginning_to_its_end(
    tokens: int, streams: int, steps: int, workers: int
) -> None:
    if (tokens - 1) // streams < 1 or workers > streams:
        return
    task = OverText(np.arange(tokens, dtype=np.int32), streams, steps)
    plan = StreamPlan(task.lengths, streams, 1)
    read: list[list[int]] = [[] for _ in range(streams)]
    for pool in range(plan.pools):
        for rows in plan.batches(0, pool):
            given_out = shares(rows, task.lengths, workers)
            place = 0
            for rank in range(workers):
                batch = task.batch(given_out, rank, [1])
                assert len(batch.ids) <= steps
                assert batch.first == (rows[0] == 0)
                assert batch.share == pytest.approx(batch.ids.shape[1] / streams)
                np.testing.assert_array_equal(batch.targets, batch.ids + 1)
                for column in batch.ids.T:
                    read[place] += column.tolist()
                    place += 1
            assert place == streams
    size = (tokens - 1) // streams
    assert read == [list(range(size * i, size * (i + 1))) for i in range(streams)]


def test_a_text_shorter_than_its_streams_is_refused() -> None:
    with pytest.raises(InputError, match=r"too few for language_model\.streams=9"):
        assert len(OverText(np.arange(9, dtype=np.int32), 9, 4).lengths)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_an_update_goes_on_in_the_states_of_the_one_before(cell: str) -> None:
    """Two updates of half a text give the loss of one update of the whole, since their states are handed on."""
    text = np.random.default_rng(1).integers(2, SIZE, 41).astype(np.int32)
    network = network_of(cell=cell)
    losses = {}
    for steps in (20, 10):
        task, found = OverText(text, 2, steps), []
        for rows in StreamPlan(task.lengths, 2, 1).batches(0, 0):
            with autograd.record():
                loss = task.loss(network, None, task.batch([rows], 0, [1]), World())
            found.append(float(loss.value.asscalar()))
        losses[steps] = found
    assert len(losses[10]) == 2 * len(losses[20]) == 2
    assert np.mean(losses[10]) == pytest.approx(losses[20][0], rel=1e-5)


def test_a_new_epoch_begins_in_no_state() -> None:
    text = np.random.default_rng(1).integers(2, SIZE, 41).astype(np.int32)
    network, task = network_of(), OverText(text, 2, 10)
    batches = [task.batch([rows], 0, [1]) for rows in StreamPlan(task.lengths, 2, 1).batches(0, 0)]
    with autograd.record():
        first, second, again = (task.loss(network, None, batches[i], World()).value.asscalar() for i in (0, 1, 0))
    assert first == again != second


def test_the_gradient_ends_where_the_update_begins() -> None:
    text = np.random.default_rng(1).integers(2, SIZE, 41).astype(np.int32)
    network, task = network_of(), OverText(text, 2, 10)
    rows = StreamPlan(task.lengths, 2, 1).batches(0, 0)
    with autograd.record():
        task.loss(network, None, task.batch([rows[0]], 0, [1]), World())
        loss = task.loss(network, None, task.batch([rows[1]], 0, [1]), World())
    loss.objective.backward()
    embedding = network.words.weight.grad().asnumpy()
    read = np.unique(task.batch([rows[1]], 0, [1]).ids)
    unread = np.setdiff1d(np.arange(SIZE), read)
    assert len(unread), "the second half holds every token"
    assert np.abs(embedding[read]).sum(axis=1).min() > 0
    assert np.abs(embedding[unread]).max() == 0


# --- judging ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokens", [2, 3, 50, 3 * READ_IN])
@pytest.mark.parametrize("streams", [1, 4])
def test_every_token_is_judged_once_in_its_place(tokens: int, streams: int) -> None:
    """Against the text read as one; parts begin READ_IN tokens before what they judge, which is nearly the same."""
    text = np.random.default_rng(tokens).integers(2, SIZE, tokens).astype(np.int32)
    network = network_of()
    task = OverText(text, streams, 10)
    whole = task._nats(network, text[:-1, None], text[1:, None], mx.cpu())[:, 0]
    found = task.judge(network, text, World())
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_judging_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = np.random.default_rng(3).integers(2, SIZE, 90).astype(np.int32)
    network, task = network_of(), OverText(text, 3, 10)
    whole = task.judge(network, text, World())
    monkeypatch.setattr("pipeline.tasks.language_model.MAX_LOGITS", 7 * 3 * SIZE)
    np.testing.assert_allclose(task.judge(network, text, World()), whole, atol=1e-6)


# --- the network ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sampled", [0, 4])
def test_tied_weights_are_one_parameter_with_both_gradients(sampled: int) -> None:
    network = network_of(tied=True, sampled=sampled)
    names = parameters_of(network)
    assert [name for name, p in names.items() if p.shape == (SIZE, 6)] == ["output.weight"] or [
        name for name, p in names.items() if p.shape == (SIZE, 6)
    ] == ["words.weight"]
    assert network.output.weight is network.words.weight


def test_variational_dropout_has_one_mask_for_all_steps() -> None:
    for variational in (False, True):
        network = network_of(dropout=0.5, variational=variational, cell="rnn_relu", layers=1)
        ids = nd.full((30, 3), 4, dtype="int32")
        with autograd.record():
            outputs, _ = network(ids, network.begin(3, mx.cpu()))
        dropped = outputs.asnumpy() == 0
        # relu gives zeros of its own: a unit is always dropped where it is zero at each step
        alive = ~dropped.all(axis=0)
        mixed = dropped[5:][:, alive].any()
        assert mixed != variational


def test_recurrent_weights_are_dropped_in_training_alone() -> None:
    model = ModelConfig(embedding=6, hidden=6, directions=1, dropout=0.0)
    network = LanguageModel(model, LanguageModelConfig(weight_dropout=0.5), SIZE)
    network.initialize(mx.init.Uniform(0.5))
    layer = network.layers[0]
    recurrent = slice(24 * 6, 24 * 12)
    with autograd.record():
        trained = layer.packed(mx.cpu())[recurrent].asnumpy()
    used = layer.packed(mx.cpu())[recurrent].asnumpy()
    kept = trained != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(trained[kept], 2 * used[kept], rtol=1e-6)
    assert (used != 0).all()


def test_a_sampled_softmax_of_all_tokens_is_the_whole_one() -> None:
    """With every token a candidate, expected once, gluonnlp's ISDense gives the cross entropy and its gradient."""
    network = network_of(sampled=SIZE)
    ids = nd.array(np.random.default_rng(1).integers(0, SIZE, (7, 2)), dtype="int32")
    targets = nd.array(np.random.default_rng(2).integers(0, SIZE, (7, 2)))
    sampler = Sampler(np.full(SIZE, 1 / SIZE), SIZE)
    every = sampler.candidates(sampler.draw(np.random.default_rng(3)), targets.asnumpy().astype(int))
    assert sorted(every.ids) == list(range(SIZE))
    every = every._replace(expected=np.ones(SIZE, np.float32), expected_targets=np.ones(14, np.float32))
    gradients = []
    for way in ("whole", "sampled"):
        with autograd.record():
            outputs, _ = network(ids, network.begin(2, mx.cpu()))
            found = (
                network.losses(outputs, targets) if way == "whole" else network.sampled_losses(outputs, targets, every)
            )
        found.backward()
        gradients.append([found.asnumpy(), *(p.grad().asnumpy().copy() for p in parameters_of(network).values())])
    for whole, sampled in zip(*gradients):
        np.testing.assert_allclose(sampled, whole, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 40), seed=st.integers(0, 1000))
def test_candidates_are_distinct_and_expected_as_often_as_they_come(count: int, seed: int) -> None:
    chances = 1 / np.arange(1.0, 61)
    chances /= chances.sum()
    sampler = Sampler(chances, count)
    found = sampler.candidates(sampler.draw(np.random.default_rng(seed)), np.array([[0], [59]]))
    assert len(set(found.ids.tolist())) == count == len(found.expected)
    assert ((found.expected > 0) & (found.expected <= 1)).all()
    assert found.expected_targets[0] > found.expected_targets[1]


def test_expected_counts_are_those_of_many_draws() -> None:
    chances = np.array([0.5, 0.3, 0.1, 0.06, 0.04])
    sampler, rng, times = Sampler(chances, 2), np.random.default_rng(1), 4000
    drawn = np.zeros(5)
    for _ in range(times):
        drawn[sampler.draw(rng)] += 1
    found = sampler.expected
    np.testing.assert_allclose(found, drawn / times, atol=0.08)
    assert found.sum() == pytest.approx(2, rel=1e-3)


# --- writing ----------------------------------------------------------------------------------------------------------
def test_choice_keeps_to_top_k_and_top_p() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]])).repeat(2000, axis=0)
    rng = np.random.default_rng(1)
    assert set(choose(logits, Choice(top_k=2), rng)) == {0, 1}
    assert set(choose(logits, Choice(top_p=0.79), rng)) == {0, 1}
    assert set(choose(logits, Choice(top_p=0.81), rng)) == {0, 1, 2}
    assert set(choose(logits, Choice(top_p=1e-9), rng)) == {0}
    assert set(choose(logits, Choice(temperature=0), rng)) == {0}
    shares = np.bincount(choose(logits, Choice(), rng), minlength=4) / 2000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.04)
    colder = np.bincount(choose(logits, Choice(temperature=0.5), rng), minlength=4) / 2000
    wanted = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(colder, wanted / wanted.sum(), atol=0.04)


def test_writing_draws_from_what_the_network_says() -> None:
    """Each token written is the one that the draw picks from the logits after all before it, read anew."""
    network, prompt = network_of(), np.array([[3], [4]], np.int32)
    found = writing.write(network, prompt, 12, Choice(), np.random.default_rng(9), mx.cpu(), NEVER_WRITTEN)
    written = [int(chosen[0]) for chosen in found]
    rng, text = np.random.default_rng(9), [3, 4]
    for token in written:
        ids = nd.array(np.array(text)[:, None], dtype="int32")
        logits = network.logits(network(ids, network.begin(1, mx.cpu()))[0][-1]).asnumpy()
        logits[:, NEVER_WRITTEN] = writing.BARRED
        assert token == choose(logits, Choice(), rng)[0]
        text.append(token)
    assert not set(written) & set(NEVER_WRITTEN.tolist())


def log_chance(network: LanguageModel, prompt: np.ndarray, ids: np.ndarray) -> float:
    text = np.concatenate([prompt, ids])
    logits = network.logits(network(nd.array(text[:-1, None], dtype="int32"), network.begin(1, mx.cpu()))[0])
    values = logits.asnumpy()[:, 0].astype(np.float64)
    values[:, NEVER_WRITTEN] = -np.inf
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return float(sum(values[len(prompt) - 1 + i, token] for i, token in enumerate(ids)))


def test_a_beam_as_wide_as_all_texts_finds_the_likeliest() -> None:
    """Against all 9^3 texts of three tokens; the sampler is gluonnlp's."""
    assert writing.BeamSearchSampler is BeamSearchSampler
    network, prompt = network_of(), np.array([5, 2], np.int32)
    ids, found = writing.likeliest(network, prompt, 3, 81, mx.cpu(), NEVER_WRITTEN)
    every = [np.array(text) for text in np.ndindex(9, 9, 9)]
    best = max((log_chance(network, prompt, text + 2), text.tolist()) for text in every)
    assert ids.tolist() == [token + 2 for token in best[1]]
    assert found == pytest.approx(best[0], abs=1e-4)
    assert found == pytest.approx(log_chance(network, prompt, ids), abs=1e-4)


def test_a_beam_of_one_takes_the_likeliest_at_each_step() -> None:
    network, prompt = network_of(), np.array([5], np.int32)
    ids, _ = writing.likeliest(network, prompt, 8, 1, mx.cpu(), NEVER_WRITTEN)
    greedy = writing.write(network, prompt[:, None], 8, Choice(0), np.random.default_rng(0), mx.cpu(), NEVER_WRITTEN)
    assert ids.tolist() == [int(chosen[0]) for chosen in greedy]
    with pytest.raises(ValueError, match="more than"):
        writing.likeliest(network, prompt, 1, 2**22, mx.cpu(), NEVER_WRITTEN)


# --- the command ------------------------------------------------------------------------------------------------------
def brackets(rng: random.Random, depth: int = 0) -> str:
    """A balanced line such as (a[b]): each bracket is closed by its own kind."""
    parts = []
    for _ in range(rng.randint(1, 2)):
        if depth < 3 and rng.random() < 0.6:
            opening, closing = rng.choice(("()", "[]", "{}"))
            parts.append(opening + brackets(rng, depth + 1) + closing)
        else:
            parts.append(rng.choice("ab"))
    return "".join(parts)


def balanced(text: str) -> bool:
    opened: list[str] = []
    for character in text:
        if character in "([{":
            opened.append({"(": ")", "[": "]", "{": "}"}[character])
        elif character in ")]}" and (not opened or opened.pop() != character):
            return False
    return not opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model of bracketed lines: `metrics` of its run, and its `folder`."""
    folder = tmp_path_factory.mktemp("brackets")
    rng = random.Random(1)
    text = folder / "brackets.txt"
    text.write_text("".join(brackets(rng) + "\n" for _ in range(9000)))
    config = {
        "name": "brackets",
        "root": str(folder / "runs"),
        "task": "language_model",
        "ingest": {
            "source": {"format": "text", "path": str(text), "lines_per_record": 20},
            "split": {"valid": 0.05, "test": 0.05},
        },
        "tokenize": {"kind": "verbatim", "lowercase": False, "min_count": 1},
        "model": {"embedding": 12, "hidden": 48, "directions": 1, "dropout": 0.0},
        "language_model": {"streams": 10, "steps": 40, "sample_tokens": 60},
        "train": {
            "threads_per_worker": 1, "epochs": 12, "patience_validations": None, "log_every_updates": 50,
            "optimizer": {"learning_rate": 0.01}, "schedule": {"warmup_updates": 10},
        },
        "evaluate": {"bootstrap_samples": 40, "shape": "c"},
        "tracking": {"system_metrics": False},
    }  # fmt: skip
    command = duplet_command(folder, "run", config, "--json")
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280)
    metrics = last_json(finished)["metrics"]
    [model] = (folder / "runs" / "train").glob("*/config.json")
    [evaluated] = (folder / "runs" / "evaluate").glob("*/table.txt")
    return {"metrics": metrics, "folder": model.parent, "evaluated": evaluated.parent}


@pytest.fixture(scope="module")
def generate(trained: dict[str, Any]) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        command = [sys.executable, "-m", "pipeline.cli", "generate", str(trained["folder"]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.learns
@pytest.mark.timeout(400)
def test_brackets_are_closed_by_their_own_kind(trained: dict[str, Any], generate: Callable[..., Any]) -> None:
    """Which bracket closes is known from the one still open, however much stands between: pairs cannot tell."""
    metrics = trained["metrics"]
    assert metrics["test/nats"] < metrics["test/bigram/nats"] - 0.3
    assert metrics["test/nats"] < 1.2, metrics
    assert metrics["test/braces_closed"] > 0.9
    assert metrics["test/perplexity"] == pytest.approx(math.exp(metrics["test/nats"]), rel=1e-5)
    assert metrics["test/bits"] == pytest.approx(metrics["test/nats"] / math.log(2), rel=1e-5)
    written = last_json(generate("--length", "1500", "--json"))["text"]
    lines = written.split("\n")[:-1]
    assert len(lines) > 50
    assert np.mean([balanced(line) for line in lines]) > 0.8


@pytest.mark.learns
def test_the_same_seed_writes_the_same_text(generate: Callable[..., Any], trained: dict[str, Any]) -> None:
    one, two, other = (generate("--prompt", "(a[", "--length", "80", "--seed", seed) for seed in ("3", "3", "4"))
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout != other.stdout
    assert one.stdout.startswith("(a[") and len(one.stdout) == 3 + 80 + 1
    likeliest = last_json(generate("--prompt", "([{ab", "--length", "2", "--beam", "5", "--json"))
    assert likeliest["text"] == "}]"
    # what a validation writes and evaluation writes is kept
    samples = sorted((trained["folder"] / "samples").iterdir())
    assert len(samples) == 12 and len(samples[-1].read_text()) == 61
    # each came to the training's MLflow run at its validation, before the model with copies of them
    logged = trained["folder"].parents[1] / "mlflow-artifacts"
    [in_mlflow] = {path.parent for path in logged.rglob("samples/*.txt") if path.parent.parent.name == "artifacts"}
    assert {path.name: path.read_text() for path in in_mlflow.iterdir()} == {p.name: p.read_text() for p in samples}
    assert (
        min(path.stat().st_mtime for path in in_mlflow.iterdir()) < (trained["folder"] / "result.json").stat().st_mtime
    )
    assert "temperature 0.5" in (trained["evaluated"] / "written.txt").read_text()
    first = json.loads((trained["evaluated"] / "predictions.jsonl").read_text().splitlines()[0])
    assert {"id", "text", "model", "bigram", "unigram"} == set(first)


@pytest.mark.learns
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompt", "(a é 東"), "characters that the model has never seen: ' ' 'é' '東'"),
        (("--length", "0"), "must be a whole number from 1 to 1,000,000, not '0'"),
        (("--temperature", "-1"), "--temperature -1.0 must be 0 or more"),
        (("--temperature", "nan"), "--temperature nan must be 0 or more"),
        (("--top-k", "0"), "argument --top-k: must be a whole number of at least 1"),
        (("--top-p", "1.5"), "--top-p 1.5 must be above 0"),
        (("--beam", "0"), "argument --beam: must be a whole number of at least 1"),
        (("--beam", "2", "--temperature", "1"), "--beam draws nothing"),
        (("--seed", "-1"), "argument --seed: must be a whole number from 0"),
    ],
)
def test_a_wrong_wish_is_one_sentence(generate: Callable[..., Any], arguments: tuple[str, ...], said: str) -> None:
    finished = generate(*arguments)
    assert finished.returncode == 2
    assert said in finished.stderr and "Traceback" not in finished.stderr
    assert finished.stdout == ""

"""Attention, decoding at once and step by step, beam search, judging, numbers in words, and copying and reversing."""

import itertools
import json
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet import autograd, nd

from pipeline.config import ModelConfig, check_config
from pipeline.config.head import FAR_BELOW
from pipeline.core.errors import InputError
from pipeline.evaluation import translation
from pipeline.ingest import numbers
from pipeline.models.attention import ATTENTIONS, Memory
from pipeline.models.beam import length_penalty
from pipeline.models.decoder import Decoder
from pipeline.models.search import search
from pipeline.models.translator import Translator
from pipeline.models.words import Words
from pipeline.serving.predict.mxnet_tasks import TaskPredictor
from pipeline.tasks.base import task_of
from pipeline.tokenization.encoder import UNKNOWN_ID
from pipeline.tokenization.joining import joined
from tests.conftest import duplet_command, last_json
from tests.serving.task_models import config_of, write_task


def initialized(block: Any, seed: int = 1) -> Any:
    mx.random.seed(seed)
    np.random.seed(seed)
    block.initialize()
    for parameter in block.collect_params().values():
        parameter.set_data(nd.random.uniform(-0.7, 0.7, parameter.shape))
    return block


# --- attention and the decoder ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_is_a_weighted_mean_of_what_is_there(kind: str) -> None:
    attention = initialized(ATTENTIONS[kind](5, 4))
    values, queries = nd.random.normal(shape=(2, 6, 4)), nd.random.normal(shape=(2, 3, 5))
    padding = nd.array([[0, 0, 0, 0, 1, 1], [0] * 6])
    context, weights = attention(queries, Memory(values, attention.keys(values), padding))
    found, h, s = weights.asnumpy(), values.asnumpy(), queries.asnumpy()
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-6)
    assert (found[0, :, 4:] == 0).all() and (found[1] > 0).all()
    np.testing.assert_allclose(context.asnumpy(), found @ h, atol=1e-5)
    w = {name: p.data().asnumpy() for name, p in attention._collect_params_with_prefix().items()}
    if kind == "luong":
        scores = s @ (h @ w["keys.weight"].T).transpose(0, 2, 1)
    elif kind == "scaled":
        scores = s @ (h @ w["places.weight"].T).transpose(0, 2, 1) / np.sqrt(5)
    else:
        compared = np.tanh((s @ w["project.weight"].T)[:, :, None] + (h @ w["keys.weight"].T + w["keys.bias"])[:, None])
        scores = compared @ w["score.weight"][0]
    scores = scores + padding.asnumpy()[:, None] * FAR_BELOW
    expected = np.exp(scores - scores.max(axis=2, keepdims=True))
    np.testing.assert_allclose(found, expected / expected.sum(axis=2, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("attention", [*ATTENTIONS, None])
def test_all_steps_at_once_are_the_steps_one_by_one(cell: str, attention: str | None) -> None:
    config = ModelConfig(cell=cell, embedding=4, hidden=6, layers=2, dropout=0.3)
    decoder = initialized(Decoder(config, 4, 3, attention, memory=5, summary=7))
    memory = None
    if attention:
        memory = decoder.remember(nd.random.normal(shape=(3, 8, 5)), nd.zeros((3, 8)))
    inputs, state = nd.random.normal(shape=(5, 3, 4)), decoder.start(nd.random.normal(shape=(3, 7)))
    together, last, weights = decoder(inputs, state, memory)
    for step in range(5):
        features, state, weight = decoder(inputs[step : step + 1], state, memory)
        np.testing.assert_allclose(features[0].asnumpy(), together[step].asnumpy(), atol=1e-5)
        if attention:
            np.testing.assert_allclose(weight[:, 0].asnumpy(), weights[:, step].asnumpy(), atol=1e-5)
    for one, other in zip(state, last):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), atol=1e-5)
    assert np.abs(together[0].asnumpy() - together[4].asnumpy()).max() > 0.01


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_target_step_sees_no_later_token_and_every_source_token(attention: str) -> None:
    network = initialized(Translator(ModelConfig(embedding=4, hidden=5, dropout=0.0), 9, attention))
    source, lengths = nd.array([[2, 3], [4, 5], [6, 0]], dtype="int32"), nd.array([3, 2], dtype="int32")
    target = np.array([[9, 9], [2, 3], [4, 5], [6, 7]])

    def features(source: nd.NDArray, target: np.ndarray) -> np.ndarray:
        memory, state = network.encode(source, lengths)
        found: np.ndarray = network(nd.array(target, dtype="int32"), state, memory)[0].asnumpy()
        return found

    before = features(source, target)
    later = target.copy()
    later[3] = 8
    np.testing.assert_array_equal(features(source, later)[:3], before[:3])
    assert np.abs(features(source, later)[3] - before[3]).max() > 1e-3
    other = source.copy()
    other[2, 0] = 7  # the first text's last token; the second one's padding
    assert np.abs(features(other, target)[0, 0] - before[0, 0]).max() > 1e-4
    other[2, 1] = 7
    np.testing.assert_array_equal(features(other, target)[:, 1], before[:, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_the_cross_entropy_with_soft_targets(smoothing: float) -> None:
    words = initialized(Words(6, 3))
    features, targets = nd.random.normal(shape=(4, 3)), np.array([0, 6, 2, 2])
    features.attach_grad()
    with autograd.record():
        losses = words.losses(features, nd.array(targets, dtype="int32"), smoothing)
    losses.backward()
    log_p = words.log_probabilities(features).asnumpy()
    soft = np.full((4, 7), smoothing / 7)
    soft[np.arange(4), targets] += 1 - smoothing
    np.testing.assert_allclose(losses.asnumpy(), -(soft * log_p).sum(axis=1), atol=1e-5)
    gradient = (np.exp(log_p) - soft) @ words.table.data().asnumpy()
    np.testing.assert_allclose(features.grad.asnumpy(), gradient, atol=1e-5)


# --- beam search ------------------------------------------------------------------------------------------------------
BORDER, TOKENS = 3, 4  # tokens 0, 1, 2 and the border


def toy(seed: int) -> tuple[Callable[..., Any], np.ndarray, np.ndarray]:
    """A step whose chances depend on the last two tokens and the example's memory; the state is the last token."""
    rng = np.random.default_rng(seed)
    chances = rng.normal(0, 1.5, (2, TOKENS, TOKENS, TOKENS))  # example, before last, last, next
    chances -= np.log(np.exp(chances).sum(axis=3, keepdims=True))

    def step(
        last: nd.NDArray, state: list[nd.NDArray], memory: list[nd.NDArray]
    ) -> tuple[nd.NDArray, list[nd.NDArray]]:
        example, before = memory[0].asnumpy().astype(int)[:, 0], state[0].asnumpy().astype(int)[:, 0]
        now = last.asnumpy().astype(int)
        return nd.array(chances[example, before, now]), [nd.array(now[:, None])]

    return step, chances, np.array([2, 4])


def all_texts(chances: np.ndarray, limit: int, alpha: float) -> dict[tuple[int, ...], float]:
    """Every text that ends, or is cut at the limit where none has ended, and its score."""
    found = {}
    for length in range(limit):
        for text in itertools.product(range(BORDER), repeat=length):
            steps = [BORDER, BORDER, *text, BORDER]
            total = sum(chances[a, b, c] for a, b, c in zip(steps, steps[1:], steps[2:]))
            found[text] = total / float(length_penalty(length + 1, alpha))
    return found


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 1.5]))
def test_a_wide_beam_finds_the_best_of_all_texts(seed: int, alpha: float) -> None:
    step, chances, limits = toy(seed)
    start = nd.array([[BORDER], [BORDER]])
    found = search(step, [start], [nd.array([[0], [1]])], limits, BORDER, beam=81, alpha=alpha)
    for example in range(2):
        texts = all_texts(chances[example], limits[example], alpha)
        best = max(texts, key=lambda text: texts[text])
        assert tuple(found[example].ids) == best
        assert found[example].score == pytest.approx(texts[best], abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    step, chances, limits = toy(seed)
    found = search(step, [nd.array([[BORDER], [BORDER]])], [nd.array([[0], [1]])], limits, BORDER)
    for example in range(2):
        text, before, last = [], BORDER, BORDER
        while len(text) < limits[example]:
            token = int(chances[example, before, last].argmax())
            if token == BORDER:
                break
            text.append(token)
            before, last = last, token
        assert found[example].ids == text


def test_barred_tokens_are_never_written() -> None:
    for seed in range(10):
        step, _, limits = toy(seed)
        for beam in (1, 4):
            start = [nd.array([[BORDER], [BORDER]])]
            found = search(step, start, [nd.array([[0], [1]])], limits, BORDER, beam, barred=(0, 2))
            assert all(set(text.ids) <= {1} for text in found)


# --- judging ----------------------------------------------------------------------------------------------------------
def test_corpus_scores_are_sacrebleus_with_any_number_of_references() -> None:
    judge = translation.judges(lowercase=True, tokenizer="13a")
    references = [["The cat sat on the mat today .", "A cat sat down on the mat ."], ["a dog barked at the moon"]]
    same = judge.scores(["the cat sat on the mat today .", "A dog barked at the moon"], references)
    assert same["bleu"] == pytest.approx(100) and same["chrf"] == pytest.approx(100)
    worse = judge.scores(["the cat sat on a mat today .", "a dog barked at us"], references)
    assert 0 < worse["bleu"] < 70 and worse["bleu"] < worse["chrf"] < 100
    compared, signatures = translation.comparison(
        {"model": ["the cat sat on a mat today .", "a dog barked at us"], "memory": ["x", "y"]}, references, judge, 20
    )
    assert [s.split("|")[0] for s in signatures] == ["BLEU", "chrF2"]
    assert "case:lc" in signatures[0] and "nrefs:var" in signatures[0]
    model = compared["systems"]["model"]["metrics"]["bleu"]
    assert model["mean"] == pytest.approx(worse["bleu"]) and model["low"] < model["mean"] < model["high"]


def test_sentences_unlike_training_have_a_table_of_their_own(tmp_path: Path) -> None:
    """A memory that copies 15 of 40 rightly: over all it is above the model, over the others it has nothing."""
    count, copied = 40, 15
    targets = [f"one two three word{i} five six" for i in range(count)]
    systems = {
        "model": [text.replace("six", "seven") for text in targets],
        "memory": [*targets[:copied], *["nothing at all here"] * (count - copied)],
        "copy": ["a"] * count,
    }
    likeness = np.array([1.0] * copied + [0.3] * (count - copied))
    field = SimpleNamespace(lengths=np.full(count, 6))
    split: Any = SimpleNamespace(
        fields={"source": field}, rows={"source": np.arange(count)}, ids=[*map(str, range(count))]
    )
    task: Any = write_task(tmp_path / "m", config_of("translation"))[0]
    references = [[target] for target in targets]
    found = task._tables(systems, references, targets, likeness, split, tmp_path, "")
    for name, key in (("model", "test/unlike/bleu"), ("memory", "test/unlike/memory/bleu")):
        wanted = sacrebleu.corpus_bleu(systems[name][copied:], [targets[copied:]]).score
        assert found[key] == pytest.approx(wanted, abs=1e-6)
    assert found["test/unlike/bleu"] > 60 and found["test/unlike/memory/bleu"] < 1 < found["test/memory/bleu"]
    table = (tmp_path / "table.txt").read_text()
    assert "the 25 test sentences to which no training source has a cosine of 0.5" in table
    assert json.loads((tmp_path / "metrics.json").read_text())["unlike_training"]["counted"] == count - copied
    alike = task._tables(systems, references, targets, np.ones(count), split, tmp_path, "")
    assert not [key for key in alike if "unlike" in key]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab c", max_size=12), max_size=4))
def test_characters_are_joined_to_what_they_were(texts: list[str]) -> None:
    for text in texts:
        assert joined("character", list(text)) == text


def test_words_of_chinese_and_of_english_are_joined_as_they_are_written() -> None:
    assert joined("jieba", ["我", "来到", "北京", "。", "你", "好"]) == "我来到北京。你好"
    assert joined("word", ["a", "man", ",", "two", "dogs", "."]) == "a man, two dogs."
    assert joined("whitespace", ["a", "man", "."]) == "a man ."


# --- numbers ----------------------------------------------------------------------------------------------------------
def value_of(said: str) -> int:
    """The number that words say, by another way than the one that made them."""
    places = {**{word: i for i, word in enumerate(numbers.SMALL)}, **{w: 10 * i for i, w in enumerate(numbers.TENS)}}
    total = part = 0
    for word in re.split("[ -]", said):
        if word == "thousand":
            total, part = 1000 * part, 0
        elif word == "hundred":
            part *= 100
        elif word != "and":
            part += places[word]
    return total + part


@settings(max_examples=200)
@given(st.integers(0, 999_999))
def test_a_number_in_words_is_that_number(number: int) -> None:
    assert value_of(numbers.in_words(number)) == number


def test_numbers_are_distinct_and_the_same_both_ways(tmp_path: Path) -> None:
    def rows(direction: str, seed: int) -> list[tuple[str, str]]:
        data = {"name": "n", "task": "translation", "seed": seed}
        data["ingest"] = {"source": {"format": "numbers", "direction": direction, "count": 2000}}
        config = check_config(data, "test")
        [(split, found)] = numbers.read(config.ingest.source, config, 1000)  # type: ignore[arg-type]
        assert split is None
        return [(str(row.values["source"]), str(row.values["target"])) for row in found]

    there, back = rows("to_words", 1), rows("to_digits", 1)
    assert back == [(target, source) for source, target in there] and rows("to_words", 2) != there
    assert len({source for source, _ in there}) == len({target for _, target in there}) == 2000
    dates = [source for source, _ in there if "-" in source]
    assert 450 < len(dates) < 750 and all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)


# --- the whole --------------------------------------------------------------------------------------------------------
WORDS = "abcdefgh"


def copied_or_reversed(count: int) -> list[dict[str, str]]:
    """`same` or `back` and words, and the words in that order; one in half of the records stands nowhere else."""
    rng, rows = random.Random(3), []
    for i in range(count):
        chosen = [rng.choice(WORDS) for _ in range(rng.randint(2, 6))]
        if i % 2:
            chosen[rng.randrange(len(chosen))] = f"name{i}"
        order = rng.choice(["same", "back"])
        target = chosen if order == "same" else chosen[::-1]
        rows.append({"source": " ".join([order, *chosen]), "target": " ".join(target)})
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model that copies, reverses, and takes unknown words from the source; its folders and metrics."""
    folder = tmp_path_factory.mktemp("translation")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in copied_or_reversed(2400)))
    config = {
        "name": "reverse",
        "task": "translation",
        "root": str(folder / "runs"),
        "ingest": {"source": {"format": "jsonl", "path": str(folder / "rows.jsonl")}},
        "tokenize": {"kind": "whitespace", "min_count": 3, "max_tokens": {"source": 8, "target": 8}},
        "model": {"embedding": 32, "hidden": 48, "dropout": 0.1},
        "translation": {"copy_unknown": True, "beam": 3},
        "train": {
            "threads_per_worker": 1, "max_pairs_per_update": 32, "epochs": 14, "metric": "nats",
            "patience_validations": None, "optimizer": {"learning_rate": 0.005},
        },
        "evaluate": {"bootstrap_samples": 50},
        "tracking": {"system_metrics": False, "send": "later"},
    }  # fmt: skip
    command = duplet_command(folder, "run", config, "--json")
    result = last_json(subprocess.run(command, capture_output=True, text=True, timeout=280))
    return {"metrics": result["metrics"], **{s: Path(row["folder"]) for s, row in result["stages"].items()}}


@pytest.mark.learns
def test_copying_and_reversing_are_learnt_with_words_never_seen(model: dict[str, Any]) -> None:
    metrics = model["metrics"]
    assert metrics["test/exact"] > 0.93
    assert metrics["test/bleu"] > 95 > 60 > metrics["test/copy/bleu"] and metrics["test/memory/exact"] < 0.05
    lines = [json.loads(line) for line in (model["evaluate"] / "predictions.jsonl").read_text().splitlines()]
    named = [line for line in lines if "name" in line["source"]]
    assert 60 < len(named) < len(lines)
    assert np.mean([line["target"] in line["references"] for line in named]) > 0.88
    table = (model["evaluate"] / "table.txt").read_text()
    assert "BLEU|nrefs:1|bs:50" in table and "chrF2|" in table
    pictures = sorted(path.name for path in model["evaluate"].glob("attention-*.png"))
    assert pictures == [f"attention-{i:02d}.png" for i in range(1, 9)]
    assert (model["evaluate"] / pictures[0]).read_bytes().startswith(b"\x89PNG")
    entries = json.loads((model["evaluate"] / "alignments.json").read_text())
    assert len(entries) == 8
    for entry in entries:
        values = np.array(entry["values"])
        assert values.shape == (len(entry["rows"]), len(entry["columns"]))
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-2)  # each written token looks somewhere
    page = (model["evaluate"] / "report.html").read_text()
    assert "written tokens" in page
    assert 'id="examples"' in page


@pytest.mark.learns
def test_odd_texts_have_an_answer_or_a_clear_error(model: dict[str, Any]) -> None:
    folder = model["train"]
    predictor = TaskPredictor(check_config(json.loads((folder / "config.json").read_text()), "test"), folder)
    texts = ["back a name7 c", "same d", "same", "x y z", "same " + "a b " * 500]
    answers = predictor.predict([{"source": text} for text in texts])
    assert [answer["target"] for answer in answers[:2]] == ["c name7 a", "d"]
    assert all(isinstance(answer["target"], str) and np.isfinite(answer["score"]) for answer in answers)
    assert not any("<unk>" in answer["target"] for answer in answers)
    with pytest.raises(InputError, match="row 1 cannot be predicted: empty text"):
        predictor.predict([{"source": "  "}])


def test_without_copying_no_unknown_word_is_written(prepared: Callable[..., Any]) -> None:
    config, _, tokenized = prepared("translation")
    task = task_of(config, tokenized)
    network = initialized(task.network())
    network.words.bias.data()[UNKNOWN_ID] = 1e3  # nothing is as likely as the unknown word
    answers = task.predict(network, [{"source": "12"}, {"source": "1984-03-17"}], mx.cpu())
    assert not any("<unk>" in answer["target"] for answer in answers)

"""Questions about drawn scenes: true and even answers, networks against formulas, learning what only both tell."""

import functools
import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pyarrow.parquet as pq
import pytest
from mxnet import autograd, nd

from pipeline.config import ModelConfig
from pipeline.core.errors import InputError
from pipeline.evaluation import judged
from pipeline.ingest import images, scene_questions
from pipeline.ingest import stage as ingest
from pipeline.ingest.scene_questions import KINDS, PLACES
from pipeline.models.question_answerer import QuestionAnswerer
from pipeline.orchestration import flow
from pipeline.reporting import captions_page
from tests.tasks.examples import drawn

of_questions = functools.partial(drawn, "visual_question", "scene_questions")


# --- the drawn source -------------------------------------------------------------------------------------------------
def answer_of(question: str, scene: dict[int, scene_questions.Placed]) -> str:
    """The answer read off a scene, question by question: an own reading, not the source's."""
    things = [(place, one.thing.colour, one.thing.shape, one.large) for place, one in scene.items()]
    named = re.findall(r"(red|green|blue|yellow|purple) (square|circle|triangle|cross)", question)
    if match := re.match(r"what colour is the (\w+) \?", question):
        [answer] = [colour for _, colour, shape, _ in things if shape == match[1]]
        return answer
    if match := re.match(r"what shape is the (\w+) thing \?", question):
        [answer] = [shape for _, colour, shape, _ in things if colour == match[1]]
        return answer
    if match := re.match(r"how many (\w+) things are there \?", question):
        return ["zero", "one", "two", "three"][sum(colour == match[1] for _, colour, _, _ in things)]
    if match := re.match(r"how many (square|circle|triangle|cross)(?:s|es) are there \?", question):
        return ["zero", "one", "two", "three"][sum(shape == match[1] for _, _, shape, _ in things)]
    if question.startswith("where is the"):
        [place] = [place for place, colour, shape, _ in things if (colour, shape) == named[0]]
        return ("top" if place < 2 else "bottom") + (" right" if place % 2 else " left")
    if " larger than " in question:
        [one] = [large for _, colour, shape, large in things if (colour, shape) == named[0]]
        [other] = [large for _, colour, shape, large in things if (colour, shape) == named[1]]
        assert one != other
        return "yes" if one else "no"
    assert question.startswith("is there a ")
    return "yes" if any((colour, shape) == named[0] for _, colour, shape, _ in things) else "no"


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_is_true_of_its_scene(kind: str) -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        asked = KINDS[kind](rng)
        scene = scene_questions._placed(asked, rng)
        assert 2 <= len(scene) <= len(PLACES)
        assert answer_of(asked.question, scene) == asked.answer, (asked.question, scene)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_alone_says_nothing_of_its_answer(kind: str) -> None:
    """Over many draws each answer of a question's form comes as often as the others: within four deviations."""
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(4000):
        asked = KINDS[kind](np.random.default_rng(seed))
        forms[asked.question if kind in ("colour", "shape") else kind][asked.answer] += 1
    for answers in forms.values():
        mean = sum(answers.values()) / len(answers)
        assert all(abs(count - mean) < 4 * mean**0.5 for count in answers.values()), answers
    chance = {"colour": 5, "shape": 4, "count": 4, "place": 4, "comparison": 2, "yes or no": 2}[kind]
    assert all(len(answers) == chance for answers in forms.values())


def test_no_set_of_things_is_in_two_splits(tmp_path: Path) -> None:
    counts = ingest.run(of_questions(tmp_path), tmp_path)
    assert counts["records"]["kept"] == 150 and counts["records"]["quarantined"] == 0
    sets: dict[str, set[str]] = {}
    for split in ("train", "valid", "test"):
        rows = [json.loads(m) for m in pq.read_table(tmp_path / f"records-{split}.parquet")["metadata"].to_pylist()]
        sets[split] = {row["things"] for row in rows}
        assert {row["kind"] for row in rows} <= set(KINDS)
    assert sets["test"] and not sets["train"] & (sets["test"] | sets["valid"])
    assert np.load(tmp_path / images.ARRAY).shape == (150, 48, 48, 3)


def test_runs_over_several_seeds_see_the_same_scenes(tmp_path: Path) -> None:
    """`ingest.split.seed` makes them, as the key of the stage says."""
    pictures = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        split = {"valid": 0.2, "test": 0.2, "seed": 5}
        source = {"format": "scene_questions", "count": 30}
        ingest.run(of_questions(tmp_path, seed=seed, ingest={"source": source, "split": split}), folder)
        pictures.append((folder / images.ARRAY).read_bytes())
    assert pictures[0] == pictures[1]


# --- the network ------------------------------------------------------------------------------------------------------
def answerer(
    fusion: str, shape: tuple[int, ...], scale: float | None = 0.7, pooling: Any = "max", **more: Any
) -> QuestionAnswerer:
    model = ModelConfig(embedding=3, hidden=4, dropout=0.0, pooling=pooling)
    network = QuestionAnswerer(model, 7, 5, fusion, shape, **more)
    mx.random.seed(2)
    np.random.seed(2)
    network.initialize()
    for parameter in network.collect_params().values() if scale else ():
        parameter.set_data(nd.random.uniform(-scale, scale, parameter.shape))
    return network


def weights_of(network: QuestionAnswerer) -> dict[str, np.ndarray]:
    return {name: p.data().asnumpy() for name, p in network._collect_params_with_prefix().items()}


@pytest.mark.parametrize(
    ("fusion", "shape", "blocks"),
    [("concat", (6,), 0), ("product", (6,), 0), ("attention", (9, 6), 0), ("attention", (9, 6), 2)],
)
def test_fusions_are_their_formulas(fusion: str, shape: tuple[int, ...], blocks: int) -> None:
    network = answerer(fusion, shape, blocks=blocks)
    seen = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    ids, lengths = nd.array([[2, 3], [4, 5], [6, 0]], dtype="int32"), nd.array([3, 2], dtype="int32")
    logits, weights = network(network.embedding.data(), ids, lengths, nd.array(seen))
    w = weights_of(network)
    caught: list[np.ndarray] = []
    network.pooling.register_forward_hook(lambda block, inputs, output: caught.append(output.asnumpy()))
    network(network.embedding.data(), ids, lengths, nd.array(seen))
    question = caught[0]
    relu = lambda x: np.maximum(x, 0)
    if fusion == "concat":
        joined = np.concatenate([question, relu(seen @ w["vector.weight"].T + w["vector.bias"])], axis=1)
    elif fusion == "product":
        vector = np.tanh(seen @ w["vector.weight"].T + w["vector.bias"])
        joined = np.tanh(question @ w["question.weight"].T + w["question.bias"]) * vector
    else:
        compared = seen + w["position"]
        for i in range(blocks):
            compared = steered(compared, question, {part: w[f"blocks.{i}.{part}"] for part in PARTS})
        if not blocks:
            places = compared @ w["place.weight"].T + w["place.bias"]
            compared = relu(places * (1 + question @ w["question.weight"].T)[:, None])
        scores = np.exp(compared @ w["score.weight"][0])
        chances = scores / scores.sum(axis=1, keepdims=True)
        assert weights is not None
        np.testing.assert_allclose(weights.asnumpy(), chances, rtol=1e-4)
        largest = [compared.max(axis=1)] if blocks else []
        joined = np.concatenate(
            [(compared * chances[:, :, None]).sum(axis=1), compared.sum(axis=1) / 3, *largest, question], axis=1
        )
    between = relu(joined @ w["between.weight"].T + w["between.bias"])
    np.testing.assert_allclose(logits.asnumpy(), between @ w["output.weight"].T + w["output.bias"], atol=1e-5)


PARTS = [f"{layer}.{part}" for layer in ("alone", "around", "steer") for part in ("weight", "bias")]


def steered(places: np.ndarray, question: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """(N, 9, C) places of a 3 x 3 grid after a steered block, place by place and neighbour by neighbour."""
    where = np.array([(right, down) for down in (-1, 0, 1) for right in (-1, 0, 1)], np.float32)
    places = np.concatenate([places, np.tile(where, (len(places), 1, 1))], axis=2)
    x = np.maximum(places @ w["alone.weight"][:, :, 0, 0].T + w["alone.bias"], 0)
    z = np.zeros_like(x) + w["around.bias"]
    for at, near in itertools.product(range(9), repeat=2):
        down, right = near // 3 - at // 3, near % 3 - at % 3
        if abs(down) <= 1 and abs(right) <= 1:
            z[:, at] += x[:, near] @ w["around.weight"][:, :, 1 + down, 1 + right].T
    z, question = (
        (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) for x in (z, question)
    )
    scale, shift = np.split(question @ w["steer.weight"].T + w["steer.bias"], 2, axis=1)
    return x + np.maximum((1 + scale[:, None]) * z + shift[:, None], 0)


@pytest.mark.parametrize("pooling", ["max", "max_mean"])
@pytest.mark.parametrize("fusion", ["concat", "product", "attention", "blocks"])
def test_every_parameter_learns_from_pictures(fusion: str, pooling: Any) -> None:
    more = {"blocks": 2, "net": "light"} if fusion == "blocks" else {}
    network = answerer("attention" if more else fusion, (16, 16, 3), scale=None, pooling=pooling, **more)
    pictures = nd.array(np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3)), dtype="uint8")
    ids = nd.array(np.random.default_rng(1).integers(2, 7, (9, 2)), dtype="int32")
    lengths = nd.array([9, 8], dtype="int32")
    table = network.embedding.data()
    table.attach_grad()
    with autograd.record():
        logits, _ = network(table, ids, lengths, pictures)
        loss = -nd.pick(nd.log_softmax(logits), nd.array([1, 3])).sum()
    loss.backward()
    assert abs(table.grad.asnumpy()).sum() > 0
    still = [
        name
        for name, p in network.collect_params().items()
        if p.grad_req != "null" and not abs(p.grad().asnumpy()).sum() > 0
    ]
    assert still == []


# --- the task ---------------------------------------------------------------------------------------------------------
@pytest.mark.learns
@pytest.mark.timeout(400)
def test_answers_need_the_question_and_the_picture(tmp_path: Path) -> None:
    """Vectors of three numbers; the question names which of them to read. Neither alone is better than chance."""
    rng = np.random.default_rng(0)
    vectors = rng.choice([-1.0, 1.0], size=(900, 3)).astype(np.float32)
    words, answers = ("first", "second", "third"), ("minus", "plus")
    questions: list[tuple[int, str, str]] = []
    for number, vector in enumerate(vectors):
        which = int(rng.integers(3))
        questions.append((number, f"the {words[which]} one ?", answers[int(vector[which] > 0)]))
    found, folder = trained_on_vectors(tmp_path, vectors, questions, train={"sure_precision": 0.9})
    assert found["test/accuracy"] > 0.97
    assert found["test/sure_share"] == 1  # each answer may be called sure, as nearly all are right
    assert found["test/sure_precision"] == pytest.approx(found["test/accuracy"])
    assert all(json.loads(line)["sure"] for line in (folder / "predictions.jsonl").read_text().splitlines())
    for alone in ("question_only", "frequent"):
        assert found[f"test/{alone}/accuracy"] < 0.65


def on_grid(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, str, str]:
    """A 5 x 5 grid of marks of two kinds as (25, 2) vectors, a question about it and the answer, each as likely.

    place: whether the mark of a kind is in the upper or the lower part. near: whether the mark of a kind has that of
    the other kind above it.
    """
    grid, name = np.zeros((25, 2), np.float32), ("first", "second")
    which = int(rng.integers(2))
    answer = int(rng.integers(2))
    if kind == "place":
        grid[int(rng.integers(10)) + 15 * answer, which] = 1
        grid[int(rng.integers(10)) + 15 * int(rng.integers(2)), 1 - which] = 1
        return grid, f"where is the {name[which]} ?", ("up", "down")[answer]
    upper = int(rng.integers(20))
    lower = upper + 5 if answer else int(rng.choice([n for n in range(25) if n not in (upper, upper + 5)]))
    grid[upper, 1 - which], grid[lower, which] = 1, 1
    return grid, f"what is above the {name[which]} ?", ("nothing", "mark")[answer]


@pytest.mark.learns
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "blocks"), [("place", 0), ("near", 1)])
def test_a_grid_tells_places_and_neighbours(kind: str, blocks: int, tmp_path: Path) -> None:
    """Each needs a part of its own: the places' vectors, and the steered convolutions."""
    rng = np.random.default_rng(0)
    grids, asked, answers = zip(*(on_grid(kind, rng) for _ in range(1500)))
    questions = list(zip(range(len(grids)), asked, answers))
    options = {"fusion": "attention", "features": "given", "blocks": blocks}
    found, _ = trained_on_vectors(tmp_path, np.stack(grids), questions, visual_question=options)
    assert found["test/accuracy"] > 0.95


def test_blocks_need_the_places_of_a_square(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"blocks=1 needs fusion=attention"):
        of_questions(tmp_path, visual_question={"fusion": "concat", "blocks": 1})
    grids = np.random.default_rng(0).normal(size=(60, 6, 2)).astype(np.float32)
    questions = [(i, "what ?", "this" if i % 2 else "that") for i in range(len(grids))]
    options = {"features": "given", "blocks": 1}
    with pytest.raises(InputError, match=r"blocks=1 needs a square grid, and the images have 6 places"):
        trained_on_vectors(tmp_path, grids, questions, visual_question=options)


def trained_on_vectors(
    folder: Path, vectors: np.ndarray, questions: list[tuple[int, str, str]], **more: Any
) -> tuple[dict[str, float], Path]:
    """The metrics and the evaluation folder of a training on given vectors."""
    np.save(folder / "vectors.npy", vectors)
    (folder / "questions.tsv").write_text("".join(f"{i}\t{asked}\t{answer}\n" for i, asked, answer in questions))
    source = {"format": "captions", "captions": "questions.tsv", "images": "vectors.npy"}
    source |= {name: str(folder / source[name]) for name in ("captions", "images")}
    data: dict[str, Any] = {
        "ingest": {"source": source, "split": {"valid": 0.1, "test": 0.2}},
        "tokenize": {"min_count": 1},
        "model": {"embedding": 8, "hidden": 16, "dropout": 0.0},
        "visual_question": {"fusion": "product", "features": "given"},
        "train": {"threads_per_worker": 1, "max_pairs_per_update": 32, "epochs": 12, "patience_validations": None,
                  "optimizer": {"learning_rate": 0.01}, **more.pop("train", {})},
    }  # fmt: skip
    result = flow.run(of_questions(folder / "runs", **(data | more)), "test", "evaluate", lambda line: None)
    return result.metrics, Path(result.stages["evaluate"]["folder"])


def test_an_answer_that_training_never_saw_is_wrong_and_counted(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    questions = [(i, "which one ?", "new" if i >= 36 else "old" if i % 2 else "older") for i in range(40)]
    questions.append((39, "which other ?", "new"))
    for split, numbers in {"train": range(28), "valid": range(28, 32), "test": range(32, 40)}.items():
        (tmp_path / split).write_text("".join(f"{i}\n" for i in numbers))
    names = {split: str(tmp_path / split) for split in ("train", "valid", "test")}
    source = {
        "format": "captions",
        "captions": str(tmp_path / "questions.tsv"),
        "images": str(tmp_path / "vectors.npy"),
    }
    metrics, folder = trained_on_vectors(
        tmp_path, vectors, questions,
        ingest={"source": source | {"splits": names}}, train={"threads_per_worker": 1, "epochs": 1},
    )  # fmt: skip
    assert "9 questions" in (folder / "table.txt").read_text()
    assert metrics["test/accuracy"] <= 0.5
    seen = judged.read(folder / "judged-answers.parquet")
    assert seen.groups is not None and (len(seen.groups), len({*seen.groups})) == (9, 8), "drawn by image"
    assert seen.measures("question_only", "macro_f1")
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["given"] for row in rows].count("new") == 5 and "new" not in rows[0]["probabilities"]


def test_a_picture_without_a_question_and_a_question_without_an_answer_are_put_aside(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.ones((3, 2), np.float32))
    (tmp_path / "q.tsv").write_text("0\twhat ?\tthis\n1\t\tthat\n2\twhat ?\n7\twhat ?\tthis\n")
    source = {"format": "captions", "captions": str(tmp_path / "q.tsv"), "images": str(tmp_path / "vectors.npy")}
    given = {"source": source, "split": {"valid": 0, "test": 0}, "max_quarantined_share": 0.9}
    (tmp_path / "out").mkdir()
    counts = ingest.run(of_questions(tmp_path, ingest=given), tmp_path / "out")
    assert counts["records"]["kept"] == 1 and counts["records"]["quarantined"] == 2


def test_the_page_shows_where_the_network_looked(tmp_path: Path) -> None:
    picture = np.full((48, 48, 3), 200, np.uint8)
    weights = np.zeros(9)
    weights[2] = 1.0  # the right end of the first row of a grid of three by three
    lit = captions_page._lit(picture, weights)
    assert lit.shape == (48, 96, 3) and (lit[:, :48] == 200).all()
    assert (lit[:16, 80:] == 200).all() and (lit[16:, 48:] == 30).all() and (lit[:, 48:80] == 30).all()
    assert captions_page._lit(picture, None) is picture

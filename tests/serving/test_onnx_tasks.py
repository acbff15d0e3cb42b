"""The graphs of the other tasks against the tasks' own networks: classifier, tagger, cloze, language-model step."""

import itertools
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd

from pipeline.evaluation import confidence, joining, naive_bayes
from pipeline.models.writing import BARRED, Choice, choose, write
from pipeline.serving.export import onnx_export
from pipeline.serving.loading import open_predictor
from pipeline.serving.model_folder import read_parameters
from pipeline.serving.onnx import graph_cache, session, tasks
from pipeline.tasks import decoding
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import load_tokenizer
from tests.serving.task_models import WORDS, config_of, write_task
from tests.serving.test_onnx_matcher import CELLS, POOLINGS, TOLERANCE, opened
from tests.tasks.test_every_task import numbers, words

RNG = np.random.default_rng(3)
TEXTS = [" ".join(RNG.choice([*WORDS, "unknown"], n)) for n in (1, 9, 4, 4, 2, 30)]
DEEP = {"layers": 3, "layer_norm": True, "residual": True}


def both(folder: Path, rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    found = [open_predictor(folder, backend, threads=1) for backend in ("onnx", "mxnet")]  # type: ignore[arg-type]
    assert [predictor.backend for predictor in found] == ["onnx", "mxnet"]
    return [predictor.predict(rows) for predictor in found]


def check(folder: Path, rows: list[dict[str, Any]]) -> None:
    onnx, mxnet = both(folder, rows)
    assert [words(row) for row in onnx] == [words(row) for row in mxnet]
    np.testing.assert_allclose(numbers(onnx), numbers(mxnet), atol=TOLERANCE)
    assert len({str(row) for row in mxnet}) > 2  # so that equality tells something


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_classifier_equals_mxnet(cell: str, pooling: str, tmp_path: Path) -> None:
    deep = DEEP if pooling == "mean" else {}
    write_task(tmp_path / "m", config_of("classification", {"cell": cell, "pooling": pooling, **deep}))
    check(tmp_path / "m", [{"review": text} for text in TEXTS])


def test_naive_bayes_joins_in_on_either_backend(tmp_path: Path) -> None:
    """P ∝ network ^ a · naive Bayes ^ b, by hand from what the network alone says."""
    write_task(tmp_path / "m", config_of("classification", {}))
    rows = [{"review": text} for text in TEXTS]
    alone = np.array([list(row["probabilities"].values()) for row in both(tmp_path / "m", rows)[0]])
    tokenizer = load_tokenizer(tmp_path / "m")
    texts, classes = [tokenizer.encode(text, "text") for text in TEXTS], alone.shape[1]
    model = naive_bayes.fit(texts, np.arange(len(texts)) % classes, classes, shards.vocabulary_size(tmp_path / "m"))
    joining.save(tmp_path / "m" / naive_bayes.NAME, joining.Joined(model, 0.5, 0.25))
    check(tmp_path / "m", rows)
    found = np.array([list(row["probabilities"].values()) for row in both(tmp_path / "m", rows)[0]])
    expected = alone**0.5 * np.exp(model.log_probabilities(texts)) ** 0.25
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=2e-5)
    assert np.abs(found - alone).max() > 0.05


def test_sure_answers_are_the_same_on_either_backend(tmp_path: Path) -> None:
    write_task(tmp_path / "m", config_of("classification", {}))
    rows = [{"review": text} for text in TEXTS]
    alone = np.array([list(row["probabilities"].values()) for row in both(tmp_path / "m", rows)[0]])
    assert all("sure" not in row for row in both(tmp_path / "m", rows)[0])
    hot = alone**2 / (alone**2).sum(axis=1, keepdims=True)
    middle = float(np.sort(hot.max(axis=1))[[len(hot) // 2 - 1, len(hot) // 2]].mean())
    confidence.save(tmp_path / "m", confidence.Confidence(0.5, 0.9, middle, 0.5, 0.9))
    for found in both(tmp_path / "m", rows):
        np.testing.assert_allclose([list(row["probabilities"].values()) for row in found], hot, atol=2e-5)
        assert [row["sure"] for row in found] == (hot.max(axis=1) > middle).tolist()
        assert 0 < sum(row["sure"] for row in found) < len(found)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("compare_left", (True, False))
def test_cloze_equals_mxnet(cell: str, compare_left: bool, tmp_path: Path) -> None:
    model = {"cell": cell, "directions": 2 if compare_left else 1, **(DEEP if compare_left else {})}
    write_task(tmp_path / "m", config_of("cloze", model, cloze={"compare_left": compare_left}))
    rows = [{"passage": f"{text} ___ {other} ___ b"} for text, other in itertools.pairwise(TEXTS)]
    check(tmp_path / "m", [{"passage": "___"}, *rows])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("characters", (True, False))
def test_tagger_equals_mxnet(cell: str, characters: bool, tmp_path: Path) -> None:
    """Tags of whole texts, and the scores that they come from."""
    deep = (
        DEEP | {"hidden": 27} if cell == "gru" else {}
    )  # as wide as a word with its letters: the first adds its input
    config = config_of("tagging", {"cell": cell, **deep}, tagging={"characters": characters, "crf": characters})
    _, network = write_task(tmp_path / "m", config)
    check(tmp_path / "m", [{"sentence": text} for text in TEXTS])
    arrays = read_parameters(tmp_path / "m")
    ids, lengths = np.array([[2, 3, 1, 0, 0], [4, 5, 6, 7, 0]], np.int32), np.array([3, 4], np.int32)
    feeds, spelled, places = {"ids": ids, "lengths": lengths}, None, None
    if characters:
        letters = [np.array(part, np.int32) for part in ([3, 4, 2, 5, 2, 6, 7, 8], [3, 2, 9, 9, 2, 2, 1, 3])]
        spelling = decoding.spelled(letters, [(5, lengths)], 2)
        assert len(spelling.lengths) == 6  # one word stands in both sentences
        spelled = network.letters(nd.array(spelling.letters, dtype="int32"), nd.array(spelling.lengths, dtype="int32"))
        places = nd.array(spelling.places[0], dtype="int32")
        feeds |= {"letters": spelling.letters.T, "letter_lengths": spelling.lengths, "places": spelling.places[0].T}
    (found,) = opened(tasks.tagger(config, arrays)["tagger.onnx"]).run(None, feeds)
    wanted = network(network.embedding.data(), nd.array(ids.T, dtype="int32"), nd.array(lengths, dtype="int32"),
                     spelled, places).asnumpy().transpose(1, 0, 2)  # fmt: skip
    there = np.arange(5) < lengths[:, None]
    np.testing.assert_allclose(found[there], wanted[there], atol=TOLERANCE)
    assert not found[~there].any()


def test_transitions_count(tmp_path: Path) -> None:
    """A tag that nothing may come before is never said, whatever its scores."""
    folder = tmp_path / "m"
    write_task(folder, config_of("tagging", tagging={"crf": True}))
    arrays = read_parameters(folder)
    said = {tag for row in both(folder, [{"sentence": text} for text in TEXTS])[0] for tag in row["tags"]}
    barred = sorted(said)[0]
    arrays["transitions"][:, ["O", "B-X", "I-X", "B-Y"].index(barred)] = -100
    np.savez(folder / "parameters.npz", **arrays)
    onnx, mxnet = both(folder, [{"sentence": text} for text in TEXTS])
    assert onnx == mxnet
    assert barred not in {tag for row in onnx for tag in row["tags"]}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", (True, False))
def test_language_step_equals_mxnet(cell: str, tied: bool, tmp_path: Path) -> None:
    """Token by token, and a longer beginning at once, give what the network gives over the whole text."""
    model = {"cell": cell, "embedding": 4 if tied else 6, **(DEEP if tied else {})}
    config = config_of("language_model", model, language_model={"tied": tied})
    _, network = write_task(tmp_path / "m", config)
    graph_cache.write_graphs(config, read_parameters(tmp_path / "m"), tmp_path, False)
    step = session.language_step(tmp_path)
    ids = RNG.integers(1, len(WORDS), (3, 7)).astype(np.int32)
    outputs, _ = network(nd.array(ids.T, dtype="int32"), network.begin(3, mx.cpu()))
    wanted = network.logits(outputs).asnumpy().transpose(1, 0, 2)
    for cuts in ([1, 2, 3, 4, 5, 6], [4]):
        states, found = None, []
        for piece in np.split(ids, cuts, axis=1):
            logits, states = step(piece, states)
            found.append(logits)
        np.testing.assert_allclose(np.concatenate(found, axis=1), wanted, atol=TOLERANCE)
    assert np.abs(wanted).mean() > 100 * TOLERANCE


def test_a_loop_over_the_step_writes_what_the_network_writes(tmp_path: Path) -> None:
    config = config_of("language_model", language_model={"sampled": 3})
    _, network = write_task(tmp_path / "m", config)
    onnx_export.export(tmp_path / "m", tmp_path / "out", False, lambda _: None)
    barred = np.array([0, 1])
    prompt = np.array([[4, 5, 6]], np.int32)
    draws = lambda: np.random.default_rng(1)
    wanted = [int(token[0]) for token in write(network, prompt.T, 12, Choice(), draws(), mx.cpu(), barred)]
    step = session.language_step(tmp_path / "out")
    ids, states, found, rng = prompt, None, [], draws()
    for _ in range(12):
        logits, states = step(ids, states)
        values = logits[:, -1]
        values[:, barred] = BARRED
        found.append(int(choose(values, Choice(), rng)[0]))
        ids = np.array([found[-1:]], np.int32)
    assert found == wanted
    assert len(set(found)) > 3

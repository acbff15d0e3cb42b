"""Starting from another training's parameters: rows matched by token, and what is refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from pipeline.config import task_specs
from pipeline.core.errors import InputError
from pipeline.serving.loading import open_predictor
from pipeline.training import warm_start
from tests.serving import task_models
from tests.serving.task_models import config_of, rows_of, write_task
from tests.training.test_optimizer import values_of


class Small(gluon.Block):
    """A table with a row per token, and a layer."""

    def __init__(self, tokens: int, units: int = 2) -> None:
        super().__init__()
        with self.name_scope():
            self.embedding = self.params.get("embedding", shape=(tokens, 3))
            self.layer = gluon.nn.Dense(units, in_units=3)
        self.initialize(mx.init.Normal(1.0))


def folder(path: Path, tokens: list[str], network: gluon.Block | None = None) -> Path:
    path.mkdir()
    (path / "vocabulary.json").write_text(json.dumps({"idx_to_token": tokens}))
    if network is not None:
        np.savez(path / "parameters.npz", **values_of(network))
    return path


def test_rows_follow_their_tokens(tmp_path: Path) -> None:
    old, new = Small(4), Small(5)
    trained = folder(tmp_path / "trained", ["<pad>", "<unk>", "gone", "stays"], old)
    tokenized = folder(tmp_path / "tokenized", ["<pad>", "<unk>", "stays", "new", "newer"])
    before = values_of(new)
    said = warm_start.start_from(trained, new, tokenized)
    after, given = values_of(new), values_of(old)
    np.testing.assert_array_equal(after["embedding"][:3], given["embedding"][[0, 1, 3]])
    np.testing.assert_array_equal(after["embedding"][3:], before["embedding"][3:])
    np.testing.assert_array_equal(after["layer.weight"], given["layer.weight"])
    assert "knew 3 of 5 tokens" in said


def test_an_equal_size_does_not_mean_equal_tokens(tmp_path: Path) -> None:
    old, new = Small(3), Small(3)
    trained = folder(tmp_path / "trained", ["<pad>", "a", "b"], old)
    warm_start.start_from(trained, new, folder(tmp_path / "tokenized", ["<pad>", "b", "a"]))
    np.testing.assert_array_equal(values_of(new)["embedding"], values_of(old)["embedding"][[0, 2, 1]])


def test_another_network_is_refused(tmp_path: Path) -> None:
    tokens = ["<pad>", "a", "b"]
    trained = folder(tmp_path / "trained", tokens, Small(3))
    tokenized = folder(tmp_path / "tokenized", tokens)
    with pytest.raises(InputError, match=r"layer.bias is \(2,\) there and \(4,\) here"):
        warm_start.start_from(trained, Small(3, units=4), tokenized)
    with pytest.raises(InputError, match="holds another network"):
        warm_start.start_from(trained, gluon.nn.Dense(2, in_units=3), tokenized)
    with pytest.raises(InputError, match="is not a trained model folder"):
        warm_start.start_from(tmp_path / "nowhere", Small(3), tokenized)
    (trained / "parameters.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="is not a trained model folder"):
        warm_start.start_from(trained, Small(3), tokenized)


def test_cells_of_equal_shapes_do_not_start_each_other(tmp_path: Path) -> None:
    """Whatever the task: the arrays of rnn_relu fit rnn_tanh, and mean something else there."""
    tokens = ["<pad>", "a", "b"]
    trained = folder(tmp_path / "trained", tokens, Small(3))
    tokenized = folder(tmp_path / "tokenized", tokens)
    (trained / "config.json").write_text(json.dumps({"task": "tagging", "model": {"cell": "rnn_relu"}}))
    for task in ("tagging", "classification"):
        with pytest.raises(InputError, match=r"model\.cell is rnn_relu there and rnn_tanh here: use its section model"):
            warm_start.start_from(trained, Small(3), tokenized, task, "rnn_tanh")
    assert "knew 3 of 3 tokens" in warm_start.start_from(trained, Small(3), tokenized, "tagging", "rnn_relu")
    (trained / "config.json").write_text("[]")  # it says nothing
    assert "knew 3 of 3 tokens" in warm_start.start_from(trained, Small(3), tokenized, "tagging", "rnn_tanh")


class Layers(gluon.Block):
    """Recurrent parameters of so many layers and directions under a name, as networks have them."""

    def __init__(self, table: str, tokens: int, places: dict[str, str], layers: int = 2, hidden: int = 2) -> None:
        super().__init__()
        width, whole = 3, hidden * max(len(directions) for directions in places.values())
        arrays = {table: (tokens, width)}
        for place, directions in places.items():
            for layer, d in itertools.product(range(layers), directions):
                inputs = whole if layer else width
                arrays |= {
                    f"{place}.{layer}.{d}_i2h_weight": (4 * hidden, inputs),
                    f"{place}.{layer}.{d}_h2h_weight": (4 * hidden, hidden),
                    f"{place}.{layer}.{d}_i2h_bias": (4 * hidden,),
                    f"{place}.{layer}.{d}_h2h_bias": (4 * hidden,),
                }
        self.arrays = {}
        with self.name_scope():
            for name, shape in arrays.items():
                self.arrays[name] = self.params.get(name, shape=shape, init=mx.init.Normal(1.0))
        self.initialize(mx.init.Normal(1.0), force_reinit=True)

    def _collect_params_with_prefix(self, prefix: str = "") -> dict[str, Any]:
        return self.arrays


def of_task(path: Path, task: str, tokens: list[str], network: gluon.Block) -> Path:
    folder(path, tokens, network)
    (path / "config.json").write_text(json.dumps({"task": task}))
    return path


def encoder(layers: int = 2, tokens: int = 3) -> Layers:
    return Layers("embedding", tokens, {"encoder.layers": "fb"}, layers)


SHUFFLED = ["<pad>", "b", "a"]


def test_words_and_both_directions_of_a_cloze_network_start_another_task(tmp_path: Path) -> None:
    """Identical words get identical vectors, whatever their rows; a second layer begins as two of one direction."""
    old, new = Layers("embedding", 4, {"both.forwards.layers": "f", "both.backwards.layers": "f"}), encoder()
    trained = of_task(tmp_path / "old", "cloze", ["<pad>", "a", "b"], old)  # the last row is the blank's
    said = warm_start.start_from(trained, new, folder(tmp_path / "new", SHUFFLED), "classification")
    before, after = values_of(old), values_of(new)
    np.testing.assert_array_equal(after["embedding"], before["embedding"][[0, 2, 1]])
    for d, place in (("f", "both.forwards"), ("b", "both.backwards")):
        for layer, part in itertools.product((0, 1), ("h2h_weight", "i2h_bias", "h2h_bias")):
            mine, theirs = f"encoder.layers.{layer}.{d}_{part}", f"{place}.layers.{layer}.f_{part}"
            np.testing.assert_array_equal(after[mine], before[theirs])
        np.testing.assert_array_equal(
            after[f"encoder.layers.0.{d}_i2h_weight"], before[f"{place}.layers.0.f_i2h_weight"]
        )
        second = after[f"encoder.layers.1.{d}_i2h_weight"]
        own, other = (second[:, :2], second[:, 2:]) if d == "f" else (second[:, 2:], second[:, :2])
        np.testing.assert_array_equal(own, before[f"{place}.layers.1.f_i2h_weight"])
        assert not other.any()
    assert "3 of 3 tokens, 2 layers, both directions" in said


def test_a_language_model_starts_what_reads_forwards(tmp_path: Path) -> None:
    old, new = Layers("words.weight", 3, {"layers": "f"}), encoder()
    trained = of_task(tmp_path / "old", "language_model", ["<pad>", "a", "b"], old)
    kept = values_of(new)["encoder.layers.0.b_h2h_weight"]
    said = warm_start.start_from(trained, new, folder(tmp_path / "new", SHUFFLED), "tagging")
    np.testing.assert_array_equal(
        values_of(new)["encoder.layers.0.f_h2h_weight"], values_of(old)["layers.0.f_h2h_weight"]
    )
    np.testing.assert_array_equal(values_of(new)["encoder.layers.0.b_h2h_weight"], kept)
    assert "2 layers, forwards" in said


def test_what_another_task_cannot_give_is_said(tmp_path: Path) -> None:
    tokens = ["<pad>", "a", "b"]
    start = lambda trained, network: warm_start.start_from(
        trained, network, folder(tmp_path / f"n{len(list(tmp_path.iterdir()))}", tokens), "classification"
    )
    shallow = of_task(tmp_path / "shallow", "tagging", tokens, encoder(1))
    with pytest.raises(InputError, match=r"has no encoder\.layers\.1\.f_i2h_weight.*model\.layers"):
        start(shallow, encoder())
    wide = Layers("embedding", 3, {"encoder.layers": "fb"}, hidden=4)
    with pytest.raises(InputError, match=r"is \(16, 3\) there and \(8, 3\) here"):
        start(of_task(tmp_path / "wide", "tagging", tokens, wide), encoder())
    with pytest.raises(InputError, match="from another task can start matching, classification and tagging"):
        start(of_task(tmp_path / "dense", "translation", tokens, Small(3)), encoder())
    with pytest.raises(InputError, match="holds another network"):
        start(of_task(tmp_path / "same", "classification", tokens, encoder(1)), encoder())


# --- every task -------------------------------------------------------------------------------------------------------
OPTIONS: dict[str, dict[str, Any]] = {"tagging": {"tagging": {"characters": True, "crf": True}}}
VOCABULARIES = ("WORDS", "LABELS", "TAGS", "LETTERS")


@pytest.mark.parametrize("name", sorted(task_specs().keys() - {"matching"}))
def test_a_model_of_other_vocabularies_starts_as_the_model_it_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every vocabulary in another order: of words, classes, tags, letters. What it answers stays."""
    config, texts = config_of(name, **OPTIONS.get(name, {})), ["a sort b", "zebra list d c"]
    rows = [{"text": text} for text in texts] if name == "language_model" else rows_of(name, texts)
    monkeypatch.setattr(task_models, "WORDS", [*task_models.WORDS, "\n"])  # with which a language model begins
    write_task(tmp_path / "old", config)
    for vocabulary in VOCABULARIES:
        monkeypatch.setattr(task_models, vocabulary, getattr(task_models, vocabulary)[::-1])
    _, network = write_task(tmp_path / "new", config)
    wanted, other = (open_predictor(tmp_path / place, "mxnet").predict(rows) for place in ("old", "new"))
    assert wanted != other, "the rows stand in another order"
    said = warm_start.start_from(tmp_path / "old", network, tmp_path / "new", name, config.model.cell)
    np.savez(tmp_path / "new" / "parameters.npz", **values_of(network))
    found = open_predictor(tmp_path / "new", "mxnet").predict(rows)
    for one, its in zip(found, wanted, strict=True):
        for part, value in its.items():
            assert one[part] == (pytest.approx(value, abs=1e-5) if isinstance(value, dict | float) else value), part
    others = {"classification": ", 3 of 3 labels", "visual_question": ", 3 of 3 answers"}
    others["tagging"] = ", 15 of 15 letters, 4 of 4 tags"
    assert said.endswith(f"10 of 10 tokens{others.get(name, '')}")


def test_a_new_class_has_random_weights_and_the_others_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("classification")
    _, old = write_task(tmp_path / "old", config)
    monkeypatch.setattr(task_models, "LABELS", ["new", "so-so", "bad"])
    _, network = write_task(tmp_path / "new", config)
    before, given = values_of(network)["output.weight"], values_of(old)["output.weight"]
    assert "2 of 3 labels" in warm_start.start_from(tmp_path / "old", network, tmp_path / "new", "classification")
    np.testing.assert_array_equal(values_of(network)["output.weight"], [before[0], given[2], given[0]])


def test_a_layer_of_as_many_units_as_tokens_is_no_table(tmp_path: Path) -> None:
    old, new = Small(3, units=3), Small(3, units=3)
    trained = folder(tmp_path / "trained", ["<pad>", "a", "b"], old)
    warm_start.start_from(trained, new, folder(tmp_path / "tokenized", SHUFFLED))
    np.testing.assert_array_equal(values_of(new)["layer.weight"], values_of(old)["layer.weight"])

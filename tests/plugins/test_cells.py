"""Cells of another package: one formula in MXNet and ONNX, in every task; from installation to a page; bad packages."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from mxnet import autograd, nd

from pipeline.config import ModelConfig, config_model
from pipeline.config.cells import CELLS, OWN, Cell
from pipeline.config.head import Maths
from pipeline.config.plugins import Brought, Plugins
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.models.encoder import padding_of
from pipeline.models.kernel import library, operator
from pipeline.models.parameters import parameters_of
from pipeline.models.recurrent import RecurrentLayer, read_on
from pipeline.serving.export import torch_export
from pipeline.serving.model_folder import read_parameters
from pipeline.serving.onnx import graph_cache, matcher, session
from tests.plugins.cells_package import duplet_cells
from tests.plugins.conftest import (
    Run,
    folders_of,
    install,
    printed,
    refused,
    stopped_and_resumed,
    works_without,
    write_lines,
)
from tests.serving import task_models
from tests.serving.networks import config_of, random_network, random_texts, randomise, represent
from tests.serving.test_onnx_tasks import DEEP, TEXTS, check
from tests.serving.test_onnx_writers import check_texts

MODULE = Path(duplet_cells.__file__)
BROUGHT = ("minimal", "coupled")
STEPPED = tuple(f"stepped_{cell.name}" for cell in OWN)


def stepped(cell: Cell) -> Cell:
    """One of Duplet's own cells by its formula, without its kernels."""
    kind = type(f"Stepped{type(cell).__name__}", (type(cell),), {"name": f"stepped_{cell.name}", "kernel": False})
    made: Cell = kind()
    return made


class Peaked(Cell):
    """A cell over more of the arithmetic than gates need."""

    name, summary = "peaked", "as the simple cell, less where one number is large"

    def step(self, m: Maths, read: Sequence[Any], carried: Sequence[Any], states: Sequence[Any]) -> Sequence[Any]:
        peak = m.expanded(m.largest(m.absolute(carried[0])), 1)
        return (m.tanh(read[0] + carried[0]) / (1 + peak),)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package's cells in this process, and Duplet's own by their formulas."""
    monkeypatch.setattr(manifest, "versions", lambda *names: {})  # the package is installed in this process alone
    cells = (duplet_cells.MINIMAL, duplet_cells.COUPLED, Peaked(), *map(stepped, OWN))
    CELLS.__dict__["plugins"] = Plugins({cell.name: Brought("duplet-cells", cell) for cell in cells}, ())
    config_model.cache_clear()
    yield
    del CELLS.__dict__["plugins"]
    config_model.cache_clear()


# --- formulas ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", ["auto", library.MXNET])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", [cell.name for cell in OWN])
def test_a_formula_gives_what_the_kernels_give(
    installed: None, monkeypatch: pytest.MonkeyPatch, cell: str, directions: int, kernel: str
) -> None:
    """States and gradients of Duplet's own cells over padded texts."""
    monkeypatch.setattr(operator, "_setting", kernel)
    lengths = nd.array([5, 2, 1], dtype="int32")
    padding = padding_of(lengths, 5)
    found: list[list[np.ndarray]] = []
    for name in (cell, f"stepped_{cell}"):
        layer = RecurrentLayer(name, 3, 4, directions)
        layer.initialize()
        randomise(layer, seed=1)
        x = nd.array(np.random.default_rng(2).normal(size=(5, 3, 3)))
        x.attach_grad()
        with autograd.record():
            y = nd.broadcast_mul(layer(x, padding, layer.packed(mx.cpu())), 1 - padding)
            loss = (y * nd.array(np.random.default_rng(3).normal(size=y.shape))).sum()
        loss.backward()
        gradients = [parameter.grad().asnumpy() for parameter in parameters_of(layer).values()]
        found.append([y.asnumpy(), x.grad.asnumpy() * (1 - padding.asnumpy()), *gradients])
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, atol=2e-5)
        assert np.abs(one).max() > 0.01


@pytest.mark.parametrize("cell", [cell.name for cell in OWN])
def test_a_formula_reads_on_as_the_kernels_do(installed: None, cell: str) -> None:
    x = nd.array(np.random.default_rng(2).normal(size=(4, 2, 3)))
    states = [nd.array(np.random.default_rng(k).normal(size=(1, 2, 4))) for k in range(CELLS.named(cell).states)]
    layer = RecurrentLayer(cell, 3, 4, 1)
    layer.initialize()
    randomise(layer, seed=1)
    packed = layer.packed(mx.cpu())
    (y, after), (own_y, own_after) = (read_on(name, 4, x, states, packed) for name in (f"stepped_{cell}", cell))
    for one, other in zip([y, *after], [own_y, *own_after]):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), atol=1e-5)


@pytest.mark.parametrize("cell", BROUGHT)
def test_a_text_has_the_same_vector_alone_and_among_others(installed: None, cell: str) -> None:
    config = config_of(cell=cell, pooling="max_mean", layers=2)
    network, _ = random_network(config)
    ids, lengths = random_texts(np.random.default_rng(5), 4, 7, 9)
    together = represent(network, "document", ids, lengths).vectors.asnumpy()
    for row, length in enumerate(lengths.tolist()):
        alone = represent(network, "document", ids[row : row + 1, :length], lengths[row : row + 1])
        np.testing.assert_allclose(alone.vectors.asnumpy()[0], together[row], atol=1e-6)


# --- ONNX -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", (*BROUGHT, *STEPPED, "peaked"))
def test_the_exported_encoder_equals_mxnet(installed: None, cell: str, directions: int) -> None:
    deep = {"layers": 2, "layer_norm": True, "residual": True} if directions == 2 else {}
    config = config_of(cell=cell, directions=directions, pooling="max_mean", **deep)
    network, arrays = random_network(config, seed=2)
    ids, lengths = random_texts(np.random.default_rng(5), 5, 7, 9)
    wanted = represent(network, "document", ids, lengths).vectors.asnumpy()
    opened = onnxruntime.InferenceSession(
        matcher.encoder(config, arrays, "document").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(opened.run(None, {"ids": ids, "lengths": lengths})[0], wanted, atol=1e-4)
    assert np.abs(wanted).max() > 0.1


@pytest.mark.parametrize("cell", BROUGHT)
def test_a_language_model_s_step_equals_mxnet(installed: None, cell: str, tmp_path: Path) -> None:
    config = task_models.config_of("language_model", {"cell": cell, **DEEP})
    _, network = task_models.write_task(tmp_path / "m", config)
    graph_cache.write_graphs(config, read_parameters(tmp_path / "m"), tmp_path, False)
    step, ids = session.language_step(tmp_path), np.random.default_rng(1).integers(1, 9, (3, 7)).astype(np.int32)
    outputs, _ = network(nd.array(ids.T, dtype="int32"), network.begin(3, mx.cpu()))
    wanted = network.logits(outputs).asnumpy().transpose(1, 0, 2)
    first, states = step(ids[:, :3], None)
    second, _ = step(ids[:, 3:], states)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), wanted, atol=1e-4)


@pytest.mark.parametrize("cell", BROUGHT)
@pytest.mark.parametrize("attention", ["scaled", "bahdanau"])
def test_a_translator_equals_mxnet(installed: None, cell: str, attention: str, tmp_path: Path) -> None:
    config = task_models.config_of("translation", {"cell": cell}, translation={"attention": attention})
    task_models.write_task(tmp_path / "m", config)
    check_texts(tmp_path / "m", task_models.rows_of("translation", TEXTS), "target")


@pytest.mark.parametrize("cell", BROUGHT)
def test_a_tagger_by_letters_equals_mxnet(installed: None, cell: str, tmp_path: Path) -> None:
    config = task_models.config_of("tagging", {"cell": cell}, tagging={"characters": True, "crf": True})
    task_models.write_task(tmp_path / "m", config)
    check(tmp_path / "m", task_models.rows_of("tagging", TEXTS))


def test_an_exported_graph_is_opened_and_one_with_more_within_its_steps_is_not(installed: None, tmp_path: Path) -> None:
    config = task_models.config_of("classification", {"cell": "minimal"})
    task_models.write_task(tmp_path, config)
    graph_cache.write_graphs(config, read_parameters(tmp_path), tmp_path, False)
    assert graph_cache.ensure_graphs(tmp_path) == tmp_path
    [path] = tmp_path.glob("*.onnx")
    model = onnx.load(path)
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    body.node.append(onnx.helper.make_node("Loop", ["", ""], [], body=onnx.helper.make_graph([], "turns", [], [])))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="holds Loop within Scan, which no graph of Duplet holds"):
        graph_cache.ensure_graphs(tmp_path)


# --- refusals ---------------------------------------------------------------------------------------------------------
def test_refusals_name_the_cell(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(cell="minimal")
    assert config.model_packages == {"cell minimal": "duplet-cells"}
    assert config.packages == ("duplet-cells",)
    with pytest.raises(InputError, match=r"model.cell='minima'.*did you mean minimal\?"):
        config_of(cell="minima")
    with pytest.raises(
        InputError, match=r"precision=bfloat16 is for .*layers on CPUs, and model.cell=minimal, which no k"
    ):
        config_of(cell="minimal", precision="bfloat16")
    with pytest.raises(InputError, match=r"model.kernel=own has no cell minimal: set model.kernel to auto"):
        config_of(cell="minimal", kernel="own")
    with pytest.raises(InputError, match=r"int8 needs model.cell=lstm: ONNX Runtime has no eight-bit minimal"):
        graph_cache.check(config, int8=True)
    monkeypatch.setattr(torch_export, "read_config", lambda _: config)
    with pytest.raises(InputError, match=r"PyTorch has no recurrent layer of model.cell=minimal: export to ONNX"):
        torch_export.export(tmp_path, tmp_path / "out")


BAD = {
    "broken": ("import a_module_that_is_not_there", "broken", "ModuleNotFoundError"),
    "gru": ("", "gru", "has the name of one of Duplet"),
    "liar": ('name = "gru"', "liar", "calls itself gru, as a cell of Duplet"),
    "older": ('name = "older"\n    interface = 0', "older", "version 0 of the interface"),
    "empty": ('name = "empty"\n    step = Cell.step', "empty", "has no formula"),
    "gateless": ('name = "gateless"\n    gates = 0', "gateless", "has no gate or no state"),
    "mute": ('name = "mute"\n    summary = ""', "mute", "has no summary"),
    "fused": ('name = "fused"\n    kernel = True', "fused", "but only Duplet's own cells have kernels"),
}
CODE = """
from pipeline.config.cells import Cell
class Own(Cell):
    summary = "nothing"
    def step(self, m, read, carried, states): return (read[0],)
    {body}
THING = Own()
"""


def test_packages_whose_cells_cannot_be_used_cost_a_sentence_each(
    with_site: Callable[[Path], Run], tmp_path: Path
) -> None:
    shown = refused(with_site, tmp_path, "duplet.cells", BAD, CODE)
    assert shown["model"]["cell"] == ModelConfig().cell


# --- from installation to a page --------------------------------------------------------------------------------------
CONFIG: dict[str, Any] = {
    "name": "classes",
    "root": "runs",
    "task": "classification",
    "ingest": {"source": {"format": "jsonl", "path": "texts.jsonl"}, "split": {"valid": 0.2, "test": 0.2}},
    "tokenize": {"min_count": 1},
    "model": {"cell": "coupled", "embedding": 8, "hidden": 8, "dropout": 0.0},
    "train": {
        "threads_per_worker": 1, "max_pairs_per_update": 16, "epochs": 60, "patience_validations": None,
        "log_every_updates": 2,
        "checkpoint_every_updates": 3, "schedule": {"warmup_updates": 2}, "optimizer": {"learning_rate": 0.02},
    },
    "evaluate": {"bootstrap_samples": 20},
    "tracking": {"system_metrics": False, "max_wait_s": 0},
}  # fmt: skip


@pytest.mark.workers
@pytest.mark.timeout(600)
def test_a_cell_of_another_package_from_installation_to_a_page(
    with_site: Callable[[Path], Run], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    points = {name: f"duplet_cells:{name.upper()}" for name in BROUGHT}
    install(site, "duplet-cells", "0.5", {"duplet.cells": points}, MODULE)
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(120):  # the class is whether a comes before b
        words = [*rng.choice(["x", "y", "z"], 4), "a", "b"]
        text = rng.permutation(words).tolist()
        rows.append({"text": " ".join(text), "label": "ab" if text.index("a") < text.index("b") else "ba"})
    write_lines(tmp_path / "texts.jsonl", rows)
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(CONFIG))
    run = with_site(site)

    schema = json.loads(printed(run, "config", "schema"))
    assert set(BROUGHT) <= set(schema["$defs"]["ModelConfig"]["properties"]["cell"]["enum"])
    whole = stopped_and_resumed(run, site, tmp_path, "classes.yaml")
    assert whole["metrics"]["test/accuracy"] > 0.6
    folders = folders_of(whole, tmp_path, "duplet-cells", "0.5")
    assert "coupled" in (folders["evaluate"] / "report.html").read_text()

    write_lines(tmp_path / "ask.jsonl", [{"text": row["text"]} for row in rows[:3]])
    said = {}
    for backend in ("onnx", "mxnet"):
        trained = str(folders["train"])
        printed(run, "predict", trained, "--backend", backend, "--input", "ask.jsonl", "--output", f"{backend}.jsonl")
        lines = (tmp_path / f"{backend}.jsonl").read_text().splitlines()
        said[backend] = [json.loads(line)["probabilities"]["ab"] for line in lines]
    assert said["onnx"] == pytest.approx(said["mxnet"], abs=1e-4)

    sentence = "is of the cell coupled, which no installed package brings: install duplet-cells"
    works_without(with_site(tmp_path / "nothing"), folders, sentence)

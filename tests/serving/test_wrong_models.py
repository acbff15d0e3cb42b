"""A model's folder whose files are well-formed and do not fit each other is refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.core.errors import InputError
from pipeline.serving import loading
from pipeline.serving.onnx import session
from tests.search.models import model_folder

Arrays = dict[str, np.ndarray]


def spoiled(folder: Path, change: Callable[[Arrays], Any]) -> None:
    arrays = dict(np.load(folder / "parameters.npz"))
    change(arrays)
    np.savez(folder / "parameters.npz", **arrays)


WRONG: dict[str, Callable[[Arrays], Any]] = {
    "complex": lambda a: a.update(embedding=a["embedding"].astype(np.complex64)),
    "integers": lambda a: a.update(embedding=a["embedding"].astype(np.int64)),
    "empty": lambda a: a.update(embedding=a["embedding"][:0]),
    "not a number": lambda a: a["embedding"].__setitem__(0, np.nan),
    "infinite": lambda a: a["embedding"].__setitem__(0, np.inf),
    "none of them": lambda a: a.clear(),
    "another width": lambda a: a.update(embedding=a["embedding"][:, :-1]),
    "one missing": lambda a: a.pop("embedding"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_parameters_that_are_none_are_refused(tmp_path: Path, wrong: str) -> None:
    folder = model_folder(tmp_path / "m", ["wing", "flow"], embedding=8)
    spoiled(folder, WRONG[wrong])
    with pytest.raises(
        InputError, match=r"^[^\n]*(train the model again|train it again|of one training|export the model again)$"
    ):
        loading.open_encoder(folder).encode("query", ["wing flow"])


@pytest.mark.parametrize("model", [{"cell": "gru"}, {"layers": 2}, {"layer_norm": True}])
def test_a_configuration_of_another_network_is_refused(tmp_path: Path, model: dict[str, Any]) -> None:
    folder = model_folder(tmp_path / "m", ["wing", "flow"], embedding=8)
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= model
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        loading.open_encoder(folder).encode("query", ["wing flow"])


def test_a_graph_that_fails_or_gives_one_vector_for_all_is_refused(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, ["N", "T"]),
              helper.make_tensor_value_info("lengths", TensorProto.INT32, ["N"])]  # fmt: skip
    out = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, None)
    one = helper.make_tensor("one", TensorProto.FLOAT, [1, 4], np.ones(4))
    three = helper.make_tensor("three", TensorProto.FLOAT, [3, 4], np.ones(12))
    for nodes, sentence in (
        ([helper.make_node("Identity", ["one"], ["vectors"])], r"gave \(1, 4\) for \(3, any\)"),
        ([helper.make_node("Cast", ["ids"], ["f"], to=TensorProto.FLOAT),
          helper.make_node("MatMul", ["f", "three"], ["vectors"])], "cannot be run"),
    ):  # fmt: skip
        graph = helper.make_graph(nodes, "g", inputs, [out], [one, three])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(made, str(tmp_path / "encoder.onnx"))
        represent = session.represent_with(tmp_path)
        with pytest.raises(InputError, match=sentence):
            represent("query", np.ones((3, 2), np.int32), np.full(3, 2, np.int32))

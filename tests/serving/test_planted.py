"""Models from elsewhere are read as data: what was planted in them to be run is never run.

Each plant is first shown to work in the hands of a reader that does run it.
"""

import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.core.manifest import KeyParts
from pipeline.serving import fetching, model_folder
from pipeline.serving.export import onnx_export, torch_export
from pipeline.serving.loading import open_predictor
from pipeline.tokenization.tokenizers import SentencePieceTokenizer
from pipeline.tracking import address
from pipeline.tracking.client import connect
from tests.planted import Planted
from tests.serving.test_second_stage import made_with

Trained = Callable[..., Path]
ROWS = [{"query": "sort a list", "document": "list b"}]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def worked(mark: Path) -> None:
    """The plant does what it was planted for; away with its trace."""
    assert mark.exists()
    mark.unlink()


def signed(folder: Path) -> Path:
    """A manifest that fits whatever the folder holds now: who plants can count too."""
    before = json.loads((folder / manifest.NAME).read_text())
    manifest.write(folder, before["stage"], KeyParts(**before["key_parts"]), {}, time.time())
    return folder


def test_a_pickle_among_the_parameters(trained: Trained, mark: Path, tmp_path: Path) -> None:
    folder = trained()
    np.savez(folder / "parameters.npz", embedding=np.array([Planted(mark)], dtype=object))
    with np.load(folder / "parameters.npz", allow_pickle=True) as archive:
        assert archive["embedding"].size == 1
    worked(mark)
    with pytest.raises(InputError, match=r"parameters\.npz"):
        open_predictor(fetching.fetch(str(signed(folder)), tmp_path, None))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["parameters.npz", "config.json", "tokenizer.json", "vocabulary.json"])
def test_a_bare_pickle_in_the_place_of_a_file(trained: Trained, mark: Path, tmp_path: Path, name: str) -> None:
    folder = trained()
    (folder / name).write_bytes(pickle.dumps(Planted(mark)))
    pickle.loads((folder / name).read_bytes())
    worked(mark)
    with pytest.raises(InputError, match=name):
        open_predictor(fetching.fetch(str(signed(folder)), tmp_path, None))
    assert not mark.exists()


def test_a_packed_archive_of_parameters_is_not_unpacked(trained: Trained, tmp_path: Path) -> None:
    folder = trained()
    np.savez_compressed(folder / "parameters.npz", embedding=np.zeros(100 << 20, np.uint8))
    assert (folder / "parameters.npz").stat().st_size < 1 << 20
    with pytest.raises(InputError, match="would unpack to more than it holds"):
        model_folder.read_parameters(folder)


def test_a_pickle_in_the_place_of_a_sentencepiece_model(mark: Path, tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.model").write_bytes(pickle.dumps(Planted(mark)))
    pickle.loads((tmp_path / "sentencepiece.model").read_bytes())
    worked(mark)
    with pytest.raises(InputError, match="not a readable SentencePiece model"):
        SentencePieceTokenizer(tmp_path / "sentencepiece.model")
    assert not mark.exists()


def test_a_pytorch_file_given_to_import(trained: Trained, mark: Path, tmp_path: Path) -> None:
    """What torch.save writes is a pickle, of old bare and of late in an archive."""
    import io
    import zipfile

    exported = tmp_path / "torch"
    torch_export.export(trained(), exported)
    bare = pickle.dumps(Planted(mark))
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as packed:
        packed.writestr("model/data.pkl", bare)
    pickle.loads(bare)
    worked(mark)
    for content in (bare, archive.getvalue()):
        (exported / torch_export.NAME).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            torch_export.bring_in(exported, tmp_path / "back")
        assert not mark.exists() and not (tmp_path / "back").exists()


LOADER = """from pathlib import Path
Path({mark!r}).touch()

class Any:
    def predict(self, rows):
        return []

def _load_pyfunc(path):
    Path({mark!r}).touch()  # a second import does nothing
    return Any()
"""


def planted_model(folder: Path, inside: Path, mark: Path) -> Path:
    """An MLflow model whose loader is a planted module, around a good exported folder."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / f"planted_by_{mark.parent.name}.py").write_text(LOADER.format(mark=str(mark)))
    (folder / "artifacts").mkdir()
    inside.rename(folder / "artifacts" / "model")
    (folder / "MLmodel").write_text(
        f"flavors:\n  python_function:\n    loader_module: planted_by_{mark.parent.name}\n    code: code\n"
        "    data: artifacts\n"
        "    python_version: 3.11.0\nmodel_uuid: 0\nutc_time_created: '2026-01-01 00:00:00'\n"
    )
    return folder


@pytest.mark.parametrize("named", ["folder", "registry"])
def test_a_planted_mlmodel_with_a_loader_of_its_own(trained: Trained, mark: Path, tmp_path: Path, named: str) -> None:
    exported = tmp_path / "exported"
    onnx_export.export(trained(), exported, False, lambda _: None)
    folder = planted_model(tmp_path / "evil", exported, mark)
    where = address(None, tmp_path / "root")
    (tmp_path / "root").mkdir()
    mlflow, client = connect(where)
    mlflow.pyfunc.load_model(str(folder))
    worked(mark)
    given = str(folder)
    if named == "registry":
        with mlflow.start_run(experiment_id=client.create_experiment("evil", where.artifacts)) as run:
            mlflow.log_artifacts(str(folder), "evil")
        client.create_registered_model("evil")
        client.create_model_version("evil", f"{run.info.artifact_uri}/evil", run.info.run_id)
        given = "models:/evil/1"
    predicted = open_predictor(fetching.fetch(given, tmp_path / "root", None), threads=1).predict(ROWS)
    assert len(predicted) == 1 and not mark.exists()  # the arrays were good, the code was not asked


def test_a_graph_reads_no_file_outside_of_its_folder(trained: Trained, tmp_path: Path) -> None:
    """An ONNX graph may say that a weight's bytes lie in another file; one that climbs out is refused."""
    import onnx

    exported = tmp_path / "deep" / "exported"
    exported.parent.mkdir()
    onnx_export.export(trained(), exported, False, lambda _: None)
    path = next(exported.glob("*encoder.onnx"))
    graph = onnx.load(path)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (tmp_path / "secret").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match="is not a graph that ONNX Runtime can run"):
        open_predictor(fetching.fetch(str(signed(exported)), tmp_path, None), threads=1)


@pytest.mark.parametrize("of", ["the model", "its second stage"])
def test_a_graph_with_a_loop_is_not_run(of: str, trained: Trained, tmp_path: Path) -> None:
    """A loop of 2^62 turns would never end."""
    import onnx
    from onnx import TensorProto, helper

    exported = tmp_path / "exported"
    onnx_export.export(trained(), exported, False, lambda _: None, made_with(trained(seed=1)))
    within = exported if of == "the model" else exported / model_folder.SECOND
    path = next(within.glob("*encoder.onnx"))
    graph = onnx.load(path)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"])], "body",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])],
    )  # fmt: skip
    graph.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [2**62]))
    graph.graph.initializer.append(helper.make_tensor("go_in", TensorProto.BOOL, [], [True]))
    graph.graph.node.append(helper.make_node("Loop", ["turns", "go_in"], [], body=body))
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match="holds Loop, which no graph of Duplet holds"):
        open_predictor(fetching.fetch(str(signed(exported)), tmp_path, None), threads=1)

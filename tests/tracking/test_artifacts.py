"""Files of models in a root whose name holds signs of addresses, given from the working directory on."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.registry.mlflow_registry import Registry
from pipeline.tracking import address, connect
from pipeline.tracking.client import model_of_registry
from pipeline.tracking.logged import log_pyfunc, model_of
from tests.tracking.server import Server

SCRIPT = """
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input

mlflow.models.set_model(Model())
"""


def log(mlflow: Any, root: Path, run_id: str) -> None:
    """Logs a model with a file that lies in a root."""
    code, rows = root / "packed" / "code", [{"a": "b"}]
    code.mkdir(parents=True, exist_ok=True)
    (code / "__init__.py").touch()
    (code / "script.py").write_text(SCRIPT)
    files = {"onnx": str(root / "packed" / "onnx")}
    with mlflow.start_run(run_id=run_id):
        log_pyfunc(mlflow, "model", code / "script.py", code, files, ["mlflow"], rows, rows, {})


def put_graph(root: Path) -> None:
    (root / "packed" / "onnx").mkdir(parents=True)
    (root / "packed" / "onnx" / "graph").write_text("the graph")


@pytest.mark.parametrize("name", ["runs", "my%20runs", "what?", "a#b"])
def test_a_registered_model_has_its_files(
    name: str, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(name)
    root.mkdir()
    shutil.copy(empty_database, root)
    where = address(None, root)
    mlflow, client = connect(where)
    run_id = client.create_run(client.create_experiment("e", where.artifacts)).info.run_id
    with pytest.raises(Exception, match="onnx"):
        log(mlflow, root, run_id)  # the file is not there yet
    assert model_of(client, client.get_run(run_id)) is None
    put_graph(root)
    log(mlflow, root, run_id)
    registry = Registry(where, "m")
    registry.move(registry.register(run_id, "key", {}), None, {})
    for _ in range(2):  # copied, and then found
        found = model_of_registry(where, "models:/m@champion", root / "models")
        assert (found / "artifacts" / "onnx" / "graph").read_text() == "the graph"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_server_registers_a_model(tmp_path: Path, server: Server) -> None:
    """It checks what a client says of a version's source; a client of a database does not."""
    where = address(server.uri, tmp_path)
    mlflow, client = connect(where)
    run_id = client.create_run(client.create_experiment("registered")).info.run_id
    put_graph(tmp_path)
    log(mlflow, tmp_path, run_id)
    registry = Registry(where, "on a server")
    version = registry.register(run_id, "key", {"a": "b"})
    registry.move(version, None, {})
    assert registry.champion() == version and (version.run_id, version.tags["a"]) == (run_id, "b")
    found = model_of_registry(where, "models:/on a server@champion", tmp_path / "models")
    assert (found / "artifacts" / "onnx" / "graph").read_text() == "the graph"

"""Files of models in a root whose name holds signs of addresses, given from the working directory on."""

import shutil
from pathlib import Path

import pytest

from pipeline.registry.mlflow_registry import Registry
from pipeline.tracking import address, connect
from pipeline.tracking.client import model_of_registry
from pipeline.tracking.logged import log_pyfunc, model_of

SCRIPT = """
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input

mlflow.models.set_model(Model())
"""


@pytest.mark.parametrize("name", ["runs", "my%20runs", "what?", "a#b"])
def test_a_registered_model_has_its_files(
    name: str, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(name)
    code = root / "packed" / "code"
    code.mkdir(parents=True)
    (code / "__init__.py").touch()
    (code / "script.py").write_text(SCRIPT)
    shutil.copy(empty_database, root)
    where = address(None, root)
    mlflow, client = connect(where)
    rows = [{"a": "b"}]

    def log(run_id: str, onnx: Path) -> None:
        with mlflow.start_run(run_id=run_id):
            log_pyfunc(mlflow, "model", code / "script.py", code, {"onnx": str(onnx)}, ["mlflow"], rows, rows, {})

    run_id = client.create_run(client.create_experiment("e", where.artifacts)).info.run_id
    with pytest.raises(Exception, match="onnx"):
        log(run_id, root / "packed" / "onnx")  # it is not there yet
    assert model_of(client, client.get_run(run_id)) is None
    (root / "packed" / "onnx").mkdir()
    (root / "packed" / "onnx" / "graph").write_text("the graph")
    log(run_id, root / "packed" / "onnx")
    registry = Registry(where, "m")
    registry.move(registry.register(run_id, "key", {}), None, {})
    for _ in range(2):  # copied, and then found
        found = model_of_registry(where, "models:/m@champion", root / "models")
        assert (found / "artifacts" / "onnx" / "graph").read_text() == "the graph"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]

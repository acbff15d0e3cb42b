"""The MLflow model, loaded and served where MXNet, GluonNLP, Horovod and Duplet itself cannot be imported.

The environment is this interpreter with an import hook in front that raises ImportError for those four (and their
submodules), put there by a `sitecustomize` module on PYTHONPATH, which child processes of the server inherit too.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.errors import InputError
from pipeline.serving import fetching
from pipeline.serving.export import onnx_export
from pipeline.serving.loading import open_predictor
from pipeline.serving.mlflow_model import pack
from pipeline.tracking import address
from pipeline.tracking.client import connect
from pipeline.tracking.logged import log_pyfunc
from tests.serving import task_models
from tests.serving.conftest import write_trained
from tests.serving.networks import config_of
from tests.serving.task_models import write_task
from tests.serving.test_second_stage import LIST, QUERY, made_with
from tests.tasks.test_every_task import numbers, words

BLOCKED = ("mxnet", "gluonnlp", "horovod", "pipeline")
HOOK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is not in this environment")

sys.meta_path.insert(0, Absent())
"""
ROWS = [{"query": "sort a list", "document": "list b"}, {"query": "zzz", "document": "c d e"}]


class Logged:
    """A model in a database of its own, and what MXNet says of its rows."""

    def __init__(
        self, root: Path, trained: Path, rows: list[dict[str, Any]], made: dict[str, Any] | None = None
    ) -> None:
        self.root, self.trained, self.rows = root, trained, rows
        onnx_export.export(self.trained, root / "exported", False, lambda _: None, made or {})
        where = address(None, root)
        mlflow, client = connect(where)
        packed = pack.pack(root / "exported", root / "code")
        with mlflow.start_run(experiment_id=client.create_experiment("test", where.artifacts)) as run:
            self.uri = log_pyfunc(mlflow, "model", **packed._asdict())
        client.create_registered_model("matcher")
        client.create_model_version("matcher", self.uri, run.info.run_id)
        client.set_registered_model_alias("matcher", "champion", "1")
        (self.folder,) = (root / "mlflow-artifacts" / "models").glob("m-*/artifacts")
        self.requirements = packed.requirements
        self.wanted = open_predictor(root / "exported" if made else self.trained, "mxnet").predict(rows)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    root = tmp_path_factory.mktemp("pyfunc")
    config = config_of({"kind": "pointwise", "grades": 3}, head="late_interaction")
    return Logged(root, write_trained(root / "train" / "model", config), ROWS)


TASKS = {
    "classification": "a b zzz",
    "tagging": "a sort b list",
    "cloze": "a ___ b",
    "translation": "a b zzz",
    "captioning": "",
    "visual_question": "a list",
}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Logged]:
    """A model of each other task that ONNX Runtime predicts for."""
    made = {}
    for task, text in TASKS.items():
        root = tmp_path_factory.mktemp(task)
        options = {"tagging": {"characters": True, "crf": True}} if task == "tagging" else {}
        write_task(root / "trained", task_models.config_of(task, **options))
        made[task] = Logged(root, root / "trained", task_models.rows_of(task, [text, f"list {text}"]))
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment without MXNet and without Duplet."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "MLFLOW"))}
    return kept | {"PYTHONPATH": str(tmp_path / "hook"), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.mark.parametrize("name", BLOCKED)
def test_the_environment_is_without_them(name: str, elsewhere: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=tmp_path, env=elsewhere, capture_output=True)
    assert done.returncode == 1
    assert b"is not in this environment" in done.stderr


def test_what_is_logged(logged: Logged) -> None:
    files = {str(path.relative_to(logged.folder)) for path in logged.folder.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle"))]
    inside = {Path(name).name for name in files if name.startswith("artifacts/")}
    assert {"encoder.onnx", "vocabulary.json", "tokenizer.json", "README.md", "card.json"} <= inside
    described = yaml.safe_load((logged.folder / "MLmodel").read_text())
    assert [column["name"] for column in json.loads(described["signature"]["inputs"])] == ["query", "document"]
    outputs = [column["name"] for column in json.loads(described["signature"]["outputs"])]
    assert outputs == ["score", "grade", "probabilities"]
    assert described["saved_input_example_info"]
    needed = (logged.folder / "requirements.txt").read_text().split()
    assert all("==" in line for line in needed)
    assert {line.partition("==")[0] for line in needed} >= {"mlflow", "numpy", "onnxruntime"}
    assert not any(line.startswith(("mxnet", "gluonnlp", "horovod", "onnx=")) for line in needed)


def test_load_model_without_mxnet(logged: Logged, elsewhere: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import json, sys, mlflow, pandas\n"
        f"found = mlflow.pyfunc.load_model({str(logged.folder)!r}).predict(pandas.DataFrame({ROWS!r}))\n"
        "print(json.dumps(found.to_dict('records')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout.splitlines()[-1]), logged.wanted)


def test_a_list_is_placed_by_the_second_model_too(elsewhere: dict[str, str], tmp_path: Path) -> None:
    """Where only the exported files are; MLflow takes a table of pairs, or one of lists."""
    first = write_trained(tmp_path / "first", config_of(head="late_interaction"))
    second = write_trained(tmp_path / "other", config_of(head="cross_attention"), 1)
    rows = [{"query": QUERY, "document": LIST[0]}, {"query": QUERY, "documents": LIST}]
    logged = Logged(tmp_path / "root", first, rows, made_with(second))
    shutil.rmtree(second)
    described = yaml.safe_load((logged.folder / "MLmodel").read_text())["signature"]
    wanted = {"query": True, "document": False, "documents": False}
    assert {column["name"]: column["required"] for column in json.loads(described["inputs"])} == wanted
    code = (
        "import json, sys, mlflow, pandas\n"
        f"model = mlflow.pyfunc.load_model({str(logged.folder)!r})\n"
        f"print(json.dumps([model.predict(pandas.DataFrame([row])).to_dict('records')[0] for row in {rows!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pair, several = json.loads(done.stdout.splitlines()[-1])
    assert pair["score"] == pytest.approx(logged.wanted[0]["score"], abs=1e-4) and "scores" not in pair
    assert several["scores"] == pytest.approx(logged.wanted[1]["scores"], abs=1e-4)
    assert several["ranks"] == logged.wanted[1]["ranks"]
    assert several["ranks"] != open_predictor(first).predict(rows[1:])[0]["ranks"]


def test_every_other_task_loads_without_mxnet(
    others: dict[str, Logged], elsewhere: dict[str, str], tmp_path: Path
) -> None:
    asked = {task: (str(one.folder), one.rows) for task, one in others.items()}
    code = (
        "import json, sys, mlflow, pandas\n"
        f"for task, (folder, rows) in {asked!r}.items():\n"
        "    found = mlflow.pyfunc.load_model(folder).predict(pandas.DataFrame(rows))\n"
        "    print(json.dumps(found.to_dict('records')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(answers) == len(TASKS)
    for (task, one), found in zip(others.items(), answers):
        assert [words(row) for row in found] == [words(row) for row in one.wanted], task
        assert numbers(found) == pytest.approx(numbers(one.wanted), abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_logged_of_every_other_task(task: str, others: dict[str, Logged]) -> None:
    described = yaml.safe_load((others[task].folder / "MLmodel").read_text())
    columns = [column["name"] for column in json.loads(described["signature"]["inputs"])]
    assert columns == list(others[task].rows[0])
    assert {one["name"] for one in json.loads(described["signature"]["outputs"])} == set(others[task].wanted[0])
    assert described["saved_input_example_info"]
    assert not [name for name in others[task].requirements if name.startswith(("mxnet", "gluonnlp", "horovod"))]


def check(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted):
        assert row["score"] == pytest.approx(other["score"], abs=1e-4)
        assert row["grade"] == other["grade"]
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


@pytest.fixture
def server(logged: Logged, elsewhere: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve` on a free port of the loopback; ended with all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(logged.folder), "-h", "127.0.0.1",
               "-p", str(port), "--env-manager", "local"]  # fmt: skip
    # the server starts `uvicorn` by name
    env = elsewhere | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(url: str, rows: list[dict[str, Any]]) -> Any:
    body = json.dumps({"dataframe_records": rows}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_mlflow_serves_it_without_mxnet(server: str, logged: Logged) -> None:
    check(post(server, ROWS)["predictions"], logged.wanted)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server, [{"query": "a", "document": ""}])
    assert refused.value.code == 400
    said = refused.value.read().decode()
    assert "row 1 cannot be scored" in said
    check(post(server, ROWS)["predictions"], logged.wanted)  # and it goes on


def test_a_registered_name_is_a_model_for_every_command(logged: Logged) -> None:
    for name in ("models:/matcher@champion", "models:/matcher/1"):
        folder = fetching.fetch(name, logged.root, None)
        check(open_predictor(folder, threads=1).predict(ROWS), logged.wanted)
        check(open_predictor(folder, "mxnet").predict(ROWS), logged.wanted)
        assert fetching.fetch(name, logged.root, None) == folder
    for name in ("models:/matcher@challenger", "models:/matcher/2"):
        with pytest.raises(InputError, match=name):
            fetching.fetch(name, logged.root, None)


def test_two_versions_of_the_code_live_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = pack.modules_of(pack.ENTRY)
    assert "pipeline.tokenization.encoder" in modules
    assert not [
        name
        for name in modules
        if name.startswith(("pipeline.models.", "pipeline.tracking", "pipeline.serving.predict.mxnet"))
        and name != "pipeline.models.beam"  # in NumPy alone
    ]
    exported = tmp_path / "exported"
    onnx_export.export(write_trained(tmp_path / "trained", config_of()), exported, False, lambda _: None)
    first = pack.pack(exported, tmp_path / "one")
    changed: Callable[[str], dict[str, Path]] = lambda entry: (
        modules | {"pipeline.core.event_log": pack.HOME / "pipeline/core/event_log.py"}
    )
    monkeypatch.setattr(pack, "modules_of", changed)
    second = pack.pack(exported, tmp_path / "two")
    assert first.code.name != second.code.name
    assert first.code.name in first.script.read_text()
    for path in second.code.rglob("*.py"):
        assert "from pipeline" not in "".join(line for line in path.read_text().splitlines() if line.startswith("from"))


def test_pack_wants_an_exported_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="duplet export"):
        pack.pack(write_trained(tmp_path / "trained", config_of()), tmp_path / "code")

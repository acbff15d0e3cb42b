"""`duplet ui`: MLflow's pages over a root, for one run, on the loopback; and what it refuses."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.registry import resolve_run
from pipeline.tracking import address, connect


@pytest.fixture
def root(tmp_path: Path, empty_database: Path) -> Path:
    """A root, whose name a shell and an address would read otherwise, with MLflow's tables."""
    root = tmp_path / "my $runs 50%"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    return root


def test_the_pages_of_a_run_are_served_until_stopped(root: Path, tmp_path: Path) -> None:
    _, client = connect(address(None, root))
    run = client.create_run(client.create_experiment("one"))
    here = tmp_path / "elsewhere"
    here.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.cli", "ui", run.info.run_id, "--root", str(root), "--port", "0"],
        cwd=here, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if "running on" in line:  # "startup complete" comes before the server listens
                break
        address_told = r"(http://127\.0\.0\.1:\d+/)#/experiments/(\d+)/runs/(\w+)\?workflowType=machine_learning"
        found = re.search(address_told, "".join(said))
        assert found and (found[2], found[3]) == (run.info.experiment_id, run.info.run_id), said
        assert "Warning" not in "".join(said)
        with urllib.request.urlopen(found[1], timeout=60) as page:
            assert b"MLflow" in page.read()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert list(here.iterdir()) == []
    assert {path.name for path in root.iterdir()} <= {"mlflow.db", ".mlflow.db.lock", "mlflow-artifacts"}


def test_a_configuration_stands_for_the_command_that_ran_it_last(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From any folder: the configuration knows its root."""
    where = address(None, root)
    _, client = connect(where)
    experiment = client.create_experiment("one")
    (tmp_path / "table.txt").write_text("a table")
    commands = []
    for key in ("0a0a", "0b0b", "0b0b"):
        command = client.create_run(experiment).info.run_id
        stage = client.create_run(experiment, tags={"mlflow.parentRunId": command}, run_name="evaluate").info.run_id
        client.log_param(stage, "key", key)
        client.log_artifact(stage, str(tmp_path / "table.txt"), "evaluation")
        commands.append(command)
    asked: list[tuple[object, ...]] = []

    def found(*asked_for: object) -> resolve_run.EvaluatedRun:
        asked.append(asked_for[:3])
        return resolve_run.EvaluatedRun(root / "evaluate" / keys.pop(), {}, root, where)

    monkeypatch.setattr(resolve_run, "find", found)
    monkeypatch.setattr(os, "execve", lambda *_: None)
    keys = ["0c0c", "0b0b"]
    assert main(["ui", "my.yaml", "--port", "0"]) in (0, None)
    assert f"/#/experiments/{experiment}/runs/{commands[2]}?workflowType=machine_learning " in capsys.readouterr().err
    assert asked == [("my.yaml", [], None)]
    assert main(["ui", "my.yaml", "--port", "0"]) == 2
    assert "has no run of my.yaml: `duplet sync`" in capsys.readouterr().err


def test_what_cannot_be_shown_is_said(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--root", str(tmp_path / "none")]) == 2
    assert "there is no MLflow database" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main(["ui", "f" * 32, "--root", str(root)]) == 2
    assert "no run ffff" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["ui", "--root", str(root), "--port", str(taken.getsockname()[1])]) == 2
    assert "give another --port" in capsys.readouterr().err

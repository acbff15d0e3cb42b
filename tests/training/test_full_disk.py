"""A disk that runs full, for real, on a small tmpfs: one sentence, nothing half, and the same command goes on later."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import small_configuration

pytestmark = pytest.mark.workers
SCRIPT = Path(__file__).with_name("full_disk.py")
OWN_MOUNTS = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/training/full_disk.py printed."""
    folder = tmp_path_factory.mktemp("full")
    disk = folder / "disk"
    disk.mkdir()
    try:
        probe = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", str(disk)]
        refused = subprocess.run(probe, capture_output=True, text=True).stderr.strip()
    except OSError as error:
        refused = str(error)
    if refused:
        pytest.skip(f"no tmpfs can be mounted here, neither as root nor in a namespace: {refused}")
    # a server that is not there: MLflow's own database would lie on the full disk too
    config = small_configuration(folder, root=str(disk / "runs"), tracking={"uri": "http://127.0.0.1:9"})
    config["train"] |= {"checkpoint_every_updates": 1, "epochs": 4, "patience_validations": None}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    paths = os.pathsep.join([str(SCRIPT.parents[2]), *filter(None, sys.path)])
    done = subprocess.run(
        [*OWN_MOUNTS, sys.executable, str(SCRIPT), str(disk), str(path)],
        capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_sentence(run: dict[str, Any]) -> None:
    assert run["code"] == 75, run["said"]
    last = run["said"].splitlines()[-1]
    assert "no space is left on the disk of " in last
    assert "make room there, then the same command goes on" in last
    assert "Traceback" not in run["said"]


@pytest.mark.parametrize("stage", ["ingest", "tokenize"])
def test_a_stage_leaves_nothing_and_is_made_later(stage: str, came: dict[str, Any]) -> None:
    one_sentence(came[stage]["filled"])
    assert came[stage]["left"] == []
    assert came[stage]["again"]["code"] == 0, came[stage]["again"]["said"]


def test_points_that_do_not_fit_stop_the_training(came: dict[str, Any]) -> None:
    one_sentence(came["points"]["filled"])


def test_checkpoints_stay_and_the_training_goes_on_from_them(came: dict[str, Any]) -> None:
    found = came["checkpoints"]
    one_sentence(found["filled"])
    assert found["newest"] >= 2
    assert (found["warnings"], found["left"]) == ([], [])
    assert found["again"]["code"] == 0, found["again"]["said"]
    assert f"going on from update-{found['newest']:08d}" in found["again"]["said"]
    assert came["disturbed"] == came["undisturbed"]
    assert len(came["disturbed"]["history"]) == 1

"""Whole runs on a GPU, by the worker's own process and by the command: trained, killed, gone on with, judged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.distributed import launcher
from pipeline.distributed.launcher import Job
from tests.tasks.conftest import prepared
from tests.tasks.examples import SMALL, small

__all__ = ["prepared"]

pytestmark = pytest.mark.null_gpu

ROOT = Path(__file__).parents[2]


def worker(job: Job, *killed_at: str) -> subprocess.CompletedProcess[str]:
    """Runs a worker's process over a job; with an update, it is killed there."""
    (Path(job.work) / "job.json").write_text(json.dumps(asdict(job)))
    module = "tests.null_gpu.killed_worker" if killed_at else "pipeline.training.worker"
    return subprocess.run(
        [sys.executable, "-P", "-m", module, job.work, *killed_at], capture_output=True, text=True, timeout=250,
        env={**os.environ, **launcher.paths(), "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(ROOT)])},
    )  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_a_killed_worker_goes_on_and_its_model_is_judged(
    name: str, prepared: Callable[..., Any], tmp_path: Path
) -> None:
    _, ingested, tokenized = prepared(name)
    data = small(name, str(tmp_path / "runs"), gpus=True, max_updates=4, checkpoint_every_updates=2)
    config = check_config(data, "test")
    for folder in ("work", "train", "evaluate"):
        (tmp_path / folder).mkdir()
    job = Job("train", config.shown, str(tmp_path / "work"), str(tmp_path / "train"), str(ingested), str(tokenized))
    assert worker(job, "3").returncode == -9
    saved = tmp_path / "work" / "checkpoints" / "update-00000002"
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    before = dict(np.load(saved / "parameters.npz"))
    done = worker(job)
    assert done.returncode == 0, done.stderr[-3000:]
    said = (tmp_path / "work" / launcher.PROGRESS).read_text()
    assert "going on from update-00000002" in said and "recurrent layers: MXNet's on a GPU" in said
    after = dict(np.load(tmp_path / "train" / "parameters.npz"))
    assert before.keys() == after.keys() and {path.name for path in saved.parent.iterdir()} >= {"update-00000004"}
    for key, array in before.items():
        if not key.endswith("embedding"):
            np.testing.assert_array_equal(after[key], array, err_msg=key)
    assert any(np.abs(array).max() > 0 for array in after.values())
    judge = replace(job, verb="evaluate", output=str(tmp_path / "evaluate"), trained=str(tmp_path / "train"))
    done = worker(judge)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "evaluate" / "result.json").read_text())


# --- by the command ---------------------------------------------------------------------------------------------------
def run_command(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`duplet run` of a small matcher on a GPU. DUPLET_LAUNCHER: whoever gives it knows what the workers' host has."""
    path = folder / "matching.yaml"
    path.write_text(json.dumps(small("matching", str(folder / "runs"), max_updates=4)))
    command = [sys.executable, "-P", "-m", "pipeline.cli", "run", str(path), "--gpus"]
    paths = {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(ROOT)])}
    env = {**os.environ, **paths, "DUPLET_LAUNCHER": "env", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=env)


def test_the_command_runs_from_source_to_table(tmp_path: Path) -> None:
    done = run_command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recurrent layers: MXNet's on a GPU" in done.stderr and "update 4/4: loss" in done.stderr
    assert "mrr@10" in done.stdout


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"NULL_GPU_DEVICES": "0"}, "needs 1 GPUs on this host, and CUDA shows 0"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "needs 1 GPUs on this host, and CUDA shows 0"),
        ({"DUPLET_LAUNCHER": ""}, "needs 1 GPUs, this process may use 0"),  # this host's own devices are looked at
        ({"NULL_GPU_MIB": "1"}, "ran out of memory"),
    ],
)  # fmt: skip
def test_a_gpu_that_cannot_be_used_is_one_sentence(environment: dict[str, str], sentence: str, tmp_path: Path) -> None:
    """As tests/workers/test_gpus.py has it of what MXNet says; here MXNet itself says it, of what CUDA says."""
    done = run_command(tmp_path, **environment)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr

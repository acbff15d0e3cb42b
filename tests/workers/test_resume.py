"""A training that is stopped and killed ends with the very parameters and history of an undisturbed one."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import duplet_command, last_json, reversed_pairs
from tests.jobs.local_jobs import assert_bitwise_equal
from tests.tasks import teachers

pytestmark = pytest.mark.workers


def wait_for_checkpoint(process: subprocess.Popen[str], root: Path, update: int) -> list[int]:
    """Returns the ranks' process ids once a checkpoint at or after `update` is there."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = sorted(root.glob("work/train-*/checkpoints/update-*"))
        if found and int(found[-1].name.split("-")[1]) >= update:
            return [int(path.read_text()) for path in root.glob("work/train-*/rank-*.pid")]
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("no checkpoint in two minutes")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["plain", "averaged", "taught"])
def test_stopped_and_killed_training_ends_bitwise_equal(
    how: str, small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any], tmp_path: Path
) -> None:
    config = small_config()
    if how == "taught":
        texts = [text for row in reversed_pairs(240) for text in (row["query"], row["document"])]
        texts = [*dict.fromkeys(texts), *(f"w{i % 12} {i}" for i in range(30))]
        vectors = teachers.written(tmp_path / "vectors.npz", texts, teachers.vectors_of(texts))
        config["teach"] = {"vectors": [vectors], "further_per_update": 5}
    config["train"] |= {"workers": 2, "epochs": 24, "patience_validations": None, "checkpoint_every_updates": 1}
    config["train"]["average"] = 0.9 if how == "averaged" else 0.0
    undisturbed = tmp_path / "undisturbed"
    last_json(duplet("train", config, f"root={undisturbed}", "--json"))

    disturbed = tmp_path / "disturbed"
    command = duplet_command(tmp_path, "train", config, f"root={disturbed}")
    start = lambda: subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    stopped = start()
    wait_for_checkpoint(stopped, disturbed, 4)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 75, said
    assert "goes on from here" in said.splitlines()[-1]

    stopped_at = max(int(path.name.split("-")[1]) for path in disturbed.glob("work/train-*/checkpoints/update-*"))
    killed = start()
    for pid in wait_for_checkpoint(killed, disturbed, stopped_at + 10):
        os.kill(pid, signal.SIGKILL)
    killed.kill()
    killed.communicate(timeout=60)
    assert not list((disturbed / "train").glob("[0-9a-f]*"))

    finished = duplet("train", config, f"root={disturbed}")
    assert finished.returncode == 0, finished.stderr
    assert "going on from update-" in finished.stderr
    assert_bitwise_equal(disturbed, undisturbed)


def test_a_killed_rank_ends_the_command_with_a_sentence(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = small_config()
    config["train"] |= {"workers": 2, "epochs": 400, "patience_validations": None, "checkpoint_every_updates": 1}
    command = duplet_command(tmp_path, "train", config)
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pids = wait_for_checkpoint(process, tmp_path / "runs", 2)
    os.kill(pids[1], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "goes on from the newest checkpoint" in said.splitlines()[-1]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

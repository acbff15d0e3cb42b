"""A rank whose host has a fault: one sentence names rank, host and remedy, all ranks end, and the checkpoints stay."""

import json
import re
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.distributed import launcher
from pipeline.training import checkpoint
from tests.conftest import small_configuration
from tests.workers.by_workers import run_by

pytestmark = pytest.mark.workers

HOST = re.escape(socket.gethostname())
ZERO, ONE, TWO = (rf"rank {rank} on {HOST}" for rank in range(3))
# fault of rank 1 -> what the command's last line says
FAULTS = {
    "network": rf"{ONE}: NCCL finds no network to the other workers: name one .* DUPLET_INTERFACE",
    "code": rf"{ONE}: MXNet has no code for its GPU: take another kind",
    "memory": rf"{ONE}: train ran out of memory: lower train\.max_tokens_per_update=",
    "vocabulary": rf"{ONE} has vocabulary\.json of SHA-256 \w+, and rank 0 .* copy \S+-other to that",
}


def checkpoints(root: Path) -> dict[str, bytes]:
    """What each whole checkpoint of the training holds."""
    (folder,) = root.glob("work/train-*/checkpoints")
    return {name: (folder / name / "parameters.npz").read_bytes() for name in checkpoint.names(folder)}


@pytest.mark.timeout(900)
def test_a_fault_of_one_rank_ends_all_in_a_sentence(
    tmp_path: Path, duplet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other on the same training; the first has left checkpoints."""
    config = small_configuration(tmp_path, tracking={"send": "later"})
    config["train"] |= {"workers": 2, "max_updates": 9}
    assert duplet("tokenize", config).returncode == 0
    starter = [sys.executable, "-P", "-m", "pipeline.distributed.loopback_horovodrun", "--gloo", "-np", "{workers}"]
    kept = None
    for fault, sentence in FAULTS.items():
        program = [sys.executable, str(Path(__file__).with_name("bad_rank.py")), fault]
        monkeypatch.setenv("DUPLET_LAUNCHER", shlex.join([*starter, "-H", "localhost:2", *program]))
        done = duplet("train", config)
        assert done.returncode == 2, done.stderr
        assert re.search(sentence, done.stderr.splitlines()[-1]), done.stderr
        (work,) = tmp_path.glob("runs/work/train-*[0-9a-f]")
        assert not [pid for pid in work.glob("rank-*.pid") if launcher.is_worker(int(pid.read_text()), work)]
        kept = kept or checkpoints(tmp_path / "runs")
        assert checkpoints(tmp_path / "runs") == kept and list(kept) == ["update-00000003", "update-00000006"], fault


def test_ranks_of_unlike_hosts_are_named_by_all(tmp_path: Path) -> None:
    """Three ranks; of two that are alike and a third the third is wrong, whichever it is."""
    done = run_by(3, Path(__file__).with_name("unlike_hosts.py"), str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    first, *others = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(3))
    assert others == [first, first]
    patterns = {
        "alike": "",
        "version": rf"{ONE} has numpy 1\.0\.0, and {ZERO} numpy 1\.[1-9].*: use one environment on all",
        "vocabulary": rf"{ZERO} has vocabulary\.json of SHA-256 \w+, and rank 1 on .* copy \S+/0 to that one anew",
        "no tokenizer": rf"{TWO} has no tokenizer\.json, and {ZERO} tokenizer\.json of SHA.* one root",
        "examples": rf"{TWO} has 6 training examples of CRC-32 \w+, and {ZERO} 7 training .*/2 to that",
        "lengths": rf"{ZERO} has 7 training examples of CRC-32 \w+, and {ONE} 7 training examples",
    }
    assert first.keys() == patterns.keys()
    for case, pattern in patterns.items():
        assert re.match(pattern, first[case]) if pattern else first[case] == "", first[case]

"""benchmarks/gpu_check.sh runs to its end; over a GPU that computes nothing, what compares numbers must fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.null_gpu

ROOT = Path(__file__).parents[2]
# Nothing is drawn and nothing moves there; and what is nothing with padding is nothing without.
FOUND = {
    "equality matching": "failed", "equality captioning": "failed", "padding lstm": "ok", "padding gru": "ok",
    "padding rnn_relu": "ok", "padding rnn_tanh": "ok", "dropout": "failed", "skipping adam": "failed",
    "skipping sgd": "failed", "resume": "ok", "workers": "not run", "speed 64 pairs on 1 GPU": "measured",
    "speed 64 pairs on 2 GPU": "not run",
}  # fmt: skip


@pytest.mark.timeout(1500)
def test_the_check_of_a_real_gpu_runs_through(tmp_path: Path) -> None:
    report = tmp_path / "gpu_check.txt"
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu_check.sh"), "--quick", "--report", str(report)],
        capture_output=True, text=True, env={**os.environ, "DUPLET_PYTHON": sys.executable, "DUPLET_LAUNCHER": "env"},
    )  # fmt: skip
    text = report.read_text()
    rows = {line[:26].strip(): " ".join(line[27:].split()) for line in text.splitlines() if line[:26].strip() in FOUND}
    assert rows.keys() == FOUND.keys(), text + done.stderr
    for name, state in FOUND.items():
        assert rows[name].startswith(state), text
        assert "ended with" not in rows[name], text  # a check that came to no row
    assert text.splitlines()[-1] == "not all held" and done.returncode == 1
    assert "MXNet build" in text  # what `duplet doctor` says
    assert "tokens/s" in rows["speed 64 pairs on 1 GPU"]


def test_without_an_environment_for_gpus_it_says_how_to_make_one() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu_check.sh")], capture_output=True, text=True,
        env={**os.environ, "DUPLET_PYTHON": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 2 and "make setup-gpu" in done.stderr and len(done.stderr.splitlines()) == 1

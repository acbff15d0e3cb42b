"""The batch script: golden files, odd names, and what makes no sense."""

import os
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import slurm
from jobs.spec import JobSpec, check
from pipeline.errors import InputError, TryAgain

Spec = Callable[..., JobSpec]
Golden = Callable[[str, str], None]


def test_one_node(job_spec: Spec, golden: Golden) -> None:
    spec = job_spec(target="slurm", min_workers=2, max_workers=2, cpus_per_worker=4, mem_gb=16, walltime_min=90)
    golden("slurm_one_node.sh", slurm.script(spec))


def test_two_nodes_of_eight_gpus(job_spec: Spec, golden: Golden) -> None:
    spec = job_spec(
        target="slurm", min_workers=16, max_workers=16, workers_per_host=8, gpus_per_worker=1, cpus_per_worker=4,
        mem_gb=240, walltime_min=1440,
        slurm={"partition": "a100", "account": "search", "save_before_s": 300, "setup": ["module load cuda/11.7"]},
    )  # fmt: skip
    golden("slurm_two_nodes_of_eight_gpus.sh", slurm.script(spec))


def test_as_many_nodes_as_there_are(job_spec: Spec, golden: Golden) -> None:
    spec = job_spec(target="slurm", min_workers=2, max_workers=8, workers_per_host=2, slurm={"extra": ["--exclusive"]})
    golden("slurm_one_to_four_nodes.sh", slurm.script(spec))


def test_a_wall_time_shorter_than_saving_is_refused(job_spec: Spec) -> None:
    with pytest.raises(InputError, match=r"walltime_min=2 is over before.*save_before_s=120"):
        slurm.script(job_spec(target="slurm", walltime_min=2))
    assert "--time=3\n" in slurm.script(job_spec(target="slurm", walltime_min=3))


@settings(deadline=None)
@given(text=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30))
def test_no_name_breaks_out_of_its_place(text: str) -> None:
    """Names that a person or a site chose stay one word of one line; those with control characters are refused."""
    made = {
        "id": "a", "name": text, "config": text, "config_text": "", "overrides": [text], "root": f"/r/{text}",
        "cwd": f"/c/{text}", "python": f"/p/{text}/python", "target": "slurm",
    }  # fmt: skip
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text):
        with pytest.raises(InputError, match="must not hold a line end"):
            check(made)
        return
    spec = check(made)
    script = slurm.script(spec)
    head, _, body = script.partition("set -eu\n")
    assert all(line.startswith("#") for line in head.splitlines() if line)
    # bash itself says how it reads the body, with its commands replaced
    stand_ins = 'cd() { printf "%s\\0" "$@"; }\nexec() { printf "%s\\0" "$@"; }\n'
    said = subprocess.run(["bash", "-c", stand_ins + body + '\nprintf "%s" "$DUPLET_LAUNCHER"'],
                          capture_output=True, timeout=30)  # fmt: skip
    words = said.stdout.decode().split("\0")
    assert said.stderr == b""
    assert words[0] == spec.cwd
    assert words[1:6] == [spec.python, "-P", "-m", "jobs.on_cluster", str(spec.folder)]
    assert shlex.split(words[6])[0] == spec.python


def client(folder: Path, program: str, code: int, stderr: str = "", stdout: str = "") -> None:
    path = folder / program
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stderr.write({stderr!r})\nprint({stdout!r})\nsys.exit({code})\n"
    )
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the only place of programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_missing_client_is_one_sentence(job_spec: Spec, programs: Path) -> None:
    with pytest.raises(InputError, match="no sbatch found: the target needs the commands sbatch, squeue"):
        slurm.target().check(job_spec(target="slurm"))


def test_a_refusal_and_a_bad_moment_are_told_apart(job_spec: Spec, programs: Path, tmp_path: Path) -> None:
    spec = job_spec(target="slurm")
    refusal = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"
    client(programs, "sbatch", 1, refusal)
    with pytest.raises(InputError, match=r"SLURM refuses \(sbatch: error.*Invalid account"):
        slurm.target().submit(spec, tmp_path)
    client(programs, "sbatch", 1, "sbatch: error: Batch job submission failed: Unable to contact slurm controller\n")
    with pytest.raises(TryAgain, match=r"SLURM cannot take this now.*try again later"):
        slurm.target().submit(spec, tmp_path)
    client(programs, "sbatch", 0, stdout="4711;cluster")
    assert slurm.target().submit(spec, tmp_path) == "4711"
    assert os.listdir(programs) == ["sbatch"]

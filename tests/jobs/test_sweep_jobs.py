"""A sweep as a job per trial: so many at once, one behind the other; and what is refused before a job is made."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import folder as folders
from pipeline.cli.main import main
from tests.jobs.local_jobs import Job, duplet, until, write

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands, of which sbatch gives numbers from 101 on; a file of how many it takes."""
    folder, count = tmp_path / "bin", tmp_path / "count"
    folder.mkdir()
    count.write_text("100 9")
    body = f"""#!{sys.executable}
import pathlib, sys
count = pathlib.Path({str(count)!r})
last, most = map(int, count.read_text().split())
if last == 100 + most:
    sys.exit("sbatch: error: Batch job submission failed: Invalid partition")
count.write_text(f"{{last + 1}} {{most}}")
print(last + 1)
"""
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (folder / name).write_text(body)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return count


def submit(tmp_path: Path, config: dict[str, Any], *options: str) -> int:
    return main(["submit", str(write(tmp_path, config)), "--target", "slurm", "--json", *options])


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_as_many_rows_as_may_run_at_once(
    tmp_path: Path, small_config: Config, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    varied = ["model.layers=1,2,3", "model.hidden=8,10", "train.epochs=1", "slurm.extra=[--nice,--hold]"]
    assert submit(tmp_path, small_config(), *varied, "--at-most", "2", "--after", "55") == 0
    jobs = said(capsys)
    assert [job["handle"] for job in jobs] == [str(number) for number in range(101, 107)]
    records = [folders.load(Path(job["folder"])) for job in jobs]
    assert [record.spec.overrides for record in records] == [
        ("train.epochs=1", f"model.layers={layers}", f"model.hidden={hidden}") for layers in (1, 2, 3)
        for hidden in (8, 10)
    ]  # fmt: skip
    scripts = [(record.folder / "job.sh").read_text() for record in records]
    waits = [next(line for line in script.splitlines() if "--dependency=" in line) for script in scripts]
    assert waits[:2] == ["#SBATCH --dependency=afterok:55"] * 2
    rows = ("101", "102", "101:103", "102:104")
    assert waits[2:] == [f"#SBATCH --dependency=afterok:55,afterany:{row}" for row in rows]
    assert all("#SBATCH --nice\n#SBATCH --hold\n" in script for script in scripts)


def test_a_refusal_says_which_jobs_there_are(
    tmp_path: Path, small_config: Config, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch.write_text("100 2")
    assert submit(tmp_path, small_config(), "train.epochs=1,2,3", "--at-most", "3") == 2
    captured = capsys.readouterr()
    ids = [json.loads(line)["id"] for line in captured.out.splitlines() if '"handle"' in line]
    assert len(ids) == 2 and "Invalid partition" in captured.out + captured.err
    assert f"2 of 3 jobs were submitted: {', '.join(ids)}" in captured.out + captured.err
    assert sorted(path.name for path in (tmp_path / "runs" / "jobs").iterdir()) == sorted(ids)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["train.epochs=2", "--at-most", "1"], "nothing is varied"),
        (["model.dropout=0..0.5", "--at-most", "1"], "model.dropout is a range"),
        (["model.layers=1,0", "--at-most", "1"], "model.layers"),
        (["train.epochs=1,2", "--at-most", "1", "--target", "kubernetes", "kubernetes.claim=c"], "local and slurm"),
    ],
)
def test_what_is_no_sweep_makes_no_job(
    tmp_path: Path, small_config: Config, sbatch: Path, capsys: pytest.CaptureFixture[str], options: list[str],
    sentence: str,
) -> None:  # fmt: skip
    assert submit(tmp_path, small_config(), *options) == 2
    captured = capsys.readouterr()
    assert sentence in captured.out + captured.err and not (tmp_path / "runs" / "jobs").exists()


def test_here_one_waits_for_the_other_and_the_sweep_then_trains_nothing(tmp_path: Path, small_config: Config) -> None:
    config = small_config(train={"epochs": 1})
    done = duplet("submit", write(tmp_path, config), "model.hidden=8,10,12", "--at-most", "1", "--json")
    assert done.returncode == 0, done.stderr
    first, second, third = [Job(json.loads(line)["id"], tmp_path / "runs") for line in done.stdout.splitlines()]
    assert (third.status()["state"], third.status()["reason"]) == ("queued", f"after {second.id}")
    assert second.ask("cancel").returncode == 0
    assert second.ask("wait").returncode == 75 and second.status()["state"] == "cancelled"
    assert "start" not in second.log()
    until(lambda: third.noted()["state"] != "queued", "the third job's turn")
    assert first.noted()["state"] == "finished" and third.finished()["state"] == "finished"
    assert third.noted()["restarts"] == []  # to wait is no restart
    report = duplet("sweep", write(tmp_path, config), "model.hidden=8,12", "--json")
    assert report.returncode == 0, report.stderr
    assert (
        report.stderr.count("train: up to date") == 2 and len(json.loads(report.stdout.splitlines()[-1])["trials"]) == 2
    )

"""A job inside its allocation: how many workers, when it is queued again, and when not."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import folder as folders
from jobs import kubernetes, on_cluster
from jobs.spec import JobSpec
from jobs.supervise import Supervisor
from pipeline.core.errors import TryAgain

Spec = Callable[..., JobSpec]


@pytest.fixture
def job(job_spec: Spec, tmp_path: Path) -> Path:
    """The folder of a job that was stopped."""
    folder = folders.create(job_spec(root=str(tmp_path / "runs")), {"job.sh": "#!/bin/sh\n"})
    (folder / folders.STATE).write_text(json.dumps({"state": "failed", "reason": "stopped", "exit_code": 75}))
    return folder


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of what scontrol was asked."""
    asked, folder = tmp_path / "asked", tmp_path / "bin"
    folder.mkdir()
    body = f"import sys\nprint(*sys.argv[1:], file=open({str(asked)!r}, 'a'))\n"
    (folder / "scontrol").write_text(f"#!{sys.executable}\n{body}")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return asked


def checkpoint(job: Path, update: int) -> None:
    work = job.parent.parent / "work" / "train-1"
    (work / "checkpoints" / f"update-{update:08d}").mkdir(parents=True)
    (job / "workers.json").write_text(json.dumps({"verb": "train", "work": str(work), "workers": 2}))


def state(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job / folders.STATE).read_text())
    return found


def test_a_job_that_gets_further_is_queued_again_each_time(job: Path, scontrol: Path) -> None:
    for start in range(1, 6):
        checkpoint(job, 10 * start)
        assert on_cluster.go_on(job, "4711") == TryAgain.exit_code
        assert state(job)["state"] == "requeued"
    assert scontrol.read_text() == "requeue 4711\n" * 5


def test_a_job_that_comes_no_further_is_given_up(job: Path, scontrol: Path) -> None:
    checkpoint(job, 10)
    assert [on_cluster.go_on(job, "4711") for _ in range(3)] == [75, 75, 1]
    assert scontrol.read_text() == "requeue 4711\n" * 2
    assert (state(job)["state"], state(job)["exit_code"]) == ("failed", 1)
    assert "no progress in 3 starts (update 10): raise walltime_min" in state(job)["reason"]


def test_a_finished_stage_is_getting_further(job: Path, scontrol: Path) -> None:
    for key in "abcd":
        stage = job.parent.parent / "ingest" / key
        stage.mkdir(parents=True)
        (stage / "manifest.json").write_text("{}")
        assert on_cluster.go_on(job, "4711") == TryAgain.exit_code


def test_as_many_workers_as_the_hosts_take(job_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = job_spec(min_workers=2, max_workers=7, workers_per_host=2)
    for hosts, workers in ((1, 2), (3, 6), (4, 7)):
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", str(hosts))
        assert on_cluster.workers(spec) == workers
    monkeypatch.delenv("SLURM_JOB_NUM_NODES")
    assert on_cluster.workers(spec) == 7


def test_a_pod_makes_the_folder_from_what_it_is_given(job_spec: Spec, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    spec = job_spec(kubernetes={"claim": "c", "mount": str(tmp_path / "data")})
    inside = kubernetes.spec_inside(spec)
    (given / "spec.json").write_text(inside.model_dump_json())
    (given / "config.yaml").write_text(spec.config_text)
    folder = on_cluster.place(given)
    assert folder == tmp_path / "data" / "runs" / "jobs" / spec.id
    assert (folder / "config.yaml").read_text() == spec.config_text
    (folder / folders.STATE).write_text(json.dumps({"state": "running"}))
    assert on_cluster.place(given) == folder and state(folder) == {"state": "running"}  # a second start goes on in it


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_pod_started_again_after_the_end_ends_as_it_did(job: Path, code: int) -> None:
    ended = {"state": "finished" if code == 0 else "failed", "reason": "so it was", "exit_code": code}
    (job / folders.STATE).write_text(json.dumps(ended))
    assert on_cluster.main([str(job)]) == code
    assert state(job) == ended


def test_no_job_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_cluster.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("duplet job: ") and len(said.splitlines()) == 1


@pytest.mark.parametrize(("allocation", "starts"), [("7", 1), (None, 3)])
def test_ranks_that_saved_unasked_in_an_allocation_were_preempted(
    job: Path, scontrol: Path, monkeypatch: pytest.MonkeyPatch, allocation: str | None, starts: int
) -> None:
    """Without a signal to the script: another start would meet the end of the allocation. Elsewhere it is a failure."""
    attempts: list[int] = []
    record = folders.load(job)
    spec = record.spec.model_copy(update={"retries": 2, "pause_s": 0.0})
    (job / "spec.json").write_text(spec.model_dump_json())
    monkeypatch.setattr(Supervisor, "_attempt", lambda _, workers: attempts.append(workers) or (75, "saved"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if allocation:
        monkeypatch.setenv("SLURM_JOB_ID", allocation)
    try:
        assert on_cluster.main([str(job)]) == 75
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert len(attempts) == starts
    assert scontrol.exists() == bool(allocation)
    if allocation:
        assert scontrol.read_text() == "requeue 7\n" and state(job)["state"] == "requeued"

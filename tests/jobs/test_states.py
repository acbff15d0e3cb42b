"""When a supervisor goes on and when it gives up; and questions about jobs that do not fit them."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import folder as folders
from jobs import states, supervise
from jobs.spec import JobSpec
from jobs.states import Failure
from pipeline.cli.main import main
from pipeline.distributed.heartbeat import Beat


def spec(root: Path, **values: object) -> JobSpec:
    given = {"id": "a-1", "name": "a", "config": "a.yaml", "config_text": "x", "cwd": "/", "python": "python"}
    return JobSpec.model_validate({**given, "root": str(root), **values})


@given(st.lists(st.tuples(st.sampled_from(["train", "evaluate"]), st.integers(0, 3)), min_size=1), st.integers(0, 9))
def test_it_gives_up_for_the_third_at_one_step_or_for_too_many(steps: list[tuple[str, int]], retries: int) -> None:
    failures = [Failure(1, "killed", stage, update, 0) for stage, update in steps]
    same = len(steps) >= 3 and steps[-1] == steps[-2] == steps[-3] and steps[-1][1] > 0
    reason = states.give_up(failures, retries)
    assert (reason is not None) == (same or len(steps) > retries)
    assert (reason or "").startswith("failed three times at the same step") == same


@pytest.mark.parametrize("reached", [None, 0])
def test_what_fails_before_an_update_is_tried_as_often_as_was_asked(reached: int | None) -> None:
    failures = [Failure(1, "a host is away", "train", reached, 0)] * 1001
    assert all(states.give_up(failures[:count], 1000) is None for count in range(1, 1001))
    assert states.give_up(failures, 1000) == "gave up after 1000 restarts: a host is away"


@pytest.mark.parametrize("code", [2, 3])
def test_bad_input_and_a_gate_are_not_tried_again(code: int) -> None:
    assert states.give_up([Failure(code, "the sentence", "", None, 0)], 100) == "the sentence"
    assert states.give_up([Failure(75, "busy", "", None, 0)], 100) is None


@given(st.integers(1, 1000), st.floats(0, 600))
def test_pauses_grow_up_to_ten_minutes(restart: int, first: float) -> None:
    assert states.pause_s(restart, first) <= states.pause_s(restart + 1, first) <= 600
    assert states.pause_s(1, first) == first


def test_workers_are_as_many_as_fit(tmp_path: Path) -> None:
    some = spec(tmp_path, min_workers=2, max_workers=8)
    assert [states.fitting_workers(some, cores, 0) for cores in (1, 2, 5, 64)] == [2, 2, 5, 8]
    assert states.fitting_workers(spec(tmp_path, min_workers=2, max_workers=8, cpus_per_worker=2), 9, 0) == 4
    assert states.fitting_workers(spec(tmp_path, min_workers=2, max_workers=8, gpus_per_worker=1), 64, 3) == 3
    assert states.fitting_workers(spec(tmp_path, min_workers=4, max_workers=4), 2, 0) == 4


def test_steps_lost_are_those_after_the_newest_checkpoint(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for name in ("update-00000005", "update-00000010", ".update-00000012.partial"):
        (work / "checkpoints" / name).mkdir(parents=True)
    (work / "job.json").write_text(json.dumps({"token": "now"}))
    (tmp_path / "workers.json").write_text(json.dumps({"verb": "train", "work": str(work), "workers": 2}))
    for rank, update, token in ((0, 12, "now"), (1, 13, "now"), (2, 99, "before")):
        beat = Beat(rank, 1, "host", token, 5, "training", update, {})
        (work / f"beat-{rank}.json").write_text(json.dumps(beat))
    found = states.failure(tmp_path, 1, "killed")
    assert found == Failure(1, "killed", "train", 13, 10)
    assert found.lost == 3
    assert "in train at update 13, 3 updates lost (killed): starting again on 2 workers" in found.sentence(2)


def test_a_failure_before_any_worker_loses_nothing(tmp_path: Path) -> None:
    assert states.failure(tmp_path, 1, "no source") == Failure(1, "no source", "", None, 0)


@pytest.fixture
def job(tmp_path: Path) -> str:
    """A job folder whose job was never handed over."""
    folders.create(spec(tmp_path, overrides=("train.epochs=1",)), {"job.sh": "#!/bin/sh\n"})
    return "a-1"


def test_a_job_folder_is_for_its_owner(job: str, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / job
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "spec.json": 0o600, "job.sh": 0o700, "tags.json": 0o600, "config.yaml": 0o600,
    }  # fmt: skip


@pytest.mark.parametrize("action", ["status", "logs", "wait", "cancel", "resume"])
def test_an_unknown_id_is_one_sentence(
    action: str, job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", action, "b", "--root", str(tmp_path)]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"there is no job 'b' under {tmp_path / 'jobs'}" in sentence


def test_the_beginning_of_an_id_is_enough_unless_it_begins_two(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", "status", "a", "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "a-1"
    folders.create(spec(tmp_path, id="a-2"), {"job.sh": "#!/bin/sh\n"})
    assert main(["jobs", "status", "a", "--root", str(tmp_path)]) == 2
    assert "begins 2 job ids (a-1, a-2)" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_job_that_has_ended_is_not_cancelled(
    state: str, job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs" / job / "state.json").write_text(json.dumps({"state": state, "exit_code": 0}))
    assert main(["jobs", "cancel", job, "--root", str(tmp_path)]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"has ended already ({state})" in sentence
    assert not (tmp_path / "jobs" / job / "cancel").exists()


def test_a_job_without_its_supervisor_is_lost(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "jobs" / job
    (folder / "state.json").write_text(json.dumps({"state": "running", "pid": 1, "host": "here"}))
    with supervise.holding(folder):
        assert main(["jobs", "list", "--root", str(tmp_path)]) == 0
        assert "running" in capsys.readouterr().out
    assert main(["jobs", "list", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "lost" in said
    assert "duplet jobs resume a-1" in said


def test_two_supervisors_do_not_share_a_job(job: str, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / job
    with supervise.holding(folder):
        said = subprocess.run(
            [sys.executable, "-m", "jobs.supervise", str(folder)], capture_output=True, text=True, timeout=60
        )
    assert said.returncode == 75
    assert said.stderr == "supervisor: job a-1 is supervised already\n"


def test_a_damaged_spec_names_its_file(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "jobs" / job / "spec.json"
    path.write_text(path.read_text()[:-20])
    assert main(["jobs", "status", job, "--root", str(tmp_path)]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert str(path) in sentence


def test_the_wall_time_stops_a_job_that_can_go_on(tmp_path: Path) -> None:
    config = "ingest: {source: {format: jsonl, path: nowhere.jsonl}}"
    one = spec(tmp_path, config_text=config, cwd=str(tmp_path), python=sys.executable, walltime_min=1)
    folders.create(one, {"job.sh": "#!/bin/sh\n"})
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        supervisor = supervise.Supervisor(one.folder)
        supervisor.began -= 61  # a minute ago
        assert supervisor.run() == 75
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    noted = folders.load(one.folder).state()
    assert (noted["state"], noted["exit_code"], noted["attempts"]) == ("failed", 75, 1)
    assert noted["reason"].startswith("wall time of 1 min reached; `duplet jobs resume a-1")


def test_a_full_disk_takes_the_room_of_the_last_state(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        path.with_name(f".{path.name}.1.partial").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "jobs" / job
    folders.write_state(folder, {"state": "running", "reason": "a long reason"})
    monkeypatch.setattr(folders.atomic_files, "write_text", full)
    folders.write_state(folder, {"state": "finished"})
    assert folders.load(folder).state() == {"state": "finished"}
    assert not list(folder.glob(".*"))

"""Jobs on this machine through all that may befall them: the parameters are those of an undisturbed training."""

import copy
import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.states import newest_checkpoint
from tests.conftest import small_configuration
from tests.jobs.local_jobs import (
    Job,
    alive,
    assert_bitwise_equal,
    command,
    duplet,
    gone,
    kill,
    submit,
    trained,
    write,
)  # fmt: skip

pytestmark = [pytest.mark.jobs, pytest.mark.timeout(1200)]
Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training of about 130 updates, long enough to be disturbed, with a bound of a few seconds on a stall."""
    made = small_configuration(tmp_path_factory.mktemp("undisturbed"))
    made["train"] |= {
        "workers": 2, "epochs": 10, "patience_validations": None, "checkpoint_every_updates": 1, "min_stall_s": 4,
    }  # fmt: skip
    return made


@pytest.fixture(scope="module")
def undisturbed(base: dict[str, Any]) -> Path:
    """The root of that training, left alone."""
    root = Path(base["root"])
    done = duplet("train", write(root.parent, base))
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def config(base: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same training under a root of the test's own."""
    return copy.deepcopy(base) | {"root": str(tmp_path / "runs")}


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    """Jobs to be ended whatever happens."""
    found: list[Job] = []
    yield found
    for job in found:
        job.discard()


def test_a_killed_and_a_stopped_rank_and_a_closed_terminal(
    config: dict[str, Any], undisturbed: Path, jobs: list[Job], tmp_path: Path
) -> None:
    submitting = command("submit", write(tmp_path, config), "--workers", 2, "pause_s=0")
    job = submitted_in_a_terminal_that_closes(submitting, Path(config["root"]))
    jobs.append(job)

    seen: set[str] = set()
    kill(job.training(5, seen)[1].pid, signal.SIGKILL)
    stopped = job.training(20, seen)[1].pid
    kill(stopped, signal.SIGSTOP)
    gone(stopped)
    status = job.finished()

    assert_bitwise_equal(job.root, undisturbed)
    assert status["restarts"] >= 2
    restarts = job.noted()["restarts"]
    # whichever end the launcher saw first: rank 1's own, or rank 0's on its account
    seen_as = ("rank 1 of train was killed by SIGKILL", "rank 0 of train lost the others")
    killed = next(r for r in restarts if any(text in r["sentence"] for text in seen_as))
    silent = next(r for r in restarts if f"rank 1 (process {stopped} " in r["sentence"])
    assert killed["update"] >= 5
    assert silent["update"] >= 20
    assert silent["updates_lost"] <= 1
    assert "has been silent for" in silent["sentence"]
    for restart in restarts:
        assert restart["sentence"] in job.log()
    check_tags(job)


def submitted_in_a_terminal_that_closes(submitting: list[str], root: Path) -> Job:
    """Submits from a shell with a terminal of its own, then closes the terminal as a window does."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's would be inherited
        os.execv("/bin/sh", ["sh", "-c", f"{shlex.join(submitting)} && cat"])
    said = b""
    while b"\n" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGHUP  # it did reach the terminal's processes
    return Job(said.decode().split()[0], root)


def check_tags(job: Job) -> None:
    """One MLflow run for all starts, its stages once each, and the job in its tags."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{job.root / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "small"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(r.info.run_name for r in runs if r is not parent) == ["evaluate", "ingest", "tokenize", "train"]
    tags = parent.data.tags
    assert parent.info.status == "FINISHED"
    assert tags["duplet.job.id"] == job.id
    assert tags["duplet.job.target"] == "local"
    assert tags["duplet.job.script"] == (job.folder / "job.sh").read_text()
    assert tags["duplet.job.exit"] == "finished"
    restarts = job.noted()["restarts"]
    assert tags["duplet.job.restarts"] == str(len(restarts))
    assert tags["duplet.job.updates_lost"] == str(sum(r["updates_lost"] for r in restarts))
    for number, restart in enumerate(restarts, 1):
        assert tags[f"duplet.job.restart.{number}"] == restart["sentence"]
    (train,) = [run for run in runs if run.info.run_name == "train"]
    steps = [point.step for point in client.get_metric_history(train.info.run_id, "loss")]
    assert set(steps) == {row["update"] for row in trained(job.root)[1] if "loss" in row}


def test_a_killed_supervisor_leaves_no_ranks_and_goes_on(
    config: dict[str, Any], undisturbed: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(tmp_path, config)
    jobs.append(job)
    beats = job.training(5)
    supervisor = job.noted()["pid"]
    kill(supervisor, signal.SIGKILL)
    gone(supervisor, *(beat.pid for beat in beats.values()))
    (work,) = job.root.glob("work/train-*")
    assert newest_checkpoint(work) < 130  # they were ended, and not done
    lost = job.status()
    assert lost["state"] == "lost"
    assert "duplet jobs resume" in lost["reason"]
    assert job.ask("wait").returncode == 75

    resumed = job.ask("resume")
    assert resumed.returncode == 0, resumed.stderr
    job.finished()
    assert_bitwise_equal(job.root, undisturbed)
    (restart,) = job.noted()["restarts"]
    assert "the supervisor was killed" in restart["sentence"]


def test_fewer_workers_take_over_with_the_same_batches(config: dict[str, Any], jobs: list[Job], tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: there is nothing to take away")
    config["model"]["dropout"] = 0.0  # each worker draws its own masks
    config["train"]["epochs"] = 4
    root = tmp_path / "undisturbed"
    assert duplet("train", write(tmp_path, config), f"root={root}").returncode == 0

    job = submit(tmp_path, config, "--workers", "1:2")
    jobs.append(job)
    seen: set[str] = set()
    beats = job.training(5, seen)
    assert len(beats) == 2
    os.sched_setaffinity(job.noted()["pid"], {min(os.sched_getaffinity(0))})  # a core is taken away from the job
    kill(beats[1].pid, signal.SIGKILL)
    assert len(job.training(6, seen)) == 1
    assert job.finished()["workers"] == 1

    (got, got_history), (want, want_history) = trained(job.root), trained(root)
    assert [row["update"] for row in got_history] == [row["update"] for row in want_history]
    losses = [[row["loss"] for row in history if "loss" in row] for history in (got_history, want_history)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-2, atol=1e-4, err_msg=name)
    assert "starting again on 1 workers" in job.log()


def test_a_job_that_fails_three_times_at_one_step_is_given_up(
    small_config: Make, jobs: list[Job], tmp_path: Path
) -> None:
    config = small_config(model={"cell": "rnn_relu", "head": "dot"})  # without bounds: it overflows on every CPU
    config["train"]["optimizer"] = {"learning_rate": 1e30, "clip_norm": None, "kind": "sgd"}
    config["train"]["schedule"] = {"kind": "constant", "warmup_updates": 0}
    job = submit(tmp_path, config, "--retries", 50)
    jobs.append(job)
    waited = job.ask("wait")
    assert waited.returncode == 1
    status = job.status()
    assert status["state"] == "failed"
    assert status["restarts"] == 2
    assert "failed three times at the same step (train, update" in status["reason"]
    assert "not finite" in status["reason"]


def test_a_sigterm_saves_and_the_job_goes_on_later(
    config: dict[str, Any], undisturbed: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(tmp_path, config)
    jobs.append(job)
    ranks = [beat.pid for beat in job.training(5).values()]
    kill(job.noted()["pid"], signal.SIGTERM)
    assert job.ask("wait").returncode == 75
    assert not any(alive(pid) for pid in ranks)
    stopped = job.status()
    assert stopped["state"] == "failed"
    assert "stopped by a signal at update" in stopped["reason"]
    assert "lost" not in stopped["reason"]

    assert job.ask("resume").returncode == 0
    job.training(20, {"another start"})
    cancelled = job.ask("cancel")
    assert cancelled.returncode == 0
    again = job.ask("cancel")
    assert again.returncode == 0
    assert "already" in again.stdout
    assert job.ask("wait").returncode == 75
    assert job.status()["state"] == "cancelled"
    assert "cancelled already" in job.ask("cancel").stdout
    followed = job.ask("logs", "-f").stdout
    # not the last line where MLflow is slow: then the supervisor says that `duplet sync` sends the rest
    assert any("cancelled: stopped at update" in line for line in followed.splitlines()[-2:]), followed

    assert job.ask("resume").returncode == 0
    job.finished()
    assert_bitwise_equal(job.root, undisturbed)
    for action, text in (("cancel", "ended already (finished)"), ("resume", "has finished")):
        refused = job.ask(action)
        assert refused.returncode == 2
        assert text in refused.stderr


def test_a_full_disk_at_the_job_folder_ends_no_training(
    config: dict[str, Any], undisturbed: Path, jobs: list[Job], tmp_path: Path
) -> None:
    disk = Path(config["root"]) / "jobs"
    disk.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        job = submit(tmp_path, config)
        jobs.append(job)
        beats = job.training(5)
        with (disk / "filling").open("wb", buffering=0) as filling, pytest.raises(OSError, match="No space left"):
            while True:
                filling.write(b"0" * 1000)
        refused = duplet("submit", tmp_path / "config.yaml")
        assert refused.returncode == 75
        assert refused.stderr.strip().endswith("make room and submit again")
        assert len(refused.stderr.splitlines()) == 1
        assert {path.name for path in disk.iterdir()} == {job.id, "filling"}

        kill(beats[1].pid, signal.SIGKILL)
        assert job.finished()["restarts"] == 1
        assert_bitwise_equal(job.root, undisturbed)
    finally:
        for job in jobs:
            job.discard()
        jobs.clear()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

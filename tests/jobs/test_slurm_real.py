"""Jobs on a real SLURM of three nodes: two ranks without ssh, logs, signals, wall times, requeues and cancels."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import folder, nights, slurm
from jobs.folder import Record

_location = importlib.util.spec_from_file_location("slurm_cluster", Path(__file__).with_name("slurm_cluster.py"))
assert _location is not None and _location.loader is not None
slurm_cluster = importlib.util.module_from_spec(_location)
_location.loader.exec_module(slurm_cluster)
_lacking = slurm_cluster.lacking()
pytestmark = [
    pytest.mark.jobs,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(_lacking is not None, reason=f"a real SLURM: {_lacking}"),
]
PATIENCE_S = 900  # for a machine with other things to do


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    found = slurm_cluster.SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def submit(
    cluster: Any, tmp_path: Path, small_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Record]:
    """Submits a configuration as a person would; jobs and their ranks stay on the loopback."""
    for name, value in {**cluster.environment, "DUPLET_INTERFACE": "lo"}.items():
        monkeypatch.setenv(name, value)

    def call(*options: str, **sections: Any) -> Record:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(small_config(**sections)))
        done = duplet("submit", str(path), "--target", "slurm", *options, "--json")
        assert done.returncode == 0, done.stderr
        return folder.load(Path(json.loads(done.stdout.splitlines()[-1])["folder"]))

    return call


def duplet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def wait_for(happened: Callable[[], bool], record: Record) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, log(record)
        time.sleep(0.5)


def log(record: Record) -> str:
    path = record.folder / folder.LOG
    return path.read_text() if path.exists() else ""


def restarts(cluster: Any, record: Record) -> int:
    said = cluster.run("scontrol", "--oneliner", "show", "job", str(record.handle))
    return int(dict(word.split("=", 1) for word in said.split() if "=" in word)["Restarts"])


def test_two_ranks_on_two_nodes_go_on_after_a_signal(cluster: Any, submit: Callable[..., Record]) -> None:
    """The signal is the one that SLURM sends before the wall time and before a preemption."""
    # long enough to be met by the signal in the middle, wherever that is
    record = submit(
        "--workers", "2", "--workers-per-host", "1",
        train={"epochs": 60, "patience_validations": None, "validate_every_updates": 300, "keep_checkpoints": 1},
    )  # fmt: skip
    wait_for(lambda: "update 30/" in log(record), record)
    cluster.run("scancel", "--batch", "--signal=TERM", str(record.handle))
    wait_for(lambda: restarts(cluster, record) == 1, record)
    followed = duplet("jobs", "logs", "--follow", str(record.folder)).stdout
    assert "going on from update-" in followed
    assert "small: test split, ranking" in followed
    state = slurm.target().state(record)
    assert (state.name, state.exit_code) == ("finished", 0)
    assert restarts(cluster, record) == 1
    noted = record.state()
    assert noted["workers"] == 2
    assert noted["restarts"][0]["updates_lost"] == 0  # the checkpoint was of the update that the signal met
    assert "requeued: saved at update" in noted["restarts"][0]["reason"]
    waited = duplet("jobs", "wait", str(record.folder), "--json")
    assert json.loads(waited.stdout.splitlines()[-1])["state"] == "finished"
    refused = duplet("jobs", "cancel", str(record.folder))
    assert refused.returncode == 2 and "has ended already" in refused.stderr


def test_the_wall_time_requeues_and_a_cancel_saves(cluster: Any, submit: Callable[..., Record]) -> None:
    endless = {"epochs": 100_000, "patience_validations": None, "validate_every_updates": 10_000_000}
    record = submit("--walltime-min", "2", "slurm.save_before_s=30", train=endless)
    wait_for(lambda: restarts(cluster, record) >= 1, record)
    assert "TIMEOUT" not in cluster.run("scontrol", "show", "job", str(record.handle))
    wait_for(lambda: "going on from update-" in log(record), record)
    assert "stopped at update" in log(record)
    cancelled = duplet("jobs", "cancel", str(record.folder))
    assert cancelled.returncode == 0, cancelled.stderr
    waited = duplet("jobs", "wait", str(record.folder), "--json")
    assert json.loads(waited.stdout.splitlines()[-1])["state"] == "cancelled"
    assert cluster.run("squeue", "--noheader", "--jobs", str(record.handle)) == ""  # and not queued once more
    saved = list(Path(record.spec.root).glob("work/train-*/checkpoints/update-*"))
    assert saved


def test_a_bad_node_is_left_out_and_the_job_goes_on_without_it(
    cluster: Any, submit: Callable[..., Record], tmp_path: Path
) -> None:
    """The second of two nodes fails a check, also later; a third one takes its place."""
    bad = tmp_path / "bad"
    check = (
        f'if [ "$SLURM_NODEID" = 1 ] && [ ! -e {bad} ]; then echo "$SLURMD_NODENAME" >{bad}; fi; '
        f'echo "$SLURMD_NODENAME" >>{tmp_path}/asked; [ "$(cat {bad} 2>/dev/null)" != "$SLURMD_NODENAME" ] || exit 9'
    )
    record = submit("--workers", "2", "--workers-per-host", "1", f"slurm.health.command={json.dumps(check)}")
    wait_for(lambda: restarts(cluster, record) == 1, record)
    node = bad.read_text().strip()
    show = lambda: cluster.run("scontrol", "--oneliner", "show", "job", str(record.handle))
    wait_for(lambda: f"ExcNodeList={node} " in show(), record)
    said = f"left out: {node} (command: exit 9)"
    assert said in duplet("jobs", "list", "--root", record.spec.root).stdout
    assert duplet("jobs", "wait", str(record.folder)).returncode == 0, log(record)
    assert f"node {node} is left out from now on (command: exit 9)" in log(record)
    asked = (tmp_path / "asked").read_text().split()
    assert len(set(asked)) == 3 and asked.count(node) == 1
    assert restarts(cluster, record) == 1 and record.state()["workers"] == 2
    status = json.loads(duplet("jobs", "status", str(record.folder), "--json").stdout)
    assert status["left_out"] == {node: "command: exit 9"}
    assert json.loads((record.folder / folder.TAGS).read_text())["duplet.job.left_out"] == said


def test_a_single_node_under_suspicion_is_taken_back_where_it_is_the_job_s_fault(
    cluster: Any, submit: Callable[..., Record]
) -> None:
    """A check that fails on whatever node: one start in vain, no node left out, and the job does its work."""
    record = submit("--workers", "1", 'slurm.health.command="exit 9"', 'slurm.extra=["--exclude=two,three"]')
    wait_for(lambda: restarts(cluster, record) == 1, record)
    show = cluster.run("scontrol", "--oneliner", "show", "job", str(record.handle))
    listed = dict(word.split("=", 1) for word in show.split() if "=" in word)["ExcNodeList"]
    assert sorted(listed.split(",")) == ["one", "three", "two"], show
    cluster.run("scontrol", "update", f"JobId={record.handle}", "ExcNodeList=one")  # else there would be no node for it
    assert duplet("jobs", "wait", str(record.folder)).returncode == 0, log(record)
    assert "the check command fails wherever the job runs, so it is no node's fault (exit 9)" in log(record)
    assert "node one is no longer left out" in log(record)
    assert json.loads(duplet("jobs", "status", str(record.folder), "--json").stdout)["left_out"] == {}


def test_ranks_run_in_a_container_of_apptainer(cluster: Any, submit: Callable[..., Record], tmp_path: Path) -> None:
    """A stand-in for apptainer, which notes how it is called and runs the command here; the ranks are SLURM's own."""
    program, asked = tmp_path / "apptainer", tmp_path / "asked"
    program.write_text(f"""#!/bin/bash
echo "$@" >>{asked}
while [ "$1" != /shared/duplet.sif ]; do shift; done
shift
exec "$@"
""")
    program.chmod(0o755)
    container = {"kind": "apptainer", "image": "/shared/duplet.sif", "mounts": ["/data"], "python": sys.executable}
    record = submit("--workers", "2", "--workers-per-host", "1", f"slurm.container={json.dumps(container)}",
                    f"slurm.setup=[{json.dumps(f'export PATH={tmp_path}:$PATH')}]")  # fmt: skip
    assert duplet("jobs", "wait", str(record.folder)).returncode == 0, log(record)
    calls = asked.read_text().splitlines()
    ranks = [call for call in calls if "pipeline.distributed.rendezvous inside" in call]
    training = [call for call in ranks if f"{record.spec.root}/work/train-" in call]
    assert len(training) == 2 and len([call for call in calls if "jobs.node_check" in call]) == 2
    assert all(f"exec --bind {record.spec.root}:{record.spec.root} --bind" in call for call in calls)
    assert record.state()["workers"] == 2


def test_a_job_that_waits_leaves_the_queue(cluster: Any, submit: Callable[..., Record]) -> None:
    record = submit("slurm.extra=[--hold]")
    assert slurm.target().state(record).name == "queued"
    assert duplet("jobs", "cancel", str(record.folder)).returncode == 0
    assert slurm.target().state(record).name == "cancelled"
    again = duplet("jobs", "cancel", str(record.folder))
    assert (again.returncode, again.stdout.strip()) == (0, f"job {record.spec.id} is cancelled already")


def test_a_trial_waits_for_the_end_of_the_one_before(
    cluster: Any, submit: Callable[..., Record], tmp_path: Path
) -> None:
    """Whatever that end is: here the first one is cancelled before it has begun."""
    first = submit("slurm.extra=[--hold]", "--at-most", "1", "train.epochs=1,2").folder
    ids = sorted(path.name for path in first.parent.iterdir())
    held, waiting = sorted((folder.load(first.parent / name) for name in ids), key=lambda record: int(record.handle))
    show = lambda record: cluster.run("scontrol", "--oneliner", "show", "job", str(record.handle))
    assert f"Dependency=afterany:{held.handle}" in show(waiting)
    cluster.run("scontrol", "release", str(waiting.handle))
    wait_for(lambda: "(Dependency)" in slurm.target().state(waiting).reason, waiting)
    assert duplet("jobs", "cancel", str(held.folder)).returncode == 0
    wait_for(lambda: slurm.target().state(waiting).name != "queued", waiting)
    assert duplet("jobs", "wait", str(waiting.folder)).returncode == 0, log(waiting)


def test_what_slurm_refuses_leaves_no_job_behind(cluster: Any, tmp_path: Path, submit: Callable[..., Record]) -> None:
    with pytest.raises(AssertionError) as refused:
        submit("slurm.partition=moon")
    sentence = str(refused.value).splitlines()[0]
    assert "duplet submit: SLURM refuses" in sentence and "invalid partition" in sentence
    assert list((tmp_path / "runs" / "jobs").iterdir()) == []
    with pytest.raises(AssertionError, match=r"SLURM refuses.*Invalid feature specification"):
        submit("slurm.constraint=moon")
    assert list((tmp_path / "runs" / "jobs").iterdir()) == []


def test_a_schedule_is_a_chain_of_which_one_link_works(
    cluster: Any, tmp_path: Path, small_config: Callable[..., dict[str, Any]], submit: Callable[..., Record]
) -> None:
    """Every minute: while a link works, the next one waits for its time and for the end of the one before."""
    path, root = tmp_path / "small.yaml", str(tmp_path / "runs")
    path.write_text(yaml.safe_dump(small_config()))
    yearly = duplet("schedule", str(path), "--cron", "0 2 1 1 *", "--target", "slurm")
    assert yearly.returncode == 0 and ": SLURM job" in yearly.stdout, yearly.stderr
    name = yearly.stdout.partition(":")[0]
    queue = lambda: sorted(cluster.run("squeue", "--noheader", f"--name=duplet-schedule-{name}", "--format=%T").split())
    assert queue() == ["PENDING"]
    again = duplet("schedule", str(path), "--cron", "* * * * *", "--target", "slurm", "--no-promote")
    assert again.returncode == 0, again.stderr
    end, folder = time.monotonic() + PATIENCE_S, tmp_path / "runs" / "schedules" / name
    while (found := queue()) != ["PENDING", "RUNNING"]:
        assert len(found) == 1 and time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.5)
    assert duplet("schedule", "remove", "small", "--root", root).stdout == f"{name}: removed\n"
    while found := queue():  # the link at work goes on to its end, and no other begins
        assert found in (["RUNNING"], ["COMPLETING"]) and time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.5)
    [verdict] = nights.verdicts(folder)
    assert (verdict.exit_code, verdict.reason) == (0, "done")

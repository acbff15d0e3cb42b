"""A run beside an MLflow server that fails in every way: no run fails, no point is lost, none is there twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import deadline
from pipeline.core.errors import TryAgain
from pipeline.core.event_log import Spool
from pipeline.tracking import Tracking
from pipeline.tracking import journal as journals
from pipeline.tracking.client import Address, model_of_run
from pipeline.tracking.sender import Sender
from pipeline.tracking.sync import Outcome, sync
from tests.tracking.server import Proxy, Server

UPDATES = 60
Say = Callable[[str], None]


def track(root: Path, uri: str, say: Say, halfway: Callable[[], None] = lambda: None, wait_s: float = 20.0) -> Tracking:
    """What a command says of a small training: a parent, a child with points, and a file of each."""
    root.mkdir(exist_ok=True)
    tracking = Tracking(Address(uri, None, root), "outages", "small", say, False, max_wait_s=wait_s)
    tracking.params({"model": {"layers": 2}})
    spool = Spool(root / "points.jsonl")
    with tracking.stage("train"):
        tracking.params({"key": "abc"})
        for update in range(1, UPDATES + 1):
            spool.write(update, {"loss": 1 / update, "speed": 10.0 * update})
            if update % 20 == 0:
                spool.write(update, {"valid/mrr@10": update / 100})
                tracking.points(spool)
            if update == UPDATES // 2:
                halfway()
        tracking.metrics({"best": 0.5})
        (root / "model.txt").write_text("parameters")
        tracking.artifact(root / "model.txt", "model")
        tracking.dataset("small-train", "d" * 40, "{}", "{}", "train")
    tracking.tags({"duplet.command": "small.yaml"})
    tracking.close("FINISHED")
    return tracking


def until(true: Callable[[], object]) -> None:
    """Waits for something that another process does."""
    end = time.monotonic() + 100
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def all_sent(root: Path, say: Say, uri: str | None = None) -> Outcome:
    """`duplet sync` of the one journal that is left."""
    (one,) = sync(root, uri, say)
    assert one.state == "done", one
    assert not journals.under(root)
    return one


def client_of(uri: str) -> Any:
    from pipeline.tracking import connect

    return connect(Address(uri, None, Path()))[1]


def check_whole(uri: str, count: int = 1, status: str = "FINISHED") -> list[Any]:
    """So many runs of `track`, each with every point exactly once; returns the parents, the newest first."""
    client = client_of(uri)
    experiment = client.get_experiment_by_name("outages").experiment_id
    runs = client.search_runs([experiment])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == count
    assert len(runs) == 2 * count
    for parent in parents:
        (train,) = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert parent.info.status == train.info.status == status
        assert parent.data.params == {"model.layers": "2"}
        assert train.data.params == {"key": "abc"}
        assert parent.data.tags["duplet.command"] == "small.yaml"
        run_id = train.info.run_id
        points = {name: client.get_metric_history(run_id, name) for name in train.data.metrics}
        assert points.keys() == {"loss", "speed", "valid/mrr_at_10", "best"}
        assert [(p.step, p.value) for p in points["loss"]] == [(n, 1 / n) for n in range(1, UPDATES + 1)]
        assert [(p.step, p.value) for p in points["speed"]] == [(n, 10.0 * n) for n in range(1, UPDATES + 1)]
        assert [(p.step, p.value) for p in points["valid/mrr_at_10"]] == [(n, n / 100) for n in (20, 40, 60)]
        assert [file.path for file in client.list_artifacts(run_id, "model")] == ["model/model.txt"]
        assert [entry.dataset.name for entry in train.inputs.dataset_inputs] == ["small-train"]
    return parents


@pytest.fixture(autouse=True)
def clean(server: Server, said: list[str]) -> None:
    """Each test begins without runs."""
    client = client_of(server.uri)
    if known := client.get_experiment_by_name("outages"):
        client.rename_experiment(known.experiment_id, f"before-{time.time_ns()}")


def test_a_server_that_is_well_gets_all_and_nothing_is_left(
    server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    tracking = track(tmp_path / "runs", server.uri, say)
    (parent,) = check_whole(server.uri)
    assert tracking.run_id == parent.info.run_id
    assert said == []
    assert not journals.under(tmp_path / "runs")


@pytest.mark.parametrize("mode", ["refuse", "lose", "cut", "hang", "slow"])
def test_a_server_that_fails_all_the_time(
    mode: str, proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    proxy.mode = mode
    track(tmp_path / "runs", proxy.uri, say, lambda: until(lambda: proxy.failed), wait_s=1.0)
    assert said[-1].startswith("not all of this run is in MLflow yet: `duplet sync --root")
    proxy.mode = "pass"
    all_sent(tmp_path / "runs", say)
    check_whole(server.uri)


@pytest.mark.parametrize("mode", ["refuse", "lose", "cut"])
def test_a_server_that_takes_no_points_for_a_while(
    mode: str, proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    """It may take them and say that it did not."""

    def recover() -> None:
        until(lambda: proxy.failed)
        proxy.mode = "pass"

    proxy.mode, proxy.only = mode, "log-batch"
    track(tmp_path / "runs", proxy.uri, say, recover)
    check_whole(server.uri)
    assert not journals.under(tmp_path / "runs")


def test_a_server_killed_in_the_middle_and_started_again_after_the_run(
    server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    def kill() -> None:
        time.sleep(4.0)  # some of it has been sent by now, or not: either is well
        server.kill()

    try:
        track(tmp_path / "runs", server.uri, say, kill, wait_s=6.0)
        assert sum(line.startswith("warning: MLflow at") for line in said) == 1
        (left,) = sync(tmp_path / "runs", None, say)
        assert left.state == "left"
        assert server.uri in left.said
    finally:
        server.start()
    all_sent(tmp_path / "runs", say)
    check_whole(server.uri)


def interrupted(root: Path, proxy: Proxy, say: Say) -> Tracking:
    """A run of which MLflow has the first half."""

    def fail() -> None:
        until(lambda: _sent(root))
        proxy.mode = "refuse"

    return track(root, proxy.uri, say, fail, wait_s=6.0)


def _sent(root: Path) -> bool:
    (journal,) = journals.under(root)
    return int(journal.sent()["sent"]) >= journal.last()


def test_a_run_deleted_meanwhile_is_taken_out_of_the_bin(
    proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    tracking = interrupted(tmp_path / "runs", proxy, say)
    client = client_of(server.uri)
    (journal,) = journals.under(tmp_path / "runs")
    for run_id in journal.sent()["runs"].values():
        client.delete_run(run_id)
    proxy.mode = "pass"
    all_sent(tmp_path / "runs", say)
    (parent,) = check_whole(server.uri)
    assert parent.info.run_id == tracking.run_id
    assert any("taken out of MLflow's bin" in line for line in said)


def test_runs_of_a_database_that_was_lost_are_made_anew_whole(
    proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    tracking = interrupted(tmp_path / "runs", proxy, say)
    server.kill()
    server.forget()
    server.start()
    proxy.mode = "pass"
    all_sent(tmp_path / "runs", say)
    (parent,) = check_whole(server.uri)
    assert parent.info.run_id != tracking.run_id
    assert parent.data.tags["duplet.run_before"] == tracking.run_id


def test_a_store_of_files_that_keeps_doubles_gets_none(
    tmp_path: Path, said: list[str], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of MLflow's folders of files, where equal points stand twice. What an answer was lost of is sent again."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    root = tmp_path / "runs"
    root.mkdir()
    tracking = Tracking(Address(uri, None, root), "outages", "small", say, False, keep=True, apart=False)
    spool = Spool(root / "points.jsonl")
    for update in range(1, 9):
        spool.write(update, {"loss": float(update)})
    tracking.points(spool)
    tracking.close("FINISHED")
    (journal,) = journals.under(root)
    state = journal.sent()
    assert state["sent"] == journal.last()
    journal.keep_sent({**state, "sent": 1, "runs": {}})  # as it was before the first answer
    one = all_sent(root, say)
    assert one.run_id == tracking.run_id
    steps = Counter(point.step for point in client_of(uri).get_metric_history(one.run_id, "loss"))
    assert steps == dict.fromkeys(range(1, 9), 1)


KILLED = """
import sys, time
from pathlib import Path
from pipeline.core.event_log import Spool
from pipeline.tracking import Tracking
from pipeline.tracking.client import Address
root = Path(sys.argv[1])
tracking = Tracking(Address(sys.argv[2], None, root), "outages", "small", print, False)
spool = Spool(root / "points.jsonl")
with tracking.stage("train"):
    for update in range(1, 6):
        spool.write(update, {"loss": float(update)})
    tracking.points(spool)
    print("here", flush=True)
    time.sleep(600)
"""


def test_a_killed_command_is_ended_by_sync_and_busy_until_then(
    server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), server.uri], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    (busy,) = sync(tmp_path, None, say)
    assert busy.state == "busy"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (journal,) = journals.under(tmp_path)
    with journals.held(journal.folder, journals.SENDER, patience_s=30.0) as free:  # it ends with its command
        assert free
    one = all_sent(tmp_path, say)
    client = client_of(server.uri)
    parent = client.get_run(one.run_id)
    assert parent.info.status == "KILLED"
    (train,) = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{one.run_id}'")
    assert train.info.status == "KILLED"
    assert [point.step for point in client.get_metric_history(train.info.run_id, "loss")] == [1, 2, 3, 4, 5]


def test_a_job_that_goes_on_measures_points_again_and_has_each_once(
    proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    where = Address(proxy.uri, None, root)
    spool = Spool(root / "points.jsonl")
    proxy.mode = "refuse"  # the first start reaches nobody
    first = Tracking(where, "outages", "small", say, False, max_wait_s=0.0, keep=True)
    with pytest.raises(KeyboardInterrupt), first.stage("train"):
        for update in (2, 4, 6, 8):
            spool.write(update, {"loss": float(update)})
        first.points(spool)
        raise KeyboardInterrupt
    first.close("KILLED")
    proxy.mode = "pass"
    assert first.journal is not None
    second = Tracking(where, "outages", "small", say, False, [first.journal], keep=True, apart=False)
    assert second.journal == first.journal
    with second.stage("train"):
        second.points(spool)
        spool.keep_until(4)  # the checkpoint
        for update in (6, 8, 10):
            spool.write(update, {"loss": float(update)})
            second.points(spool)
    second.close("FINISHED")
    client = client_of(server.uri)
    (train,) = client.search_runs(
        [client.get_experiment_by_name("outages").experiment_id], f"tags.mlflow.parentRunId = '{second.run_id}'"
    )
    assert [point.step for point in client.get_metric_history(train.info.run_id, "loss")] == [2, 4, 6, 8, 10]
    assert train.info.status == "FINISHED"


def test_a_job_goes_on_in_the_run_that_sync_sent_between_its_starts(
    proxy: Proxy, server: Server, tmp_path: Path, say: Say
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    where = Address(proxy.uri, None, root)
    proxy.mode = "refuse"  # the first start never learns MLflow's id of its run
    first = Tracking(where, "outages", "small", say, False, max_wait_s=0.0)
    with first.stage("train"):
        first.metrics({"best": 0.5})
    first.tags({"start": "first"})
    first.close("FAILED")
    assert first.run_id is None
    assert first.journal is not None
    proxy.mode = "pass"
    sent = all_sent(root, say)
    assert not journals.under(root)
    second = Tracking(where, "outages", "small", say, False, [first.journal], apart=False)
    second.tags({"start": "second"})
    second.close("FINISHED")
    client = client_of(server.uri)
    assert second.run_id == sent.run_id
    (parent, train) = client.search_runs(
        [client.get_experiment_by_name("outages").experiment_id], order_by=["start_time ASC"]
    )
    assert parent.info.run_id == train.data.tags["mlflow.parentRunId"] == sent.run_id
    assert (parent.info.status, parent.data.tags["start"]) == ("FINISHED", "second")


def test_what_mlflow_refuses_is_said_and_takes_nothing_with_it(
    server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    tracking = Tracking(Address(server.uri, None, root), "outages", "small", say, False, apart=False)
    tracking.metrics({"good": 1.0, "bad[name]": 2.0, "also good": 3.0})
    tracking.artifact(root / "never-written.txt")
    tracking.params({"a": "1"})
    tracking.close("FINISHED")
    run = client_of(server.uri).get_run(tracking.run_id)
    assert run.data.metrics == {"good": 1.0, "also good": 3.0}
    assert run.data.params == {"a": "1"}
    warnings = [line for line in said if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "bad[name]" in warnings[0]
    assert "never-written.txt" in warnings[1]
    assert not journals.under(root)


def test_a_store_of_files_that_is_down_holds_up_nothing_else(
    proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    proxy.mode, proxy.only = "refuse", "mlflow-artifacts"
    tracking = track(tmp_path / "runs", proxy.uri, say)
    client = client_of(server.uri)
    assert tracking.run_id is not None
    parent = client.get_run(tracking.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["duplet.command"] == "small.yaml"
    (left,) = sync(tmp_path / "runs", None, say)
    assert left.state == "left"
    assert left.said.startswith("1 files: ")
    proxy.mode = "pass"
    assert all_sent(tmp_path / "runs", say).sent == {"points": 0, "files": 1}
    check_whole(server.uri)


def test_the_command_says_per_run_what_it_sent_and_75_while_something_is_left(
    proxy: Proxy, server: Server, tmp_path: Path, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli import main

    proxy.mode = "refuse"
    root = tmp_path / "runs"
    track(root, proxy.uri, say, wait_s=0.0)
    assert main.main(["sync", "--root", str(root)]) == 75
    out, err = capsys.readouterr()
    assert out.startswith("small (not in MLflow): left, nothing to send; MLflow at http://")
    assert err == "duplet sync: 1 of 1 runs are not completely in MLflow yet: run the same command again\n"
    proxy.mode = "pass"
    assert main.main(["sync", "--root", str(root), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert found["state"] == "done"
    assert found["sent"] == {"points": UPDATES + 3, "files": 1}
    check_whole(server.uri)
    assert main.main(["sync", "--root", str(root)]) == 0
    assert capsys.readouterr().out == f"MLflow has all of the runs under {root}\n"
    assert main.main(["sync", "--root", str(tmp_path / "nowhere")]) == 2


def test_an_experiment_that_mlflow_will_never_have_is_said_once_and_passed_over(
    server: Server, tmp_path: Path, said: list[str], say: Say
) -> None:
    """MLflow takes names of 500 characters at most."""
    (tmp_path / "runs").mkdir()
    tracking = Tracking(
        Address(server.uri, None, tmp_path / "runs"), "e" * 501, "small", say, False, apart=False, max_wait_s=20.0
    )
    with tracking.stage("train"):
        tracking.metrics({"best": 0.5})
    tracking.close("FINISHED")
    assert [line[:60] for line in said] == ["warning: MLflow: run refused: an experiment named 'eeeeeeeee"[:60]]
    assert not journals.under(tmp_path / "runs")


@pytest.mark.parametrize("only", ["", "/artifacts/"])
def test_an_answer_that_never_ends_is_given_up_and_not_waited_for_twice(
    only: str, proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then meets each timeout of a read, so that `duplet sync` would wait for as long as bytes come."""
    proxy.mode = "refuse"
    for _ in range(2):
        track(tmp_path / "runs", proxy.uri, say, wait_s=0.0)
    monkeypatch.setattr(deadline, "ANSWER_S", 2.0)
    proxy.mode, proxy.only, proxy.failed = "drip", only, 0
    first, second = sync(tmp_path / "runs", None, say)
    assert (first.state, second.state) == ("left", "left")
    assert "TooLong: an answer took more than 2 s" in first.said
    assert "did not answer in time before" in second.said and proxy.failed == 1
    proxy.mode = "pass"
    assert [one.state for one in sync(tmp_path / "runs", None, say)] == ["done", "done"]
    check_whole(server.uri, 2)


def test_a_run_whose_answers_all_come_in_time_is_given_up_too(
    proxy: Proxy, server: Server, tmp_path: Path, said: list[str], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer may come just in time, and there are many: the whole run has a bound by its bytes."""
    proxy.mode = "refuse"
    for _ in range(2):
        track(tmp_path / "runs", proxy.uri, say, wait_s=0.0)
    proxy.mode, proxy.failed = "pass", 0
    monkeypatch.setattr(deadline, "QUESTIONS_S", 1.0)
    monkeypatch.setattr(deadline, "UPLOAD_BYTES_PER_S", 1e9)
    ask = Sender._ask
    monkeypatch.setattr(Sender, "_ask", lambda *args, **named: (time.sleep(0.4), ask(*args, **named))[1])
    first, second = sync(tmp_path / "runs", None, say)
    assert (first.state, second.state) == ("left", "left")
    assert "does not accept it (a run of 0.0 MB took more than 1 s)" in first.said
    assert "did not answer in time before" in second.said
    monkeypatch.undo()
    assert [one.state for one in sync(tmp_path / "runs", None, say)] == ["done", "done"]
    check_whole(server.uri, 2)


def test_a_question_to_a_server_that_drips_is_given_up(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "QUESTIONS_S", 2.0)
    proxy.mode = "drip"
    with pytest.raises(TryAgain, match="does not answer when asked for run 123: an answer took more than 2 s"):
        model_of_run(Address(proxy.uri, None, tmp_path), "123", tmp_path)

"""A command that finds everything up to date does not wait for MLflow, which gets its run all the same."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.tracking import Tracking, address, connect, journal
from pipeline.tracking.sync import sync


def waited_for(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 200
    while not true() and time.monotonic() < end:
        time.sleep(0.2)
    return true()


def test_an_idle_run_is_sent_behind_the_command(
    tmp_path: Path, empty_database: Path, say: Callable[[str], None], said: list[str]
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    where = address(None, tmp_path)
    run = Tracking(where, "e", "again", say, False, idle=True)
    assert run._sender is None
    run.tags({"duplet.command": "again.yaml"})
    run.close("FINISHED")
    assert run.run_id is None
    assert not said
    # what was sent is removed, by a process that outlives the command
    assert waited_for(lambda: not list((tmp_path / journal.FOLDER).glob("*/" + journal.JOURNAL)))
    _, client = connect(where)
    [experiment] = [one for one in client.search_experiments() if one.name == "e"]
    [sent] = client.search_runs([experiment.experiment_id])
    assert (sent.info.run_name, sent.info.status) == ("again", "FINISHED")
    assert sent.data.tags["duplet.command"] == "again.yaml"


def test_an_idle_run_that_works_after_all_is_waited_for(
    tmp_path: Path, empty_database: Path, say: Callable[[str], None]
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    run = Tracking(address(None, tmp_path), "e", "again", say, False, max_wait_s=200, idle=True)
    with run.stage("train"):
        run.metrics({"loss": 0.5})
    run.close("FINISHED")
    assert run.run_id is not None


def test_a_run_that_is_to_be_sent_later_starts_no_process_and_waits_for_nothing(
    tmp_path: Path, empty_database: Path, say: Callable[[str], None], said: list[str]
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    where = address(None, tmp_path)
    run = Tracking(where, "e", "night", say, False, max_wait_s=1e6, later=True)
    inner = Tracking(where, "e", "seed 1", say, False, max_wait_s=1e6)
    for one in (run, inner):
        with one.stage("train"):
            one.metrics({"loss": 0.5})
    inner.close("FINISHED")
    run.close("FINISHED")
    assert (run._sender, inner._sender, run.run_id) == (None, None, None)
    assert said == [f"the run is kept for MLflow (tracking.send=later): `duplet sync --root {tmp_path}` sends it"]
    (outcome,) = sync(tmp_path, None, say)
    assert (outcome.state, outcome.name) == ("done", "night")
    _, client = connect(where)
    [experiment] = [one for one in client.search_experiments() if one.name == "e"]
    sent = client.search_runs([experiment.experiment_id])
    assert sorted(one.info.run_name for one in sent) == ["night", "seed 1", "train", "train"]
    assert {one.info.status for one in sent} == {"FINISHED"}

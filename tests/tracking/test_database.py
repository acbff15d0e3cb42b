"""MLflow's SQLite database: whole or absent after every kill, made once by two at once, migrated beside its place."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.tracking import Tracking, address, connect, database

OLDER, NEWEST = "75868b020152", "dc11669786a5"  # MLflow 3.17's last two steps; the last adds columns to `jobs`


def quiet(sentence: str) -> None:
    raise AssertionError(sentence)


def prepare(path: Path, say: Callable[[str], None] = quiet) -> None:
    database.prepare(path, (path.parent / "artifacts").as_uri(), say)


def version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as one:
        assert one.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return str(one.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def forked(work: Callable[[], object]) -> int:
    """Begins the work in a child, which has mlflow imported already; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def killed_at_statement(path: Path, number: int) -> None:
    """A process that makes or migrates a database, killed before its n-th statement."""
    import sqlalchemy

    def work() -> None:
        left = number

        def before(*_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", before)
        prepare(path, lambda _: None)

    _, status = os.waitpid(forked(work), 0)
    assert os.WIFSIGNALED(status), "the work was done before it was killed"


def older(path: Path, newest: Path) -> None:
    """A database as an MLflow before this one left it, with a run."""
    shutil.copy(newest, path)
    _, client = connect(address(f"sqlite:///{path}", path.parent))
    run = client.create_run("0", run_name="kept")
    client.log_metric(run.info.run_id, "loss", 0.25)
    from alembic import command
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{path}")
    config = utils._get_alembic_config(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, OLDER)
    engine.dispose()
    assert version(path) == OLDER


def half_made(path: Path, newest: Path) -> None:
    """What a kill leaves: a step is done and not noted, so that MLflow fails at it for ever."""
    shutil.copy(newest, path)
    with closing(sqlite3.connect(path)) as one, one:
        one.execute("UPDATE alembic_version SET version_num = ?", [OLDER])


@pytest.fixture(autouse=True)
def imported(empty_database: Path) -> None:
    """MLflow's modules are here before a test forks."""


def test_a_kill_at_any_step_leaves_no_database_and_the_next_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    for number in (1, 30, 150, 300):
        killed_at_statement(path, number)
        assert not path.exists()
    prepare(path)
    assert version(path) == NEWEST
    assert [file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")] == ["mlflow.db"]
    _, client = connect(address(f"sqlite:///{path}", tmp_path))
    assert [one.name for one in client.search_experiments()] == ["Default"]


def test_a_kill_while_an_older_database_is_migrated_leaves_it_as_it_was(tmp_path: Path, empty_database: Path) -> None:
    path = tmp_path / "mlflow.db"
    older(path, empty_database)
    before = path.read_bytes()
    for number in (3, 10):
        killed_at_statement(path, number)
        assert path.read_bytes() == before
    path.chmod(0o640)
    prepare(path)
    assert version(path) == NEWEST
    assert path.stat().st_mode & 0o777 == 0o640
    _, client = connect(address(f"sqlite:///{path}", tmp_path))
    (run,) = client.search_runs(["0"])
    assert (run.info.run_name, run.data.metrics) == ("kept", {"loss": 0.25})


def test_whoever_has_an_older_database_open_cannot_write_into_what_was_replaced(
    tmp_path: Path, empty_database: Path
) -> None:
    path = tmp_path / "mlflow.db"
    older(path, empty_database)
    with closing(sqlite3.connect(path, isolation_level=None)) as open_before:
        assert open_before.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        prepare(path)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            open_before.execute("DELETE FROM runs")


def test_two_at_once_make_one_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    made = tmp_path / "made"

    def work() -> None:
        make = database._make

        def counted(*given: Any) -> None:
            with made.open("a") as file:
                file.write("x")
            make(*given)

        database._make = counted
        prepare(path)

    children = [forked(work) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert version(path) == NEWEST
    assert made.read_text() == "x"


def test_a_half_made_database_without_runs_is_set_aside(tmp_path: Path, empty_database: Path) -> None:
    path = tmp_path / "mlflow.db"
    half_made(path, empty_database)
    said: list[str] = []
    prepare(path, said.append)
    assert version(path) == NEWEST
    (aside,) = tmp_path.glob("mlflow.db.half-made-*")
    assert len(said) == 1 and f"is set aside as {aside.name}" in said[0]
    assert version(aside) == OLDER


def test_one_that_holds_a_run_is_left_as_it_is(tmp_path: Path, empty_database: Path) -> None:
    path = tmp_path / "mlflow.db"
    older(path, empty_database)
    with closing(sqlite3.connect(path)) as one, one:
        one.execute("ALTER TABLE jobs ADD COLUMN executor_backend TEXT")
    before = path.read_bytes()
    with pytest.raises(Exception, match="duplicate column name"):
        prepare(path)
    assert path.read_bytes() == before
    assert not [*tmp_path.glob("*.half-made-*"), *tmp_path.glob(".*.partial")]


def test_what_is_no_database_of_this_mlflow_is_refused(tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, but a text that is long enough to be read as one\n" * 20)
    with pytest.raises(InputError, match="is not an MLflow database"):
        prepare(tmp_path / "text.db")
    newer = tmp_path / "newer.db"
    shutil.copy(empty_database, newer)
    with closing(sqlite3.connect(newer)) as one, one:
        one.execute("UPDATE alembic_version SET version_num = 'abcdef012345'")
    with pytest.raises(InputError, match="was made by a newer MLflow than"):
        prepare(newer)


def test_an_empty_file_and_the_journal_of_a_deleted_database_do_no_harm(tmp_path: Path, empty_database: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_database, path)
    killed = forked(lambda: _begin_and_die(path))
    os.waitpid(killed, 0)
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0
    path.unlink()
    with atomic_files.new_database(path) as new:
        shutil.copy(empty_database, new)
    assert version(path) == NEWEST
    with closing(sqlite3.connect(path)) as one:
        assert one.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
    path.write_bytes(b"")
    prepare(path)
    assert version(path) == NEWEST


def _begin_and_die(path: Path) -> None:
    one = sqlite3.connect(path, isolation_level=None)
    one.execute("PRAGMA cache_size = 1")
    one.execute("BEGIN")
    one.execute("UPDATE experiments SET name = 'changed'")
    for number in range(200):
        one.execute("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, 'x')", [f"k{number}", "v" * 400])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", ["plain", "50%", "a b%20c?d#e", "{x}&=+;'\"", "ünder 问"])
def test_the_address_of_any_path_is_its_file(name: str, tmp_path: Path) -> None:
    from sqlalchemy import make_url

    path = tmp_path / name / "mlflow.db"
    assert make_url(database.address_of(path)).database == str(path)
    assert database.path_of(database.address_of(path)) == path


def test_a_relative_address_is_one_file_wherever_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert database.absolute("sqlite:///beside.db?timeout=5") == f"sqlite:///{tmp_path}/beside.db?timeout=5"
    assert database.absolute("http://host/x") == "http://host/x"
    assert database.path_of("sqlite:///:memory:") is None
    where = address("sqlite:///beside.db", tmp_path / "runs")
    assert where.artifacts == (tmp_path / "mlflow-artifacts").as_uri()
    assert not where.under_root
    assert address(None, tmp_path / "runs").under_root


@pytest.mark.timeout(600)
def test_a_first_command_killed_while_the_database_is_made_is_sent_by_sync(tmp_path: Path) -> None:
    """Three of the kills that `make torture-first-command` does a hundred of."""
    from benchmarks import first_command_kills

    assert [kill.failure for kill in first_command_kills.kills(tmp_path, 3, lambda _: None)] == ["", "", ""]


def test_a_sender_that_makes_the_database_is_waited_for_and_not_ended(tmp_path: Path) -> None:
    """On a slow machine the wait at a command's end is shorter than that takes: no command would ever get it made."""
    where = address(None, tmp_path)
    run = Tracking(where, "slow", "slow", lambda _: None, False, max_wait_s=0.0)
    end = time.monotonic() + 100
    while not where.being_made:
        assert time.monotonic() < end
        time.sleep(0.01)
    run.close("FINISHED")
    while not (tmp_path / "mlflow.db").exists():
        assert time.monotonic() < end
        time.sleep(0.05)

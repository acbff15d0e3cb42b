"""The clock that a rehearsal moves: what is due, what counts as late, how long messages are kept."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs import clock, cron, waiting
from jobs import schedule as schedules
from jobs.spec import JobSpec
from pipeline.cli.main import main
from pipeline.config import WaitForConfig
from pipeline.core.errors import InputError
from tests.jobs.local_jobs import write

DAY_S = 86_400


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Moves the clock by so many seconds."""
    path = tmp_path / "clock"
    monkeypatch.setenv(clock.VARIABLE, str(path))

    def move(ahead: object) -> None:
        path.write_text(str(ahead))

    return move


def test_dates_go_by_the_moved_clock(moved: Callable[[object], None], job_spec: Callable[..., JobSpec]) -> None:
    ahead = datetime(2027, 3, 28, 0, 30, tzinfo=UTC).timestamp() - time.time()
    moved(ahead)
    nightly = schedules.check({
        "name": "faq", "cron": "30 2 * * *", "target": "cron", "zone": "Europe/Berlin",
        "created": "2026-11-20T12:00+01:00", "job": job_spec().model_dump(mode="json"),
    })  # fmt: skip
    assert f"{nightly.now():%Y-%m-%d %H:%M}" == "2027-03-28 01:30"
    moved(ahead + 3600)  # half past two does not exist
    assert f"{nightly.now():%Y-%m-%d %H:%M}" == "2027-03-28 03:30"
    command = [sys.executable, "-m", "jobs.dates", "0 2 * * *", "UTC"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("2027-03-28T02:00")


def test_a_schedule_keeps_a_moved_clock_and_says_so(
    moved: Callable[[object], None], tmp_path: Path, small_config: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cron, "need", lambda: None)
    monkeypatch.setattr(cron, "install", lambda schedule: "crontab")
    moved(DAY_S)
    assert main(["schedule", str(write(tmp_path, small_config())), "--cron", "0 2 * * *", "--json"]) == 0
    captured = capsys.readouterr()
    assert f"warning: dates go by {clock.VARIABLE}={tmp_path / 'clock'}" in captured.err
    name = json.loads(captured.out.splitlines()[-1])["name"]
    monkeypatch.delenv(clock.VARIABLE)  # as where cron starts it
    main(["schedule", "check", name, "--root", str(tmp_path / "runs")])
    assert f"warning: dates go by {clock.VARIABLE}={tmp_path / 'clock'}" in capsys.readouterr().err


def test_data_was_written_long_ago_on_the_moved_clock(moved: Callable[[object], None], tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}")
    pauses: list[float] = []
    for ahead, waits in ((0, 1), (DAY_S, 0)):  # what was written just now may grow
        moved(ahead)
        pauses.clear()
        waiting.wait(WaitForConfig(path="x.jsonl"), tmp_path, True, lambda _: None, pauses.append)
        assert len(pauses) == waits


@pytest.mark.parametrize(("text", "what"), [("soon", "number of seconds"), ("nan", "number of seconds"),
                                            ("1e15", "out of the calendar")])  # fmt: skip
def test_a_clock_that_is_none_is_refused(moved: Callable[[object], None], text: str, what: str) -> None:
    moved(text)
    with pytest.raises(InputError, match=what):
        clock.now()


def test_a_clock_without_its_file_is_refused(moved: Callable[[object], None]) -> None:
    with pytest.raises(InputError, match=r"clock must name a file with a number of seconds"):
        clock.seconds()


def test_people_are_told_once_of_a_schedule_whose_clock_is_gone(
    moved: Callable[[object], None], tmp_path: Path, small_config: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each of its dates ends with 2, in a log that nobody reads."""
    told: list[Any] = []
    monkeypatch.setattr(cron, "need", lambda: None)
    monkeypatch.setattr(cron, "install", lambda schedule: "crontab")
    monkeypatch.setattr("pipeline.tracking.channels._post", lambda _, content: told.append(content))
    moved(DAY_S)
    config = small_config() | {"nights": {"messages": {"webhook": "https://example.com/nights"}}}
    root = ["--root", config["root"]]
    assert main(["schedule", str(write(tmp_path, config)), "--cron", "0 2 * * *", "--json"]) == 0
    name = json.loads(capsys.readouterr().out.splitlines()[-1])["name"]
    (tmp_path / "clock").unlink()
    for action in ("run", "check", "run"):
        monkeypatch.setenv(clock.VARIABLE, str(tmp_path / "clock"))  # as each of cron's processes has it
        assert main(["schedule", action, name, *root]) == 2
        assert "must name a file with a number of seconds" in capsys.readouterr().err
    [message] = told
    assert message["exit_code"] == 2 and "no date is done until the schedule is made again" in message["reason"]
    monkeypatch.delenv(clock.VARIABLE, raising=False)
    assert main(["schedule", "list", *root]) == 0
    assert f"its {clock.VARIABLE}={tmp_path / 'clock'} is gone: schedule it again without" in capsys.readouterr().out

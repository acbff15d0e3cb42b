"""Lines on stderr, and the bar that lines of steps become."""

import io
import time
from typing import Any

import pytest
import rich.console

from pipeline.core.progress import Talk


def test_without_a_terminal_each_line_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with Talk(bar=False) as say:
        say("update 10/308: loss 2.5")
    assert capsys.readouterr().err.endswith(" s] update 10/308: loss 2.5\n")


def test_without_a_terminal_steps_say_how_long_the_rest_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Talk(bar=False) as say:
        for done, seconds in ((10, 0.0), (20, 30.0), (40, 60.0), (100, 180.0)):
            now[0] = 100.0 + seconds
            say(f"update {done}/100: loss 2.5")
            say(f"update {done}: valid mrr@10 0.5")  # does not end the steps
        say("train: done")
        say("update 1/5,000: loss 2.5")  # of another training: at its own pace
        now[0] += 1
        say("update 2/5,000: loss 2.5")
    steps = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines() if "loss" in line]
    # 3 s an update, then 2 s an update
    assert [line.partition("2.5")[2] for line in steps] == ["", ", 4:00 left", ", 2:00 left", "", "", ", 1:23:18 left"]


def test_on_a_terminal_steps_move_a_bar_and_other_lines_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, real = io.StringIO(), rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda **_: real(file=screen, force_terminal=True, width=120, color_system=None)
    )
    with Talk(bar=True) as say:
        say("train: running")
        for done in (10, 20):
            say(f"update {done}/1,308: loss 2.5, 9,000 tokens/s")
        [task] = _tasks(say)
        assert (task.completed, task.total, task.fields["rest"]) == (20, 1308, "loss 2.5, 9,000 tokens/s")
        say("scored 3/9: fine")
        [task] = _tasks(say)
        assert (task.description, task.completed, task.total) == ("scored", 3, 9)
        say("warning: one row was refused")
        assert len(_tasks(say)) == 1, "the steps go on"
        say("evaluate: running")
        assert not _tasks(say), "a bar that stands still under the next stage says what is not so"
        say("update 1/9: loss 1")
        [task] = _tasks(say)
        assert (task.description, task.completed) == ("update", 1)
    assert "train: running" in screen.getvalue()


def _tasks(say: Talk) -> list[Any]:
    return list(say._progress.tasks)

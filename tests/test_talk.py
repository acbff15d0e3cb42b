"""Lines on stderr, and the bar that lines of steps become."""

import io
from typing import Any

import pytest
import rich.console

from pipeline.talk import Talk


def test_without_a_terminal_each_line_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with Talk(bar=False) as say:
        say("update 10/308: loss 2.5")
    assert capsys.readouterr().err.endswith(" s] update 10/308: loss 2.5\n")


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
    assert "train: running" in screen.getvalue()


def _tasks(say: Talk) -> list[Any]:
    return list(say._progress.tasks)

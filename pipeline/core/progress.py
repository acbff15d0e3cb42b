"""What a long command says on stderr: lines with the time since it began, and on a terminal a progress bar.

The bar is there while steps come, and goes when a line says that their stage is done, or that another one runs. Without
a terminal each step's line says how long the rest will take.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pipeline.core.redaction import hide

Say = Callable[[str], None]  # takes a line for the person
# Lines of this form also move the bar: what is done, how many of how many, and what there is to say about it.
STEP = re.compile(r"(?P<name>[\w ]+?) (?P<done>[\d,]+)/(?P<total>[\d,]+): (?P<rest>.*)")
# These lines stand between steps without ending them.
BETWEEN = re.compile(r"(update [\d,]+: valid|warning:|note:) ?.*", re.DOTALL)


class Talk:
    """Called with a line, says it. While entered, on a terminal, lines like `update 10/308: loss 2.5` become a bar."""

    def __init__(self, bar: bool | None = None) -> None:
        self._began = time.monotonic()
        self._wanted = sys.stderr.isatty() if bar is None else bar
        self._progress: Any = None
        self._task: Any = None
        self._name = ""
        self._first: tuple[str, int, float] | None = None  # of the steps that come: their name, the first one, when

    def __enter__(self) -> "Talk":
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[rest]}"), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __call__(self, line: str) -> None:
        line, now = hide(line), time.monotonic()
        step = STEP.fullmatch(line)
        ends = step is None and BETWEEN.fullmatch(line) is None
        if self._progress is None:
            left = self._left(step, now) if step else ""
            with contextlib.suppress(OSError):  # whoever listened may be gone, or the log's disk full
                print(f"[{now - self._began:7.1f} s] {line}{left}", file=sys.stderr, flush=True)
        elif step is None:
            if ends:
                self._remove()
            self._progress.console.print(
                f"[{now - self._began:7.1f} s] {line}", markup=False, highlight=False, soft_wrap=True
            )
        else:
            self._move(step)
        if ends:
            self._first = None

    def _left(self, step: re.Match[str], now: float) -> str:
        """`, 1:23 left` from the pace of the steps that came so far; nothing at the first one and the last."""
        done, total = _counts(step)
        if self._first is None or self._first[0] != step["name"] or done <= self._first[1]:
            self._first = step["name"], done, now
            return ""
        seconds = round((now - self._first[2]) / (done - self._first[1]) * (total - done))
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02d}" if seconds >= 3600 else f"{seconds // 60}"
        return f", {clock}:{seconds % 60:02d} left" if done < total else ""

    def _move(self, step: re.Match[str]) -> None:
        done, total = _counts(step)
        if step["name"] != self._name:
            self._remove()
        if self._task is None:
            self._name = step["name"]
            self._task = self._progress.add_task(self._name, total=total, rest="")
        self._progress.update(self._task, completed=done, total=total, rest=step["rest"])

    def _remove(self) -> None:
        """Takes the bar away: its steps have ended."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def _counts(step: re.Match[str]) -> tuple[int, int]:
    done, total = (int(step[name].replace(",", "")) for name in ("done", "total"))
    return done, total

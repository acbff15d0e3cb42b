"""What a long command says on stderr: lines with the time since it began, and on a terminal a progress bar."""

import contextlib
import re
import sys
import time
from types import TracebackType
from typing import Any

from pipeline.hidden import hide

# Lines of this form also move the bar: what is done, how many of how many, and what there is to say about it.
STEP = re.compile(r"(?P<name>[\w ]+?) (?P<done>[\d,]+)/(?P<total>[\d,]+): (?P<rest>.*)")


class Talk:
    """Called with a line, says it. While entered, on a terminal, lines like `update 10/308: loss 2.5` become a bar."""

    def __init__(self, bar: bool | None = None) -> None:
        self._began = time.monotonic()
        self._wanted = sys.stderr.isatty() if bar is None else bar
        self._progress: Any = None
        self._task: Any = None
        self._name = ""

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
        line = hide(line)
        stamped = f"[{time.monotonic() - self._began:7.1f} s] {line}"
        if self._progress is None:
            with contextlib.suppress(OSError):  # whoever listened may be gone, or the log's disk full
                print(stamped, file=sys.stderr, flush=True)
        elif (step := STEP.fullmatch(line)) is None:
            self._progress.console.print(stamped, markup=False, highlight=False, soft_wrap=True)
        else:
            self._move(step)

    def _move(self, step: re.Match[str]) -> None:
        done, total = (int(step[name].replace(",", "")) for name in ("done", "total"))
        if self._task is None or step["name"] != self._name:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._name = step["name"]
            self._task = self._progress.add_task(self._name, total=total, rest="")
        self._progress.update(self._task, completed=done, total=total, rest=step["rest"])

"""Where jobs run: what each target can do, and the table of targets, imported when they are asked for."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from jobs.folder import Record
from jobs.spec import JobSpec
from pipeline.core.errors import DupletError, GateError, InputError, TryAgain, guess

StateName = Literal["queued", "running", "finished", "failed", "cancelled", "lost"]
ENDED = ("finished", "failed", "cancelled", "lost")
UNANSWERED_S = 4000.0  # how long a target may not answer whoever waits for a job: more than an hour, as a job's retries
# name -> module with a function `target() -> Target`
TARGETS = {"local": "jobs.local", "slurm": "jobs.slurm", "kubernetes": "jobs.kubernetes"}


class JobState(NamedTuple):
    """How a job stands, and why, in a sentence without a full stop; "lost": it is gone and said nothing."""

    name: StateName
    reason: str = ""
    exit_code: int | None = None  # of `duplet run`, where it has ended: 0, 1, 2, 3 or 75


def exit_code(state: JobState) -> int:
    """What waiting for a job ends with: 0, 1, 2, 3 or 75, whatever the target calls its end.

    >>> [exit_code(JobState("failed", exit_code=code)) for code in (0, 3, 75, 137)], exit_code(JobState("lost"))
    ([1, 3, 75, 1], 75)
    """
    if state.name == "finished":
        return 0
    if state.name in ("cancelled", "lost"):
        return TryAgain.exit_code  # another start goes on
    known = (DupletError.exit_code, InputError.exit_code, GateError.exit_code, TryAgain.exit_code)
    return state.exit_code if state.exit_code in known else DupletError.exit_code


class Target(Protocol):
    """One place to run jobs. Errors are InputError (2) or, where trying again helps, TryAgain (75): one sentence.

    ask_s: how long to leave between two questions about a job, at most.
    """

    ask_s: float

    def look(self) -> None:
        """Asks once for all jobs, where the target can, so that `state` of each need not ask again."""

    def render(self, spec: JobSpec) -> dict[str, str]:
        """File name -> text of all that is handed over; the first is the script or manifest itself. Pure."""

    def check(self, spec: JobSpec) -> None:
        """Refuses what this target cannot do, or cannot do here: no client, no such GPUs. Not asked in a dry run."""

    def submit(self, spec: JobSpec, folder: Path) -> str:
        """Hands over the rendered files, which are in `folder`; returns the target's own name for the job."""

    def state(self, record: Record) -> JobState:
        """How the job stands now."""

    def logs(self, record: Record, follow: bool) -> Iterator[str]:
        """Lines of its log without line ends; `follow`: until the job has ended."""

    def cancel(self, record: Record) -> None:
        """Asks a job that has not ended to save and stop; does not wait."""

    def resume(self, record: Record) -> str:
        """Starts a job again that has ended unfinished; returns the target's own name for it."""


def target(name: str) -> Target:
    """The target of a name. Raises InputError where there is none."""
    if name not in TARGETS:
        meant = guess(name, TARGETS, before=", ")
        raise InputError(f"there is no target {name!r}{meant} (allowed: {', '.join(TARGETS)})")
    chosen: Target = importlib.import_module(TARGETS[name]).target()
    return chosen

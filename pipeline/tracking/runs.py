"""Runs: one per `duplet run`, a child per stage. Tracking can slow or stop nothing.

Whatever a run has to say is written into its journal on disk, and a process beside it brings that to MLflow. A server
that is down, slow or broken costs a warning, and at the end a wait with a bound; `duplet sync` sends what is left.
"""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.core import credentials, manifest, naming
from pipeline.core.event_log import Point, Reader, Spool
from pipeline.core.progress import Say
from pipeline.distributed import launcher
from pipeline.tracking import journal as journals
from pipeline.tracking.client import Address, address
from pipeline.tracking.journal import Journal
from pipeline.tracking.machine import Machine
from pipeline.tracking.sender import follow

if TYPE_CHECKING:
    from pipeline.config import Config

STOPPED_WAIT_S = 10.0  # at the end of a run that a signal stopped: whoever sent it waits
_TAG_CHARACTERS, _PARAM_CHARACTERS = 5000, 500
_POLL_S = 0.05
_DESCRIPTION = "mlflow.note.content"  # the tag in which MLflow keeps a run's description


def metric_name(name: str) -> str:
    """MLflow allows no @ in names: mrr@10 becomes mrr_at_10."""
    return name.replace("@", "_at_")


class Tracking:
    """The parent run of one command, and its stages' child runs. One that opens within another is its child."""

    _open: ClassVar[list["Tracking"]] = []

    def __init__(
        self, where: Address, experiment: str, name: str, say: Say, system_metrics: bool,
        goes_on: Sequence[str] = (), spool_mb: int = 64, max_wait_s: float = 30.0, keep: bool = False,
        apart: bool = True, idle: bool = False, later: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            goes_on: journal and MLflow id, as far as known, of a run to go on with: a job that was started again.
            spool_mb: bound of the journal; max_wait_s: for MLflow, at the end.
            keep: leaves the journal for whoever goes on with it, even when MLflow has all of it.
            apart: a process of its own sends; else `close` does, for as long as that takes.
            idle: no stage is expected to work. If none does, the sending begins with `close` and goes on behind the
                command, which does not wait for it and never learns MLflow's id of the run.
            later: nothing is sent; `duplet sync` does.
        """
        self._where, self._experiment, self._name, self._say = where, experiment, name, say
        self._max_wait_s, self._keep, self._apart = max_wait_s, keep, apart
        self._idle = idle and apart and not keep
        self._machine = Machine() if system_metrics else None
        self._above = Tracking._open[-1] if Tracking._open else None
        self._later: bool = later or (self._above is not None and self._above._later)
        self._stage: str | None = None  # the journal's name of the current stage's run
        self._readers: dict[Path, Reader] = {}
        self._told: set[str] = set()
        self._run = ""  # its name in the journal
        self._run_id: str | None = None
        self._journal: Journal | None = None
        self._sender: subprocess.Popen[bytes] | None = None
        self._lock = contextlib.ExitStack()
        self._stages: dict[str, str] = {}
        self._taken: set[Path] = set()  # by new_files
        self._last: dict[tuple[str, str], int] = {}  # (run, metric) -> the last update written down
        if self._above is None and (note := credentials.withheld(where.uri)):
            say(f"warning: {note}")
        with self._guarded("the run's journal cannot be written"):
            self._begin(goes_on, spool_mb * journals.MB)
        Tracking._open.append(self)

    @classmethod
    def of(cls, config: "Config", name: str, say: Say, system_metrics: bool = False, **more: Any) -> "Tracking":
        """A run that goes where a configuration says; `more` as of `Tracking`."""
        settings = config.tracking
        where = address(settings.uri, config.local_root)
        return cls(where, settings.experiment, name, say, system_metrics, **settings.sending, **more)

    def _begin(self, goes_on: Sequence[str], max_bytes: int) -> None:
        if self._above is not None:
            self._journal, self._run = self._above._journal, _fresh()
            self._write(do="run", run=self._run, parent=self._above._run, name=self._name, tags=_whose())
            return
        journal = self._before(goes_on, max_bytes) or journals.new(self._where.root, max_bytes)
        if not self._lock.enter_context(journals.held(journal.folder, journals.WRITER, patience_s=10.0)):
            journal = journals.new(self._where.root, max_bytes)  # two at once on one job's run
            self._lock.enter_context(journals.held(journal.folder, journals.WRITER))
        self._journal = journal
        (journal.folder / journals.CLOSED).unlink(missing_ok=True)
        if journal.last() == 0:
            shown = None if self._where.under_root else self._where.shown
            self._run = _fresh()
            journal.append({"do": "open", "experiment": self._experiment, "address": shown})
            resumed = {"id": goes_on[-1]} if goes_on else {}
            self._write(do="run", run=self._run, parent=None, name=self._name, tags=_whose(), **resumed)
        else:
            self._read_back(journal)
        if goes_on:
            self._write(do="again", run=self._run)
        if self._apart and not self._idle and not self._later:
            self._sender = _start_sender(journal, self._where)

    def _before(self, goes_on: Sequence[str], max_bytes: int) -> Journal | None:
        for name in goes_on:
            folder = self._where.root / journals.FOLDER / name
            if (folder / journals.JOURNAL).exists():
                return Journal(folder, max_bytes)
            if journal := journals.of_run(self._where.root, name, max_bytes):
                return journal
        return None

    def _read_back(self, journal: Journal) -> None:
        """What an earlier start of this job has written down is not written again."""
        for entry in journal.entries():
            if entry["do"] == "run":
                if entry["parent"] is None:
                    self._run = entry["run"]
                elif entry["parent"] == self._run:
                    self._stages[entry["name"]] = entry["run"]
            elif entry["do"] == "point":
                for name in entry["values"]:
                    self._last[entry["run"], name] = entry["update"]

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._warn(f"{what} ({type(error).__name__}: {str(error)[:200]}); going on untracked")
            self._journal = None

    def _warn(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._say(f"warning: {sentence}")

    def _write(self, **entry: Any) -> None:
        if self._journal is not None:
            self._journal.append({"time_ms": _now_ms(), **entry})

    @property
    def on(self) -> bool:
        """Whether the run is being recorded."""
        return self._journal is not None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once MLflow has told it."""
        if self._run_id is None and self._journal is not None:
            self._run_id = self._journal.sent()["runs"].get(self._run)
        return self._run_id

    @property
    def journal(self) -> str | None:
        """The journal's name."""
        return self._journal.folder.name if self._journal is not None else None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A child run while entered; it ends FAILED where the stage raises."""
        self._listen()
        if name in self._stages:
            self._stage = self._stages[name]
            self._write(do="again", run=self._stage)
        else:
            self._stage = self._stages[name] = _fresh()
            self._write(do="run", run=self._stage, parent=self._run, name=name, tags=_whose())
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        finally:
            self._write(do="end", run=self._stage, status=status)
            self._stage = None

    def _current(self) -> str:
        return self._stage or self._run

    def params(self, values: dict[str, Any]) -> None:
        """Flattened settings of the current run."""
        if self.on:
            shown = {name: str(value)[:_PARAM_CHARACTERS] for name, value in naming.dotted(values)}
            self._write(do="params", run=self._current(), values=shown)

    def tags(self, values: dict[str, str]) -> None:
        """Tags of the current run."""
        if self.on:
            cut = {name: str(value)[:_TAG_CHARACTERS] for name, value in values.items()}
            self._write(do="tags", run=self._current(), values=cut)

    def describe(self, said: str, table: str = "", files: Sequence[Path] = ()) -> None:
        """The description that MLflow shows of the current run.

        Args:
            said: how it ended; table: its result, of which the last lines are left out where it is too long.
            files: what to open. Each is a file of the run too.
        """
        lines = [said, *(f"`{path.name}`: {path.resolve()}" for path in files)]
        room, kept = _TAG_CHARACTERS - 20 - sum(len(line) + 2 for line in lines), []
        for line in table.splitlines():
            room -= len(line) + 1
            if room < 0:
                break
            kept.append(line)
        shown = ["\n".join(["```", *kept, "```"])] if kept else []
        self.tags({_DESCRIPTION: "\n\n".join([*lines[:1], *shown, *lines[1:]])})
        for path in files:
            self.artifact(path)

    def metrics(self, values: dict[str, float]) -> None:
        """Final figures, without a step."""
        if self.on and values:
            clean = {metric_name(name): float(value) for name, value in values.items()}
            self._write(do="figures", run=self._current(), values=clean)

    def points(self, spool: Spool) -> None:
        """Takes over the points that a spool has gained since the last call, and looks how the sending stands."""
        if not self.on:
            return
        self._listen()
        run = self._current()
        for point in self._readers.setdefault(spool.path, Reader(spool)).new():
            self._point(run, point)
        if self._machine and (values := self._machine.due()):
            self._point(run, Point(self._last.get((run, next(iter(values))), -1) + 1, _now_ms(), values))

    def _point(self, run: str, point: Point) -> None:
        values = {metric_name(name): value for name, value in point.values.items()}
        values = {name: value for name, value in values.items() if point.update > self._last.get((run, name), -1)}
        if values:  # else measured again, after a checkpoint that is older than the point
            self._last |= {(run, name): point.update for name in values}
            self._write(do="point", run=run, update=point.update, values=values, time_ms=point.time_ms)

    def dataset(self, name: str, digest: str, source: str, profile: str, context: str) -> None:
        """Notes a data set that the current run reads, by its digest (36 characters at most)."""
        if self.on:
            self._write(
                do="dataset", run=self._current(), name=name, digest=digest[:36], source=source, profile=profile,
                context=context,
            )  # fmt: skip

    def artifact(self, path: Path, folder: str | None = None, lasting: bool = True) -> None:
        """A file, or a folder's files, of the current run; a copy of it unless it is lasting and within the root."""
        if self._journal is None:
            return
        with self._guarded(f"{path} cannot be kept for MLflow"):
            if not lasting or not path.resolve().is_relative_to(self._journal.root.resolve()):
                copy = self.scratch() / path.name
                (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
                path = copy
            self._write(do="artifact", run=self._current(), path=self._journal.stored(path), folder=folder)

    def new_files(self, folder: Path) -> None:
        """The files that a folder has gained since the last call, under its name; the folder may be removed later."""
        for path in sorted(folder.glob("[!.]*")):
            if path not in self._taken:
                self._taken.add(path)
                self.artifact(path, folder.name, lasting=False)

    def scratch(self) -> Path:
        """A new folder that lasts until MLflow has what is in it; only while `on`. Raises OSError."""
        assert self._journal is not None
        folder = self._journal.folder / journals.FILES / _fresh()
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def model(self, **packed: Any) -> None:
        """An MLflow model of the current run; the arguments are `logged.log_pyfunc`'s, their files within `scratch`."""
        if self._journal is None:
            return
        with self._guarded("the model cannot be kept for MLflow"):
            for name in ("script", "code"):
                packed[name] = self._journal.stored(packed[name])
            packed["artifacts"] = {n: self._journal.stored(Path(path)) for n, path in packed["artifacts"].items()}
            json.dumps(packed)
            self._write(do="model", run=self._current(), packed=packed)

    def _listen(self) -> None:
        """Says what the sender has to say, once."""
        if self._journal is None:
            return
        state = self._journal.sent()
        for refused in state.get("refused", []):
            self._warn(f"MLflow: {refused}")
        trouble = state.get("trouble")
        if trouble and "away" not in self._told:
            self._told.add("away")
            self._warn(
                f"MLflow at {self._where.shown} does not accept everything ({trouble}); the rest is kept and sent later"
            )
        elif not trouble and "away" in self._told:
            self._told.discard("away")
            self._say("MLflow accepts what is sent again")

    def close(self, status: str) -> None:
        """Ends the run, FINISHED, FAILED or KILLED, and gives the sender a while to finish."""
        if self in Tracking._open:
            Tracking._open.remove(self)
        self._write(do="end", run=self._run, status=status)
        if self._journal is None or self._above is not None:
            self._until(lambda: self.run_id is not None)  # a sweep notes it
            return
        if self._later:
            self._leave(self._journal)
            return
        if self._idle and not self._stages:
            self._send_behind(self._journal)
            return
        if self._idle:
            self._sender = _start_sender(self._journal, self._where)
        done = self._sent_by_now(self._journal, status)
        self._listen()
        _ = self.run_id
        if done and not self._keep:
            shutil.rmtree(self._journal.folder, ignore_errors=True)
        elif not done:
            self._say(f"not all of this run is in MLflow yet: {self._sync()} sends the rest")
        self._lock.close()

    def _leave(self, journal: Journal) -> None:
        """Closes the journal for `duplet sync`."""
        with contextlib.suppress(OSError):  # a full disk: an unclosed journal is sent as well
            (journal.folder / journals.CLOSED).touch(mode=0o600)
        self._say(f"the run is kept for MLflow (tracking.send=later): {self._sync()} sends it")
        self._lock.close()

    def _sync(self) -> str:
        return f"`{shlex.join(['duplet', 'sync', '--root', str(self._where.root)])}`"

    def _send_behind(self, journal: Journal) -> None:
        """Leaves the journal to a process that outlives this one and removes it when MLflow has everything."""
        with contextlib.suppress(OSError):  # `duplet sync` finds it
            (journal.folder / journals.CLOSED).touch(mode=0o600)
            _start_sender(journal, self._where, alone=True)
        self._lock.close()

    def _sent_by_now(self, journal: Journal, status: str) -> bool:
        """Tells the sender that there is no more, and waits for it; whether MLflow has everything."""
        with contextlib.suppress(OSError):  # a full disk: the sender is killed after its wait
            (journal.folder / journals.CLOSED).touch(mode=0o600)
        if self._sender is None:
            return follow(journal, self._where) == 0
        wait_s = min(self._max_wait_s, STOPPED_WAIT_S) if status == "KILLED" else self._max_wait_s
        try:
            return self._sender.wait(wait_s) == 0 and not journal.lines.held
        except subprocess.TimeoutExpired:
            if not self._where.being_made:  # else it ends by itself, once the database is there
                self._sender.kill()
                self._sender.wait()
            return False

    def _until(self, true: Callable[[], bool]) -> None:
        """Waits for something of the sender's, while MLflow answers."""
        end = time.monotonic() + self._max_wait_s
        while self._journal is not None and not self._later and not true() and time.monotonic() < end:
            if self._journal.sent().get("trouble") or (self._above and _ended(self._above)):
                return
            time.sleep(_POLL_S)


def tag_ended(where: Address, goes_on: Sequence[str], tags: dict[str, str], status: str, **settings: Any) -> None:
    """Tags a run that another process has left, and ends it with a status; MLflow gets it now, or by `duplet sync`.

    Args:
        goes_on: its journal and MLflow id, as far as known; settings: experiment, name, say and others of `Tracking`.
    """
    run = Tracking(where, system_metrics=False, goes_on=goes_on, **settings)
    run.tags(tags)
    run.close(status)


def _start_sender(journal: Journal, where: Address, alone: bool = False) -> subprocess.Popen[bytes]:
    """The process that sends a journal; `alone`: it outlives this one, and removes what is sent."""
    with (journal.folder / journals.LOG).open("ab") as log:
        process = subprocess.Popen(
            [*launcher.PYTHON, "-m", "pipeline.tracking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **launcher.paths(), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the run
            preexec_fn=None if alone else launcher.end_with_parent,
        )
    assert process.stdin is not None
    order = {"folder": str(journal.folder.resolve()), **where._asdict(), "root": str(where.root), "remove": alone}
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.close()
    return process


def _ended(run: Tracking) -> bool:
    return run._sender is not None and run._sender.poll() is not None


def _whose() -> dict[str, str]:
    return {"mlflow.user": manifest.person(), "mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL"}


def _fresh() -> str:
    return secrets.token_hex(4)


def _now_ms() -> int:
    return int(time.time() * 1000)

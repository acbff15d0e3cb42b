"""Brings a journal to MLflow, in order, in batches, each thing once.

MLflow's databases keep equal points once, its folders of files do not, and nothing keeps runs and models once: so
wherever an answer was lost (an error, a kill), MLflow is asked what it has before more is sent.
"""

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.core import deadline
from pipeline.core.errors import one_line
from pipeline.core.event_log import Reader
from pipeline.core.redaction import hide
from pipeline.tracking import journal as journals
from pipeline.tracking.client import Address, connect
from pipeline.tracking.journal import Journal
from pipeline.tracking.logged import log_pyfunc, model_of

METRICS_PER_CALL = 1000  # MLflow's own bounds of one call
NAMES_PER_CALL = 100
POLL_S = 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0  # between tries, while MLflow does not answer
ASKED = "duplet.journal"  # a run's tag: which journal's run it is
BEFORE = "duplet.run_before"  # a run's tag: the id that it had before it was lost
_RUN_ID = re.compile("[0-9a-f]{32}")
KIND = {"mlflow.experimentKind": "custom_model_development"}  # an experiment's tag: MLflow 3 shows training's pages
_NO = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "NOT_FOUND")


class Away(Exception):
    """MLflow does not answer, or with a failure of its own: later, the same again."""


class Slow(Away):
    """An answer of MLflow's did not end."""


class Gone(Exception):
    """MLflow answers that a run is deleted (`restorable`) or not there at all."""

    def __init__(self, run: str, run_id: str, restorable: bool) -> None:
        super().__init__(f"run {run_id} {'was deleted in' if restorable else 'is not in'} MLflow")
        self.run, self.run_id, self.restorable = run, run_id, restorable


class Refused(Exception):
    """MLflow will never take this one."""


class Sender:
    """Sends one journal; `sent` counts what MLflow took, by kind; `refused` are sentences."""

    def __init__(self, journal: Journal, where: Address) -> None:
        self.journal, self.state = journal, journal.sent()
        self.sent: Counter[str] = Counter()
        self.refused: list[str] = []
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a blind second try may double what arrived
        self.mlflow, self.client = connect(where, self.refused.append)
        self.where = where
        self._experiment: str | None = None
        self._reader = Reader(journal.lines)
        self._unsure = (journal.folder / journals.SENT).exists()  # what came of an earlier sender's last call?
        journal.keep_sent(self.state)
        self._had: dict[tuple[str, str], set[tuple[int, int]]] = {}
        self.slow_store = False  # a file's answer did not end: no other is tried in this round

    @property
    def runs(self) -> dict[str, str]:
        """The journal's name of each run -> MLflow's id."""
        runs: dict[str, str] = self.state["runs"]
        return runs

    def send(self, left_too: bool = True) -> None:
        """Sends all that the journal has gained; `left_too`: tries again what could not be sent before.

        Raises:
            Away, Gone: the rest stays for later.
        """
        points: list[dict[str, Any]] = []
        self.slow_store = False
        try:
            for entry in self._new():
                if entry["do"] in ("point", "figures"):
                    if points and not _fits(points, entry):
                        self._points(points)
                        points = []
                    points.append(entry)
                    continue
                self._points(points)
                points = []
                if not self._one(entry) and entry["n"] not in self.state["left"]:
                    self.state["left"].append(entry["n"])
                self._keep(entry["n"])
            self._points(points)
            if left_too:
                self._left()
        except Away:
            self._unsure, self._had = True, {}
            self._reader.again()
            raise
        except Gone:
            self._reader.again()
            raise
        self._unsure, self._had = False, {}

    def bring_back(self, gone: Gone) -> None:
        """Restores a run from MLflow's bin; one that is nowhere is forgotten, so that all of it is sent anew."""
        if gone.restorable:
            self._ask(None, self.client.restore_run, gone.run_id)
        else:
            self.state.setdefault("before", {})[gone.run] = gone.run_id
            self.runs.pop(gone.run, None)
            self.state["sent"] = 0
        self._unsure, self._had = True, {}
        self._reader.again()
        self.journal.keep_sent(self.state)

    # --- the journal --------------------------------------------------------------------------------------------------
    def _new(self) -> Iterable[dict[str, Any]]:
        return (entry for entry in self._reader.new() if entry["n"] > self.state["sent"])

    def _keep(self, number: int) -> None:
        self.state["sent"] = max(number, self.state["sent"])
        self.journal.keep_sent(self.state)

    # --- what is said -------------------------------------------------------------------------------------------------
    def _one(self, entry: dict[str, Any]) -> bool:
        """Sends an entry; False where it is to be tried again."""
        does: dict[str, Callable[[dict[str, Any]], bool | None]] = {
            "run": self._run, "params": self._params, "tags": self._tags, "dataset": self._dataset,
            "artifact": self._file, "model": self._file, "again": self._again, "end": self._end,
        }  # fmt: skip
        if entry["do"] not in does or (entry["do"] != "run" and entry["run"] not in self.runs):
            return True
        try:
            if does[entry["do"]](entry) is False:
                return False
            self.sent[entry["do"]] += 1
        except Refused as error:
            self.refused.append(f"{entry['do']} refused: {error}")
        return True

    def _run(self, entry: dict[str, Any]) -> None:
        name = entry["run"]
        if name in self.runs:
            return
        mark = f"{self.journal.folder.name}/{name}"
        experiment = self._ask(None, self._find_experiment)
        if known := entry.get("id"):  # the id of a run, or the name of a journal that was sent and removed since
            ids = self._ask(None, self._known if _RUN_ID.fullmatch(known) else self._made_by, known)
        elif self._unsure:
            asked = self._ask(None, self.client.search_runs, [experiment], f"tags.`{ASKED}` = '{mark}'")
            ids = [run.info.run_id for run in asked]
        else:
            ids = []
        if ids:
            self.runs[name] = str(ids[0])
            return
        tags = {**entry["tags"], ASKED: mark}
        if entry["parent"] in self.runs:
            tags["mlflow.parentRunId"] = self.runs[entry["parent"]]
        if before := self.state.get("before", {}).get(name):
            tags[BEFORE] = before
        run = self._ask(None, self.client.create_run, experiment, entry["time_ms"], tags, run_name=entry["name"])
        self.runs[name] = str(run.info.run_id)

    def _known(self, run_id: str) -> list[str]:
        try:
            run = self.client.get_run(run_id)
            return [run_id] if run.info.lifecycle_stage == "active" else []
        except Exception as error:
            if getattr(error, "error_code", "") in _NO:
                return []
            raise

    def _made_by(self, journal: str) -> list[str]:
        """The run above the stages that a journal made, of a start that never learned MLflow's id of it."""
        found = self.client.search_runs([self._find_experiment()], f"tags.`{ASKED}` LIKE '{journal}/%'")
        return [run.info.run_id for run in found if "mlflow.parentRunId" not in run.data.tags]

    def _find_experiment(self) -> str:
        """Raises Refused where MLflow will have no experiment of that name, such as one of 501 characters."""
        name = self.journal.opened().get("experiment", "Default")
        try:
            return self._experiment_of(name)
        except Exception as error:
            if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                raise
            raise Refused(f"an experiment named {name[:60]!r}: {reason_of(error)}") from None

    def _experiment_of(self, name: str) -> str:
        if self._experiment is None:
            known = self.client.get_experiment_by_name(name)
            if known is None:
                self._experiment = str(self.client.create_experiment(name, self.where.artifacts, KIND))
            else:
                if known.lifecycle_stage == "deleted":
                    self.client.restore_experiment(known.experiment_id)
                self._experiment = str(known.experiment_id)
        return self._experiment

    def _params(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Param

        run_id, rows = self.runs[entry["run"]], list(entry["values"].items())
        for start in range(0, len(rows), NAMES_PER_CALL):
            some = [Param(name, value) for name, value in rows[start : start + NAMES_PER_CALL]]
            try:
                self._ask(entry["run"], self.client.log_batch, run_id, params=some)
            except Refused:  # a run that goes on with other settings: MLflow keeps a parameter's first value
                had = self._ask(entry["run"], self.client.get_run, run_id).data.params
                unknown = [param for param in some if param.key not in had]
                self._ask(entry["run"], self.client.log_batch, run_id, params=unknown)

    def _tags(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        run_id, rows = self.runs[entry["run"]], list(entry["values"].items())
        for start in range(0, len(rows), NAMES_PER_CALL):
            some = [RunTag(name, value) for name, value in rows[start : start + NAMES_PER_CALL]]
            self._ask(entry["run"], self.client.log_batch, run_id, tags=some)

    def _points(self, entries: list[dict[str, Any]]) -> None:
        if not entries:
            return
        from mlflow.entities import Metric

        run = entries[0]["run"]
        if run in self.runs:
            run_id = self.runs[run]
            metrics = []
            for entry in entries:
                when, step = entry["time_ms"], entry.get("update", 0)
                lacking = {n: v for n, v in entry["values"].items() if (when, step) not in self._has(run, n)}
                metrics += [Metric(name, value, when, step) for name, value in lacking.items()]
                self.sent["points"] += entry["do"] == "point" and bool(lacking)
            try:
                for start in range(0, len(metrics), METRICS_PER_CALL):
                    some = metrics[start : start + METRICS_PER_CALL]
                    self._ask(run, self.client.log_batch, run_id, metrics=some)
            except Refused:
                self._one_by_one(run, run_id, metrics)
        self._keep(entries[-1]["n"])

    def _one_by_one(self, run: str, run_id: str, metrics: list[Any]) -> None:
        """A value that MLflow will not have must not take others with it."""
        for metric in metrics:
            try:
                self._ask(run, self.client.log_batch, run_id, metrics=[metric])
            except Refused as error:
                self.refused.append(f"{metric.key} at {metric.step} refused: {error}")

    def _has(self, run: str, name: str) -> set[tuple[int, int]]:
        """(time, step) of the values that MLflow may have of ours already; only asked for while that is open."""
        if not self._unsure:
            return set()
        key = (run, name)
        if key not in self._had:
            history = self._ask(run, self.client.get_metric_history, self.runs[run], name)
            self._had[key] = {(point.timestamp, point.step) for point in history}
        return self._had[key]

    def _dataset(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=entry["name"], digest=entry["digest"], source_type="local", source=entry["source"],
            profile=entry["profile"],
        )  # fmt: skip
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", entry["context"])])]
        self._ask(entry["run"], self.client.log_inputs, self.runs[entry["run"]], inputs)

    def _again(self, entry: dict[str, Any]) -> None:
        self._ask(entry["run"], self.client.update_run, self.runs[entry["run"]], status="RUNNING")

    def _end(self, entry: dict[str, Any]) -> None:
        run_id = self.runs[entry["run"]]
        self._ask(entry["run"], self.client.set_terminated, run_id, entry["status"], entry["time_ms"])

    # --- files: where these fail, the rest goes on --------------------------------------------------------------------
    def _file(self, entry: dict[str, Any]) -> bool:
        if self.slow_store:
            return False
        try:
            self._put(entry)
            return True
        except (Away, Gone, Refused):
            raise
        except Exception as error:  # a store of artifacts has errors of its own; MLflow itself may be well
            self.slow_store = isinstance(error, deadline.TooLong)
            self._ask(entry["run"], self.client.get_run, self.runs[entry["run"]])
            self.state["why_left"] = reason_of(error)
            return False

    def _put(self, entry: dict[str, Any]) -> None:
        run_id = self.runs[entry["run"]]
        if entry["do"] == "model":
            self._model(entry, run_id)
            return
        path = self.journal.file(entry["path"])
        if not path.exists():
            raise Refused(f"{path} is no longer there")
        put = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        with self._patience(size_of(path)):
            put(run_id, str(path), entry["folder"])

    def _model(self, entry: dict[str, Any], run_id: str) -> None:
        run = self._ask(entry["run"], self.client.get_run, run_id)
        if self._ask(entry["run"], model_of, self.client, run):
            return
        packed = dict(entry["packed"])
        for name in ("script", "code"):
            packed[name] = self.journal.file(packed[name])
        packed["artifacts"] = {name: str(self.journal.file(path)) for name, path in packed["artifacts"].items()}
        if not packed["script"].exists():
            raise Refused(f"{packed['script']} is no longer there")
        size = sum(size_of(Path(path)) for path in packed["artifacts"].values())
        with self._patience(size), self.mlflow.start_run(run_id=run_id):
            log_pyfunc(self.mlflow, "model", **packed)
        # the block above ends the run
        self._ask(entry["run"], self._status, run_id, run.info.status, run.info.end_time)

    def _status(self, run_id: str, status: str, end_time: int | None) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, status, end_time)

    def _left(self) -> None:
        """Tries again what was left out."""
        left = self.state["left"]
        for entry in self.journal.entries() if left else ():
            if entry["n"] in left and self._one(entry):
                left.remove(entry["n"])
                self._keep(0)

    # --- asking -------------------------------------------------------------------------------------------------------
    def _ask(self, run: str | None, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What a call to MLflow, about a run or none, gives; its failure as Away, Gone or Refused."""
        try:
            with self._patience():
                return call(*args, **named)
        except Refused:
            raise
        except deadline.TooLong as error:
            raise Slow(reason_of(error)) from None
        except Exception as error:
            if run is None or getattr(error, "error_code", "") not in _NO:
                raise Away(reason_of(error)) from None
            self._check_there(run)
            raise Refused(reason_of(error)) from None

    def _patience(self, size: int = 0) -> contextlib.AbstractContextManager[None]:
        """Bounds the time of a call that sends so many bytes. A database is never left in the midst of its work."""
        if not self.where.is_remote:
            return contextlib.nullcontext()
        return deadline.within(deadline.ANSWER_S + size / deadline.UPLOAD_BYTES_PER_S)

    def _check_there(self, run: str) -> None:
        run_id = self.runs[run]
        try:
            with self._patience():
                stage = self.client.get_run(run_id).info.lifecycle_stage
        except deadline.TooLong as error:
            raise Slow(reason_of(error)) from None
        except Exception as error:
            if getattr(error, "error_code", "") in _NO:
                raise Gone(run, run_id, False) from None
            raise Away(reason_of(error)) from None
        if stage != "active":
            raise Gone(run, run_id, True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def reason_of(error: Exception) -> str:
    """An error in a line, without secrets."""
    return hide(f"{type(error).__name__}: {one_line(error, 200)}")


def _fits(points: list[dict[str, Any]], entry: dict[str, Any]) -> bool:
    """Whether an entry can go in one call with others."""
    size = sum(len(point["values"]) for point in points) + len(entry["values"])
    return points[0]["run"] == entry["run"] and size <= METRICS_PER_CALL


def follow(journal: Journal, where: Address) -> int:
    """Sends what a journal gains until it is closed; 0 when MLflow has all of it."""
    sender, pause = None, FIRST_PAUSE_S
    while True:
        closed = (journal.folder / journals.CLOSED).exists()  # asked first: what stands there now is all
        try:
            sender = sender or Sender(journal, where)
            sender.send(left_too=closed)
            _note(journal, sender, None)
            pause = FIRST_PAUSE_S
            if closed:
                return 0 if not sender.state["left"] else 1
            time.sleep(POLL_S)
        except Gone as error:
            _note(journal, sender, f"{error}; `duplet sync` brings it back")
            return 1
        except Exception as error:
            _note(journal, sender, str(error) if isinstance(error, Away) else reason_of(error))
            sender = sender if isinstance(error, Away) else None
            if closed:
                return 1
            end, pause = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S)
            while time.monotonic() < end and not (journal.folder / journals.CLOSED).exists():
                time.sleep(POLL_S)


def _note(journal: Journal, sender: Sender | None, trouble: str | None) -> None:
    """Tells whoever wrote the journal how it stands, by way of sent.json."""
    state = sender.state if sender else journal.sent()
    if trouble is None and state["left"]:
        trouble = str(state.get("why_left"))
    refused = sender.refused if sender else []
    if state.get("trouble") != trouble or state.get("refused", []) != refused:
        state["trouble"], state["refused"] = trouble, list(refused)
        journal.keep_sent(state)

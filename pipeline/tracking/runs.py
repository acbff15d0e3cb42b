"""Runs: one per `duplet run`, a child per stage. It can slow or stop nothing.

Every call is guarded: what fails is said once, and the work goes on without being tracked.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.spool import Spool
from pipeline.tracking.client import Address, connect
from pipeline.tracking.logged import log_pyfunc

POINTS_PER_CALL = 500


def metric_name(name: str) -> str:
    """MLflow allows no @ in names: mrr@10 becomes mrr_at_10."""
    return name.replace("@", "_at_")


class Tracking:
    """The parent run of one command, and its stages' child runs."""

    def __init__(
        self,
        where: Address,
        experiment: str,
        name: str,
        say: Callable[[str], None],
        system_metrics: bool,
        goes_on: str | None = None,
    ) -> None:
        """`goes_on`: the id of a run to go on with, where there is one: a job that was started again."""
        self.run_id: str | None = None
        self._say, self._failed, self._system_metrics = say, False, system_metrics
        self._stage: Any = None
        self._sent, self._sent_until = 0, -1
        where_is = where.uri.split("@")[-1]
        with self._guarded(f"MLflow at {where_is} does not take runs"):
            self._mlflow, self._client = connect(where)
            known = self._client.get_experiment_by_name(experiment)
            identity = known.experiment_id if known else self._client.create_experiment(experiment, where.artifacts)
            self._experiment = identity
            self._goes_on = self._known(goes_on)
            # within a sweep's run, under it
            nested = self._mlflow.active_run() is not None
            run = self._mlflow.start_run(run_id=self._goes_on, experiment_id=identity, run_name=name, nested=nested)
            self.run_id = run.info.run_id

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._failed:
                self._say(
                    f"warning: {what} ({type(error).__name__}: {str(error).splitlines()[0][:200]}); going on untracked"
                )
            self._failed = True

    @property
    def on(self) -> bool:
        """Whether there is a run to write to."""
        return self.run_id is not None and not self._failed

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A child run while entered; it ends FAILED where the stage raises."""
        if self.on:
            with self._guarded("MLflow did not take a stage"):
                before = self._stage_before(name)
                self._sent, self._sent_until = 0, self._last_update(before)
                self._stage = self._mlflow.start_run(
                    run_id=before,
                    experiment_id=self._experiment,  # a nested run would go to the experiment "Default"
                    run_name=name,
                    nested=True,
                    log_system_metrics=self._system_metrics and name == "train",
                )
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        finally:
            if self._stage is not None:
                with self._guarded("MLflow did not end a stage"):
                    self._mlflow.end_run(status)
                self._stage = None

    def _known(self, run_id: str | None) -> str | None:
        """The run's id, if there is such a run here."""
        try:
            return run_id and str(self._client.get_run(run_id).info.run_id)
        except Exception:  # deleted, or of another database
            return None

    def _stage_before(self, name: str) -> str | None:
        """The child run of a stage that an earlier start of this job began."""
        if self._goes_on is None:
            return None
        found = self._client.search_runs(
            [self._experiment], f"tags.mlflow.parentRunId = '{self._goes_on}' and attributes.run_name = '{name}'"
        )
        return str(found[0].info.run_id) if found else None

    def _last_update(self, run_id: str | None) -> int:
        """The last update of which a run has a point; what an earlier start sent is not sent again."""
        if run_id is None:
            return -1
        return max((point.step for point in self._client.get_metric_history(run_id, "loss")), default=-1)

    def _current(self) -> str:
        run_id = self._stage.info.run_id if self._stage is not None else self.run_id
        assert run_id is not None
        return run_id

    def params(self, values: dict[str, Any]) -> None:
        """Flattened settings of the current run."""
        if self.on:
            with self._guarded("MLflow did not take parameters"):
                flat = list(_flat("", values))
                if self._goes_on:  # MLflow takes no other value for a parameter, such as another number of workers
                    known = self._client.get_run(self._current()).data.params
                    flat = [(name, value) for name, value in flat if name not in known]
                for start in range(0, len(flat), 100):
                    self._mlflow.log_params(dict(flat[start : start + 100]))

    def tags(self, values: dict[str, str]) -> None:
        """Tags of the current run."""
        if self.on:
            with self._guarded("MLflow did not take tags"):
                self._mlflow.set_tags(values)

    def metrics(self, values: dict[str, float]) -> None:
        """Final figures, without a step."""
        if self.on:
            with self._guarded("MLflow did not take metrics"):
                self._mlflow.log_metrics({metric_name(name): value for name, value in values.items()})

    def points(self, spool: Spool) -> None:
        """Sends the points that a spool has gained since the last call, in few calls."""
        if not self.on:
            return
        with self._guarded("MLflow did not take points"):
            from mlflow.entities import Metric

            found: list[Any] = []
            for point, offset in spool.read(self._sent):
                self._sent = offset
                if point.update < self._sent_until:
                    continue
                found += [
                    Metric(metric_name(name), value, point.time_ms, point.update)
                    for name, value in point.values.items()
                ]
            for start in range(0, len(found), POINTS_PER_CALL):
                self._client.log_batch(self._current(), metrics=found[start : start + POINTS_PER_CALL])

    def dataset(self, name: str, digest: str, source: str, profile: str, context: str) -> None:
        """Notes a data set that the current run reads, by its digest (36 characters at most)."""
        if self.on:
            with self._guarded("MLflow did not take a data set"):
                from mlflow.entities import Dataset, DatasetInput, InputTag

                entry = Dataset(name=name, digest=digest[:36], source_type="local", source=source, profile=profile)
                tag = InputTag("mlflow.data.context", context)
                self._client.log_inputs(self._current(), [DatasetInput(entry, [tag])])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, or a folder's files, of the current run."""
        if self.on:
            with self._guarded("MLflow did not take an artifact"):
                log = self._mlflow.log_artifacts if path.is_dir() else self._mlflow.log_artifact
                log(str(path), folder)

    def model(self, **packed: Any) -> None:
        """An MLflow model of the current run; the arguments are `logged.log_pyfunc`'s."""
        if self.on:
            with self._guarded("MLflow did not take the model"):
                log_pyfunc(self._mlflow, "model", **packed)

    def close(self, status: str) -> None:
        """Ends the parent run: FINISHED, FAILED or KILLED."""
        if self.run_id is not None:
            with self._guarded("MLflow did not end the run"):
                self._mlflow.end_run(status)


def tag_ended(where: Address, run_id: str, tags: dict[str, str], status: str) -> None:
    """Tags a run that another process has left, and ends it with a status; raises whatever MLflow raises."""
    _, client = connect(where)
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    client.set_terminated(run_id, status)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, str(value)[:500]

"""MLflow, and the only file that imports it: one run per `duplet run`, a child per stage. It can slow or stop nothing.

Every call is guarded: what fails is said once, and the work goes on without being tracked.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.spool import Spool

POINTS_PER_CALL = 500


class Address(NamedTuple):
    """Where runs go: the tracking server or database, and (local default only) the artifact folder."""

    uri: str
    artifacts: str | None


def address(configured: str | None, root: Path) -> Address:
    """The configured address, else MLFLOW_TRACKING_URI, else SQLite and a folder under `root`."""
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return Address(uri, None)
    root = root.resolve()
    return Address(f"sqlite:///{root / 'mlflow.db'}", (root / "mlflow-artifacts").as_uri())


def metric_name(name: str) -> str:
    """MLflow allows no @ in names: mrr@10 becomes mrr_at_10."""
    return name.replace("@", "_at_")


class Tracking:
    """The parent run of one command, and its stages' child runs."""

    def __init__(
        self, where: Address, experiment: str, name: str, say: Callable[[str], None], system_metrics: bool
    ) -> None:
        self.run_id: str | None = None
        self._say, self._failed, self._system_metrics = say, False, system_metrics
        self._stage: Any = None
        self._sent = 0
        where_is = where.uri.split("@")[-1]
        with self._guarded(f"MLflow at {where_is} does not take runs"):
            # MLflow retries for minutes by default, and reports usage over the network
            for key, value in (
                ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
                ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
                ("MLFLOW_DISABLE_TELEMETRY", "true"),
                ("MLFLOW_ENABLE_ASYNC_LOGGING", "false"),
                ("GIT_PYTHON_REFRESH", "quiet"),
            ):
                os.environ.setdefault(key, value)
            if where.artifacts:  # else MLflow makes a folder mlruns wherever the command is run
                os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", where.artifacts)
            import mlflow
            from mlflow.tracking import MlflowClient

            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.ERROR)
            mlflow.set_tracking_uri(where.uri)
            self._mlflow, self._client = mlflow, MlflowClient(where.uri)
            known = self._client.get_experiment_by_name(experiment)
            identity = known.experiment_id if known else self._client.create_experiment(experiment, where.artifacts)
            self._experiment = identity
            run = mlflow.start_run(experiment_id=identity, run_name=name)
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
                self._sent = 0
                self._stage = self._mlflow.start_run(
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

    def _current(self) -> str:
        run_id = self._stage.info.run_id if self._stage is not None else self.run_id
        assert run_id is not None
        return run_id

    def params(self, values: dict[str, Any]) -> None:
        """Flattened settings of the current run."""
        if self.on:
            with self._guarded("MLflow did not take parameters"):
                flat = list(_flat("", values))
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

    def close(self, status: str) -> None:
        """Ends the parent run: FINISHED, FAILED or KILLED."""
        if self.run_id is not None:
            with self._guarded("MLflow did not end the run"):
                self._mlflow.end_run(status)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, str(value)[:500]

"""Removing runs from MLflow for good, with their files and models; a kill meanwhile leaves them in MLflow's bin."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pipeline.core import atomic_files
from pipeline.tracking.client import Address, asked, if_there
from pipeline.tracking.listing import pages


class JobRun(NamedTuple):
    """A run of MLflow, the run above it, and the key of the stage that it is of; None of the run above its stages."""

    run_id: str
    above: str | None
    key: str | None


def of_job(where: Address, tag: str, job: str, run_id: str | None) -> list[JobRun]:
    """The runs of a job and those of their stages, each after the one above it, those in the bin too.

    Args:
        tag, job: what the job's runs are tagged with, and its value.
        run_id: a run that is the job's besides those that the tag tells, None where none is known.

    Raises:
        TryAgain: MLflow does not answer.
    """
    with asked(where, f"job {job}") as (mlflow, client):
        view = mlflow.entities.ViewType.ALL
        experiments = [
            one.experiment_id for one in pages(lambda token: client.search_experiments(view, page_token=token))
        ]
        tops = {run.info.run_id: run for run in client.search_runs(experiments, f"tags.`{tag}` = '{job}'", view)}
        if run_id and run_id not in tops and (run := if_there(client.get_run, run_id)):
            tops[run_id] = run
        found = [JobRun(one, None, None) for one in tops]
        for top in tops.values():
            below = client.search_runs([top.info.experiment_id], f"tags.mlflow.parentRunId = '{top.info.run_id}'", view)
            found += [JobRun(one.info.run_id, top.info.run_id, one.data.params.get("key")) for one in below]
        return found


def remove(where: Address, run_ids: Iterable[str]) -> None:
    """Removes runs with all that they logged: first into the bin, then their files and models, then themselves.

    On a server the rows of the runs stay in its bin, which its own `mlflow gc` empties.

    Raises:
        TryAgain: MLflow does not answer.
    """
    with asked(where, "run") as (_, client):
        for run_id in run_ids:
            if (run := if_there(client.get_run, run_id)) is None:
                continue
            if run.info.lifecycle_stage == "active":
                client.delete_run(run_id)
            for output in getattr(run.outputs, "model_outputs", None) or []:
                _remove_model(where, client, output.model_id)
            _remove_files(run.info.artifact_uri)
            if where.database:
                _store(where)._hard_delete_run(run_id)


def _remove_model(where: Address, client: Any, model_id: str) -> None:
    if (model := if_there(client.get_logged_model, model_id)) is not None:
        location = model.artifact_location
        client.delete_logged_model(model_id)
        _remove_files(location)
    if where.database and model_id in _store(where)._get_deleted_logged_models():
        _store(where)._hard_delete_logged_model(model_id)


def _remove_files(address: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path) if parts.scheme else address)
        if path.is_dir():
            atomic_files.remove_folder(path)
        if path.name == "artifacts" and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()  # the folder of the run itself
    else:
        get_artifact_repository(address).delete_artifacts()


def _store(where: Address) -> Any:
    """The database itself: `mlflow gc` removes by the same calls, but empties the whole bin."""
    from mlflow.tracking._tracking_service.utils import _get_store

    return _get_store(where.uri, where.artifacts)

"""Where MLflow is, reaching it, and what is asked of it that must be answered."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core import atomic_files, credentials, deadline
from pipeline.core.errors import DupletError, InputError, TryAgain, one_line, unusable
from pipeline.core.progress import Say
from pipeline.core.redaction import MASK, hide
from pipeline.tracking import database
from pipeline.tracking.journal import STAGE_TAG
from pipeline.tracking.lending import lend

REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")  # a registered model: name, alias or version
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")  # codes of MLflow's errors for what is not there


class Address(NamedTuple):
    """Where runs go: the tracking server or database, and (SQLite only) the artifact folder beside it."""

    uri: str
    artifacts: str | None
    root: Path  # where runs are written down before they go there

    @property
    def database(self) -> Path | None:
        """The file of a SQLite database."""
        return database.path_of(self.uri)

    @property
    def under_root(self) -> bool:
        """Whether it is the database under the root, which is found there also when the root is moved."""
        return self.uri == local(self.root).uri

    @property
    def is_remote(self) -> bool:
        """Whether it is a server, which may answer late or never."""
        return self.uri.lower().startswith(("http:", "https:"))

    @property
    def being_made(self) -> bool:
        """Whether a process is making the SQLite database now."""
        return self.database is not None and atomic_files.is_locked(database.lock_of(self.database))

    @property
    def shown(self) -> str:
        """The address without passwords."""
        return hide(self.uri)


def address(configured: str | None, root: Path) -> Address:
    """The configured address, else MLFLOW_TRACKING_URI, else SQLite and a folder under `root`.

    Raises:
        InputError: the configured one was kept without its password, and the environment has not the whole; or no
            MLflow can be reached by it.
    """
    own = os.environ.get("MLFLOW_TRACKING_URI")
    if configured and MASK in configured:
        if not own or hide(own) != configured:
            raise InputError(f"the password of {configured} is not kept: set MLFLOW_TRACKING_URI to the whole address")
        configured = own
    uri = configured or own
    return at(uri, root) if uri else local(root)


def at(uri: str, root: Path) -> Address:
    """An address as a person gives it; files of runs in a SQLite database lie beside it, wherever a command is run.

    Raises:
        InputError: no MLflow can be reached by it.
    """
    try:
        uri = database.absolute(credentials.reachable(uri))
    except ValueError as error:
        raise InputError(f"the address of MLflow cannot be used: {error}") from None
    path = database.path_of(uri)
    return Address(uri, (path.parent / "mlflow-artifacts").as_uri() if path else None, root)


def local(root: Path) -> Address:
    """SQLite and a folder under `root`."""
    root = root.resolve()
    return at(database.address_of(root / "mlflow.db"), root)


def connect(where: Address, say: Say = lambda _: None) -> tuple[Any, Any]:
    """The mlflow module and a client, set up for an address: quiet, quick to give up, and telling nobody else.

    A SQLite database is made, or brought to this MLflow's version, first.

    Args:
        say: told where a half-made database was set aside.
    """
    # MLflow retries for minutes by default, and reports usage over the network
    for key, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_ENABLE_ASYNC_LOGGING", "false"),
        ("GIT_PYTHON_REFRESH", "quiet"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ):
        os.environ.setdefault(key, value)
    if where.artifacts:  # else MLflow makes a folder mlruns wherever the command is run
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = where.artifacts
    import mlflow
    import mlflow.utils.credentials
    from mlflow.tracking import MlflowClient

    lend(mlflow.utils.credentials, where.uri)
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    theirs = os.environ.get("MLFLOW_TRACKING_URI")
    if where.database and where.artifacts:
        database.prepare(where.database, where.artifacts, say)
    mlflow.set_tracking_uri(where.uri)
    # MLflow writes the address into the environment, where `address` would take it for the person's own wish
    if theirs is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = theirs
    return mlflow, MlflowClient(where.uri)


@contextlib.contextmanager
def asked(where: Address, wanted: str) -> Iterator[tuple[Any, Any]]:
    """The mlflow module and a client, for questions without whose answer there is nothing to do.

    Raises:
        InputError: `wanted`, a name for the sentence, is not there, or there is no database at all.
        TryAgain: MLflow does not answer.
    """
    place, file = where.shown, where.database
    if file and not file.exists():  # a client would make one
        raise InputError(f"no {wanted}: there is no MLflow database {file}; give --root or the address of another")
    try:
        aside: list[str] = []
        connected = connect(where, aside.append)
        if aside:
            raise InputError(f"no {wanted}: {aside[0]}")
        with deadline.within(deadline.QUESTIONS_S) if where.is_remote else contextlib.nullcontext():
            yield connected
    except DupletError:
        raise
    except Exception as error:
        if sentence := unusable(error):
            raise InputError(sentence) from None
        reason = hide("; ".join(filter(None, (one_line(error, 200), credentials.withheld(where.uri)))))
        if getattr(error, "error_code", "") in (*ABSENT, "INVALID_PARAMETER_VALUE"):
            raise InputError(f"no {wanted} in MLflow at {place}: {reason}") from None
        raise TryAgain(f"MLflow at {place} does not answer when asked for {wanted}: {reason}") from None


def if_there(call: Any, *names: str) -> Any:
    """What a call of MLflow gives; None where it has nothing of that name."""
    try:
        return call(*names)
    except Exception as error:
        if getattr(error, "error_code", "") in ABSENT:
            return None
        raise


def model_of_run(where: Address, run_id: str, store: Path) -> Path:
    """The folder "model" that a run's training logged: its own, its train child's, or its equal's that ran before.

    Args:
        store: where the files are copied to, once.

    Raises:
        InputError: no such run, or it has no model. TryAgain: MLflow does not answer.
    """
    with asked(where, f"run {run_id}") as (mlflow, client):
        run = client.get_run(run_id)
        runs = [run, *client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")]
        if key := run.data.tags.get(f"{STAGE_TAG}train"):  # up to date already, so without a child
            runs += client.search_runs([run.info.experiment_id], f"params.key = '{key}'")
        for one in runs:
            if one.info.run_name == "train" and client.list_artifacts(one.info.run_id, "model"):
                return copied(mlflow, where, f"runs:/{one.info.run_id}/model", store / one.info.run_id)
    raise InputError(f"run {run_id} logged no model: it trained none, or was stopped before it had; train again")


def model_of_registry(where: Address, address: str, store: Path) -> Path:
    """The files of a registered model, `models:/NAME@ALIAS` or `models:/NAME/VERSION`; `store` as in model_of_run.

    Raises:
        InputError: no such model, version or alias. TryAgain: MLflow does not answer.
    """
    match = REGISTERED.fullmatch(address)
    if not match:
        raise InputError(f"{address} names no model: write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = match.groups()
    with asked(where, f"model {address}") as (mlflow, client):
        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        unique = atomic_files.digest([where.uri, name, version.version, version.creation_timestamp])[:12]
        return copied(mlflow, where, f"models:/{name}/{version.version}", store / f"version-{version.version}-{unique}")


def copied(mlflow: Any, where: Address, address: str, folder: Path) -> Path:
    """What a run or a version logged never changes, so a copy that is there is good."""
    folder = folder.absolute()  # as MLflow gives it back
    with atomic_files.lock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            with atomic_files.new_folder(folder) as new:
                got = mlflow.artifacts.download_artifacts(
                    artifact_uri=address, dst_path=str(new), tracking_uri=where.uri
                )
                if Path(got) != new:  # MLflow makes a folder of the artifact's name
                    for path in Path(got).iterdir():
                        path.rename(new / path.name)
                    Path(got).rmdir()
    return folder

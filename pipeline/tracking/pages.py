"""MLflow's own pages over a root's runs."""

import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import InputError
from pipeline.tracking.client import asked, local

HOST = "127.0.0.1"
TRAINING = "?workflowType=machine_learning"  # MLflow 3 begins with its pages for language models otherwise


class Pages(NamedTuple):
    command: list[str]  # starts MLflow's server
    environment: dict[str, str]
    url: str  # where the pages are, or one run's page


def pages(root: Path, run_id: str | None, port: int) -> Pages:
    """How to serve the runs under a root on the loopback.

    Args:
        run_id: the run whose page is wanted; None: the list of experiments.
        port: 0: any free one.

    Raises:
        InputError: no runs there, no such run, or the port is taken. TryAgain: the database does not answer.
    """
    where = local(root)
    with asked(where, f"run {run_id}" if run_id else "run") as (_, client):
        page = f"#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}" if run_id else "#/experiments"
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {HOST}:{port} ({error.strerror}): give another --port (0: any free one)"
            ) from None
        port = tried.getsockname()[1]
    assert where.artifacts is not None  # SQLite has one
    command = [sys.executable, "-P", "-W", "ignore", "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", where.uri, "--default-artifact-root", where.artifacts]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet["PYTHONWARNINGS"] = "ignore"  # the command starts the server as a process of its own
    return Pages(command, {**os.environ, **quiet}, f"http://{HOST}:{port}/{page}{TRAINING}")

"""MLflow is handed the environment's credentials for the servers that the person has named, and for no other."""

import os
from typing import Any

from pipeline.core import credentials

_kept: dict[str, str] = {}  # taken out of the environment, until a trusted server is connected


def lend(mlflow_credentials: Any, uri: str) -> None:
    """Leaves MLflow the credentials that may go to an address, and takes the others out of its reach.

    Args:
        mlflow_credentials: MLflow's module of that name, which reads the environment and a file at home.
    """
    read = mlflow_credentials._read_mlflow_creds_from_file
    original = getattr(read, "original", read)
    if credentials.is_trusted(uri):
        for name, value in _kept.items():
            os.environ.setdefault(name, value)
        _kept.clear()
        mlflow_credentials._read_mlflow_creds_from_file = original
        return
    for name in credentials.MLFLOW_SENDS:
        if name in os.environ:
            _kept[name] = os.environ.pop(name)

    def nothing() -> tuple[None, None]:
        return None, None

    nothing.original = original  # type: ignore[attr-defined]
    mlflow_credentials._read_mlflow_creds_from_file = nothing

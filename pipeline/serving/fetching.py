"""Finding a model by what a person calls it: a folder, a run, or a registered name."""

import re
from pathlib import Path

from pipeline import tracking
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.serving.model_folder import checked, inner_of

STORE = "models"  # under root: copies of what MLflow holds
HELP = "a configuration (.yaml), a model's folder, an MLflow run id, or models:/NAME@ALIAS"


def fetch(model: str, root: Path, uri: str | None) -> Path:
    """The folder of a model, its files checked against their hashes. Nothing in it is ever unpickled or run.

    Args:
        model: a trained or exported folder; the id of a run (parent or train child); `models:/NAME@ALIAS` or
            `models:/NAME/VERSION`.
        root: where the MLflow database lies, unless there is another address.
        uri: MLflow's address; None: MLFLOW_TRACKING_URI, else under root.

    Raises:
        InputError: no such model, or not a whole one. TryAgain: MLflow does not answer.
    """
    if model.startswith("models:/"):
        folder = tracking.model_of_registry(tracking.address(uri, root), model, root / STORE)
    elif atomic_files.path_at_home(model).is_dir():
        folder = atomic_files.path_at_home(model)
    elif re.fullmatch(r"[0-9a-f]{32}", model):
        folder = tracking.model_of_run(tracking.address(uri, root), model, root / STORE)
    else:
        raise InputError(f"no model {model!r}: give {HELP}")
    return checked(inner_of(folder))

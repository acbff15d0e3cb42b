"""Logging a model as MLflow 3 has it: by name, from code, with signature, example and pinned requirements."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def log_pyfunc(
    mlflow: Any, name: str, script: Path, code: Path, artifacts: Mapping[str, str], requirements: Sequence[str],
    example: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any],
) -> str:  # fmt: skip
    """Logs a models-from-code pyfunc in the active run; returns its address, `models:/m-…`.

    Args:
        script: calls `mlflow.models.set_model`; code: the folder of the modules it imports.
        artifacts: name -> path of a file or folder.
        example: rows; a column that only some have is optional. MLflow shows those that are like the first.
        answers: predictions for `example`, from which the signature is inferred.
    """
    import pandas
    from mlflow.models import infer_signature

    frame = pandas.DataFrame(list(example))
    with _importable(code.parent), _quiet():
        signature = infer_signature(frame, pandas.DataFrame(list(answers)))
        info = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(script),
            code_paths=[str(code)],
            # MLflow takes what it is given for an address, and would read %20 in a path as a blank
            artifacts={name: Path(path).absolute().as_uri() for name, path in artifacts.items()},
            pip_requirements=list(requirements),
            signature=signature,
            input_example=pandas.DataFrame([row for row in example if row.keys() == example[0].keys()]),
            metadata=dict(metadata),
        )
    return str(info.model_uri)


def model_of(client: Any, run: Any) -> str | None:
    """The id of the model that a run logged whole; one whose files did not arrive is left out."""
    for output in getattr(run.outputs, "model_outputs", None) or []:
        if client.get_logged_model(output.model_id).status.name == "READY":
            return str(output.model_id)
    return None


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """MLflow runs the script once when it logs it, before it has copied the modules."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow tells of every file that it copies."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.pyfunc", "mlflow.models.model")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # integers cannot be missing, type hints
            yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)

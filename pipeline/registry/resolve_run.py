"""A run by any of its names: a configuration, a folder, an MLflow run, a registered version; to its evaluation."""

import contextlib
import json
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import tracking
from pipeline.config import load_config
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError
from pipeline.registry import mlflow_registry
from pipeline.reporting import folder as reporting
from pipeline.reporting.folder import FUSION, METRICS, RECORD
from pipeline.serving import fetching, model_folder, second_stage
from pipeline.serving.predict.base import MatchingPredictor, Predictor
from pipeline.serving.predict.text_encoder import Backend
from pipeline.tracking.client import REGISTERED, Address

HELP = "a configuration, an evaluation's or a trained folder, an MLflow run id, or models:/NAME@ALIAS"


def model(name: str, root: Path, uri: str | None) -> Path:
    """The folder of a model that is to be used, its files checked; of a configuration, what its settings trained.

    Raises:
        InputError: no such model, not a whole one, or not trained yet. TryAgain: MLflow does not answer.
    """
    path = atomic_files.path_at_home(name)
    if path.suffix not in (".yaml", ".yml"):
        return fetching.fetch(name, root, uri)
    from pipeline.orchestration import flow

    planned = flow.plan(load_config(path))
    folder = planned.folder("train")
    if not (planned.fetch("train") or (folder / manifest.NAME).exists()):
        raise InputError(
            f"{name} is not trained with its present settings: run `duplet run {shlex.quote(name)}` first, "
            "or name a training with other settings by its folder or its run id"
        )
    return model_folder.checked(folder)


def fusion_of(name: str, folder: Path, root: Path, uri: str | None, store: Path) -> dict[str, Any]:
    """How the evaluation of a model made BM25 and the mix; {} of one that was not evaluated.

    Args:
        name: of the model, as for `model`; folder: what that gave, which says it itself where it is exported.

    Raises:
        TryAgain: MLflow does not answer.
    """
    if made := second_stage.carried(folder):
        return made
    path = Path(name).expanduser()
    own = path.is_dir() or path.suffix in (".yaml", ".yml")  # these know their root
    try:
        evaluation = find(name, [], None if own else root, uri, store).evaluation
    except InputError:
        return {}
    return dict(reporting.read_json(evaluation / FUSION, {}))


def predictor(
    name: str, folder: Path, root: Path, uri: str | None, backend: Backend | None = None, threads: int | None = None
) -> Predictor:
    """A model opened for prediction; a matcher with the second stage that its evaluation chose, if any.

    Args:
        name, folder: as for `fusion_of`.

    Raises:
        InputError: it cannot be opened, or its second model is gone. TryAgain: MLflow does not answer.
    """
    from pipeline.serving import loading

    found = loading.open_predictor(folder, backend, threads)
    if isinstance(found, MatchingPredictor) and found.second is None:
        with tempfile.TemporaryDirectory(prefix="duplet-model-") as scratch:
            made = fusion_of(name, folder, root, uri, Path(scratch))
        opens = lambda second: loading.open_encoder(second, backend or "onnx", threads)
        found.second = second_stage.opened(made, name, opens)
    return found


class EvaluatedRun(NamedTuple):
    evaluation: Path  # the folder, here or copied from MLflow
    record: dict[str, Any]  # its run.json
    root: Path
    where: Address

    @property
    def trained(self) -> str:
        """The key of the train stage."""
        return str(self.record["stages"]["train"]["key"])


def find(name: str, overrides: list[str], root: Path | None, uri: str | None, store: Path) -> EvaluatedRun:
    """Resolves what a person calls a run.

    Args:
        overrides: of a configuration.
        root: where stage folders and MLflow's database lie; None: the configuration's, the folder's own, or "runs".
        uri: MLflow's address; None: the configuration's, MLFLOW_TRACKING_URI, or under root.
        store: where what is only in MLflow is copied to.

    Raises:
        InputError: no such thing, or it was not evaluated. TryAgain: MLflow does not answer.
    """
    path = atomic_files.path_at_home(name)
    if overrides and not path.is_file():
        raise InputError(
            f"{' '.join(overrides)}: key=value settings need a configuration file, and {name!r} is not one"
        )
    if path.is_dir():
        return _of_folder(path, root, uri)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return _of_configuration(name, overrides, root, uri)
    root = root or Path("runs")
    where = tracking.address(uri, root)
    if match := REGISTERED.fullmatch(name):
        return _of_version(where, root, store, *match.groups())
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _of_keys(mlflow_registry.keys_of_run(where, name), f"run {name}", root, where, store)
    raise InputError(f"no run {name!r}: give {HELP}")


def _of_configuration(path: str, overrides: list[str], root: Path | None, uri: str | None) -> EvaluatedRun:
    from pipeline.orchestration import flow

    config = load_config(path, [*overrides, *([f"root={root}"] if root else [])])
    keys = flow.plan(config)
    folder = keys.folder("evaluate")
    keys.fetch("train")  # which the evaluation's record names
    if not (keys.fetch("evaluate") or (folder / manifest.NAME).exists()):
        command = shlex.join(["duplet", "run", path, *overrides])
        raise InputError(
            f"{path} is not evaluated with {'these' if overrides else 'its present'} settings: run `{command}` first, "
            "or name a run with other settings by its folder or its id"
        )
    where = tracking.address(uri or config.tracking.uri, keys.root)
    return EvaluatedRun(folder, reporting.read_record(folder), keys.root, where)


def _of_folder(path: Path, root: Path | None, uri: str | None) -> EvaluatedRun:
    if (path / METRICS).exists():
        record = reporting.read_record(path)
        root = root or (path.resolve().parent.parent if path.resolve().parent.name == "evaluate" else Path("runs"))
        configured = record.get("configuration", {}).get("tracking", {}).get("uri")
        return EvaluatedRun(path, record, root, tracking.address(uri or configured, root))
    try:
        stage, key = (json.loads((path / manifest.NAME).read_text(encoding="utf-8"))[name] for name in ("stage", "key"))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a folder of a finished stage: give {HELP}") from None
    if stage != "train":
        raise InputError(f"{path} is of the stage {stage}: give the folder of an evaluation or of a training")
    for folder, record in newest_first(path.resolve().parent.parent).items():
        if record["stages"]["train"]["key"] == key:
            return _of_folder(folder, root, uri)
    raise InputError(f"the training in {path} is not evaluated: run `duplet evaluate` with its configuration")


def _of_version(
    where: Address, root: Path, store: Path, name: str, alias: str | None, number: str | None
) -> EvaluatedRun:
    known = mlflow_registry.Registry(where, name)
    if number is None and alias != mlflow_registry.ALIAS:
        raise InputError(
            f"models:/{name}@{alias}: the alias is {mlflow_registry.ALIAS}, or give models:/{name}/VERSION"
        )
    version = known.version(int(number)) if number else known.champion()
    if version is None:
        raise InputError(f"no model {name} with the alias {mlflow_registry.ALIAS} in MLflow: `duplet promote` gives it")
    return of_version(version, where, root, store)


def of_version(version: mlflow_registry.Version, where: Address, root: Path, store: Path) -> EvaluatedRun:
    """The evaluation that a registered version was promoted with. Raises InputError where it has none."""
    keys = {"train": version.tags[mlflow_registry.TRAINED]} if mlflow_registry.TRAINED in version.tags else {}
    if mlflow_registry.EVALUATED in version.tags:
        keys["evaluate"] = version.tags[mlflow_registry.EVALUATED]
    return _of_keys(keys, str(version), root, where, store)


def _of_keys(keys: dict[str, str], what: str, root: Path, where: Address, store: Path) -> EvaluatedRun:
    if "evaluate" in keys:
        folder = root / "evaluate" / keys["evaluate"]
        if not (folder / manifest.NAME).exists():
            run_id = mlflow_registry.stage_run(where, "evaluate", keys["evaluate"])
            if run_id is None:
                raise InputError(
                    f"{what} has no evaluation, here or in MLflow: run `duplet run` with its configuration"
                )
            folder = mlflow_registry.evaluation_of_run(where, run_id, store / run_id)
        return EvaluatedRun(folder, reporting.read_record(folder), root, where)
    if "train" in keys:
        for folder, record in newest_first(root).items():
            if record["stages"]["train"]["key"] == keys["train"]:
                return EvaluatedRun(folder, record, root, where)
    raise InputError(f"{what} has no evaluation, here or in MLflow: run `duplet run` with its configuration")


def newest_first(root: Path) -> dict[Path, dict[str, Any]]:
    """The evaluations under a root that carry a record of their run, with it; one that is damaged is none."""
    records: dict[Path, dict[str, Any]] = {}
    for path in atomic_files.finished(root, f"evaluate/*/{RECORD}"):
        with contextlib.suppress(InputError):
            records[path.parent] = reporting.read_record(path.parent)
    return dict(sorted(records.items(), key=lambda item: str(item[1].get("made")), reverse=True))

"""MLflow's model registry: versions of a model, the alias that says which is live, and why it moved, as tags."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import InputError, TryAgain
from pipeline.tracking.client import Address, asked, copied, if_there
from pipeline.tracking.journal import STAGE_TAG, stage_keys
from pipeline.tracking.listing import pages
from pipeline.tracking.logged import model_of

ALIAS = "champion"
# tags of a version
TRAINED, EVALUATED = f"{STAGE_TAG}train", f"{STAGE_TAG}evaluate"
BEFORE, MOVE = "duplet.before", "duplet.move"
WITH_SECOND = "duplet.second_stage"  # the key of the evaluation that chose it
_TAG_CHARACTERS = 5000


class Version(NamedTuple):
    name: str
    number: int
    run_id: str | None  # of the training
    tags: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


class Registry:
    """One registered model. Every call raises TryAgain where MLflow does not answer.

    Args:
        name: the model's; it need not be there yet.
    """

    def __init__(self, where: Address, name: str) -> None:
        if not name or any(c in name for c in "/:@'\"`\\"):
            raise InputError(f"{name!r} cannot be a registered model's name: it must be without / : @ \\ and quotes")
        self.where, self.name = where, name

    def champion(self) -> Version | None:
        """The version that has the alias, if any."""
        with asked(self.where, f"model {self.name}") as (_, client):
            model = if_there(client.get_registered_model, self.name)
            number = model and model.aliases.get(ALIAS)
            return None if number is None else self.version(int(number))

    def version(self, number: int) -> Version:
        """Raises InputError where there is no such version."""
        with asked(self.where, f"{self.name} version {number}") as (_, client):
            version = client.get_model_version(self.name, str(number))
            return Version(self.name, int(version.version), version.run_id or None, dict(version.tags))

    def register(self, training: str, key: str, tags: dict[str, str], evaluation: str | None = None) -> Version:
        """The version of a training, made unless it is there.

        Args:
            training: id of the run that logged the model; key: of the train stage; tags: for a new version.
            evaluation: id of the run that logged the model with a second stage; None: it has none.
        """
        with asked(self.where, f"model {self.name}") as (_, client):
            try:
                client.create_registered_model(self.name)
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
            for version in client.search_model_versions(f"name = '{self.name}'"):
                if version.tags.get(TRAINED) == key and version.tags.get(WITH_SECOND) == tags.get(WITH_SECOND):
                    for name, value in tags.items():
                        client.set_model_version_tag(self.name, version.version, name, value)
                    return self.version(int(version.version))
            run = client.get_run(training)
            model = (evaluation and model_of(client, client.get_run(evaluation))) or model_of(client, run)
            source = f"models:/{model}" if model else f"{run.info.artifact_uri}/model"
            version = client.create_model_version(  # a server takes a model for a source only where it is named twice
                self.name, source, training, tags={TRAINED: key, **tags}, model_id=model
            )
            return self.version(int(version.version))

    def move(self, to: Version, expected: Version | None, tags: dict[str, str]) -> None:
        """Gives the alias to a version; tags first, so that no move is without its reason.

        Raises:
            TryAgain: the alias is no longer where `expected` says, since somebody else moved it meanwhile.
        """
        champion = self.champion()
        if (champion and champion.number) != (expected and expected.number):
            raise TryAgain(
                f"the alias {ALIAS} of {self.name} was moved meanwhile, to {champion}: run the command again"
            )
        self.tag(to, tags)
        with asked(self.where, f"{to}") as (_, client):
            client.set_registered_model_alias(self.name, ALIAS, str(to.number))

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        """Adds tags to a version."""
        with asked(self.where, f"{version}") as (_, client):
            for name, value in tags.items():
                client.set_model_version_tag(self.name, str(version.number), name, value[:_TAG_CHARACTERS])

    def remove(self, version: Version) -> None:
        """Takes a version out of the registry; one that is gone already is no error."""
        with asked(self.where, f"{version}") as (_, client):
            if_there(client.delete_model_version, self.name, str(version.number))

    def history(self) -> list[dict[str, Any]]:
        """What the move tags of all versions say, the oldest first."""
        with asked(self.where, f"model {self.name}") as (_, client):
            return _moves(client.search_model_versions(f"name = '{self.name}'"))


class All(NamedTuple):
    """All versions of all models: those to keep, and others; `there`: whether there is a registry at all."""

    kept: list[Version]
    others: list[Version]
    there: bool = True


def all_versions(where: Address, champions: int) -> All:
    """Keeps what has an alias, what `duplet promote --back` would return to, and the newest that were champion.

    Args:
        champions: how many of these last, of each model. Raises TryAgain where MLflow does not answer.
    """
    if where.database and not where.database.exists():
        return All([], [], False)
    everything = All([], [])
    with asked(where, "registered model") as (_, client):
        names = [model.name for model in pages(lambda token: client.search_registered_models(page_token=token))]
        # of all names at once: MLflow's filters find no name with an apostrophe, which models of others may have
        of_name: dict[str, list[Version]] = {}
        for one in pages(lambda token: client.search_model_versions(page_token=token)):
            version = Version(one.name, int(one.version), one.run_id or None, dict(one.tags))
            of_name.setdefault(one.name, []).append(version)
        for name in names:
            aliases = client.get_registered_model(name).aliases
            aliased = {int(number) for number in aliases.values()}
            versions = of_name.get(name, [])
            were = [number for number in _champions(versions) if number not in aliased][:champions]
            back = {int(v.tags[BEFORE]) for v in versions if v.number in aliased and BEFORE in v.tags}
            for version in versions:
                keep = version.number in {*aliased, *were, *back}
                (everything.kept if keep else everything.others).append(version)
    return everything


def _champions(versions: list[Version]) -> list[int]:
    """The numbers of the versions that became champion, the newest first."""
    became = [move["to"] for move in _moves(versions) if move["action"] in ("promoted", "back")]
    return list(dict.fromkeys(reversed(became)))


def _moves(versions: Iterable[Any]) -> list[dict[str, Any]]:
    """What the move tags of versions, ours or MLflow's, say, the oldest first."""
    moves = {name: value for one in versions for name, value in one.tags.items() if name.startswith(MOVE)}
    found = (_said(moves[name]) for name in sorted(moves))  # their names end in the time, to the microsecond
    return [said for said in found if said is not None]


def _said(value: str) -> dict[str, Any] | None:
    """What a move tag says; None where it was changed in MLflow, or cut at its length."""
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        return None
    known = isinstance(said, dict) and isinstance(said.get("action"), str) and isinstance(said.get("to"), int)
    return said if known else None


def stage_run(where: Address, stage: str, key: str) -> str | None:
    """The newest finished run of a stage with a key and its files, in any experiment."""
    folder = {"train": "model", "evaluate": "evaluation"}[stage]
    with asked(where, f"a run of {stage}") as (_, client):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        for run in client.search_runs(experiments, f"params.key = '{key}'", order_by=["attributes.start_time DESC"]):
            if run.info.run_name == stage and client.list_artifacts(run.info.run_id, folder):
                return str(run.info.run_id)
    return None


def command_run(where: Address, run_id: str) -> str:
    """The run of the command that a stage's run belongs to; itself, if it belongs to none."""
    with asked(where, f"run {run_id}") as (_, client):
        return str(client.get_run(run_id).data.tags.get("mlflow.parentRunId", run_id))


def keys_of_run(where: Address, run_id: str) -> dict[str, str]:
    """stage -> key of the stages of a run of `duplet run`, or of one stage's run."""
    with asked(where, f"run {run_id}") as (_, client):
        run = client.get_run(run_id)
        tags, key = run.data.tags, run.data.params.get("key")
        if run.info.run_name in ("train", "evaluate") and key:
            return {run.info.run_name: str(key)}
        return stage_keys(tags)


def evaluation_of_run(where: Address, run_id: str, into: Path) -> Path:
    """Copies the files of an evaluation's run."""
    with asked(where, f"the evaluation of run {run_id}") as (mlflow, _):
        return copied(mlflow, where, f"runs:/{run_id}/evaluation", into / "evaluation")

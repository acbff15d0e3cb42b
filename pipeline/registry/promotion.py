"""Which version of a model is live: registering, comparing with the champion, moving the alias, and moving it back."""

import copy
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import tracking
from pipeline.config import Config, PromoteConfig, check_config, loading, values
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, InputError, TryAgain, one_line
from pipeline.core.progress import Say
from pipeline.orchestration import model_stages
from pipeline.registry import gate, resolve_run
from pipeline.registry.gate import Decision
from pipeline.registry.mlflow_registry import (
    BEFORE,
    EVALUATED,
    MOVE,
    TRAINED,
    WITH_SECOND,
    Registry,
    Version,
    stage_run,
)
from pipeline.registry.resolve_run import EvaluatedRun
from pipeline.reporting import folder as reporting
from pipeline.serving import second_stage
from pipeline.tokenization import stage as tokenization
from pipeline.tracking import journal

LONGEST_REASON = 2000  # characters: a tag that is cut at its length is no JSON


class Outcome(NamedTuple):
    """What a promotion did; `champion` is the version that had the alias before, `decision` None where none was due."""

    version: Version
    champion: Version | None
    passed: bool
    reason: str
    decision: Decision | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        champion = self.version if self.passed else self.champion
        metrics = {
            row.metric: {
                "version": row.candidate,
                "champion": row.champion,
                "difference": row.difference and row.difference._asdict(),
            }
            for row in (self.decision.rows if self.decision else ())
        }
        return {
            "name": self.version.name,
            "version": self.version.number,
            "passed": self.passed,
            "reason": self.reason,
            "champion": champion and champion.number,
            "before": self.champion and self.champion.number,
            "metrics": metrics,
        }


def settings_of(run: EvaluatedRun, gate_overrides: list[str]) -> PromoteConfig:
    """The gate of the run's configuration, with `key=value` overrides. Raises InputError naming a wrong one."""
    configuration = {**run.record["configuration"]}
    loading.stored_config(configuration, run.evaluation / reporting.RECORD)
    configuration["promote"] = {**configuration.get("promote", {})}
    return check_config(_overridden(configuration, gate_overrides), "--gate").promote


def _overridden(configuration: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    section = copy.deepcopy(configuration["promote"])
    for override in overrides:
        try:
            values.put(section, override, (PromoteConfig,), "min_difference=-0.01")
        except InputError as error:
            raise InputError(f"--gate: {error}") from None
    return {**configuration, "promote": values.typed(section, (PromoteConfig,))}


def promote(run: EvaluatedRun, settings: PromoteConfig, name: str | None, why: str | None, say: Say) -> Outcome:
    """Registers the training, judges it beside the champion and moves the alias where the gate holds.

    Args:
        name: of the registered model; None: the gate's, else the configuration's.
        why: the person's reason, kept with the gate's.

    Raises:
        InputError: not evaluated, not whole, not in MLflow, or not comparable. TryAgain: MLflow does not
            answer, or was not sent the training yet.
    """
    registry = Registry(run.where, name or settings.name)
    with atomic_files.lock(run.root / f".promote-{registry.name}.lock") as waited:
        if waited:
            say("waited for another promotion of the same model")
        champion = registry.champion()
        version = _registered(registry, run, say)
        if champion and champion.number == version.number:
            return Outcome(version, champion, True, "it has the alias already", None)
        _check_whole(run)
        candidate = reporting.load(run.evaluation)
        beside = reporting.load(_evaluation_beside(champion, run, say)) if champion else None
        decision = gate.decide(candidate, beside, settings)
        reason = f"{why}; {decision.reason}" if why else decision.reason
        tags = _move_tags("promoted" if decision.passed else "refused", champion, version, reason, decision)
        if decision.passed:
            registry.move(version, champion, tags | ({BEFORE: str(champion.number)} if champion else {}))
        else:
            registry.tag(version, tags)
        return Outcome(version, champion, decision.passed, decision.reason, decision)


def _check_whole(run: EvaluatedRun) -> None:
    """Reads what a promotion rests on whole: the evaluation, and the stages' folders that are here.

    Raises:
        InputError: a file is not what its manifest says, whatever its size and time are.
    """
    remake = str(run.record.get("command", "duplet run"))
    if (run.evaluation / manifest.NAME).exists():
        manifest.load(run.evaluation, "evaluate", remake)
    for stage, entry in run.record["stages"].items():
        if (run.root / stage / str(entry["key"]) / manifest.NAME).exists():
            manifest.load(run.root / stage / str(entry["key"]), stage, remake)


def back(registry: Registry, reason: str, root: Path) -> Outcome:
    """Returns the alias to the version that had it before the champion was promoted.

    Raises:
        InputError: there is no champion, or it was the first.
    """
    with atomic_files.lock(root / f".promote-{registry.name}.lock"):
        champion = registry.champion()
        if champion is None:
            raise InputError(f"no version of {registry.name} has the alias champion: there is nothing to go back from")
        before = champion.tags.get(BEFORE)
        if before is None:
            raise InputError(f"{champion} is the first champion: there is none to go back to")
        version = registry.version(int(before))
        registry.move(version, champion, _move_tags("back", champion, version, reason, None))
        return Outcome(version, champion, True, reason, None)


def _registered(registry: Registry, run: EvaluatedRun, say: Say) -> Version:
    training = stage_run(run.where, "train", run.trained)
    if training is None:
        if run.trained in journal.keys_unsent(run.root):
            raise TryAgain(
                f"MLflow at {run.where.shown} does not have the training {run.trained} yet: "
                f"run `{shlex.join(['duplet', 'sync', '--root', str(run.root)])}` first"
            )
        raise InputError(
            f"MLflow at {run.where.shown} has no finished training {run.trained}: it was trained "
            f"untracked or elsewhere; delete {run.root / 'train' / run.trained} and run `{run.record['command']}`"
        )
    tags = {EVALUATED: str(reporting.read_json(run.evaluation / manifest.NAME, {}).get("key"))}
    tags |= {"duplet.test_data": str(run.record["test_data"]), "duplet.command": str(run.record["command"])}
    evaluation = None
    if second_stage.weighs(reporting.read_json(run.evaluation / reporting.FUSION, {})):
        tags[WITH_SECOND] = tags[EVALUATED]
        evaluation = stage_run(run.where, "evaluate", tags[EVALUATED])
    version = registry.register(training, run.trained, tags, evaluation)
    say(f"{version} is the training {run.trained}")
    return version


def _move_tags(
    action: str, before: Version | None, version: Version, reason: str, decision: Decision | None
) -> dict[str, str]:
    """One tag that says what was decided: its name has the time, so that none overwrites another."""
    now = time.time()
    move: dict[str, Any] = {
        "action": action,
        "from": before and before.number,
        "to": version.number,
        "reason": one_line(reason, LONGEST_REASON),
        "who": manifest.person(),
        "when": manifest.utc(now),
    }
    if decision is not None:
        row = decision.row
        move |= {
            "metric": decision.metric,
            "system": decision.system,
            "candidate": row.candidate,
            "champion": row.champion,
        }
        move |= {decision.unit: decision.examples}
        if row.difference is not None:
            move |= {"difference": row.difference._asdict()}
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
    return {f"{MOVE}.{stamp}": json.dumps(move, ensure_ascii=False)}


# --- the champion on the candidate's test data ------------------------------------------------------------------------
def _evaluation_beside(champion: Version, run: EvaluatedRun, say: Say) -> Path:
    """The champion's evaluation on the candidate's test data: its own where that is the same, else a new one."""
    store = run.root / "models"
    try:
        known = resolve_run.of_version(champion, run.where, run.root, store)
        if all(known.record.get(part) == run.record[part] for part in ("test_data", "judging")):
            return known.evaluation
        say(f"{champion} was judged on other test data or in another way: judging it again")
    except InputError:
        say(f"{champion} has no evaluation at hand: judging it")
    return _judge_again(champion, run, store, say)


def _judge_again(champion: Version, run: EvaluatedRun, store: Path, say: Say) -> Path:
    """Evaluates the champion's parameters, with its own tokenizer, as the candidate was; kept under `rejudged`."""
    stages = run.record["stages"]
    ingested = run.root / "ingest" / stages["ingest"]["key"]
    if not (ingested / manifest.NAME).exists():
        raise InputError(
            f"the test data is not at {ingested}, so {champion} cannot be judged on it: run `duplet ingest`"
        )
    trained = _trained(champion, run, store)
    config = _as_judged(trained, run)
    inputs = {"ingest": stages["ingest"]["key"], "trained": atomic_files.sha256(trained / manifest.NAME)}
    parts = model_stages.Evaluate().key(config, inputs)
    folder = run.root / "rejudged" / parts.key
    with atomic_files.lock(folder.parent / f".{folder.name}.lock"):
        if (folder / manifest.NAME).exists():
            return folder
        began, work = time.time(), run.root / "work" / f"rejudge-{parts.key}"
        with atomic_files.new_folder(work / "tokenized") as tokenized:
            tokenization.run(config, ingested, tokenized, vocabulary_from=trained)
        with atomic_files.new_folder(folder) as new:
            folders = {"ingest": ingested, "tokenize": work / "tokenized", "train": trained}
            counts = model_stages.run_workers("evaluate", config, folders, work, new, say, lambda: None)
            reporting.record(new, config, f"(champion, {champion})", {"ingest": ingested, "train": trained})
            manifest.write(new, "evaluate", parts, counts, began)
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _trained(champion: Version, run: EvaluatedRun, store: Path) -> Path:
    """The champion's trained folder: here, or as its training logged it."""
    key = champion.tags.get(TRAINED)
    if key and (run.root / "train" / key / manifest.NAME).exists():
        return run.root / "train" / key
    if champion.run_id is None:
        raise InputError(f"{champion} names no run that trained it, so it cannot be judged on the new test data")
    return tracking.model_of_run(run.where, champion.run_id, store)


def _as_judged(trained: Path, run: EvaluatedRun) -> Config:
    """The champion's configuration, with the candidate's data and way of judging."""
    try:
        settings = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{trained / 'config.json'} cannot be read ({error})") from None
    loading.stored_config(settings, trained / "config.json")
    new = run.record["configuration"]
    settings |= {name: new[name] for name in ("ingest", "evaluate", "root", "name", "seed", "promote")}
    settings["train"] = {**settings["train"], "metric": new["train"].get("metric")}
    settings["rerank"] = {}  # models are compared alone, and the second stage's folder may be gone
    try:
        return check_config(settings, "the champion's configuration with the new evaluation")
    except DupletError as error:
        raise InputError(f"the champion cannot be judged as the new version was: {error}") from None

"""What `duplet clean` removes: work that nobody goes on with, failed runs, and stages that no run uses.

It shares the rules of `retention`: nothing goes that the registry, a job that may go on, a schedule's night, a command
at work or a lock needs, and where that is not known nothing goes at all. A folder is renamed aside before it goes.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from jobs import folder as folders
from jobs import retention, supervise
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, InputError
from pipeline.core.manifest import Manifest
from pipeline.core.progress import Say
from pipeline.distributed import job_folder
from pipeline.registry import disk, finished, mlflow_registry
from pipeline.registry.finished import Made, Stage, Unfinished
from pipeline.registry.mlflow_registry import Version
from pipeline.tracking import address, journal, listing, removal
from pipeline.tracking.client import Address, local
from pipeline.tracking.listing import Known

DAY_S = 86_400
INDEX = "index.json"  # of a search index, as pipeline.search.index_store names it


class Going(NamedTuple):
    """A folder or a failed run of MLflow that goes, and why."""

    why: str
    path: Path | None = None
    run_id: str | None = None


class Outcome(NamedTuple):
    """What a call removed, or would remove, by its place under the root; bytes on the disk of the whole root."""

    folders: list[str]
    runs: list[str]
    before: int
    after: int


def collect(root: Path, days: float, keep_runs: int | None, dry_run: bool, say: Say) -> Outcome:
    """Removes what nothing needs and nobody has touched for some days.

    Args:
        keep_runs: how many of the newest runs of each configuration stay; None: all of them.

    Raises:
        InputError: told to keep nothing; something under the root is of another version: nothing is removed.
        TryAgain: `gc` or another call is at work, or the registry does not answer: nothing is removed.
    """
    if not days >= 0 or (keep_runs is not None and keep_runs < 1):
        raise InputError("clean keeps at least one run of each configuration: give --keep-runs from 1, --days from 0")
    atomic_files.check_root(root)
    with retention.alone(root):
        before = disk.taken(root)
        if not dry_run:
            retention.finish(root)
        planned = plan(root, time.time() - days * DAY_S, keep_runs)
        freed = 0
        gone = []
        for item in planned:
            what = str(item.path.relative_to(root)) if item.path else f"MLflow's run {item.run_id}"
            if not dry_run and not _remove(root, item):
                say(f"{what} stays: somebody is at work on it")
                continue
            size = disk.taken(item.path) if item.path and dry_run else 0
            freed += size
            shown_size = f" ({disk.shown(size)})" if item.path and dry_run else ""
            say(f"{'would remove' if dry_run else 'removed'} {what}{shown_size}: {item.why}")
            gone.append((what, item))
        after = before - freed if dry_run else disk.taken(root)
    runs = [item.run_id for _, item in gone if item.run_id]
    return Outcome([what for what, item in gone if item.path], runs, before, after)


def _remove(root: Path, item: Going) -> bool:
    """False where somebody has begun to work on it meanwhile."""
    if item.run_id:
        removal.remove(address(None, root), [item.run_id])
        return True
    assert item.path is not None
    key = finished.lock_of(item.path).name[1 : -len(".lock")]
    needs = journal.keys_unsent if (item.path / manifest.NAME).exists() else journal.keys_at_work
    return key not in needs(root) and retention.remove_unlocked(item.path)


# --- what goes --------------------------------------------------------------------------------------------------------
def plan(root: Path, before: float, keep_runs: int | None) -> list[Going]:
    """What goes, in an order in which no folder that stays loses what it was made from.

    Args:
        before: a time.time(); what is younger stays.

    Raises:
        As `collect`.
    """
    by_stage = finished.made(root)
    for folder in by_stage.values():
        if folder.manifest is None:
            raise retention.unknown(folder.path / manifest.NAME)
    records = list(retention.records(root))
    known = {where: listing.known(where) for where in _addresses(root, by_stage)}
    all_runs = [run for at_address in known.values() for run in at_address]
    versions = {where: _versions(where) for where in known}
    held = _held(root, records) | _registered(versions, all_runs) | _of_sweeps(root, all_runs, keep_runs)
    idle: list[Unfinished] = []
    for work in finished.unfinished(root):
        if not work.at_work and work.changed < before and (work.stage, work.key) not in held:
            idle.append(work)
        else:
            held |= _read_by_work(work.path)
    held |= {(stage, key) for stage in disk.STAGES for key in journal.keys_unsent(root)}
    held |= _indexed(root) if keep_runs is not None else set()  # without it no training goes
    ends = finished.ends(by_stage)
    held |= _kept_runs(ends, keep_runs) | {stage for stage, folder in by_stage.items() if _made(folder) > before}
    stay = _with_all_inputs(by_stage, held)
    going = [
        Going("no run uses it" if folder.stage not in ("train", "evaluate") else "past the newest runs", folder.path)
        for stage, folder in sorted(by_stage.items(), key=lambda item: -disk.STAGES.index(item[0][0]))
        if stage not in stay
    ]
    going += [Going("unfinished, and nobody goes on with it", work.path) for work in idle]
    going += [*_rejudged(root, before, stay), *_partial(root, before)]
    where = address(None, root)
    if where.under_root:  # a server's runs are not ours
        going = [*_failed(root, known[where], versions[where], records, stay, before), *going]
    return going


def _made(folder: Made) -> float:
    """When a folder was made, as time.time()."""
    assert folder.manifest is not None
    return datetime.fromisoformat(folder.manifest.created).timestamp()


def _kept_runs(ends: list[Made], keep_runs: int | None) -> set[Stage]:
    """The newest trainings and evaluations of each configuration: what their folders hold is a result."""
    by_name: dict[str, list[Stage]] = defaultdict(list)
    for end in ends:
        if end.stage in ("train", "evaluate"):
            by_name[end.name].append((end.stage, end.key))
    # of which configuration an older version's folders are is not known: they stay
    return {stage for name, stages in by_name.items() for stage in (stages[:keep_runs] if name else stages)}


def _held(root: Path, records: list[folders.Record]) -> set[Stage]:
    """What nights, jobs that may go on, commands at work, locks and means over seeds refer to."""
    held = {stage for record in records if _goes_on(root, record) for stage in retention.stages_of(record)}
    at_work = journal.keys_at_work(root)
    held |= {(stage, key) for stage in disk.STAGES for key in at_work}
    for stage in disk.STAGES:
        locks = (root / stage).glob(".*.lock")
        held |= {(stage, lock.name[1 : -len(".lock")]) for lock in locks if atomic_files.is_locked(lock)}
    for path in (root / "seeds").glob("*/results.json"):
        held |= {("evaluate", str(key)) for key in atomic_files.json_object(path).get("evaluations", ())}
    return held


def _goes_on(root: Path, record: folders.Record) -> bool:
    """Whether a job may still need its stages; those of nights are for `duplet gc`."""
    night = retention.night_of(root, record) is not None
    return night or record.state().get("state") != "finished" or supervise.supervised(record.folder)


def _addresses(root: Path, by_stage: dict[Stage, Made]) -> set[Address]:
    """Where the runs of a root may be known: MLFLOW_TRACKING_URI, the database under the root, those of configurations.

    Raises:
        InputError: one of them is not known, or is a database that is not there.
    """
    wheres = {address(None, root), local(root)}
    retention.check_there(address(None, root), "MLFLOW_TRACKING_URI")
    for (stage, _), folder in by_stage.items():
        config = atomic_files.json_object(folder.path / "config.json") if stage == "train" else {}
        uri = config.get("tracking", {}).get("uri")
        try:
            where = address(uri, root)
        except DupletError as error:
            raise InputError(f"nothing was removed, since the MLflow of {folder.path} is not known: {error}") from None
        retention.check_there(where, str(folder.path))
        wheres.add(where)
    return wheres


def _versions(where: Address) -> list[Version]:
    """All versions of all models."""
    registry = mlflow_registry.all_versions(where, 1)
    return [*registry.kept, *registry.others]


def _registered(by_address: dict[Address, list[Version]], known: list[Known]) -> set[Stage]:
    """The trainings and evaluations of all versions of all models, those too that a person registered in MLflow."""
    versions = [version for at_address in by_address.values() for version in at_address]
    run_ids = {version.run_id for version in versions if mlflow_registry.TRAINED not in version.tags}
    held = {stage for version in versions for stage in retention.of_version(version)}
    for run in known:
        if run.run_id in run_ids:
            held |= {*run.keys.items(), *((stage, run.key) for stage in disk.STAGES if run.key)}
    return held


def _of_sweeps(root: Path, known: list[Known], keep_runs: int | None) -> set[Stage]:
    """The stages of each sweep's best trial.

    Raises:
        InputError: runs are to go, and which trial is the best is not known.
    """
    keys = {run.run_id: run.keys for run in known}
    held: set[Stage] = set()
    for folder in (root / "sweeps").glob("[!.]*"):
        study, results = folder / "study.db", folder / "results.json"
        best: set[Stage] = set()
        for trial in atomic_files.json_object(results).get("trials", ())[:1]:  # the best comes first
            best |= set(keys.get(str(trial.get("run_id")), {}).items())
            best |= {("evaluate", name) for name in (Path(str(trial.get("evaluation") or "")).name,) if name}
        ended = results.exists() and not (study.exists() and results.stat().st_mtime < study.stat().st_mtime)
        if keep_runs is not None and (study.exists() or results.exists()) and not (ended and best):
            raise InputError(
                f"nothing was removed, since the best trial of {folder} is not known: run the sweep to its end, "
                "delete its folder, or leave out --keep-runs"
            )
        held |= best
    return held


def _read_by_work(work: Path) -> set[Stage]:
    """What an unfinished stage, or an update that is kept for `duplet replay`, reads: it could not go on without."""
    job = {**atomic_files.json_object(work / "update.json"), **atomic_files.json_object(work / "job.json")}
    others = job.get("others")
    paths = [job.get(name) for name in ("ingested", "tokenized", "trained")]
    paths += others.values() if isinstance(others, dict) else ()
    return {_of_path(path) for path in paths if isinstance(path, str)}


def _indexed(root: Path) -> set[Stage]:
    """The trainings that search indexes under the root and beside it were built with, and cannot be opened without."""
    held = set()
    for path in (*root.rglob(INDEX), *root.parent.glob(f"*/{INDEX}")):
        index = atomic_files.json_object(path)
        settings = index.get("settings")
        for used in (index.get("model"), settings.get("rerank") if isinstance(settings, dict) else None):
            if isinstance(used, dict) and isinstance(used.get("folder"), str):
                held.add(_of_path(used["folder"]))
    return held


def _of_path(folder: str) -> Stage:
    """The stage whose folder has a name, also where the root was moved since."""
    return Path(folder).parent.name, Path(folder).name


def _with_all_inputs(by_stage: dict[Stage, Made], held: set[Stage]) -> set[Stage]:
    """What is held, what it was made from, and the trainings whose files it went on from."""
    stay: set[Stage] = set()
    more = held & by_stage.keys()
    while more - stay:
        stay |= finished.with_inputs(by_stage, more)
        inputs = {
            str(value) for stage in stay for value in _manifest(by_stage[stage]).key_parts.get("inputs", {}).values()
        }
        more = {
            stage
            for stage, folder in by_stage.items()
            if any(file["sha256"] in inputs for name, file in _manifest(folder).files.items() if name.endswith(".npz"))
        }
    return stay


def _manifest(folder: Made) -> Manifest:
    assert folder.manifest is not None  # `plan` refuses a root with one that is damaged
    return folder.manifest


def _rejudged(root: Path, before: float, stay: set[Stage]) -> Iterator[Going]:
    """Champions judged on test data that goes, or has gone."""
    for path in atomic_files.finished(root, f"rejudged/*/{manifest.NAME}"):
        folder = Made("rejudged", path.parent.name, path.parent, manifest.readable(path.parent, "evaluate"))
        if folder.manifest and _made(folder) < before and not folder.inputs <= stay:
            yield Going("a champion on test data that is gone", folder.path)


def _partial(root: Path, before: float) -> Iterator[Going]:
    """What a kill has left half-written beside the folders of stages."""
    for stage in retention.FOLDERS:
        for path in sorted((root / stage).glob(".*.partial")):
            if path.is_dir() and path.stat().st_mtime < before and not atomic_files.is_locked(finished.lock_of(path)):
                yield Going("half-written by a command that was killed", path)


def _failed(
    root: Path, runs: list[Known], versions: list[Version], records: list[folders.Record], stay: set[Stage],
    before: float,
) -> Iterator[Going]:  # fmt: skip
    """Failed and stopped commands' runs in the database under the root, children first.

    One stays where it or a run below it is registered, is not of Duplet, is a training or an evaluation that finished,
    has made a stage that stays, or may go on.
    """
    needed = {version.run_id for version in versions}
    needed |= {name for record in records for name in job_folder.runs(record.folder)}
    needed |= {path.read_text(encoding="utf-8").strip() for path in (root / "sweeps").glob("*/run_id")}
    needed |= {run_id for run_journal in journal.under(root) for run_id in run_journal.sent()["runs"].values()}
    keys = {key for _, key in stay}
    below: dict[str | None, list[Known]] = defaultdict(list)
    for run in runs:
        below[run.parent].append(run)

    def tree(run: Known) -> Iterator[Known]:
        for child in below[run.run_id]:
            yield from tree(child)
        yield run

    going: dict[str, Known] = {}
    for run in runs:
        whole = {member.run_id: member for member in tree(run)}
        if run.key is None and not any(_needed(member, needed, keys, before) for member in whole.values()):
            going |= whole
    yield from (Going(f"{run.name} ended {run.status.lower()}", run_id=run.run_id) for run in going.values())


def _needed(run: Known, needed: set[str | None], keys: set[str], before: float) -> bool:
    result = run.name in ("train", "evaluate") and run.status == "FINISHED"  # its figures, whatever failed after it
    ended = run.status in ("FAILED", "KILLED") or (run.key is not None and run.key not in keys)
    goes_on = run.run_id in needed or run.journal in needed  # a job may know its run by the journal alone
    return run.journal is None or result or goes_on or not ended or run.ended > before

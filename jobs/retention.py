"""What `duplet gc` removes: nights past the newest, with their folders, runs and versions; and what it never touches.

Only what a schedule's night has made is ever removed, and of that nothing to which a kept night, another job, a run at
work, a lock, an evaluation or training made by hand, or the registry refers. A night goes in an order that a kill may
cut anywhere: its versions, its runs, its folders (each renamed aside first), its job's folder; the next call goes on.
"""

import contextlib
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from jobs import folder as folders
from jobs import nights, supervise
from jobs.nights import Verdict
from jobs.spec import JobSpec
from jobs.targets import ENDED
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.progress import Say
from pipeline.distributed import job_folder
from pipeline.registry import disk, finished, mlflow_registry
from pipeline.registry.mlflow_registry import Version
from pipeline.tracking import address, journal, removal
from pipeline.tracking.client import Address

LOCK = ".gc.lock"
NIGHT = re.compile(r"(?P<schedule>.+)-(?P<date>\d{8}-\d{4})")
FOLDERS = (*disk.STAGES, "rejudged")


class Night(NamedTuple):
    """A date's job: its folder, and the stages that it used as (stage, key)."""

    schedule: str
    when: datetime
    record: folders.Record
    stages: frozenset[tuple[str, str]]

    @property
    def name(self) -> str:
        return f"{self.schedule} {self.when:%Y-%m-%dT%H:%M}"


class Removal(NamedTuple):
    """What goes with a night."""

    night: Night
    versions: list[Version]
    runs: list[str]
    folders: list[Path]
    where: Address
    later: frozenset[tuple[str, str]]  # its stages that the registry needs still
    runs_stay: bool  # some of its MLflow runs are needed still

    @property
    def stays(self) -> bool:
        """Whether its job's folder stays, so that a later call finds the rest."""
        return bool(self.later)


class Outcome(NamedTuple):
    """What a call removed, or would remove; bytes on the disk of the whole root."""

    nights: list[str]
    versions: int
    runs: int
    folders: int
    before: int
    after: int


def collect(root: Path, keep_nights: int, keep_champions: int, dry_run: bool, say: Say) -> Outcome:
    """Removes what is past the newest nights and champions.

    Raises:
        InputError: told to keep nothing; the root has something of another version: nothing is removed.
        TryAgain: another call is at work, or the registry does not answer: nothing is removed.
    """
    if keep_nights < 1 or keep_champions < 1:
        raise InputError("gc keeps at least one night and one champion: give --keep-nights and --keep-champions from 1")
    atomic_files.check_root(root)
    with alone(root):
        before = disk.taken(root)
        if not dry_run:
            finish(root)
        planned = plan(root, keep_nights, keep_champions, say)
        for item in planned:
            what = f"{len(item.folders)} folders, {len(item.runs)} runs, {len(item.versions)} versions"
            say(f"{'would remove' if dry_run else 'removing'} {item.night.name}: {what}")
            if not dry_run:
                remove(root, item, say)
        after = disk.taken(root) if not dry_run else before - sum(_bytes(item) for item in planned)
    versions, runs = sum(len(item.versions) for item in planned), sum(len(item.runs) for item in planned)
    names, paths = [item.night.name for item in planned], sum(len(item.folders) for item in planned)
    return Outcome(names, versions, runs, paths, before, after)


def _bytes(item: Removal) -> int:
    return sum(disk.taken(path) for path in (*item.folders, *([] if item.stays else [item.night.record.folder])))


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Raises TryAgain where another call removes something under the root."""
    try:
        with atomic_files.owned(root / LOCK):
            yield
    except BlockingIOError:
        raise TryAgain(f"another `duplet gc` or `duplet clean` is at work under {root}: nothing was removed") from None


# --- what goes --------------------------------------------------------------------------------------------------------
def plan(root: Path, keep_nights: int, keep_champions: int, say: Say) -> list[Removal]:
    """The nights that go, oldest first, each with what nothing else refers to. Raises as `collect`."""
    all_jobs = list(records(root))
    by_schedule: dict[str, list[Night]] = defaultdict(list)
    for record in all_jobs:
        if (night := night_of(root, record)) is not None:
            by_schedule[night.schedule].append(night)
    old = []
    for schedule, own_nights in by_schedule.items():
        own_nights.sort(key=lambda night: night.when)
        ended = {f"{verdict.due}": verdict for verdict in nights.verdicts(root / "schedules" / schedule)}
        for night in own_nights[:-keep_nights]:
            if reason := _at_work(root, night, ended.get(f"{night.when:%Y-%m-%dT%H:%M}")):
                say(f"{night.name} stays: {reason}")
            else:
                old.append(night)
    if not old:
        return []
    going = {night.record.spec.id for night in old}
    used = {stage for record in all_jobs if record.spec.id not in going for stage in stages_of(record)}
    used |= {("any", key) for key in journal.keys_at_work(root)}
    wheres = {night.record.spec.id: _where(night.record.spec) for night in old}
    registries = {where: mlflow_registry.all_versions(where, keep_champions) for where in set(wheres.values())}
    for known in registries.values():
        used |= {stage for version in known.kept for stage in of_version(version)}
    candidates = {stage for night in old for stage in night.stages}
    used = _with_inputs(root, used, candidates)
    items = [_removal(root, night, wheres[night.record.spec.id], registries, used) for night in _oldest_first(old)]
    kept = {stage for record in all_jobs if record.spec.id not in going for stage in stages_of(record)}
    items = _without_doubles(items, kept)
    return [item for item in items if not item.stays or item.versions or item.runs or item.folders]


def _without_doubles(items: list[Removal], kept: set[tuple[str, str]]) -> list[Removal]:
    """Lets a night's job go where one that stays leads a later call to the same stages.

    Nights on which nothing was new have the stages of the champion's own night: without this all of their folders
    would stay for as long as it does.
    """
    found = kept.union(*(item.later for item in items if item.runs_stay))
    newest_first = []
    for item in reversed(items):
        if not item.runs_stay and item.later <= found:
            item = item._replace(later=frozenset())
        found |= item.later
        newest_first.append(item)
    return newest_first[::-1]


def _oldest_first(old: list[Night]) -> list[Night]:
    return sorted(old, key=lambda night: (night.when, night.schedule))


def records(root: Path) -> Iterator[folders.Record]:
    """All jobs. Raises InputError where one cannot be read: what it refers to is not known."""
    for path in sorted((root / "jobs").glob("[!.]*")):
        if path.is_dir():
            try:
                yield folders.load(path)
            except InputError as error:
                raise InputError(f"nothing was removed, since what a job needs is not known: {error}") from None


def night_of(root: Path, record: folders.Record) -> Night | None:
    """The night whose job it is; None of another job."""
    match = NIGHT.fullmatch(record.spec.id)
    if match is None or not (root / "schedules" / match["schedule"]).is_dir():
        return None
    when = datetime.strptime(match["date"], "%Y%m%d-%H%M")
    return Night(match["schedule"], when, record, frozenset(stages_of(record)))


def stages_of(record: folders.Record) -> Iterator[tuple[str, str]]:
    """The stages that a job has used."""
    for stage, key in job_folder.read(record.folder, job_folder.STAGES).items():
        yield stage, str(key)


def _at_work(root: Path, night: Night, verdict: Verdict | None) -> str:
    """Why a night cannot go yet, if so."""
    state = night.record.state().get("state")
    if supervise.supervised(night.record.folder):
        return "its job is at work"
    if state not in ENDED:
        return f"its job is {state or 'not begun'}"
    if verdict is not None and verdict.owed:
        return "it is still to be done"
    if any((root / journal.FOLDER / name).exists() for name in job_folder.runs(night.record.folder)):
        return "MLflow has not got all of it (`duplet sync` sends it)"
    return ""


def _where(spec: JobSpec) -> Address:
    """MLflow's address of a night's runs. Raises InputError."""
    try:
        where = address(nights.checked(spec).tracking.uri, Path(spec.root))
    except DupletError as error:
        raise InputError(f"nothing was removed, since the MLflow of {spec.id} is not known: {error}") from None
    check_there(where, spec.id)
    return where


def check_there(where: Address, whose: str) -> None:
    """Raises InputError where a SQLite database is not there, unless it would be the one under the root.

    Its registry may hold champions: the disk may be missing, or a relative address be meant from another folder.
    """
    if where.database and not where.under_root and not where.database.exists():
        raise InputError(
            f"nothing was removed, since the MLflow database {where.database} of {whose} is not there: "
            "run the command where its runs were started, or put the database back"
        )


def of_version(version: Version) -> Iterator[tuple[str, str]]:
    """The stages that a registered version is of."""
    for stage, tag in (("train", mlflow_registry.TRAINED), ("evaluate", mlflow_registry.EVALUATED)):
        if tag in version.tags:
            yield stage, version.tags[tag]


def _with_inputs(
    root: Path, used: set[tuple[str, str]], candidates: set[tuple[str, str]]
) -> set[tuple[str, str]]:  # fmt: skip
    """What is used, and the inputs of every folder that no night has made: those of runs by hand."""
    named = {key for stage, key in used if stage == "any"}
    used = used | {(stage, key) for stage, key in candidates if key in named}
    for stage, folder in finished.made(root).items():
        if stage not in candidates:
            if folder.manifest is None:
                raise unknown(folder.path / manifest.NAME)
            used |= folder.inputs
    return used


def unknown(path: Path) -> InputError:
    """The refusal on account of a manifest that cannot be read."""
    return InputError(
        f"{path} is damaged or of another version, so what it needs is not known: nothing was removed; "
        f"run the stage again, or delete {path.parent}"
    )


def _removal(
    root: Path, night: Night, where: Address, registries: dict[Address, mlflow_registry.All],
    used: set[tuple[str, str]],
) -> Removal:  # fmt: skip
    gone = night.stages - used
    keys = {key for _, key in gone}
    known = registries[where]
    versions = [version for version in known.others if version.tags.get(mlflow_registry.TRAINED) in keys]
    kept_runs = {version.run_id for version in known.kept}
    own_run = job_folder.run_id(night.record.folder)
    of_night = removal.of_job(where, folders.JOB_TAG, night.record.spec.id, own_run) if known.there else []
    used_keys = {key for _, key in used}
    stay = {run for run in of_night if run.run_id in kept_runs or (run.key and run.key in used_keys)}
    stay_ids = {run.run_id for run in stay} | {run.above for run in stay}  # what stays has its run above
    runs = [run.run_id for run in reversed(of_night) if run.run_id not in stay_ids]
    paths = [root / stage / key for stage, key in sorted(gone) if (root / stage / key).exists()]
    paths += [path for stage, key in sorted(gone) if (path := root / "work" / f"{stage}-{key}").exists()]
    paths += [path for run in runs if (path := root / "models" / run).exists()]
    needed = {stage for version in known.kept for stage in of_version(version)}
    return Removal(night, versions, runs, paths, where, night.stages & needed, bool(stay))


# --- how it goes ------------------------------------------------------------------------------------------------------
def remove(root: Path, item: Removal, say: Say) -> None:
    """Removes a night; what is locked meanwhile stays, and so does the job's folder, for the next call."""
    for version in item.versions:
        mlflow_registry.Registry(item.where, version.name).remove(version)
    if item.runs:
        removal.remove(item.where, item.runs)
    whole = True
    for path in item.folders:
        if not remove_unlocked(path):
            say(f"{path} stays: somebody is at work on it")
            whole = False
    if whole and not item.stays:
        with contextlib.suppress(FileNotFoundError):
            atomic_files.remove_folder(item.night.record.folder)


def remove_unlocked(path: Path) -> bool:
    """Removes a folder under its lock, so that no run begins or goes on with it meanwhile; False where one does."""
    lock = finished.lock_of(path)
    lock.parent.mkdir(exist_ok=True)
    try:
        file = atomic_files.owned(lock)
    except BlockingIOError:
        return False
    with file, contextlib.suppress(FileNotFoundError):
        atomic_files.remove_folder(path)
    return True


def finish(root: Path) -> None:
    """Removes what a call that was killed had renamed aside, and arrays of folders that are gone (`derived_arrays`)."""
    for path in (root / "tokenize").glob(".*.arrays"):
        if not path.with_name(path.name.removeprefix(".").removesuffix(".arrays")).exists():
            shutil.rmtree(path, ignore_errors=True)
    for stage in (*FOLDERS, "jobs", "models", "work"):
        for path in (root / stage).glob(".*.old"):
            place = path.with_name(path.name.removeprefix(".").removesuffix(".old"))
            if not atomic_files.is_locked(finished.lock_of(place)):
                shutil.rmtree(path, ignore_errors=True)

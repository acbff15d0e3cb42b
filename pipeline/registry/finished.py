"""What lies finished or unfinished under a root: the folder of each stage with its inputs, and the runs they make."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core import atomic_files, manifest
from pipeline.core.manifest import Manifest
from pipeline.registry import disk

Stage = tuple[str, str]  # its name, and its key
WORK = "work"
LOCKS = {"rejudge": "rejudged"}  # in work: whose lock it is made under, where that is not its own name


class Made(NamedTuple):
    """A finished folder of a stage; the manifest is None of one that is damaged or of another version."""

    stage: str
    key: str
    path: Path
    manifest: Manifest | None

    @property
    def inputs(self) -> set[Stage]:
        """The stages that it was made from."""
        given = self.manifest.key_parts.get("inputs", {}) if self.manifest else {}
        return {(stage, str(key)) for stage, key in given.items() if stage in disk.STAGES}

    @property
    def name(self) -> str:
        """Of its configuration."""
        return str(self.manifest.extra.get("configuration", "")) if self.manifest else ""


class Unfinished(NamedTuple):
    """A folder of checkpoints; `at_work`: somebody holds the lock under which it is made."""

    stage: str
    key: str
    path: Path
    at_work: bool

    @property
    def changed(self) -> float:
        """When a file of it was last written, as time.time(); that of the folder itself where there is none."""
        times = [0.0]
        for path in (self.path, *self.path.rglob("*")):
            try:
                times.append(path.stat().st_mtime)
            except OSError:  # gone meanwhile
                continue
        return max(times)

    @property
    def name(self) -> str:
        """Of its configuration, where its workers have been started."""
        return str(atomic_files.json_object(self.path / "job.json").get("config", {}).get("name", ""))


class Run(NamedTuple):
    """What was made of one configuration, up to its last stage."""

    name: str
    made: str  # UTC, as 2026-11-29T21:04:00Z
    stages: list[str]
    metric: str | None  # the one that training was after, of the test split or (not evaluated) the validation split
    value: float | None
    bytes: int  # on the disk, of all its stages; two runs may share some
    folder: Path  # of the last stage


def made(root: Path) -> dict[Stage, Made]:
    """All finished folders of stages."""
    found = {}
    for stage in disk.STAGES:
        for path in atomic_files.finished(root, f"{stage}/*/{manifest.NAME}"):
            folder = path.parent
            found[stage, folder.name] = Made(stage, folder.name, folder, manifest.readable(folder, stage))
    return found


def unfinished(root: Path) -> list[Unfinished]:
    """What killed or running commands have in work, by name."""
    found = []
    for path in atomic_files.finished(root / WORK):
        stage, key = stage_of_work(path)
        if path.is_dir() and key:
            found.append(Unfinished(stage, key, path, atomic_files.is_locked(lock_of(path))))
    return found


def stage_of_work(path: Path) -> Stage:
    """The stage and the key that a folder in work is of; an empty key of something else.

    >>> stage_of_work(Path("work/train-3f2a9c")), stage_of_work(Path("work/train-3f2a9c-not-finite-00000120"))
    (('train', '3f2a9c'), ('train', '3f2a9c'))
    """
    stage, _, rest = path.name.partition("-")
    return stage, rest.partition("-")[0]


def lock_of(path: Path) -> Path:
    """The lock under which a folder of a stage is made: of it, of what is written beside it, or of the work on it."""
    if path.parent.name != WORK:
        return path.with_name(f".{path.name.removeprefix('.').removesuffix('.partial')}.lock")
    stage, key = stage_of_work(path)
    return path.parent.parent / LOCKS.get(stage, stage) / f".{key}.lock"


def with_inputs(found: dict[Stage, Made], ends: Iterable[Stage]) -> set[Stage]:
    """Stages, and all that they were made from, as far as it is there."""
    known: set[Stage] = set()
    left = list(ends)
    while left:
        one = left.pop()
        if one in found and one not in known:
            known.add(one)
            left += found[one].inputs
    return known


def ends(found: dict[Stage, Made]) -> list[Made]:
    """Those that no other was made from, the newest first."""
    read = {one for folder in found.values() for one in folder.inputs}
    last = [folder for stage, folder in found.items() if stage not in read and folder.manifest]
    return sorted(last, key=lambda one: (one.manifest.created if one.manifest else "", one.key), reverse=True)


def runs(found: dict[Stage, Made]) -> Iterator[Run]:
    """What the stages that `made` lists are the work of, the newest first."""
    taken = functools.cache(disk.taken)  # runs share stages
    for end in ends(found):
        chain = sorted(with_inputs(found, [(end.stage, end.key)]), key=lambda one: disk.STAGES.index(one[0]))
        folders = {stage: found[stage, key] for stage, key in chain}
        assert end.manifest is not None
        size = sum(taken(one.path) for one in folders.values())
        yield Run(end.name, end.manifest.created, list(folders), *_figure(folders), size, end.path)


def _figure(folders: dict[str, Made]) -> tuple[str | None, float | None]:
    """The metric that a training was after, and its value."""
    if "train" not in folders:
        return None, None
    metric = atomic_files.json_object(folders["train"].path / "config.json").get("train", {}).get("metric")
    for stage, split in (("evaluate", "test"), ("train", "valid")):
        kept = folders[stage].manifest if stage in folders else None
        if kept is not None and isinstance(value := kept.counts.get(f"{split}/{metric}"), int | float):
            return f"{split} {metric}", float(value)
    return None, None

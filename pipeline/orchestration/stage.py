"""What a stage is to the flow: its key, its work, what it tells a person and what it gives to tracking."""

import abc
import contextlib
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pipeline.config import Config, SplitName
from pipeline.core import atomic_files, manifest
from pipeline.core.manifest import KeyParts
from pipeline.core.progress import Say
from pipeline.orchestration.lease import Lease
from pipeline.orchestration.store import Store
from pipeline.tracking import Tracking

COPY = ".copy"  # of a root at an address: its name among all copies


class Plan(NamedTuple):
    """The keys of a configuration's stages in their order, and where their folders are."""

    root: Path
    parts: dict[str, KeyParts]
    store: Store | None = None  # of a root at an address, of which `root` is the copy

    def folder(self, stage: str) -> Path:
        return self.root / stage / self.parts[stage].key

    def work(self, stage: str) -> Path:
        """Where a stage's workers keep what must outlive a kill."""
        return self.root / "work" / f"{stage}-{self.parts[stage].key}"

    def is_made(self, stage: str) -> bool:
        """Whether a stage's folder is whole, here or in the store."""
        folder = self.folder(stage)
        return (folder / manifest.NAME).exists() or (self.store is not None and self.store.holds(folder))

    def fetch(self, stage: str) -> bool:
        """Whether a stage's folder is where it counts; what is in the store is then here too. Raises as Store does."""
        folder = self.folder(stage)
        return self.store.fetch(folder) if self.store else (folder / manifest.NAME).exists()

    @contextlib.contextmanager
    def alone(self, stage: str, say: Say) -> Iterator[Lease | None]:
        """While entered, no other process makes this stage's folder, nor (root at an address) another machine."""
        folder = self.folder(stage)
        with contextlib.ExitStack() as stack:
            stack.enter_context(atomic_files.lock(folder.parent / f".{folder.name}.lock"))
            if self.store is None:
                yield None
                return
            copy, host = self.root / COPY, socket.gethostname()
            if not copy.exists():
                atomic_files.write_text(copy, secrets.token_hex(8))
            name = f"{host}-{copy.read_text(encoding='utf-8')}"
            what = f"{stage}-{folder.name}"
            yield stack.enter_context(Lease(self.store, what, name, f"{manifest.person()} on {host}", say))

    def carried(self, stage: str, lease: Lease | None, say: Say) -> contextlib.AbstractContextManager[None]:
        """While entered, a stage's checkpoints go to the store, if there is one and the lease is held."""
        return self.store.carried(self.work(stage), lease, say) if self.store and lease else contextlib.nullcontext()

    def before(self, stage: str) -> dict[str, Path]:
        """The folders of the stages before one."""
        names = list(self.parts)
        return {name: self.folder(name) for name in names[: names.index(stage)]}


@dataclass(frozen=True)
class StageContext:
    """What a stage is run with."""

    config: Config
    plan: Plan
    command: str  # the configuration as the person gave it, with its overrides
    tracking: Tracking
    say: Say


class Stage(abc.ABC):
    """One step of the flow: a folder made from the folders of stages before it.

    A new stage is a subclass and an entry in `flow.STAGES`, behind those that it reads. A stage that reads another one
    puts that one's key into its own `inputs`, so that it is made anew when the other changes.
    """

    name: ClassVar[str]  # of the verb, and of the folder under the root that holds this stage's folders
    splits: ClassVar[tuple[SplitName, ...]] = ()  # that must be usable before a run up to this stage goes on

    def wanted(self, config: Config) -> bool:
        """Whether a configuration has this stage at all. One that it has not stands in no key."""
        return True

    @abc.abstractmethod
    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        """What shapes the output. `keys` are those of the stages before it, by name.

        Raises:
            InputError: something that it reads is absent.
        """

    @abc.abstractmethod
    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        """Writes the stage's files into `folder`, which is there and empty; returns the counts for the manifest.

        Raises:
            DupletError or a subclass: a sentence for the person.
        """

    def summary(self, context: StageContext, counts: dict[str, Any], needed: tuple[SplitName, ...]) -> Iterable[str]:
        """Lines that say what the finished folder holds; said each time, also where it was up to date.

        Args:
            needed: the splits that the stages to come use.

        Raises:
            InputError: a needed split cannot be used: it is said before any later stage begins.
        """
        return ()

    @abc.abstractmethod
    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        """Gives the stage's child run its figures and files; heavy tables of records and ids stay on disk."""


def numbers(counts: dict[str, Any]) -> dict[str, float]:
    """All numbers of nested counts, by their path.

    >>> numbers({"records": {"read": 3, "reasons": {}}, "note": "text"})
    {'records/read': 3}
    """
    return dict(_numbers(counts, ""))


def _numbers(counts: dict[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in counts.items():
        path = "".join(c if c.isalnum() or c in "_-. /" else "_" for c in f"{prefix}{name}")
        if isinstance(value, dict):
            yield from _numbers(value, f"{path}/")
        elif isinstance(value, int | float):
            yield path, value

"""A root at an address, such as s3://bucket/runs: its folders, and the copy here of them that stages work in.

A stage's folder in the store is whole when its manifest is there: that is sent last, and what is fetched is checked by
it. So a command that is cut off leaves nothing that counts, and the next one writes the same names again. Checkpoints
go there as they become whole, `checksums.json` last, so that a training goes on on another machine.
"""

import errno
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from threading import Event, Thread
from typing import Any

from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.progress import Say
from pipeline.ingest import places, s3
from pipeline.orchestration.lease import Lease

SUMS = "checksums.json"  # of a checkpoint, whose last file it is
LOOK_S = 2.0  # between two looks for checkpoints that have become whole
_AT_ONCE, _PIECE = 8, 1 << 20  # files on their way; bytes of one at a time
_BESIDE = ("points.jsonl", "samples/**/*")  # of a training's work folder: what goes into its result


class Store:
    """The folders of a root at an address, each with the name that it has below the copy.

    Methods raise TryAgain where the store does not answer, InputError where it refuses the credentials.
    """

    def __init__(self, address: str, copy: Path) -> None:
        self.address, self.copy = address.rstrip("/"), copy

    @functools.cached_property
    def _place(self) -> tuple[Any, str]:
        return places.file_system(self.address)

    def holds(self, folder: Path) -> bool:
        """Whether a stage's folder of the copy is whole in the store."""
        return bool(self.read(self._name(folder / manifest.NAME)))

    def fetch(self, folder: Path) -> bool:
        """Makes a stage's folder of the copy equal to the store's; False where the store has not got it.

        Raises:
            InputError: a file there is not what the manifest says.
        """
        whole = self.read(self._name(folder / manifest.NAME))
        if not whole:  # an upload that was cut off may leave an empty file
            return False
        atomic_files.owners_folder(folder.parent)
        with atomic_files.lock(folder.parent / f".{folder.name}.fetch.lock"):
            if _content(folder / manifest.NAME) != whole:
                with atomic_files.new_folder(folder.with_name(f".{folder.name}.fetched")) as new:
                    self._fetch_files(folder, new, whole)
                    (new / manifest.NAME).write_bytes(whole)
                if folder.exists():
                    atomic_files.remove_folder(folder)
                folder.with_name(f".{folder.name}.fetched").rename(folder)
        return True

    def _fetch_files(self, folder: Path, new: Path, whole: bytes) -> None:
        shown = f"{self.address}/{self._name(folder)}"
        try:
            files = {
                _inside(name): (entry["bytes"], entry["sha256"]) for name, entry in json.loads(whole)["files"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{shown}/{manifest.NAME} is damaged ({error}): remove {shown} and run again") from None

        def fetch(name: str) -> None:
            path = new / name
            try:
                self._fetch(self._name(folder / name), path)
            except FileNotFoundError:
                raise InputError(f"{shown}/{name} is missing: remove {shown} and run again") from None
            if (path.stat().st_size, atomic_files.sha256(path)) != files[name]:
                raise InputError(f"{shown}/{name} is not what its manifest says: remove {shown} and run again")

        _all(fetch, files)

    def send(self, folder: Path, lease: Lease) -> None:
        """Sends a finished folder of the copy, its manifest last. Raises TryAgain where the lease on it was lost."""
        whole = (folder / manifest.NAME).read_bytes()

        def send(name: str) -> None:
            lease.check()  # before each: whoever took over writes the same names
            self._send(folder / name)

        _all(send, json.loads(whole)["files"])
        lease.check()
        self.write(self._name(folder / manifest.NAME), whole)

    @contextmanager
    def carried(self, work: Path, lease: Lease, say: Say) -> Iterator[None]:
        """Fetches the checkpoints of a work folder that are newer than its own; while entered, sends those to come."""
        carrying = _Carrying(self, work, lease, say)
        end = Event()

        def look() -> None:
            while not end.wait(LOOK_S):
                carrying.send()

        thread = Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            end.set()
            thread.join()
            carrying.send()  # what was saved when the training was told to stop
            raise
        finally:
            end.set()
            thread.join()

    def forget(self, work: Path) -> None:
        """Removes the checkpoints of a work folder, the newest first."""
        self._remove_checkpoints(self.names(self._name(work)))

    def _remove_checkpoints(self, names: Iterable[str]) -> None:
        """Their checksums first, without which they are not whole."""
        self.remove(*sorted(names, key=lambda name: not name.endswith(f"/{SUMS}")))

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it is not there."""
        system, base = self._place
        with self._sentences(name):
            try:
                content: bytes = system.cat_file(f"{base}/{name}")
            except FileNotFoundError:
                return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file at once."""
        with self._sentences(name), self._new(name) as file:
            file.write(content)

    def names(self, folder: str) -> list[str]:
        """The names of all files below a folder, sorted, from the root on."""
        system, base = self._place
        system.invalidate_cache()
        with self._sentences(folder):
            try:
                found = list(_below(system, f"{base}/{folder}"))
            except FileNotFoundError:
                return []
        return sorted(_inside(name[len(base) :].lstrip("/")) for name in found)

    def remove(self, *names: str) -> None:
        """Removes files that may be gone already."""
        system, base = self._place
        for name in names:
            with self._sentences(name):
                try:
                    system.rm_file(f"{base}/{name}")
                except FileNotFoundError:
                    continue

    def _name(self, path: Path) -> str:
        return path.relative_to(self.copy).as_posix()

    def _send(self, path: Path) -> None:
        name = self._name(path)
        with self._sentences(name), path.open("rb") as source, self._new(name) as file:
            shutil.copyfileobj(source, file, _PIECE)

    def _fetch(self, name: str, path: Path) -> None:
        """Raises FileNotFoundError too."""
        system, base = self._place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file, self._sentences(name), system.open(f"{base}/{name}", "rb") as source:
            shutil.copyfileobj(source, file, _PIECE)

    def _new(self, name: str) -> Any:
        """A file of the store, open for writing."""
        system, base = self._place
        system.makedirs(f"{base}/{name}".rpartition("/")[0], exist_ok=True)  # of stores that have folders
        return system.open(f"{base}/{name}", "wb")

    @contextmanager
    def _sentences(self, name: str) -> Iterator[None]:
        try:
            yield
        except (DupletError, FileNotFoundError):
            raise
        except Exception as error:  # each client has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # of the copy's disk
            said = places.sentence(error, self.address)
            what = f"{self.address}/{name} cannot be reached: {said}"
            if re.search(r"NO_SUCH_BUCKET|NoSuchBucket", said):
                raise InputError(f"{what}: create the bucket, or correct root") from None
            if s3.refused(said):
                raise InputError(what) from None
            raise TryAgain(f"{what}; the same command goes on from here") from None


class _Carrying:
    """The checkpoints of a work folder, here and in the store."""

    def __init__(self, store: Store, work: Path, lease: Lease, say: Say) -> None:
        self._store, self._work, self._lease, self._say = store, work, lease, say
        self._folder = store._name(work)
        self._failed = False
        names = store.names(self._folder)
        self._there = {PurePosixPath(name).parent.name for name in names if name.endswith(f"/{SUMS}")}
        here = self._here()
        if self._there and max(self._there) > max(here, default=""):
            say(f"going on from {max(self._there)}, which another machine left in {store.address}")
            shutil.rmtree(work, ignore_errors=True)
            for name in sorted(names, key=lambda name: name.endswith(f"/{SUMS}")):
                store._fetch(name, store.copy / name)

    def _here(self) -> dict[str, Path]:
        """The whole checkpoints by name, the oldest first."""
        return {path.parent.name: path.parent for path in atomic_files.finished(self._work, f"checkpoints/*/{SUMS}")}

    def send(self) -> None:
        """Sends what has become whole, and then removes from the store what training removed; says what hinders it."""
        try:
            here = self._here()
            for name, folder in here.items():
                if name not in self._there:
                    self._lease.check()
                    for pattern in _BESIDE:
                        for path in self._work.glob(pattern):
                            if path.is_file():
                                self._store._send(path)
                    for path in folder.iterdir():
                        if path.name != SUMS:
                            self._store._send(path)
                    self._store.write(self._store._name(folder / SUMS), (folder / SUMS).read_bytes())
                    self._there.add(name)
            for name in self._there - here.keys():
                self._lease.check()
                self._store._remove_checkpoints(self._store.names(f"{self._folder}/checkpoints/{name}"))
                self._there.discard(name)
            self._failed = False
        except FileNotFoundError:  # training removed it meanwhile
            return
        except DupletError as error:
            if not self._failed:
                self._say(f"warning: a checkpoint is only on this machine: {error}")
            self._failed = True


def _all(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Some at a time; the first error is raised when those begun have ended."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(function, names):
            pass


def _below(system: Any, folder: str) -> Iterator[str]:
    """All files below a folder; unlike `find` of fsspec it raises what the store answers."""
    for entry in system.ls(folder, detail=True):
        name = str(entry["name"]).rstrip("/")
        if entry["type"] != "directory":
            yield name
        elif name != folder:
            yield from _below(system, name)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _inside(name: str) -> str:
    """The name again. Raises InputError where it does not stay below the folder that it is joined to."""
    if name.startswith("/") or not name or {"..", "."} & set(name.split("/")) or "\\" in name:
        raise InputError(f"a file of the store has the name {name!r}, which is not one below its folder: remove it")
    return name

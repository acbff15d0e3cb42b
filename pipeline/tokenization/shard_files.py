"""Files of shards that many reads go to: opened once, and checked whole once for each state that they are in."""

import contextlib
import functools
import json
import os
import resource
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import atomic_files
from pipeline.core.fingerprints import stamp_of

_MOST_OPEN, _FOR_OTHERS = 1 << 16, 256
_kept, _lock = 0, threading.Lock()


@functools.cache
def _limit() -> int:
    """How many files this process may keep open here; the system's limit is raised as far as it lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_OPEN if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN)
    if most > soft:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return max(0, soft - _FOR_OTHERS)


class OpenFiles:
    """Descriptors of files, by number; each is opened by its first read and kept, up to the limit of the system.

    A cluster's file system takes some tenths of a millisecond to open a file, and an update reads of thousands. Threads
    may share it.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._descriptors: dict[int, int] = {}
        weakref.finalize(self, _close, self._descriptors)

    @contextlib.contextmanager
    def descriptor(self, number: int) -> Iterator[int]:
        """Of one file, for os.pread. Raises OSError."""
        global _kept
        descriptor = self._descriptors.get(number)
        if descriptor is not None:
            yield descriptor
            return
        opened = os.open(self._paths[number], os.O_RDONLY | os.O_CLOEXEC)
        with _lock:
            keep = _kept < _limit() and number not in self._descriptors
            if keep:
                self._descriptors[number] = opened
                _kept += 1
        try:
            yield opened
        finally:
            if not keep:
                os.close(opened)


def _close(descriptors: dict[int, int]) -> None:
    global _kept
    with _lock:
        _kept -= len(descriptors)
    for descriptor in list(descriptors.values()):  # at the process's end a reading thread may still add some
        with contextlib.suppress(OSError):
            os.close(descriptor)
    descriptors.clear()


class Checked:
    """Which files of a stage's folder were checked whole and have not changed since, by size, time and inode.

    It is kept beside the folder, as `.KEY.checked`: a folder that comes from elsewhere is checked again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._path = self._folder.with_name(f".{self._folder.name}.checked")
        self._known = atomic_files.json_object(self._path)
        self._new = False

    def was(self, path: Path) -> bool:
        """Whether a file was checked as it is now."""
        with contextlib.suppress(OSError, ValueError):
            return self._known.get(self._name(path)) == [*stamp_of(path)]
        return False

    def note(self, path: Path) -> None:
        """From now on a file has been checked as it is."""
        with contextlib.suppress(OSError, ValueError):
            if self._known.get(self._name(path)) != [*stamp_of(path)]:
                self._known[self._name(path)] = [*stamp_of(path)]
                self._new = True

    def keep(self) -> None:
        """Writes down what was noted; where that cannot be done the next start checks again."""
        if self._new:
            with contextlib.suppress(OSError):
                atomic_files.write_text(self._path, json.dumps(self._known))
            self._new = False

    def _name(self, path: Path) -> str:
        return str(path.resolve().relative_to(self._folder))

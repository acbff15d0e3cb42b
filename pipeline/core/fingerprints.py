"""Checksums of files that are counted once: kept by a file's size, time of change and inode, under the root.

A checksum is taken from the cache only while `kept_under` is entered: opening a model, an index or a prediction's input
reads each file whole, as ever. Who distrusts the file system's stamps counts anew: `duplet run --verify`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pipeline.core import atomic_files

NAME = ".fingerprints.json"
FORMAT = 1
# A file that was changed less than this before it was read may change again without a new time: never kept.
SETTLED_S = 2.0
Stamp = tuple[int, int, int]  # size in bytes, time of change in ns, inode


class Kept:
    """The checksums of a root; `new` is whether there is something to write down."""

    def __init__(self, path: Path, verify: bool) -> None:
        self.path, self.verify, self.new = path, verify, False
        self.known = _read(path)

    def sha256(self, path: Path) -> str:
        """A file's checksum; read whole where it is not known, has changed, or everything is to be verified."""
        path = path.resolve()
        stamp, known = stamp_of(path), self.known.get(str(path))
        if known and known[:3] == [*stamp] and not self.verify:
            return str(known[3])
        digest = atomic_files.sha256(path)
        settled = stamp[1] < time.time_ns() - SETTLED_S * 1e9
        if settled and stamp_of(path) == stamp:
            self.known[str(path)], self.new = [*stamp, digest], True
        else:
            self.new |= self.known.pop(str(path), None) is not None
        return digest

    def write(self) -> None:
        """Writes the cache down, without the files that are gone; a root that takes no file costs nothing but time."""
        if not self.new or not self.path.parent.is_dir():
            return
        known = {path: entry for path, entry in {**_read(self.path), **self.known}.items() if Path(path).exists()}
        try:
            atomic_files.write_text(self.path, json.dumps({"format": FORMAT, "files": known}))
        except OSError:
            return


_kept: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextmanager
def kept_under(root: Path, verify: bool = False) -> Iterator[Kept]:
    """While entered, `sha256` takes what it knows from the root's cache; `verify`: it counts everything anew.

    Within another one the outer one stays.
    """
    if (outer := _kept.get()) is not None:
        yield outer
        return
    cache = Kept(root / NAME, verify)
    token = _kept.set(cache)
    try:
        yield cache
    finally:
        _kept.reset(token)
        cache.write()


def sha256(path: Path) -> str:
    """The hex digest of a file's content, from the cache if one is in use. Raises OSError."""
    cache = _kept.get()
    return cache.sha256(path) if cache else atomic_files.sha256(path)


def stamp_of(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _read(path: Path) -> dict[str, list[int | str]]:
    """The cache as it stands; {} where there is none, or one that is damaged or of another version."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            return {}
        entries = data["files"].items()
        return {name: entry for name, entry in entries if len(entry) == 4 and isinstance(entry[3], str)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}

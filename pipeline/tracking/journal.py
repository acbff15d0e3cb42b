"""All that a run has to say to MLflow, on disk first: a folder ROOT/tracking/NAME per command, for its owner only.

`journal.jsonl` holds it in order, a checksummed line each (see core.event_log), numbered from 1; `sent.json` the number
of the last line that MLflow has taken, those that it has left out so far, and the id of each run there. `files/` holds
artifacts that would not last. A line's `do` says what it is:

    open     experiment, address (null: under the root)   run      a run to begin: name, parent, time_ms, tags, maybe id
    params   values                                       tags     values
    point    update, time_ms, values                      figures  final values, time_ms
    dataset  name, digest, source, profile, context       artifact path, folder
    model    packed (of tracking.logged)                  again    a run that had ended or was killed goes on
    end      status, time_ms
"""

import contextlib
import functools
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core import atomic_files
from pipeline.core.event_log import Lines, is_training
from pipeline.core.redaction import hide_all

FOLDER = "tracking"  # under a root
JOURNAL, SENT, FILES, LOG = "journal.jsonl", "sent.json", "files", "sender.log"
CLOSED = "closed"  # an empty file: its command has no more to say
_TOLD = ("experiment", "address", "tags", "values", "source", "profile")  # what may hold a secret
WRITER, SENDER = "writer", "sender"  # locks
STAGE_TAG = "duplet.key."  # + a stage's name: a tag of a command's run
MB = 2**20


class Journal:
    """The journal of one folder. One process appends (see `held`), one sends; the same or another."""

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder = folder
        self.lines = Lines(folder / JOURNAL, max_bytes, _place)
        self._last: int | None = None

    @property
    def root(self) -> Path:
        """The root that the folder belongs to."""
        return self.folder.parent.parent

    def append(self, entry: dict[str, Any]) -> int:
        """Adds an entry, its secrets hidden; returns its number. A disk that takes nothing holds it in memory."""
        if self._last is None:
            self._last = self.last()
        self._last += 1
        self.lines.append({"n": self._last, **entry, **{key: hide_all(entry[key]) for key in _TOLD if key in entry}})
        return self._last

    def last(self) -> int:
        """The number of the last entry; 0 where there is none."""
        return max((entry["n"] for entry, _ in self.lines.read()), default=0)

    def entries(self) -> Iterator[dict[str, Any]]:
        """All whole entries, in order."""
        return (entry for entry, _ in self.lines.read())

    def opened(self) -> dict[str, Any]:
        """The `open` entry; empty where it is damaged."""
        return next((entry for entry in self.entries() if entry["do"] == "open"), {})

    def sent(self) -> dict[str, Any]:
        """What sent.json holds; what a new one would, where there is none yet or it is damaged."""
        state = atomic_files.json_object(self.folder / SENT)
        whole = {"sent", "left", "runs"} <= state.keys()
        return state if whole else {"sent": 0, "left": [], "runs": {}, "trouble": None}

    def keep_sent(self, state: dict[str, Any]) -> None:
        """Writes sent.json, whole; without fsync, since a lost one costs only a question to MLflow."""
        partial = self.folder / f".{SENT}.{os.getpid()}"
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(state), encoding="utf-8")
            partial.chmod(0o600)
            partial.rename(self.folder / SENT)

    def stored(self, path: Path) -> str:
        """How an entry names a file: from the root on, so that a root that was moved still finds it."""
        path = path.resolve()
        root = self.root.resolve()
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    def file(self, stored: str) -> Path:
        """The file that an entry names."""
        return self.root / stored  # an absolute one stays as it is


def new(root: Path, max_bytes: int | None) -> Journal:
    """A journal in a folder of its own, whose name sorts by time. Raises OSError."""
    parent = root / FOLDER
    atomic_files.owners_folder(parent)
    folder = parent / f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o700)
    return Journal(folder, max_bytes)


def of_run(root: Path, run_id: str, max_bytes: int | None) -> Journal | None:
    """The journal that made an MLflow run, if it is still there."""
    for path in sorted((root / FOLDER).glob(f"*/{SENT}")):
        journal = Journal(path.parent, max_bytes)
        if run_id in journal.sent()["runs"].values():
            return journal
    return None


def under(root: Path) -> list[Journal]:
    """All journals under a root, the oldest first."""
    return [Journal(path.parent) for path in sorted((root / FOLDER).glob(f"*/{JOURNAL}"))]


def keys_at_work(root: Path) -> set[str]:
    """The keys of the stages that commands at work under a root need."""
    return _keys(one for one in under(root) if atomic_files.is_locked(one.folder / WRITER))


def keys_unsent(root: Path) -> set[str]:
    """The keys of the stages that all journals name: those of commands at work, and those MLflow has not all of yet."""
    return _keys(under(root))


def _keys(journals: Iterable[Journal]) -> set[str]:
    keys: set[str] = set()
    for one in journals:
        with contextlib.suppress(FileNotFoundError):  # sent and removed meanwhile
            found = (one.folder / JOURNAL).stat()
            keys |= _keys_of(one.folder, found.st_size, found.st_mtime_ns)
    return keys


@functools.lru_cache(maxsize=4096)
def _keys_of(folder: Path, _bytes: int, _changed_ns: int) -> frozenset[str]:
    """Read once as long as the journal has not grown: `duplet clean` asks before each folder."""
    return frozenset(
        str(key)
        for entry in Journal(folder).entries()
        if entry["do"] == "tags"
        for key in stage_keys(entry["values"]).values()
    )


def stage_keys(tags: Mapping[str, str]) -> dict[str, str]:
    """Stage -> its key, of those that a command needed, from the tags of its run."""
    return {name.removeprefix(STAGE_TAG): key for name, key in tags.items() if name.startswith(STAGE_TAG)}


@contextlib.contextmanager
def held(folder: Path, name: str, patience_s: float = 0.0) -> Iterator[bool]:
    """Holds the lock WRITER or SENDER of a journal; yields False where another process has it."""
    try:
        file = atomic_files.owned(folder / name, patience_s)
    except BlockingIOError:
        yield False
        return
    with file:
        yield True


def _place(entry: dict[str, Any]) -> int | None:
    return int(entry["n"]) if entry["do"] == "point" and is_training(entry["values"]) else None

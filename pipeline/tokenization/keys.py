"""The rows that texts get by their keys, on disk: a dictionary of a million keys would be most of its memory."""

import sqlite3
from pathlib import Path
from types import TracebackType


class KeyRows:
    """Key -> row, numbered as they come, in a temporary SQLite file of a folder; its memory is a cache of 4 MB.

    It needs neither a journal nor syncs: after a crash it is thrown away with its folder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f".{name}.sqlite"

    def __enter__(self) -> "KeyRows":
        self._path.unlink(missing_ok=True)
        self._db = sqlite3.connect(self._path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-4096"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE rows (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
        self._db.execute("BEGIN")
        self._size = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._size

    def add(self, key: str) -> bool:
        """Gives a key the next row; False where it has one."""
        new = self._db.execute("INSERT OR IGNORE INTO rows VALUES (?, ?)", (key, self._size)).rowcount == 1
        self._size += new
        return new

    def __getitem__(self, key: str) -> int:
        """Raises KeyError for a key that was not added."""
        found = self._db.execute("SELECT row FROM rows WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return int(found[0])

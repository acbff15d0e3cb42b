"""A temporary SQLite database: what would be most of a stage's memory as a dictionary."""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self


class ScratchDatabase:
    """A file that is made anew and removed on leaving, one transaction from beginning to end.

    Its memory is a page cache of 4 MB. It needs neither a journal nor syncs: after a crash it is thrown away.
    """

    def __init__(self, path: Path, *tables: str) -> None:
        """`tables`: the statements that make its tables and indexes."""
        self._path = path
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-4096"):
            self._db.execute(f"PRAGMA {setting}")
        for table in tables:
            self._db.execute(table)
        self._db.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._path.unlink(missing_ok=True)

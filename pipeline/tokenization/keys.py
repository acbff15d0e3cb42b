"""The rows that texts get by their keys, on disk: a dictionary of a million keys would be most of its memory."""

from pathlib import Path

from pipeline.core.scratch_database import ScratchDatabase


class KeyRows(ScratchDatabase):
    """Key -> row, numbered as they come, in a database in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        table = "CREATE TABLE rows (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID"
        super().__init__(folder / f".{name}.sqlite", table)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: str) -> bool:
        """Gives a key the next row; False where it has one."""
        new = self._db.execute("INSERT OR IGNORE INTO rows VALUES (?, ?)", (key, self._size)).rowcount == 1
        self._size += new
        return new

    def __getitem__(self, key: str) -> int:
        """Raises KeyError for a key that was not added."""
        row = self._db.execute("SELECT row FROM rows WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return int(row[0])

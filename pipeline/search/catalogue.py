"""Where each document's content is kept, on disk: a dictionary of a million ids would be most of an update's memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core.scratch_database import ScratchDatabase


class Place(NamedTuple):
    """Where a document's content is kept."""

    segment: str
    row: int
    hash: str


class Catalogue(ScratchDatabase):
    """What an update knows of documents, in a database of a folder.

    `kept` is all content that any segment holds, by id and hash; `live` is what can be found, by id.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = "segment TEXT, row INTEGER, hash TEXT"
        super().__init__(
            path,
            f"CREATE TABLE kept (id TEXT, {place}, PRIMARY KEY (id, hash)) WITHOUT ROWID",
            f"CREATE TABLE live (id TEXT PRIMARY KEY, {place}) WITHOUT ROWID",
            "CREATE INDEX live_by_segment ON live (segment, row)",
            "CREATE TABLE named (id TEXT PRIMARY KEY) WITHOUT ROWID",
        )

    def __len__(self) -> int:
        """How many documents are live."""
        return int(self._db.execute("SELECT count(*) FROM live").fetchone()[0])

    def keep(self, rows: Iterable[tuple[str, Place]]) -> None:
        """Notes content by document; later places of the same content take the place of earlier ones."""
        self._db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", ((i, *place) for i, place in rows))

    def put(self, rows: Iterable[tuple[str, Place]]) -> None:
        """Makes documents live, or gives them another content."""
        self._db.executemany("INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?)", ((i, *place) for i, place in rows))

    def remove(self, document: str) -> bool:
        """Takes a document out; False if it was not live."""
        return self._db.execute("DELETE FROM live WHERE id = ?", (document,)).rowcount == 1

    def live(self, document: str) -> Place | None:
        """A live document's place."""
        return self._place("SELECT segment, row, hash FROM live WHERE id = ?", document)

    def kept(self, document: str, digest: str) -> Place | None:
        """The place of a document's content, live or not."""
        return self._place("SELECT segment, row, hash FROM kept WHERE id = ? AND hash = ?", document, digest)

    def places(self, document: str) -> list[Place]:
        """Where any content of a document is kept, live or not."""
        rows = self._db.execute("SELECT segment, row, hash FROM kept WHERE id = ?", (document,))
        return [Place(*place) for place in rows]

    def rows(self, segment: str) -> list[int]:
        """The rows of a segment that are live, ascending."""
        rows = self._db.execute("SELECT row FROM live WHERE segment = ? ORDER BY row", (segment,))
        return [row for (row,) in rows]

    def name(self, document: str) -> None:
        """Notes that a document came by."""
        self._db.execute("INSERT OR IGNORE INTO named VALUES (?)", (document,))

    def name_below(self, path: str) -> int:
        """Notes the live documents of a path and of all paths below it as come by; returns how many had not."""
        named = "INSERT OR IGNORE INTO named SELECT id FROM live WHERE id = ? OR (id >= ? AND id < ?)"
        return self._db.execute(named, (path, f"{path}/", f"{path}0")).rowcount  # in the order of ASCII, / then 0

    def forget_names(self) -> None:
        self._db.execute("DELETE FROM named")

    def not_named(self) -> Iterator[str]:
        """The live documents that did not come by, each of which is to be removed before the next is asked for."""
        left = "SELECT id FROM live WHERE id NOT IN (SELECT id FROM named) LIMIT 1000"
        while rows := self._db.execute(left).fetchall():
            yield from (document for (document,) in rows)

    def _place(self, query: str, *values: str) -> Place | None:
        row = self._db.execute(query, values).fetchone()
        return Place(*row) if row else None

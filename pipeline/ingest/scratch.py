"""What would not fit into memory for a large source: the rows seen so far, ids, and the texts that judgements name."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core.scratch_database import ScratchDatabase


class Missing(NamedTuple):
    """A judgement of a document that is not kept: it counts in the evaluation as a document not found."""

    query_id: str
    query: str
    document_id: str
    relevance: float


class Scratch(ScratchDatabase):
    """What one ingest remembers, in a database in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            folder / ".scratch.sqlite",
            "CREATE TABLE seen (key BLOB PRIMARY KEY, split TEXT, place INTEGER, relevance REAL) WITHOUT ROWID",
            "CREATE TABLE raised (split TEXT, place INTEGER, relevance REAL, PRIMARY KEY (split, place)) WITHOUT ROWID",
            "CREATE TABLE missing (split TEXT, query_id TEXT, query TEXT, document_id TEXT, relevance REAL, "
            "PRIMARY KEY (split, query_id, document_id))",
            "CREATE TABLE documents (id TEXT PRIMARY KEY, title TEXT, body TEXT)",
            "CREATE TABLE queries (split TEXT, id TEXT, text TEXT, PRIMARY KEY (split, id))",
        )

    def seen(self, split: str, place: int, relevance: float | None, *names: str) -> bool:
        """Whether a row of these names was there before; if so, the higher relevance of the two is that row's.

        `split` and `place` are where the row will stand if it is the first; see `raised`. None: its relevance stays.
        """
        key = _hash(*names)
        row = (key, split, place, relevance)
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)", row).rowcount:
            return False
        raised = "UPDATE seen SET relevance = ? WHERE key = ? AND relevance < ? RETURNING split, place"
        for where in self._db.execute(raised, (relevance, key, relevance)).fetchall():
            self._db.execute("INSERT OR REPLACE INTO raised VALUES (?, ?, ?)", (*where, relevance))
        return True

    def raised(self, split: str) -> dict[int, float]:
        """The places of a split's records whose relevance a later row raised, and what it is now."""
        return dict(self._db.execute("SELECT place, relevance FROM raised WHERE split = ?", (split,)).fetchall())

    def add_missing(self, split: str, judgement: Missing) -> bool:
        """Keeps a judgement of an unknown document, of two of a pair the higher; False if it is the second."""
        known = "SELECT 1 FROM missing WHERE (split, query_id, document_id) = (?, ?, ?)"
        second = self._db.execute(known, (split, judgement.query_id, judgement.document_id)).fetchone() is not None
        self._db.execute(
            "INSERT INTO missing VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "relevance = max(relevance, excluded.relevance)",
            (split, *judgement),
        )
        return not second

    def missing(self, split: str) -> Iterator[Missing]:
        """Those of a split, in the order they came."""
        wanted = "SELECT query_id, query, document_id, relevance FROM missing WHERE split = ? ORDER BY rowid"
        for row in self._db.execute(wanted, (split,)):
            yield Missing(*row)

    def add_document(self, document_id: str, title: str, body: str) -> bool:
        """Keeps a document; False if its id is taken."""
        row = (document_id, title, body)
        return self._db.execute("INSERT OR IGNORE INTO documents VALUES (?, ?, ?)", row).rowcount == 1

    def add_query(self, split: str, query_id: str, text: str) -> bool:
        """Keeps a query of a split ("": of none); False if its id is taken in that split."""
        row = (split, query_id, text)
        return self._db.execute("INSERT OR IGNORE INTO queries VALUES (?, ?, ?)", row).rowcount == 1

    def document(self, document_id: str) -> tuple[str, str] | None:
        """Title and body, or None."""
        row = self._db.execute("SELECT title, body FROM documents WHERE id = ?", (document_id,)).fetchone()
        return (row[0], row[1]) if row else None

    def query(self, split: str, query_id: str) -> str | None:
        """The text of a split's query, or None."""
        row = self._db.execute("SELECT text FROM queries WHERE split = ? AND id = ?", (split, query_id)).fetchone()
        return row[0] if row else None

    def documents(self) -> Iterator[tuple[str, str, str]]:
        """Id, title and body of all documents, in the order they came."""
        yield from self._db.execute("SELECT id, title, body FROM documents ORDER BY rowid")


def _hash(*names: str) -> bytes:
    """16 bytes that stand for these names in this order."""
    return hashlib.sha256("\0".join(names).encode("utf-8")).digest()[:16]

"""What would not fit into memory for a large source: the pairs seen so far, and the texts that judgements point to."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.scratch_database import ScratchDatabase


class Scratch(ScratchDatabase):
    """What one ingest remembers, in a database in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            folder / ".scratch.sqlite",
            "CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE documents (id TEXT PRIMARY KEY, title TEXT, body TEXT)",
            "CREATE TABLE queries (split TEXT, id TEXT, text TEXT, PRIMARY KEY (split, id))",
        )

    def seen(self, *names: str) -> bool:
        """Whether these names were asked for before, in this order; from now on they were."""
        key = hashlib.sha256("\0".join(names).encode("utf-8")).digest()[:16]
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 0

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
        found = self._db.execute("SELECT title, body FROM documents WHERE id = ?", (document_id,)).fetchone()
        return (found[0], found[1]) if found else None

    def query(self, split: str, query_id: str) -> str | None:
        """The text of a split's query, or None."""
        found = self._db.execute("SELECT text FROM queries WHERE split = ? AND id = ?", (split, query_id)).fetchone()
        return found[0] if found else None

    def documents(self) -> Iterator[tuple[str, str, str]]:
        """Id, title and body of all documents, in the order they came."""
        yield from self._db.execute("SELECT id, title, body FROM documents ORDER BY rowid")

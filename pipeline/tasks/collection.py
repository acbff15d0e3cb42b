"""The documents that queries are ranked over: those of one split or of several, each once."""

import hashlib
from collections.abc import Sequence

import numpy as np

from pipeline.tokenization import shards


class Collection:
    """The distinct documents of some tables of texts; the first table's come first, in its own order.

    Attributes:
        keys: (D,) the documents' ids.
        lengths: (D,) tokens; of a document that is read in passages, those of the longest.
        parts: (D,) passages of each document, 1 of one that is read whole.
        rows: for each table, the (n,) rows here of its documents.
        like: (D,) the first document with the same tokens: equal texts are scored once, so that their scores are equal.
    """

    def __init__(self, tables: Sequence[shards.Texts]) -> None:
        self._tables = tables
        known: dict[str, int] = {}
        self.rows, tables_of, rows_of = [], [], []
        for number, table in enumerate(tables):
            before = len(known)
            rows = np.array([known.setdefault(key, len(known)) for key in table.keys], np.int64)
            new, first = np.unique(rows, return_index=True)
            self.rows.append(rows)
            rows_of.append(first[new >= before])
            tables_of.append(np.full(len(rows_of[-1]), number))
        self.keys = list(known)
        self._table_of, self._row_of = np.concatenate(tables_of), np.concatenate(rows_of)
        self.lengths, self.parts = np.empty(len(known), np.int32), np.ones(len(known), np.int64)
        self.like = np.empty(len(known), np.int64)
        tokens: dict[bytes, int] = {}
        for row, (number, own) in enumerate(zip(self._table_of.tolist(), self._row_of.tolist())):
            texts = self._passages(number, own)
            self.lengths[row], self.parts[row] = max(map(len, texts)), len(texts)
            told = b"\n".join(ids.tobytes() for ids in texts)
            self.like[row] = tokens.setdefault(hashlib.blake2b(told, digest_size=16).digest(), row)
        for table in tables:
            for file in table.files:
                file.release()

    def __len__(self) -> int:
        return len(self.keys)

    def passages(self, row: int) -> list[np.ndarray]:
        """The (T,) int32 ids of a document, passage by passage: views of mapped files."""
        return self._passages(int(self._table_of[row]), int(self._row_of[row]))

    def _passages(self, number: int, row: int) -> list[np.ndarray]:
        table = self._tables[number]
        if table.passages:
            first, counts = table.passages.of(np.array([row]))
            if counts[0]:
                return [table.passages.texts.ids(place) for place in range(first[0], first[0] + counts[0])]
        return [table.ids(row)]

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As shards.Texts has it, of all passages of these documents, one document after the other."""
        texts = [np.zeros(0, np.int32)] * int(self.parts[rows].sum())
        starts = np.cumsum(self.parts[rows]) - self.parts[rows]
        for number in np.unique(self._table_of[rows]).tolist():
            table, own = self._tables[number], self._table_of[rows] == number
            whole = np.flatnonzero(own & (self.parts[rows] == 1))
            read = [(starts[whole], table.read(self._row_of[rows[whole]]))]
            if table.passages and len(cut := np.flatnonzero(own & (self.parts[rows] > 1))):
                first, counts = table.passages.of(self._row_of[rows[cut]])
                within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                passages = table.passages.texts.read(np.repeat(first, counts) + within)
                read.append((np.repeat(starts[cut], counts) + within, passages))
            for places, found in read:
                for place, ids in zip(places.tolist(), found):
                    texts[place] = ids
        return shards.padded(texts)

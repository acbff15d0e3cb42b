"""The documents that queries are ranked over: those of one split or of several, each once."""

import hashlib
from collections.abc import Sequence

import numpy as np

from pipeline.tokenization import shards


class Collection:
    """The distinct documents of some tables of texts; the first table's come first, in its own order.

    Attributes:
        keys: (D,) the documents' ids.
        lengths: (D,) tokens.
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
        self.lengths = np.empty(len(known), np.int32)
        self.like = np.empty(len(known), np.int64)
        tokens: dict[bytes, int] = {}
        for row, (number, own) in enumerate(zip(self._table_of.tolist(), self._row_of.tolist())):
            ids = tables[number].ids(own)
            self.lengths[row] = len(ids)
            self.like[row] = tokens.setdefault(hashlib.blake2b(ids.tobytes(), digest_size=16).digest(), row)
        for table in tables:
            for file in table.files:
                file.release()

    def __len__(self) -> int:
        return len(self.keys)

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As shards.Texts has it."""
        texts = [np.zeros(0, np.int32)] * len(rows)
        for number in np.unique(self._table_of[rows]).tolist():
            places = np.flatnonzero(self._table_of[rows] == number)
            for place, ids in zip(places.tolist(), self._tables[number].read(self._row_of[rows[places]])):
                texts[place] = ids
        return shards.padded(texts)

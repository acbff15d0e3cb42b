"""Reading ids: memory-mapped Arrow shards, their keys and lengths, padded arrays, and the examples over them.

Written by `stage`; read by training, evaluation and prediction. Neither mxnet nor gluonnlp is imported here.
"""

import bisect
import functools
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa

from pipeline.config import task_spec
from pipeline.core import mapped_memory
from pipeline.core.errors import InputError
from pipeline.tokenization.encoder import REMAKE, load_tokenizer, load_vocabulary
from pipeline.tokenization.shard_files import Checked, OpenFiles

__all__ = ["EXAMPLES_NAME", "Keys", "Split", "Texts", "load_tokenizer", "open_split", "vocabulary_size"]

TEXTS_SCHEMA = pa.schema([("key", pa.string()), ("ids", pa.list_(pa.int32())), ("length", pa.int32())])
_ROWS_AT_ONCE = 1 << 22
_HELD_LENGTHS = 1 << 28  # texts whose lengths, 4 bytes each, may be held for a moment
EXAMPLES_NAME = "examples.arrow"
MISSING_NAME = "missing.arrow"
PASSAGE, PASSAGES_NAME = "passage", "passages.npy"  # of documents: the name of their shards; where each one's end
MISSING_ROWS_SCHEMA = pa.schema([("query", pa.int32()), ("relevance", pa.float32())])


def examples_schema(fields: tuple[str, ...], large: bool = False) -> pa.Schema:
    """A record's id, the row of each field's text, and its relevance; large: of ids over 2 GB in all."""
    kind = pa.large_string() if large else pa.string()
    return pa.schema([("id", kind), *((field, pa.int32()) for field in fields), ("relevance", pa.float32())])


def shard_name(field: str, number: int) -> str:
    return f"{field}-{number:05d}.arrow"


class Keys(Sequence[str]):
    """Strings that stay in the mapped file until one is asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._column.take(pa.array(range(len(self))[index], pa.int64())).to_pylist()
        return self._column[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()


class Mapped(NamedTuple):
    """A file's columns, which lie in its memory map."""

    path: Path
    table: pa.Table
    address: int  # where the map begins
    size: int

    def release(self) -> None:
        mapped_memory.release(self.address, self.size)


class Texts:
    """The distinct texts of one field of a split as ids; row r is the r-th text over all shards. Threads may share it.

    What goes over all texts reads the mapped files. What takes some of them, `read` and `padded`, reads the files:
    through a map each text would hold as many pages in memory as the system maps at once, up to 2 MB.

    Raises:
        InputError: a shard is missing, damaged, or not such a shard; the message names it.
    """

    def __init__(self, folder: Path, field: str, checked: Checked | None = None) -> None:
        paths = sorted(folder.glob(f"{field}-*.arrow"))
        for number, path in enumerate(paths or [folder / shard_name(field, 0)]):
            if not paths or path.name != shard_name(field, number):
                raise InputError(f"{folder / shard_name(field, number)} is missing: {REMAKE}")
        # a shard is one record batch; all below are views of the mapped files
        self.passages: Passages | None = None  # of documents that are read in several
        self.files, batches = [], []
        for path in paths:
            file = _open(path, (TEXTS_SCHEMA,), checked)
            batches.append(_texts_batch(file.table, path, checked is not None and checked.was(path)))
            if checked is not None:
                checked.note(path)
            file.release()  # checking has read all of it: one file at a time
            self.files.append(file)
        self.keys = Keys(pa.chunked_array([batch["key"] for batch in batches], pa.string()))
        self._ids = [batch["ids"].values.to_numpy() for batch in batches]  # (tokens of the shard,) int32
        self._offsets = [batch["ids"].offsets.to_numpy() for batch in batches]  # (rows of the shard + 1,) int32
        self._lengths = [batch["length"].to_numpy() for batch in batches]  # (rows of the shard,) int32
        self._open = OpenFiles(paths)
        self._first_rows = np.cumsum([0] + [len(part) for part in self._lengths])[:-1]

    def __len__(self) -> int:
        return int(self._first_rows[-1]) + len(self._lengths[-1])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(N,) int32 of all texts; of several shards a copy that is kept."""
        return self._lengths[0] if len(self._lengths) == 1 else np.concatenate(self._lengths)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int32 of n rows."""
        if len(self) <= min(_HELD_LENGTHS, 4 * len(rows)) or len(self._lengths) == 1:
            if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
                raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} texts")
            return np.asarray((self._lengths[0] if len(self._lengths) == 1 else np.concatenate(self._lengths))[rows])
        lengths = np.empty(len(rows), np.int32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):  # else sorting them would take more than they do
            part, into = rows[start : start + _ROWS_AT_ONCE], lengths[start : start + _ROWS_AT_ONCE]
            for shard, places in self._by_shard(part):
                into[places] = self._lengths[shard][part[places] - self._first_rows[shard]]
        return lengths

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each shard that n rows are in, and where they stand among the n."""
        if rows.min(initial=0) < 0 or rows.max(initial=-1) >= len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} texts")
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        if len(self._first_rows) <= np.iinfo(np.uint16).max:
            shards = shards.astype(np.uint16)  # sorted by counting
        order = np.argsort(shards, kind="stable")
        ordered = shards[order]
        starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        ends = [*starts.tolist(), len(rows)] if len(rows) else []
        for start, end in itertools.pairwise([0, *ends]):
            yield int(ordered[start]), order[start:end]

    def ids(self, row: int) -> np.ndarray:
        """(T,) int32, a read-only view of the mapped file."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} texts")
        shard = bisect.bisect_right(self._first_rows, row) - 1
        start, end = self._offsets[shard][row - self._first_rows[shard] :][:2]
        return self._ids[shard][start:end]

    def token_counts(self, size: int) -> np.ndarray:
        """(size,) int64: how often each id below `size` stands in these texts."""
        return sum((np.bincount(ids, minlength=size) for ids in self._ids), np.zeros(size, np.int64))

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        """The (T,) int32 ids of each of n rows.

        Raises:
            InputError: a file is no longer what it was when it was opened.
        """
        texts = [np.zeros(0, np.int32)] * len(rows)
        for shard, places in self._by_shard(rows):
            file = self.files[shard]
            offsets_at, ids_at = (part.ctypes.data - file.address for part in (self._offsets[shard], self._ids[shard]))
            within = (rows[places] - self._first_rows[shard]).tolist()
            try:
                with self._open.descriptor(shard) as opened:
                    for place, row in zip(places.tolist(), within):
                        start, end = struct.unpack("=ii", os.pread(opened, 8, offsets_at + 4 * row))
                        ids = np.frombuffer(os.pread(opened, 4 * (end - start), ids_at + 4 * start), np.int32)
                        if len(ids) != end - start:
                            raise ValueError("it has become shorter")
                        texts[place] = ids
            except (OSError, ValueError, struct.error) as error:
                raise InputError(f"{file.path} was changed while it was read ({error}): {REMAKE}") from None
        return texts

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See the function: of n rows."""
        return padded(self.read(rows))


class Passages:
    """The passages of a split's documents that have several; a shorter one is its own text.

    Attributes:
        texts: all of them, document by document.
    """

    def __init__(self, folder: Path, documents: Texts, checked: Checked | None = None) -> None:
        """Raises InputError: a file is missing or damaged."""
        self.texts = Texts(folder, PASSAGE, checked)
        try:
            self._ends = np.load(folder / PASSAGES_NAME, mmap_mode="r")
            if self._ends.shape != (len(documents) + 1,) or self._ends[-1] != len(self.texts):
                raise ValueError("it is not of these documents")
        except (OSError, ValueError) as error:
            raise InputError(f"{folder / PASSAGES_NAME} is damaged ({error}): {REMAKE}") from None

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first passage of each of n documents, and how many it has: 0, or several; (n,) int64 each."""
        return np.asarray(self._ends[rows]), np.asarray(self._ends[rows + 1] - self._ends[rows])


def padded(texts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The (n, T) int32 ids of n texts, zeros behind each, T the longest of them; and their (n,) int32 lengths."""
    lengths = np.array([len(text) for text in texts], np.int32)
    ids = np.zeros((len(texts), int(lengths.max(initial=0))), np.int32)
    for row, text in zip(ids, texts):
        row[: len(text)] = text
    return ids, lengths


class Missing(NamedTuple):
    """M judgements of documents that are not in the collection."""

    queries: np.ndarray  # (M,) int32 rows of the split's queries
    relevance: np.ndarray  # (M,) float32


class Split(NamedTuple):
    """The N records of a split, over the distinct texts of each field; the arrays are views of a mapped file."""

    fields: dict[str, Texts]
    ids: Keys  # of the records
    rows: dict[str, np.ndarray]  # field -> (N,) int32 row of its text
    relevance: np.ndarray  # (N,) float32
    file: Mapped  # of ids, rows and relevance
    missing: Missing = Missing(np.zeros(0, np.int32), np.zeros(0, np.float32))

    def release(self) -> None:
        """Frees the memory that holds pages of its files; a later access reads them again."""
        for file in (self.file, *(file for field in self.fields.values() for file in field.files)):
            file.release()


def open_split(folder: Path, split: str, task: str = "matching") -> Split:
    """Maps a split of a tokenized folder. Raises InputError naming the file that is missing, damaged or unfit.

    All of its files are read to check them, but for those that were checked before and have not changed since.
    """
    checked = Checked(folder)
    folder, names = folder / split, tuple(task_spec(task).fields)
    known = all(map(checked.was, folder.glob("*.arrow")))
    fields = {field: Texts(folder, field, checked) for field in names}
    if (folder / PASSAGES_NAME).exists():
        documents = fields["document"]
        documents.passages = Passages(folder, documents, checked)
        documents.files += documents.passages.texts.files  # to be released with its own
    path = folder / EXAMPLES_NAME
    file = _open(path, (examples_schema(names), examples_schema(names, large=True)), checked)
    table = file.table
    rows = {field: table[field].to_numpy() for field in names}
    for field in names:
        if len(table) and not known and not 0 <= rows[field].min() <= rows[field].max() < len(fields[field]):
            raise InputError(
                f"{path} points at more {field} texts than its shards hold ({len(fields[field])}): {REMAKE}"
            )
    missing = Split._field_defaults["missing"]
    if (folder / MISSING_NAME).exists():
        absent = _open(folder / MISSING_NAME, (MISSING_ROWS_SCHEMA,), None)
        missing = Missing(*(np.array(absent.table[name]) for name in MISSING_ROWS_SCHEMA.names))
        if len(missing.queries) and not 0 <= missing.queries.min() <= missing.queries.max() < len(fields["query"]):
            raise InputError(f"{absent.path} points at more queries than the shards hold: {REMAKE}")
        checked.note(absent.path)
    opened = Split(fields, Keys(table["id"]), rows, table["relevance"].to_numpy(), file, missing)
    opened.release()  # checking has read all of it
    checked.note(path)
    checked.keep()
    return opened


def vocabulary_size(folder: Path) -> int:
    """Tokens in the vocabulary, padding and unknown included: ids are below it."""
    return len(load_vocabulary(folder))


def _open(path: Path, schemas: tuple[pa.Schema, ...], checked: Checked | None) -> Mapped:
    """A file of one of these schemas, checked whole unless it was before and is still what it was."""
    try:
        table, address, size = mapped_memory.mapped_table(path)
        # a key or a text that ends before it begins would be read as an address
        table.validate(full=checked is None or not checked.was(path))
        if table.schema not in schemas:
            raise pa.ArrowInvalid(f"its columns are {', '.join(table.schema.names)}")
        if any(column.null_count for column in table.columns):
            raise pa.ArrowInvalid("it has nulls")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {REMAKE}") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a column's name that is no UTF-8
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())}): {REMAKE}") from None
    return Mapped(path, table, address, size)


def _texts_batch(table: pa.Table, path: Path, checked: bool) -> dict[str, Any]:
    """A shard's columns, checked as far as reading beyond its memory or another text's ids could go."""
    batches = table.to_batches()
    if len(batches) > 1:
        raise InputError(f"{path} has {len(batches)} record batches instead of one: {REMAKE}")
    columns = {
        name: batches[0][name] if batches else pa.array([], TEXTS_SCHEMA.field(name).type)
        for name in table.schema.names
    }
    if checked:
        return columns
    lengths = columns["length"].to_numpy()
    offsets = columns["ids"].offsets.to_numpy()
    if len(lengths) and (lengths.min() < 1 or not np.array_equal(np.diff(offsets), lengths) or offsets[0] < 0):
        raise InputError(f"{path} is damaged (lengths and ids disagree): {REMAKE}")
    return columns

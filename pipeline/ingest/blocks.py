"""Rows as records on disk, in blocks of bounded size: what is done to a row by itself, by whatever process.

A block is some rows that follow each other. Its files are its records in their order, its bad rows, and hashes of its
records, by which `copies` finds what rests on other rows.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.config import SPLITS, SplitShares, task_spec
from pipeline.config.sources import SplitName
from pipeline.core.record_schema import schema
from pipeline.ingest import copies, hashes, leaks
from pipeline.ingest.cells import Cells, Together
from pipeline.ingest.hashes import Block
from pipeline.ingest.pairs import Reading
from pipeline.ingest.rows import BadRow, Row
from pipeline.ingest.splits import split_of

BLOCK_ROWS, BLOCK_BYTES = 1 << 16, 32 << 20
_CODES = {split: code for code, split in enumerate(SPLITS)}


class How(NamedTuple):
    """How rows become records: plain values, which any process can be given."""

    columns: Any  # the values of config.sources.Columns
    grades: Mapping[str, float]
    task: str
    seed: int
    shares: SplitShares
    file_split: SplitName | None  # that the rows were given for
    same: tuple[int, ...]  # the fields by which two records of different splits count as the same; see `leaks`
    kinds: tuple[str, ...]  # the hashes that are needed; see `hashes.KINDS`


class Bad(NamedTuple):
    """A row that goes to the quarantine, and how many records of its block stand before it."""

    before: int
    row: Row
    problem: BadRow


def write(batches: Iterable[Cells | list[Row]], how: How, folder: Path, name: str) -> Iterator[Block]:
    """Writes rows into a folder as blocks that are called NAME-0, NAME-1, …; each is there when it is yielded."""
    batches = iter(batches)
    reading = Reading(how.columns, how.grades, how.task)
    number, goes_on = 0, True
    while goes_on:
        with _Writer(folder, f"{name}-{number}", how, reading) as writer:
            while not writer.full and (goes_on := _add_next(batches, writer)):
                pass
        if writer.rows:
            yield writer.block
        number += 1


def _add_next(batches: Iterator[Cells | list[Row]], writer: "_Writer") -> bool:
    """Adds a batch, of which nothing is held when the next is read. Returns whether there was one."""
    if (batch := next(batches, None)) is None:
        return False
    writer.add(batch)
    return True


def files(how: How) -> tuple[str, ...]:
    """The endings of a block's files."""
    return "arrow", "bad", *how.kinds


def block_schema(task: str) -> pa.Schema:
    """The columns of a block's records; the last are those of the rows, should a later look find some bad."""
    more = [(".source", pa.string()), (".number", pa.int64()), (".shown", pa.string())]
    return pa.schema([*schema(task_spec(task).fields), (".split", pa.int8()), (".same", pa.uint64()), *more])


class _Writer:
    """Writes one block; its files are renamed when they are whole, for the same work may be done twice at once."""

    def __init__(self, folder: Path, name: str, how: How, reading: Reading) -> None:
        self._folder, self._name, self._how, self._reading = folder, name, how, reading
        self._aside = f".{name}-{hashes.unique()}"
        self._schema = block_schema(how.task)
        self.rows = self._kept = self._bad = self._bytes = 0
        self._together = Together(how.columns, how.task, reading)
        self._record_columns = len(schema(task_spec(how.task).fields))
        self._marks = np.array([_mark(how.file_split or "", split) for split in SPLITS])  # (3, 2)
        fields = task_spec(how.task).fields
        self._named = [at for at, field in enumerate(fields) if getattr(how.columns, f"{field}_id", None) is not None]

    @property
    def full(self) -> bool:
        return self.rows >= BLOCK_ROWS or self._bytes >= BLOCK_BYTES

    @property
    def block(self) -> Block:
        return Block(self._name, self._kept, self._bad)

    def __enter__(self) -> "_Writer":
        self._records_file = pa.OSFile(str(self._path("arrow")), "wb")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._records = pa.ipc.new_stream(self._records_file, self._schema, options=options)
        self._quarantine = self._path("bad").open("w", encoding="utf-8")
        self._unsorted = {kind: self._path(f"{kind}-unsorted").open("wb") for kind in self._how.kinds}
        return self

    def __exit__(self, *error: object) -> None:
        self._records.close()
        self._records_file.close()
        for file in (self._quarantine, *self._unsorted.values()):
            file.close()
        kept = files(self._how)
        if error[0] is None:
            for kind in self._how.kinds:
                hashes.write(self._path(kind), kind, self._path(f"{kind}-unsorted"))
            for kind in kept:
                self._path(kind).rename(self._folder / f"{self._name}.{kind}")
        for kind in (*kept, *(f"{kind}-unsorted" for kind in self._how.kinds)):
            self._path(kind).unlink(missing_ok=True)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._aside}.{kind}"

    def add(self, batch: Cells | list[Row]) -> None:
        if isinstance(batch, Cells) and self._together.possible:
            columns, odd = self._together.columns(batch)
            places = range(len(batch.lines))
            row_at: Callable[[int], Row] = batch.row
        else:
            row_at = batch.row if isinstance(batch, Cells) else batch.__getitem__
            places = range(len(batch.lines if isinstance(batch, Cells) else batch))
            columns, odd = [[None] * len(places) for _ in self._schema.names[: self._record_columns]], set(places)
        groups = list(columns[1])
        bad: set[int] = set()
        for place in sorted(odd):
            row = row_at(place)
            try:
                record, groups[place] = self._reading.record(row)
            except BadRow as problem:
                self._put_aside(row, problem, self._kept + place - len(bad))
                bad.add(place)
                continue
            for column, value in zip(columns, record.row()):
                column[place] = value
        if bad:
            stay = [place for place in places if place not in bad]
            columns = [[column[place] for place in stay] for column in columns]
            groups = [groups[place] for place in stay]
        self.rows += len(places)
        if groups:
            rows = [row_at(place) for place in places if place not in bad] if "names" in self._how.kinds else None
            self._store(columns, groups, rows)

    def _store(self, columns: list[list[Any]], groups: list[str], rows: list[Row] | None) -> None:
        """Writes records; rows of one group often stand together, as those of one text do."""
        splits = {group: _CODES[self._split(group)] for group in dict.fromkeys(groups)}
        texts = [columns[2 + 2 * place] for place in self._how.same]
        compared = list(zip(*texts))
        numbers = {some: leaks.number(some) for some in dict.fromkeys(compared)}
        more = [list(map(splits.__getitem__, groups)), list(map(numbers.__getitem__, compared))]
        nothing = [(None, None, None)] * len(groups)
        shown = zip(*(nothing if rows is None else ((row.source, row.number, row.shown) for row in rows)))
        arrays = map(pa.array, [*columns, *more, *shown], self._schema.types)
        batch = pa.record_batch(list(arrays), schema=self._schema)
        self._kept += len(batch)
        self._bytes += batch.nbytes
        self._records.write_batch(batch)
        self._keep_hashes(columns, batch)

    def _split(self, group: str) -> SplitName:
        given = self._how.file_split
        if given is not None and given != "train":
            return given
        return split_of(group, self._how.seed, self._how.shares)

    def _keep_hashes(self, columns: list[list[Any]], batch: pa.RecordBatch) -> None:
        ids, fields = columns[0], columns[1 : self._record_columns - 2]
        keys, texts = fields[::2], fields[1::2]
        codes = batch[".split"].to_numpy()
        for kind in self._how.kinds:
            if kind == "names":
                for place in self._named:
                    names = _hashed(keys[place]) ^ _mark(self._how.file_split or "", place)
                    self._keep(kind, names, batch, field=place, text=_hashed(texts[place])[:, 0])
            elif kind == "documents":
                roots = _hashed(list(map(copies.document_root, keys[1])))
                self._keep(kind, roots, batch, own=_hashed(keys[1])[:, 0], text=_hashed(texts[1])[:, 0])
            elif kind == "ids":
                roots = _hashed(list(map(copies.id_root, ids))) ^ self._marks[codes]
                self._keep(kind, roots, batch, own=_hashed(ids)[:, 0])
            else:
                joined = _hashed(list(map("\0".join, zip(*keys)))) ^ self._marks[codes]
                relevance, train = batch["relevance"].to_numpy(), codes == _CODES["train"]
                self._keep(kind, joined, batch, relevance=relevance, train=train)

    def _keep(self, kind: str, hashed: np.ndarray, batch: pa.RecordBatch, **values: Any) -> None:
        """Keeps (N, 2) uint64 of the batch's records, and what must be known of each."""
        some = np.empty(len(batch), hashes.KINDS[kind])
        some["high"], some["low"] = hashed.T
        some["row"] = np.arange(self._kept - len(batch), self._kept)
        for name, value in values.items():
            some[name] = value
        some.tofile(self._unsorted[kind])

    def _put_aside(self, row: Row, problem: BadRow, before: int) -> None:
        self._bad += 1
        entry = (before, row.source, row.number, row.shown, problem.kind, str(problem))
        self._quarantine.write(json.dumps(entry) + "\n")


def _hashed(texts: Sequence[str]) -> np.ndarray:
    """(N, 2) uint64: of each text the first half of its sha256."""
    digests = b"".join([hashlib.sha256(text.encode("utf-8")).digest() for text in texts])
    return np.frombuffer(digests, "<u8").reshape(-1, 4)[:, :2]


def _mark(*names: object) -> np.ndarray:
    """(2,) uint64, by which hashes of texts that are to be told apart differ."""
    return _hashed(["\0".join(map(str, names))])[0]


def bad_rows(folder: Path, block: Block) -> Iterator[Bad]:
    """The bad rows of a block, in their order."""
    with (folder / f"{block.name}.bad").open(encoding="utf-8") as file:
        for line in file:
            before, source, number, shown, kind, reason = json.loads(line)
            yield Bad(before, Row(source, number, {}, shown), BadRow(kind, reason[len(kind) + 2 :]))


def records_of(folder: Path, block: Block) -> Iterator[pa.RecordBatch]:
    """The records of a block, some at a time."""
    with pa.OSFile(str(folder / f"{block.name}.arrow")) as file, pa.ipc.open_stream(file) as batches:
        yield from batches

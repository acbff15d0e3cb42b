"""Rows with a column per field of the task -> records, each with its split and an id of its own.

What is done to a row by itself is done in parts of the source (`blocks`), by whatever processes there are. What rests
on the rows before it comes after, by hash (`copies`).
"""

import heapq
import json
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.config import SPLITS, Config, task_spec
from pipeline.config.sources import Column, Columns, PairsSource, SplitName
from pipeline.core import executors, kept
from pipeline.core.errors import InputError
from pipeline.core.executors import Executor
from pipeline.ingest import blocks, copies, hashes, leaks, ledger, pairs, parts, places
from pipeline.ingest.blocks import How
from pipeline.ingest.cells import Cells
from pipeline.ingest.hashes import Block
from pipeline.ingest.leaks import Numbers
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.parts import Part
from pipeline.ingest.rows import TWO_TEXTS, BadRow, Row
from pipeline.ingest.splits import shares_to_cut

COPIES = "copies of rows in valid and test, each of which counts"
OWN_DOCUMENTS = "rows whose document id has another text in another split's file, told apart as ID~SPLIT"
SHARED_IDS = "rows whose id an earlier row has, told apart as ID~2, ID~3, …"
_MUCH_BYTES, _MANY_REMOTE = 32 << 20, 8  # of files, which take a process some seconds
Tools = tuple[Ledger, Output]
Made = Iterable[tuple[SplitName | None, Iterable[Block]]]  # the blocks of each file, and the split it was given for
Files = Iterable[tuple[SplitName | None, Iterable[Row]]]  # the rows of each file, and the split it was given for


class Work(NamedTuple):
    """A part of a source that is to become blocks: plain values, which any process can be given."""

    source: PairsSource  # without its columns: those of other packages' tasks are of a class that is made here
    part: Part
    wanted: list[Column]
    lists: bool  # a row may be several pairs
    how: How
    limit_bytes: int
    folder: Path
    name: str
    patient: bool = False  # reads on, however many rows are bad


class Read(NamedTuple):
    """The blocks of a part; `rest` is the work that is left where it was given up for its many bad rows."""

    blocks: list[Block]
    rest: Work | None


def read(work: Work) -> Read:
    """Writes a part's blocks: a pure function of the part, that any process may run.

    What an earlier run of the same stage has done is taken from it; files that are not as large as they were are not.
    """
    known, stamp = work.folder / f"{work.name}.done", parts.stamp(work.part)
    if (done := kept.recall(known, stamp)) is not None:
        some, sizes = json.loads(done)
        made = [Block(*block) for block in some]
        if sizes == _sizes(work, made):
            return Read(made, None)
    found = _read(work)
    if found.rest is None and stamp == parts.stamp(work.part):
        kept.keep(known, stamp, json.dumps([found.blocks, _sizes(work, found.blocks)]).encode())
    return found


def _sizes(work: Work, some: list[Block]) -> list[int]:
    """The bytes of all files of some blocks."""
    paths = [work.folder / f"{block.name}.{kind}" for block in some for kind in blocks.files(work.how)]
    return [path.stat().st_size if path.exists() else -1 for path in paths]


def _read(work: Work) -> Read:
    given = (work.source, work.part, work.wanted, work.limit_bytes, work.folder)
    batches: Iterable[Cells | list[Row]] = parts.batches(*given)
    if work.lists:
        batches = parts.in_batches(pairs.unfolded(parts.rows(*given), work.how.columns))
    made: list[Block] = []
    bad = kept = 0
    for block in blocks.write(batches, work.how, work.folder, work.name):
        made.append(block)
        bad, kept = bad + block.bad, kept + block.kept
        if not work.patient and ledger.is_hopeless(bad, bad + kept):
            return Read(made, work._replace(patient=True))
    return Read(made, None)


def ingest(
    source: Any,
    files: Files | None,
    origin: Mapping[SplitName | None, str],
    columns: Columns,
    grades: Mapping[str, float],
    config: Config,
    folder: Path,
    tools: Tools,
) -> Numbers:
    """Turns rows into records and gives each its split.

    Of rows of equal fields in a file, train keeps one, with the highest relevance; valid and test keep them all, since
    an evaluation counts what the file has. Each record of a split has an id of its own.

    Args:
        files: None: the source's files are tables, which are read in parts.
        origin: the address of each file, for messages.
        folder: for the blocks.

    Returns:
        The records' numbers by `leaks`, in their order.

    Raises:
        InputError: a file holds no rows.
    """
    values = _values(columns, config)
    same = tuple(map(list(config.spec.fields).index, leaks.compared(config)))
    kinds = _kinds(values, config, len(origin))
    how = How(values, dict(grades), config.task, config.split_seed, config.ingest.split, None, same, kinds)
    places_of = None if files is not None else pairs.files(source)
    much = places_of is not None and _is_much(places_of)
    with closing(executors.executor(*config.execution.how, much=much)) as executor:
        made: Made
        if files is not None:
            made = (
                (split, blocks.write(parts.in_batches(rows), _of_file(how, split, origin), folder, split or "all"))
                for split, rows in files
            )
        else:
            made = _tables(source, places_of or {}, how, origin, config, folder, executor)
        with closing(Numbers(folder)) as numbers:
            _join(made, how, origin, folder, tools, numbers, executor)
    return numbers


def _values(columns: Columns, config: Config) -> Any:
    """The columns as plain values: their class may be one that is made here, for another package's task."""
    values = types.SimpleNamespace(**columns.model_dump())
    if columns.negative is not None and config.spec.relevance:
        values.relevance = pairs.UNFOLDED
    return values


def _kinds(columns: Any, config: Config, files: int) -> tuple[str, ...]:
    """The hashes that are needed: where the source gives ids, they may stand for two texts, or two records."""
    fields = tuple(config.spec.fields)
    named = [field for field in fields if getattr(columns, f"{field}_id", None) is not None]
    documents = config.spec.relevance and columns.document_id is not None
    wanted = {
        "names": bool(named),
        "documents": documents and files > 1,
        "keys": True,
        "ids": columns.id is not None or documents or named == list(fields[:1]) == list(fields),
    }
    return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)


def _of_file(how: How, split: SplitName | None, origin: Mapping[SplitName | None, str]) -> How:
    return how._replace(file_split=split, shares=shares_to_cut(split, origin, how.shares))


def _is_much(by_split: Mapping[Any, Sequence[str]]) -> bool:
    """Whether other processes are worth their start."""
    files = [address for addresses in by_split.values() for address in addresses]
    if sum(map(places.is_remote, files)) > _MANY_REMOTE:  # not asked for the size of each
        return True
    here = (address for address in files if places.is_remote(address) or places.path_of(address).exists())
    return sum(places.size_of(address) or 0 for address in here) > _MUCH_BYTES


def _tables(
    source: PairsSource, by_split: Mapping[SplitName | None, list[str]], how: How,
    origin: Mapping[SplitName | None, str], config: Config, folder: Path, executor: Executor,
) -> Made:  # fmt: skip
    """The blocks of tables, read in parts."""
    names = ("encoding", "header", "quoting", "delimiter")
    table = PairsSource(format=source.format, path=".", **{name: getattr(source, name) for name in names})
    wanted, limit = pairs.wanted_columns(source.columns, config.task), config.ingest.max_row_kb * 1024
    lists = config.spec.relevance and (source.format not in ("tsv", "csv") or source.columns.negative is not None)
    for split, files in by_split.items():
        mine = _of_file(how, split, origin)
        works = (
            Work(table, part, wanted, lists, mine, limit, folder, f"{split or 'all'}-{number}")
            for number, part in enumerate(parts.cut(table, files, wanted, limit))
        )
        yield split, _in_parts(works, executor)


def _in_parts(works: Iterable[Work], executor: Executor) -> Iterator[Block]:
    for done in executor.map(read, works):
        yield from done.blocks
        if done.rest is not None:  # whoever counts these blocks has not given up
            yield from read(done.rest).blocks[len(done.blocks) :]


def _join(
    made: Made, how: How, origin: Mapping[SplitName | None, str], folder: Path, tools: Tools, numbers: Numbers,
    executor: Executor,
) -> None:  # fmt: skip
    """Books and writes what the blocks hold, in their order."""
    hashes.forget(folder)
    every: list[Block] = []
    hopeless, bad, kept = False, 0, 0
    for split, some in made:
        before = len(every)
        for block in some:
            every.append(block)
            bad, kept = bad + block.bad, kept + block.kept
            if not hopeless and (hopeless := ledger.is_hopeless(bad, bad + kept)):
                _give_up(every, folder, tools[0])
        if len(every) == before:
            raise InputError(f"{origin[split]} holds no rows; give a file that does")
    looked = Looked(every, how, folder, executor)
    for number, block in enumerate(every):
        _write(block, looked.of(number), how, folder, tools, numbers)


def _give_up(every: list[Block], folder: Path, book: Ledger) -> None:
    """Raises InputError where so many rows are bad that no more need be read."""
    with book.trial(folder) as trial:
        for block in every:
            _count(block, {}, folder, trial)


class Found(NamedTuple):
    """What a look at other rows has told of a block's rows; of each row at the most one entry, ascending."""

    refused: dict[int, int]  # row -> the field whose id is another text's
    copies: np.ndarray  # COPY
    documents: np.ndarray  # NUMBERED
    ids: np.ndarray | None  # NUMBERED; None: a copy's number is its id's


class Looked:
    """Looks at all blocks' hashes, and has what was found for each block."""

    def __init__(self, every: list[Block], how: How, folder: Path, executor: Executor) -> None:
        self._how = how
        self._refused: dict[int, dict[int, int]] = {}
        find = lambda kind, look: hashes.find(kind, look, every, folder, executor)
        if "names" in how.kinds:
            names = copies.Refused(find("names", copies.contested)())
            for number, block in enumerate(every):
                if refused := names.of(number):
                    self._refused[number] = refused
                    hashes.leave_out(folder, block, np.array(sorted(refused), np.uint32))
        self._documents = find("documents", copies.renamed)() if "documents" in how.kinds else None
        self._copies = (found := find("keys", copies.look))()
        self._ids = None
        if "ids" in how.kinds:
            left_out = found()
            for number, block in enumerate(every):
                some = left_out.of(number, copies.COPY)
                if len(rows := some["row"][some["number"] == copies.LEFT_OUT]):
                    hashes.leave_out(folder, block, rows)
            self._ids = find("ids", copies.numbered)()

    def of(self, number: int) -> Found:
        """Blocks are asked for in their order."""
        documents = self._documents.of(number, copies.NUMBERED) if self._documents else np.empty(0, copies.NUMBERED)
        ids = self._ids.of(number, copies.NUMBERED) if self._ids else None
        return Found(self._refused.get(number, {}), self._copies.of(number, copies.COPY), documents, ids)


def _count(block: Block, refused: Mapping[int, BadRow], folder: Path, book: Ledger) -> None:
    """Books a block's rows in their order, as kept or bad; which of them are copies is said later.

    Args:
        refused: by their place among the records, those whose row is bad for what others are.
    """
    later = iter(sorted(refused.items()))
    rows = dict(zip(sorted(refused), _rows_at(folder, block, sorted(refused))))
    bad = blocks.bad_rows(folder, block)
    bads = heapq.merge(
        ((one.before, 0, one.row, one.problem) for one in bad),
        ((place, 1, rows[place], problem) for place, problem in later),
        key=lambda entry: entry[:2],
    )
    at = 0
    for place, is_record, row, problem in bads:
        book.kept("records", place - at)
        book.quarantine("records", row, problem)
        at = place + is_record
    book.kept("records", block.kept - at)


def _rows_at(folder: Path, block: Block, places_: list[int]) -> list[Row]:
    if not places_:
        return []
    found = copies.rows_at(folder, block, np.array(places_), [".source", ".number", ".shown"])
    return [Row(source, number, {}, shown) for source, number, shown in zip(*(c.to_pylist() for c in found.columns))]


def _write(block: Block, found: Found, how: How, folder: Path, tools: Tools, numbers: Numbers) -> None:
    """Writes a block's records, but for copies in train, each with an id of its own.

    An id that is made of the record's keys is its own unless the keys were there before.
    """
    book, output = tools
    _count(block, _problems(block, found, how, folder), folder, book)
    book.copied("records", int(np.sum(found.copies["number"] == copies.LEFT_OUT)))
    book.note(COPIES, int(np.sum(found.copies["number"] > copies.RAISED)))
    book.note(OWN_DOCUMENTS, len(found.documents))
    if found.ids is not None and how.columns.id is not None:
        book.note(SHARED_IDS, len(found.ids))
    start = 0
    for batch in blocks.records_of(folder, block):
        table = _changed(pa.Table.from_batches([batch]), found, start, block.name.partition("-")[0])
        start += len(batch)
        codes, same = table[".split"].to_numpy(), table[".same"].to_numpy()
        table = table.drop_columns([".split", ".same", ".source", ".number", ".shown"])
        for code, split in enumerate(SPLITS):
            mine = codes == code
            if count := int(mine.sum()):
                numbers.add(split, same[mine])
                book.in_split(split, count)
                output.add_records(split, table if count == len(table) else table.filter(pa.array(mine)))


def _problems(block: Block, found: Found, how: How, folder: Path) -> dict[int, BadRow]:
    """Why each refused row is bad."""
    problems: dict[int, BadRow] = {}
    for number, field in enumerate(task_spec(how.task).fields):
        rows = sorted(row for row, refused in found.refused.items() if refused == number)
        if rows:
            column = f"{field}_id"
            keys = copies.rows_at(folder, block, np.array(rows), [column])[column].to_pylist()
            problems |= {
                row: BadRow(TWO_TEXTS, f"{field} id {key[:60]!r} is another text's") for row, key in zip(rows, keys)
            }
    return problems


def _changed(table: pa.Table, found: Found, start: int, file_split: str) -> pa.Table:
    """Records with what was found of them, in a table whose first row has a place in its block."""
    copied, documents, ids = (
        None if some is None else some[slice(*np.searchsorted(some["row"], (start, start + len(table))))]
        for some in (found.copies, found.documents, found.ids)
    )
    gone = [row - start for row in found.refused if start <= row < start + len(table)]
    assert copied is not None and documents is not None
    if len(copied):
        raised = copied[copied["number"] == copies.RAISED]
        relevance = table["relevance"].to_numpy().copy()
        relevance[raised["row"] - start] = raised["relevance"]
        table = _with(table, "relevance", pa.array(relevance, pa.float32()))
        gone += (copied["row"][copied["number"] == copies.LEFT_OUT] - start).tolist()
    for column, some, end in (
        ("document_id", documents, lambda number: f"~{file_split}" * number),
        ("id", copied[copied["number"] > copies.RAISED] if ids is None else ids, lambda number: f"~{number}"),
    ):
        if len(some):
            values = table[column].to_pylist()
            for row, number in zip((some["row"] - start).tolist(), some["number"].tolist()):
                values[row] += end(number)
            table = _with(table, column, pa.array(values, pa.string()))
    if not gone:
        return table
    stays = np.ones(len(table), bool)
    stays[gone] = False
    return table.filter(pa.array(stays))


def _with(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(column)
    return table.set_column(place, table.schema.field(place), values)

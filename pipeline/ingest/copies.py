"""What rests on other rows, found by hash: rows whose keys an earlier one has, ids of two texts or of two records."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.ingest import hashes
from pipeline.ingest.hashes import Block, Found, Range

# A copy in train, and a row that takes the higher relevance of one; other numbers say which copy it is: 2, 3, …
LEFT_OUT, RAISED = 0, 1
_PLACE = [("block", "<u4"), ("row", "<u4")]
COPY = np.dtype([*_PLACE, ("number", "<u4"), ("relevance", "<f4")])
CONTESTED = np.dtype([*_PLACE, ("field", "<u4"), ("high", "<u8"), ("low", "<u8"), ("text", "<u8")])
NUMBERED = np.dtype([*_PLACE, ("number", "<u4")])
_SPLIT_ENDINGS, _NUMBER_ENDINGS = re.compile(r"(?:~(?:train|valid|test))+$"), re.compile(r"(?:~[0-9]+)+$")


def document_root(document: str) -> str:
    """A document's id without what tells it apart from that of other splits."""
    return _SPLIT_ENDINGS.sub("", document)


def id_root(record: str) -> str:
    """A record's id without what tells it apart from others."""
    return _NUMBER_ENDINGS.sub("", record)


def look(part: Range) -> tuple[Range, np.ndarray]:
    """Of each group of equal keys all rows but the first, and that too where a copy in train raises it: (F,) COPY."""
    entries, block = hashes.in_groups(hashes.read(part))
    if not len(entries):
        return part, np.empty(0, COPY)
    starts, group = hashes.groups(entries)
    place = np.arange(len(entries)) - starts[group]
    relevance, train = entries["relevance"], entries["train"]
    highest = np.maximum.reduceat(relevance, starts)
    raised = train[starts] & (highest > relevance[starts])
    found = np.empty(len(entries), COPY)
    found["block"], found["row"] = block, entries["row"]
    found["number"] = np.where(place == 0, RAISED, np.where(train, LEFT_OUT, place + 1))
    found["relevance"] = highest[group]
    return part, found[(place > 0) | raised[group]]


def contested(part: Range) -> tuple[Range, np.ndarray]:
    """All rows of each id that the source gives to more than one text: (F,) CONTESTED."""
    entries, block = hashes.in_groups(hashes.read(part))
    if not len(entries):
        return part, np.empty(0, CONTESTED)
    starts, group = hashes.groups(entries)
    several = np.logical_or.reduceat(entries["text"] != entries["text"][starts][group], starts)[group]
    found = np.empty(int(several.sum()), CONTESTED)
    found["block"] = block[several]
    for name in ("row", "field", "high", "low", "text"):
        found[name] = entries[name][several]
    return part, found


class Refused:
    """The rows of contested ids that must go: an id stands for the text of the first row that stays.

    Of all ids only the contested ones are held; each of them costs at least one bad row.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._known: dict[tuple[int, int], int] = {}

    def of(self, block: int) -> dict[int, int]:
        """The bad rows of a block, and for each the field whose id it is. Blocks are asked for in their order."""
        found = self._found.of(block, CONTESTED)
        refused: dict[int, int] = {}
        by_row: dict[int, list[tuple[int, tuple[int, int], int]]] = {}
        for _, row, field, high, low, text in found[np.lexsort((found["field"], found["row"]))].tolist():
            by_row.setdefault(row, []).append((field, (high, low), text))
        for row, names in by_row.items():
            bad = next((field for field, name, text in names if self._known.get(name, text) != text), None)
            if bad is not None:
                refused[row] = bad
                continue
            self._known.update((name, text) for _, name, text in names)
        return refused


def renamed(part: Range) -> tuple[Range, np.ndarray]:
    """Rows whose document id stands for another text in the file of another split, and how often that split's name is
    put behind it: (F,) NUMBERED."""
    found = []
    every = hashes.blocks_of(part.folder)
    splits = [block.name.partition("-")[0] for block in every]
    for entries, block in hashes.alike(hashes.read(part)):
        first = entries[0]
        if (entries["text"] == first["text"]).all() and (entries["own"] == first["own"]).all():
            continue
        if (entries["own"] == first["own"]).all():
            times = (entries["text"] != first["text"]).astype(np.uint32)
        else:
            ids = _written(part.folder, every, "document_id", entries, block)
            named: dict[str, int] = {}
            times = np.zeros(len(entries), np.uint32)
            for place, (own, text, number) in enumerate(zip(entries["own"].tolist(), entries["text"].tolist(), block)):
                document = ids[own]
                while named.setdefault(document, text) != text:
                    document = f"{document}~{splits[number]}"
                    times[place] += 1
        found.append(_numbered(entries, block, times, times > 0))
    return part, np.concatenate([np.empty(0, NUMBERED), *found])


def numbered(part: Range) -> tuple[Range, np.ndarray]:
    """Records whose id an earlier one of their split has, and the number that is put behind it: (F,) NUMBERED."""
    found = []
    every = hashes.blocks_of(part.folder)
    for entries, block in hashes.alike(hashes.read(part)):
        owns = np.unique(entries["own"])
        if len(owns) == len(entries):
            continue
        if len(owns) == 1:
            numbers = np.arange(1, len(entries) + 1, dtype=np.uint32)
        else:
            ids = _written(part.folder, every, "id", entries, block)
            times: dict[str, int] = {}
            numbers = np.array([_number(ids[own], times) for own in entries["own"].tolist()], np.uint32)
        found.append(_numbered(entries, block, numbers, numbers > 1))
    return part, np.concatenate([np.empty(0, NUMBERED), *found])


def _number(record: str, times: dict[str, int]) -> int:
    """Which record of its id this is: 1, or the next number that makes an id which no record has yet."""
    own = record
    while own == record or own in times:
        number = times[record] = times.get(record, 0) + 1
        if number == 1:
            return 1
        own = f"{record}~{number}"
    times[own] = 1
    return number


def _numbered(entries: np.ndarray, block: np.ndarray, numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    found = np.empty(int(wanted.sum()), NUMBERED)
    found["block"], found["row"], found["number"] = block[wanted], entries["row"][wanted], numbers[wanted]
    return found


def _written(
    folder: Path, every: list[Block], column: str, entries: np.ndarray, block: np.ndarray
) -> Mapping[int, str]:
    """The ids of some entries by their hash, read where the rows are: few groups hold several."""
    _, firsts = np.unique(entries["own"], return_index=True)
    ids: dict[int, str] = {}
    for number in np.unique(block[firsts]).tolist():
        mine = [place for place in firsts.tolist() if block[place] == number]
        values = rows_at(folder, every[number], entries["row"][mine], [column])
        ids |= zip(entries["own"][mine].tolist(), values[column].to_pylist())
    return ids


def rows_at(folder: Path, block: Block, rows: np.ndarray, columns: list[str]) -> pa.Table:
    """Some rows of a block, in the order asked for."""
    with pa.OSFile(str(folder / f"{block.name}.arrow")) as file, pa.ipc.open_stream(file) as batches:
        found, start = [], 0
        order = np.argsort(rows, kind="stable")
        ascending = rows[order].astype(np.int64)
        for batch in batches:
            first, end = np.searchsorted(ascending, (start, start + len(batch)))
            found.append(batch.select(columns).take(pa.array(ascending[first:end] - start)))
            start += len(batch)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.Table.from_batches(found).take(pa.array(back))

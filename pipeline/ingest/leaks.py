"""Training records whose text stands in valid or test too: what is learnt by heart there is no measure of reading.

Documents of a collection are shared by design, so of a pair the query counts where rankings are measured, and the pair,
in either order, where only grades are.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.core.errors import InputError

HELD_OUT = ("test", "valid")
READ = "texts-read.npy"  # in a trained folder: numbers that stand for the texts of all trainings that led to it
SHOWN = 80  # characters of a text in a sentence
_WORDS = re.compile(r"\w+")
_NO_WORD = {code: None for code in range(128) if not _WORDS.match(chr(code))}
_AT_ONCE = 1 << 14


class Leak(NamedTuple):
    """A training record and the one that it gives away."""

    record: str
    split: str
    other: str
    text: str


def compared(config: Config) -> tuple[str, ...]:
    """The fields by which two records of a task count as the same."""
    spec = config.spec
    return spec.same_by(config) if spec.same_by else (next(iter(spec.fields)),)


def normalized(text: str) -> str:
    """A text without what two copies of it may differ in: case, spacing, punctuation, forms of Unicode.

    >>> normalized("I ca n't  AGREE .") == normalized("I can't agree") == "icantagree"
    True
    """
    if text.isascii():
        return text.lower().translate(_NO_WORD) or text.strip()
    return "".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def number(texts: Sequence[str]) -> int:
    """64 bits that stand for the normalized texts, in any order, by which a record is compared."""
    forms = map(normalized, texts)
    together = "\n".join(sorted(forms) if len(texts) > 1 else forms).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(together, digest_size=8).digest(), "big")


class Numbers:
    """The numbers of records as they are written, so that nothing is read again: a file per split, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}

    def add(self, split: str, numbers: np.ndarray) -> None:
        """Adds (N,) uint64, of a split's next records."""
        if split not in self._files:
            self._files[split] = (self._folder / f"{split}.numbers").open("wb")
        numbers.astype("<u8").tofile(self._files[split])

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def read(self, split: str) -> Iterator[np.ndarray]:
        """All of a split, some at a time."""
        if (path := self._folder / f"{split}.numbers").exists():
            mapped = np.memmap(path, "<u8", "r")
            yield from (mapped[start : start + _AT_ONCE] for start in range(0, len(mapped), _AT_ONCE))


def check(config: Config, folder: Path, counts: dict[str, Any], known: Numbers | None = None) -> dict[str, Any]:
    """Counts an ingest's leaks and does with them what `ingest.leaks` says.

    Args:
        known: the numbers of all records, where they were counted before.

    Returns:
        The counts, where there are any with `leaks`: `rows` of train, texts of `test` and `valid`, and an `example`.

    Raises:
        InputError: there are some, and they are to be refused.
    """
    fields = compared(config)
    read = known.read if known is not None else lambda split: _numbers(folder, split, fields)
    held_out = {split: _distinct(read(split)) for split in HELD_OUT}
    leaked: dict[str, list[np.ndarray]] = {split: [np.empty(0, np.uint64)] for split in HELD_OUT}
    rows: list[np.ndarray] = []
    start, example = 0, None
    for train in read("train"):
        within = {split: _among(train, numbers) for split, numbers in held_out.items()}
        places = np.flatnonzero(np.logical_or.reduce(list(within.values())))
        for split, mask in within.items():
            leaked[split].append(np.unique(train[mask]))
        if example is None and len(places):
            first = int(places[0])
            example = (start + first, next(split for split in HELD_OUT if within[split][first]), train[first])
        rows.append(start + places)
        start += len(train)
    if example is None:
        return counts
    all_rows = np.concatenate(rows)
    leaks = {
        "rows": len(all_rows), **{split: len(np.unique(np.concatenate(some))) for split, some in leaked.items()},
        "example": _leak(folder, *example, read, fields)._asdict(),
    }  # fmt: skip
    if config.ingest.leaks == "refuse":
        raise InputError(
            f"{sentence(leaks, config)}: take them out of the training data, or set ingest.leaks=put_aside"
        )
    counts = {**counts, "leaks": leaks}
    if config.ingest.leaks == "put_aside":
        _leave_out(folder, all_rows)
        records, left_out = counts["records"], len(all_rows)
        splits = {**records["splits"], "train": records["splits"]["train"] - left_out}
        counts["records"] = {
            **records, "splits": splits, "kept": records["kept"] - left_out,
            "duplicates": records["duplicates"] + left_out,
        }  # fmt: skip
    return counts


def _distinct(numbers: Iterable[np.ndarray]) -> np.ndarray:
    """Ascending."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *numbers]))


def _among(numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some numbers are among others, which ascend and may be many more."""
    if not len(others):
        return np.zeros(len(numbers), bool)
    return others[np.minimum(np.searchsorted(others, numbers), len(others) - 1)] == numbers


def _leak(
    folder: Path, place: int, split: str, shared: int, read: Callable[[str], Iterable[np.ndarray]],
    fields: tuple[str, ...],
) -> Leak:  # fmt: skip
    """The training record at a place, and the last one of another split that has its number."""
    start = other = 0
    for numbers in read(split):
        if len(where := np.flatnonzero(numbers == shared)):
            other = start + int(where[-1])
        start += len(numbers)
    record, text = _shown(folder, "train", place, fields)
    return Leak(record, split, _shown(folder, split, other, fields)[0], text)


def sentence(leaks: dict[str, Any], config: Config) -> str:
    """What was found, without a full stop."""
    example, what = leaks["example"], " and ".join(compared(config))
    both = ", ".join(f"{leaks[split]:,} of {split}" for split in HELD_OUT if leaks[split])
    return (
        f"{leaks['rows']:,} records of the train split have the {what} of another split ({both}), but for case, "
        f"spacing and punctuation; the first is {example['record']}, as {example['other']} of {example['split']}: "
        f"{example['text']!r}"
    )


def read_before(
    config: Config, folder: Path, started: Path | None, setting: str = "train.start_from"
) -> tuple[np.ndarray, str | None]:
    """The texts that a training over an ingested folder reads, and those that the one it starts from has read.

    Args:
        started: the trained folder that it starts from, or that `setting` names to work with; one of an older version
            says nothing of its texts.

    Returns:
        (N,) uint64 ascending; and, where that other training has read texts of valid or test, a sentence.

    Raises:
        InputError: it has, and ingest.leaks is refuse.
    """
    fields = compared(config)
    own = _distinct(_numbers(folder, "train", fields))
    if started is None or not (started / READ).exists():
        return own, None
    before = np.load(started / READ, allow_pickle=False)
    counts = {}
    for split in HELD_OUT:
        texts = _distinct(_numbers(folder, split, fields))
        counts[split] = int(np.isin(texts, before).sum())
    together = np.union1d(own, before)
    if not any(counts.values()):
        return together, None
    both = ", ".join(f"{count:,} of {split}" for split, count in counts.items() if count)
    message = (
        f"the training that {setting}={started} is from has read texts of this one's held-out splits ({both}), "
        "but for case, spacing and punctuation"
    )
    if config.ingest.leaks == "refuse":
        raise InputError(f"{message}: take one that has not, or set ingest.leaks=warn")
    return together, f"warning: {message}; what is measured on them says little about unseen text"


def _numbers(folder: Path, split: str, fields: tuple[str, ...]) -> Iterator[np.ndarray]:
    """The numbers of a split's records, read from its file."""
    with pq.ParquetFile(folder / f"records-{split}.parquet", pre_buffer=False) as file:
        for group in range(file.num_row_groups):  # of bounded size
            table = file.read_row_group(group, columns=list(fields))
            texts = zip(*(table[field].to_pylist() for field in fields))
            yield np.fromiter(map(number, texts), np.uint64, len(table))


def _shown(folder: Path, split: str, place: int, fields: tuple[str, ...]) -> tuple[str, str]:
    """A record's id and text."""
    with pq.ParquetFile(folder / f"records-{split}.parquet", pre_buffer=False) as file:
        group = 0
        while place >= (rows := file.metadata.row_group(group).num_rows):
            place, group = place - rows, group + 1
        table = file.read_row_group(group, columns=["id", *fields]).slice(place, 1)
    text = " / ".join(table[field][0].as_py() for field in fields)
    return table["id"][0].as_py(), text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _leave_out(folder: Path, rows: np.ndarray) -> None:
    """Writes the training records anew, without those at `rows`."""
    path = folder / "records-train.parquet"
    aside, start = path.with_name(f".{path.name}"), 0
    with (
        pq.ParquetFile(path, pre_buffer=False) as file,
        pq.ParquetWriter(aside, file.schema_arrow, compression="zstd", write_statistics=False) as writer,
    ):
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            mask = ~np.isin(np.arange(start, start + len(table)), rows)
            start += len(table)
            writer.write_table(table.filter(pa.array(mask)))
    aside.rename(path)

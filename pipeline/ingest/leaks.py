"""Training records whose text stands in valid or test too: what is learnt by heart there is no measure of reading.

Documents of a collection are shared by design, so of a pair the query counts where rankings are measured, and the pair,
in either order, where only grades are.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.core.errors import InputError

HELD_OUT = ("test", "valid")
READ = "texts-read.npy"  # in a trained folder: numbers that stand for the texts of all trainings that led to it
SHOWN = 80  # characters of a text in a sentence
_WORDS = re.compile(r"\w+")


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
    return "".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def check(config: Config, folder: Path, counts: dict[str, Any]) -> dict[str, Any]:
    """Counts an ingest's leaks and does with them what `ingest.leaks` says.

    Returns:
        The counts, where there are any with `leaks`: `rows` of train, texts of `test` and `valid`, and an `example`.

    Raises:
        InputError: there are some, and they are to be refused.
    """
    fields = compared(config)
    held_out = {split: dict(_keys(folder, split, fields)) for split in HELD_OUT}
    leaked_keys: dict[str, set[int]] = {split: set() for split in HELD_OUT}
    rows, example = [], None
    for place, (key, record) in enumerate(_keys(folder, "train", fields)):
        where = [split for split in HELD_OUT if key in held_out[split]]
        for split in where:
            leaked_keys[split].add(key)
        if where:
            rows.append(place)
            example = example or (record, where[0], held_out[where[0]][key])
    if example is None:
        return counts
    record, split, other = example
    leak = Leak(record, split, other, _text(folder, rows[0], fields))
    leaks = {"rows": len(rows), **{name: len(keys) for name, keys in leaked_keys.items()}, "example": leak._asdict()}
    if config.ingest.leaks == "refuse":
        raise InputError(
            f"{sentence(leaks, config)}: take them out of the training data, or set ingest.leaks=put_aside"
        )
    counts = {**counts, "leaks": leaks}
    if config.ingest.leaks == "put_aside":
        _leave_out(folder, np.array(rows))
        records = counts["records"]
        splits = {**records["splits"], "train": records["splits"]["train"] - len(rows)}
        counts["records"] = {
            **records, "splits": splits, "kept": records["kept"] - len(rows),
            "duplicates": records["duplicates"] + len(rows),
        }  # fmt: skip
    return counts


def sentence(leaks: dict[str, Any], config: Config) -> str:
    """What was found, without a full stop."""
    example, what = leaks["example"], " and ".join(compared(config))
    both = ", ".join(f"{leaks[split]:,} of {split}" for split in HELD_OUT if leaks[split])
    return (
        f"{leaks['rows']:,} records of the train split have the {what} of another split ({both}), but for case, "
        f"spacing and punctuation; the first is {example['record']}, as {example['other']} of {example['split']}: "
        f"{example['text']!r}"
    )


def read_before(config: Config, folder: Path, started: Path | None) -> tuple[np.ndarray, str | None]:
    """The texts that a training over an ingested folder reads, and those that the one it starts from has read.

    Args:
        started: the trained folder that it starts from; one of an older version says nothing of its texts.

    Returns:
        (N,) uint64 ascending; and, where that other training has read texts of valid or test, a sentence.

    Raises:
        InputError: it has, and ingest.leaks is refuse.
    """
    fields = compared(config)
    own = np.fromiter((key for key, _ in _keys(folder, "train", fields)), np.uint64)
    if started is None or not (started / READ).exists():
        return np.unique(own), None
    before = np.load(started / READ, allow_pickle=False)
    counts = {}
    for split in HELD_OUT:
        texts = np.unique(np.fromiter((key for key, _ in _keys(folder, split, fields)), np.uint64))
        counts[split] = int(np.isin(texts, before).sum())
    together = np.union1d(own, before)
    if not any(counts.values()):
        return together, None
    both = ", ".join(f"{count:,} of {split}" for split, count in counts.items() if count)
    message = (
        f"the training that train.start_from={started} is from has read texts of this one's held-out splits ({both}), "
        "but for case, spacing and punctuation"
    )
    if config.ingest.leaks == "refuse":
        raise InputError(f"{message}: start from one that has not, or set ingest.leaks=warn")
    return together, f"warning: {message}; what is measured on them says little about unseen text"


def _keys(folder: Path, split: str, fields: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Of each record a number that stands for its normalized text, and its id."""
    with pq.ParquetFile(folder / f"records-{split}.parquet", pre_buffer=False) as file:
        for group in range(file.num_row_groups):  # of bounded size
            table = file.read_row_group(group, columns=["id", *fields])
            texts = zip(*(map(normalized, table[field].to_pylist()) for field in fields))
            for record, parts in zip(table["id"].to_pylist(), texts):
                digest = hashlib.blake2b("\n".join(sorted(parts)).encode("utf-8"), digest_size=8).digest()
                yield int.from_bytes(digest, "big"), record


def _text(folder: Path, place: int, fields: tuple[str, ...]) -> str:
    table = pq.read_table(folder / "records-train.parquet", columns=list(fields)).slice(place, 1)
    text = " / ".join(table[field][0].as_py() for field in fields)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


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

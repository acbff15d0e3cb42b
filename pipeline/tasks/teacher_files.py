"""A teacher's vectors of texts and its scores of pairs, read from files that any program may have made.

Vectors: Parquet with a column `vector` (a list of numbers) and one of `query_id`, `document_id` and `text`, which says
whose they are; or npz (np.savez) with `vectors` (N, D) and one of `query_ids`, `document_ids` and `texts`. Scores:
Parquet with `query_id`, `document_id` and `score`; or npz with `query_ids`, `document_ids` and `scores`, (P,) each.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError, one_line

KEYS = ("query_id", "document_id", "text")
LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
ROWS = 10_000  # read at once
BROKEN = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, pa.ArrowException)


class Part(NamedTuple):
    """Some of a file's vectors."""

    kind: str  # of KEYS
    keys: list[str]
    vectors: np.ndarray  # (n, D) float32 of length 1


def vectors(path: Path) -> Iterator[Part]:
    """A file of vectors, part by part.

    Raises:
        InputError: it cannot be read, a vector has another width than the first, or is not finite, or is all zeros.
    """
    width = 0
    with _sentence("teach.vectors", path, "a column vector and one of query_id, document_id and text",
                   "vectors and one of query_ids, document_ids and texts"):  # fmt: skip
        for kind, keys, values, widths in _npz(path) if path.suffix == ".npz" else _parquet(path):
            width = width or int(widths[0])
            if (other := np.flatnonzero(widths != width)).size:
                raise InputError(
                    f"teach.vectors: {path} has a vector of {int(widths[other[0]])} numbers for "
                    f"{shown(keys[other[0]])} and one of {width} before it: give all of one width"
                )
            yield part("teach.vectors", path, kind, keys, values.reshape(len(keys), width))


def part(setting: str, path: Path, kind: str, keys: list[str], values: np.ndarray) -> Part:
    """(n, D) vectors brought to length 1. Raises InputError where one is not finite, or all zeros."""
    rows = values.astype(np.float64)
    lengths = np.sqrt((rows * rows).sum(axis=1))
    if (wrong := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))).size:
        raise InputError(
            f"{setting}: {path} has a vector that is not finite, or all zeros, for {shown(keys[wrong[0]])} "
            f"({len(wrong)} such among {len(keys)})"
        )
    return Part(kind, keys, (rows / lengths[:, None]).astype(np.float32))


def scores(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """A file of scores: ids of queries and of documents and (P,) float64.

    Raises:
        InputError: it cannot be read, or a score is not finite.
    """
    names = ("query_id", "document_id", "score")
    with _sentence("teach.scores", path, ", ".join(names), "query_ids, document_ids and scores"):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                columns = [arrays[f"{name}s"].tolist() for name in names]
        else:
            table = pq.ParquetFile(path).read(columns=list(names))
            columns = [table[name].to_pylist() for name in names]
        queries, documents = ([str(key) for key in column] for column in columns[:2])
        values = np.array(columns[2], np.float64)
        if not len(queries) == len(documents) == len(values):
            raise ValueError(f"{len(queries)} queries, {len(documents)} documents and {len(values)} scores")
    if (wrong := np.flatnonzero(~np.isfinite(values))).size:
        pair = f"{queries[wrong[0]]!r} and {documents[wrong[0]]!r}"
        raise InputError(f"teach.scores={path}: the score of {pair} is not a finite number ({len(wrong)} such)")
    return queries, documents, values


def shown(key: str) -> str:
    """A text or an id as a sentence has it.

    >>> shown("a" * 100) == repr("a" * 59 + "…")
    True
    """
    return repr(key if len(key) <= 60 else f"{key[:59]}…")


@contextlib.contextmanager
def _sentence(setting: str, path: Path, columns: str, arrays: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise InputError(
            f"{setting}: {path} cannot be read ({one_line(error)}): it must be Parquet with {columns}, or npz with "
            f"{arrays}"
        ) from None


def _kind(path: Path, names: list[str]) -> str:
    """Which of KEYS a file has. Raises ValueError where it is not one."""
    found = [key for key in KEYS if key in names]
    if len(found) != 1:
        raise ValueError(f"it has {' and '.join(found) or 'none'} of {', '.join(KEYS)}")
    return found[0]


def _parquet(path: Path) -> Iterator[tuple[str, list[str], np.ndarray, np.ndarray]]:
    """Kind, keys, all numbers one after the other, and how many each key has."""
    with pq.ParquetFile(path) as file:
        kind = _kind(path, file.schema_arrow.names)
        for batch in file.iter_batches(ROWS, columns=[kind, "vector"]):
            keys, column = [str(key) for key in batch[kind].to_pylist()], batch["vector"]
            if not len(keys):
                continue
            if batch[kind].null_count:
                raise ValueError(f"a {kind} is null")
            if not any(of(column.type) for of in LISTS):
                raise ValueError(f"its column vector is of {column.type}")
            if pa.types.is_fixed_size_list(column.type):
                column = column.cast(pa.list_(column.type.value_type))
            widths = np.asarray(column.value_lengths().fill_null(0))
            yield kind, keys, column.flatten().to_numpy(zero_copy_only=False), widths


def _npz(path: Path) -> Iterator[tuple[str, list[str], np.ndarray, np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        kind = _kind(path, [name.removesuffix("s") for name in arrays.files])
        keys, values = [str(key) for key in arrays[f"{kind}s"].tolist()], arrays["vectors"]
    if values.ndim != 2 or len(values) != len(keys):
        raise ValueError(f"vectors of the shape {values.shape} for {len(keys)} {kind}s")
    for start in range(0, len(keys), ROWS):
        part = values[start : start + ROWS]
        yield kind, keys[start : start + ROWS], part.reshape(-1), np.full(len(part), values.shape[1])

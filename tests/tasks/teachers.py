"""Teachers of pairs for tests: the meaning of a text is the sum of its words' drawn vectors."""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH = 16


def vectors_of(texts: Iterable[str], meaning: Callable[[str], str] = str, width: int = WIDTH) -> np.ndarray:
    """(N, width) float32; words of one meaning have one vector."""
    of = lambda word: np.random.default_rng(zlib.crc32(meaning(word).encode())).normal(size=width)
    return np.array([sum(map(of, text.split()), np.zeros(width)) for text in texts], np.float32)


def written(path: Path, keys: list[str], vectors: np.ndarray, kind: str = "text") -> str:
    """A file of vectors."""
    if path.suffix == ".npz":
        np.savez(path, **{f"{kind}s": keys}, vectors=vectors)
    else:
        pq.write_table(pa.table({kind: keys, "vector": [row.tolist() for row in vectors]}), path)
    return str(path)


def scored(path: Path, rows: list[tuple[str, str, float]]) -> str:
    """A file of the scores of pairs of ids."""
    columns = dict(zip(("query_id", "document_id", "score"), map(list, zip(*rows))))
    pq.write_table(pa.table(columns), path)
    return str(path)


def records(ingested: Path, *splits: str) -> list[dict[str, Any]]:
    """The records of some splits, one after the other."""
    return [row for split in splits for row in pq.read_table(ingested / f"records-{split}.parquet").to_pylist()]


def texts(rows: list[dict[str, Any]]) -> list[str]:
    """The distinct texts of both sides."""
    return list(dict.fromkeys(text for row in rows for text in (row["query"], row["document"])))


def for_all_pairs(rows: list[dict[str, Any]], meaning: Callable[[str], str] = str) -> list[tuple[str, str, float]]:
    """Cosines of each query with each document."""
    sides = [dict(zip((row[f"{side}_id"] for row in rows), (row[side] for row in rows)))
             for side in ("query", "document")]  # fmt: skip
    units = [(v := vectors_of(side.values(), meaning)) / np.linalg.norm(v, axis=1, keepdims=True) for side in sides]
    scores = units[0] @ units[1].T
    return [(q, d, float(scores[i, j])) for i, q in enumerate(sides[0]) for j, d in enumerate(sides[1])]

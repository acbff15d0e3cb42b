"""A teacher's scores of texts, read from a file that any program may have made, in the order of a split's records.

Parquet: a column `id` and one per label, named as the labels are. npz (np.savez): `ids` (N,), `names` (C,) and `scores`
(N, C). Scores are logits, or probabilities, which are told by being that in every row.
"""

import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError, one_line
from pipeline.tokenization import shards

NAME = "teacher.npy"  # (N, C) float32 logits of the training split, in a folder of the stage
LEAST = 1e-6  # probability, so that no logit is infinite
SHOWN = 3  # ids that a sentence names


class Teacher(NamedTuple):
    """What a file says of N texts."""

    path: Path
    ids: list[str]
    logits: np.ndarray  # (N, C) float32, in the order of the labels

    def of(self, split: shards.Split) -> tuple[np.ndarray, np.ndarray]:
        """Which of a split's records the file has, (N,) bool, and their logits (those, C)."""
        places = {key: row for row, key in enumerate(self.ids)}
        rows = np.array([places.get(key, -1) for key in split.ids], np.int64)
        return rows >= 0, self.logits[rows[rows >= 0]]


def read(path: Path, names: list[str]) -> Teacher:
    """Reads a file whose scores are of the labels `names`.

    Raises:
        InputError: it cannot be read, lacks a label, has one too many or an id twice, or a score that is not finite.
    """
    try:
        ids, labels, scores = _npz(path) if path.suffix == ".npz" else _parquet(path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
        raise InputError(
            f"teach.scores={path} cannot be read ({one_line(error)}): it must be Parquet with a column id and one per "
            "label, or an npz with ids, names and scores"
        ) from None
    if missing := sorted(set(names) - set(labels)):
        raise InputError(f"teach.scores={path} has no scores of the label {missing[0]!r} (it has {', '.join(labels)})")
    if more := sorted(set(labels) - set(names)):
        raise InputError(f"teach.scores={path} has scores of {more[0]!r}, which is not a label of the training split")
    if twice := next((key for key, count in Counter(ids).items() if count > 1), None):
        raise InputError(f"teach.scores={path} has the id {twice!r} twice: give each text's scores once")
    if scores.shape != (len(ids), len(labels)):
        raise InputError(
            f"teach.scores={path} has scores of the shape {scores.shape} for {len(ids)} ids and {len(labels)} labels"
        )
    wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(wrong):
        raise InputError(
            f"teach.scores={path}: a score of {ids[wrong[0]]!r} is not a finite number ({len(wrong)} such)"
        )
    scores = scores[:, [labels.index(name) for name in names]]
    if len(scores) and (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        scores = np.log(np.maximum(scores, LEAST))
    return Teacher(path, ids, scores.astype(np.float32))


def of_all(teacher: Teacher, split: shards.Split) -> np.ndarray:
    """(N, C) logits of a split's records. Raises InputError where the file lacks one."""
    scored, logits = teacher.of(split)
    if not scored.all():
        lost = [split.ids[int(row)] for row in np.flatnonzero(~scored)[:SHOWN]]
        raise InputError(
            f"teach.scores={teacher.path} lacks {int((~scored).sum()):,} of {len(scored):,} records of the train split "
            f"({', '.join(map(repr, lost))}{', …' if (~scored).sum() > SHOWN else ''}): score all of them; the ids are "
            "those of records-train.parquet"
        )
    return logits


def _parquet(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    table = pq.ParquetFile(path).read()
    names = [name for name in table.column_names if name != "id"]
    ids = [str(key) for key in table["id"].to_pylist()]
    columns = [np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64) for name in names]
    return ids, names, np.stack(columns, axis=1)


def _npz(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        ids, names, scores = (arrays[name] for name in ("ids", "names", "scores"))
    return [str(key) for key in ids.tolist()], [str(name) for name in names.tolist()], np.asarray(scores, np.float64)

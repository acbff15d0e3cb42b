"""Which passages hold what: for each of some ids (a term, a cluster of vectors) its passages, as arrays in files."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import atomic_files, mapped_memory

WINDOW = 1 << 20  # entries of an array that is being written that are in memory at once


class Counted(NamedTuple):
    """How often each id stands in each of some passages: an entry per passage and id of it."""

    rows: np.ndarray  # (n,) int64, the passage's row in the collection, ascending
    words: np.ndarray  # (n,) int64, ids
    times: np.ndarray  # (n,) float32
    lengths: np.ndarray  # (n,) int64, ids that the entry's passage holds
    passages: int  # those without an id included


def count(ids: np.ndarray, words: np.ndarray, offsets: np.ndarray, here: np.ndarray, first: int) -> Counted:
    """Counts some of a segment's passages.

    Args:
        ids: the collection's id of each of the segment's words, -1: not counted; words, offsets: the segment's,
            passage after passage.
        here: (p,) the passages to count, ascending; first: the row of the segment's first passage in the collection.
    """
    lengths = np.diff(offsets)[here]
    total = int(lengths.sum())
    # word after word of the passages to count: where it stands among the segment's words
    places = np.arange(total) + np.repeat(offsets[here] - (np.cumsum(lengths) - lengths), lengths)
    word_ids = ids[words[places]] if total else np.zeros(0, np.int64)
    owners = np.repeat(np.arange(len(here)), lengths)[word_ids >= 0]
    lengths = np.bincount(owners, minlength=len(here))
    size = int(ids.max(initial=0)) + 1
    entries, times = np.unique(owners * size + word_ids[word_ids >= 0], return_counts=True)
    passage = entries // size
    return Counted(here[passage] + first, entries % size, times.astype(np.float32), lengths[passage], len(here))


def write(
    counted: Callable[[], Iterable[Counted]], starts: np.ndarray, into: Mapping[Path, type],
    values: Callable[[Counted, np.ndarray], tuple[np.ndarray, ...]],
) -> None:  # fmt: skip
    """Writes arrays in which the entries of an id stand together, in the order of the passages.

    Args:
        counted: the passages, part after part in their order.
        starts: (ids + 1,) where each id's entries begin.
        into: the file and the type of each array.
        values: of a part, and the order that sorts it by ids, what goes into each array.
    """
    for path, kind in into.items():
        atomic_files.mapped_array(path, kind, (int(starts[-1]),))
    free = starts[:-1].copy()
    for part in counted() if starts[-1] else ():
        order = np.argsort(part.words, kind="stable")
        word = part.words[order]
        counts = np.bincount(word, minlength=len(free))
        before = np.cumsum(counts) - counts
        places = free[word] + np.arange(len(word)) - before[word]
        free += counts
        for path, array in zip(into, values(part, order)):
            _put(path, places, array)


def _put(path: Path, places: np.ndarray, values: np.ndarray) -> None:
    """Writes values to ascending places of an array in a file, of which a window at a time is in memory."""
    array = np.load(path, mmap_mode="r+", allow_pickle=False)
    for part in np.split(np.arange(len(places)), np.searchsorted(places, range(WINDOW, len(array), WINDOW))):
        if len(part):
            array[places[part]] = values[part]
            mapped_memory.release_array(array)

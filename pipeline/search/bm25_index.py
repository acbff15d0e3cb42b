"""BM25 over a collection's passages, kept as three arrays and a vocabulary; evaluation.bm25 has the formula."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import atomic_files, mapped_memory
from pipeline.core.errors import InputError
from pipeline.evaluation import bm25
from pipeline.evaluation.analysis import Analyzer

ARRAYS = ("data", "indices", "indptr")
WINDOW = 1 << 20  # entries of an array that is being written that are in memory at once


class WordIndex:
    """Weights by term (CSC over passages, fewer than 2^31); a passage's score is the sum of its weights for the asked.

    Args:
        stemmer: what the terms were made with.

    Attributes:
        analyzer: words to terms.
        vocabulary: term -> id.
        holding: (V,) int, in how many passages a term stands; passages: how many there are.
    """

    def __init__(self, folder: Path, passages: int, stemmer: str) -> None:
        self.analyzer = Analyzer(stemmer)
        self._data, self._indices, self._starts = (
            np.load(folder / f"bm25-{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS
        )
        words = json.loads((folder / "bm25-words.json").read_text(encoding="utf-8"))
        self.vocabulary: dict[str, int] = {word: i for i, word in enumerate(words)}
        if self._starts.shape != (len(self.vocabulary) + 1,) or self._indices.shape != self._data.shape:
            raise ValueError("BM25's arrays differ in length")
        self.holding = np.diff(np.asarray(self._starts))
        self.passages = passages

    def scores(self, words: Iterable[str]) -> np.ndarray:
        """(P,) float32; a word asked twice counts twice, a stop word and one that is nowhere count nothing."""
        scores = np.zeros(self.passages, np.float32)
        for term in self.analyzer.terms(words):
            if (i := self.vocabulary.get(term)) is not None:
                part = slice(self._starts[i], self._starts[i + 1])
                try:
                    scores[self._indices[part]] += self._data[part]
                except (IndexError, ValueError):
                    raise InputError("the index's words are damaged: delete it and run `duplet index` again") from None
        return scores


class Counted(NamedTuple):
    """How often each word stands in each of some passages: an entry per passage and word of it."""

    rows: np.ndarray  # (n,) int64, the passage's row in the collection, ascending
    words: np.ndarray  # (n,) int64
    times: np.ndarray  # (n,) float32
    lengths: np.ndarray  # (n,) int64, words of the entry's passage
    passages: int  # those without a word included


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


def write(folder: Path, counted: Callable[[], Iterable[Counted]], vocabulary: list[str], k1: float, b: float) -> None:
    """Writes the files that WordIndex reads into `folder`, each term's entries together.

    Args:
        counted: the passages that can be found, part after part in their order; called twice, so that no more than a
            part is held.
        vocabulary: id -> term; terms of no passage take no harm.

    Reference: Lù, "BM25S: orders of magnitude faster lexical search via eager sparse scoring", 2024.
    """
    holding = np.zeros(len(vocabulary), np.int64)
    passages = total = 0
    for part in counted():
        holding += np.bincount(part.words, minlength=len(vocabulary))
        passages += part.passages
        total += int(part.times.sum(dtype=np.int64))
    starts = np.concatenate([[0], np.cumsum(holding)])
    rarity = bm25.rarity(holding, passages)
    average = total / max(1, passages)
    paths = {"data": folder / "bm25-data.npy", "indices": folder / "bm25-indices.npy"}
    for name, kind in (("data", np.float32), ("indices", np.int32)):
        atomic_files.mapped_array(paths[name], kind, (int(starts[-1]),))
    free = starts[:-1].copy()
    for part in counted() if total else ():
        order = np.argsort(part.words, kind="stable")
        word = part.words[order]
        counts = np.bincount(word, minlength=len(vocabulary))
        before = np.cumsum(counts) - counts
        places = free[word] + np.arange(len(word)) - before[word]
        free += counts
        values = bm25.weights(part.times[order], part.lengths[order], average, rarity[word], k1, b)
        for name, array in (("data", values.astype(np.float32)), ("indices", part.rows[order])):
            _put(paths[name], places, array)
    np.save(folder / "bm25-indptr.npy", starts)
    (folder / "bm25-words.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")


def _put(path: Path, places: np.ndarray, values: np.ndarray) -> None:
    """Writes values to ascending places of an array in a file, of which a window at a time is in memory."""
    array = np.load(path, mmap_mode="r+", allow_pickle=False)
    for part in np.split(np.arange(len(places)), np.searchsorted(places, range(WINDOW, len(array), WINDOW))):
        if len(part):
            array[places[part]] = values[part]
            mapped_memory.release_array(array)

"""BM25 over a collection's passages, kept as three arrays and a vocabulary; evaluation.bm25 has the formula."""

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError
from pipeline.evaluation import bm25
from pipeline.evaluation.analysis import Analyzer
from pipeline.search import postings
from pipeline.search.postings import Counted

ARRAYS = ("data", "indices", "indptr")


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

    @cached_property
    def _rarities(self) -> np.ndarray:
        return bm25.rarity(self.holding, self.passages)

    def rarities(self, words: Iterable[str]) -> dict[str, float]:
        """The known terms of a query's words, and how rare each is."""
        terms = [term for term in self.analyzer.terms(words) if term in self.vocabulary]
        return {term: float(self._rarities[self.vocabulary[term]]) for term in terms}

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
    into = {folder / "bm25-data.npy": np.float32, folder / "bm25-indices.npy": np.int32}

    def values(part: Counted, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rare = rarity[part.words[order]]
        return bm25.weights(part.times[order], part.lengths[order], average, rare, k1, b), part.rows[order]

    postings.write(counted, starts, into, values)
    np.save(folder / "bm25-indptr.npy", starts)
    (folder / "bm25-words.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")

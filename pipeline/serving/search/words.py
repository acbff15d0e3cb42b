"""BM25 over a collection's passages, through bm25s, kept as three arrays and a vocabulary."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

K1, B = 1.5, 0.75  # of evaluation's baseline

ARRAYS = ("data", "indices", "indptr")


class WordIndex:
    """Weights by word (CSC over passages); a passage's score is the sum of its weights for the asked words.

    Attributes:
        vocabulary: word -> id.
        holding: (V,) int, in how many passages a word stands.
    """

    def __init__(self, folder: Path, passages: int) -> None:
        self._data, self._indices, self._starts = (
            np.load(folder / f"bm25-{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS
        )
        words = json.loads((folder / "bm25-words.json").read_text(encoding="utf-8"))
        self.vocabulary: dict[str, int] = {word: i for i, word in enumerate(words)}
        self.holding = np.diff(np.asarray(self._starts))
        self._passages = passages

    def scores(self, words: Iterable[str]) -> np.ndarray:
        """(P,) float32; a word asked twice counts twice, one that is nowhere counts nothing."""
        scores = np.zeros(self._passages, np.float32)
        for word in words:
            if (i := self.vocabulary.get(word)) is not None:
                part = slice(self._starts[i], self._starts[i + 1])
                scores[self._indices[part]] += self._data[part]
        return scores


def write(folder: Path, passages: list[list[int]], rows: np.ndarray, vocabulary: list[str]) -> None:
    """Writes the files that WordIndex reads into `folder`.

    Args:
        passages: word ids of each passage that can be found.
        rows: their rows in the collection.
        vocabulary: id -> word; words of no passage take no harm.

    Reference: Lù, "BM25S: orders of magnitude faster lexical search via eager sparse scoring", 2024.
    """
    arrays: dict[str, np.ndarray] = {
        "data": np.zeros(0, np.float32),
        "indices": np.zeros(0, np.int64),
        "indptr": np.zeros(len(vocabulary) + 1, np.int64),
    }
    if any(passages):
        import bm25s

        index = bm25s.BM25(k1=K1, b=B, method="lucene")
        ids = {word: i for i, word in enumerate(vocabulary)}
        index.index((passages, ids), create_empty_token=False, show_progress=False)
        arrays = {name: np.asarray(index.scores[name]) for name in ARRAYS}
        arrays["indices"] = rows[arrays["indices"]].astype(np.int64)
    for name, array in arrays.items():
        np.save(folder / f"bm25-{name}.npy", array)
    (folder / "bm25-words.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")

"""BPE-dropout: the words of a text cut into other pieces each time that training reads it.

SentencePiece's own sampling cannot be repeated: its random numbers belong to the thread. So a text's pieces are joined
to words again, and each word's pieces are merged anew, of all merges that are possible at a time some left out by
chance, the best of the others taken (Provilkov, Emelianenko and Voita, "BPE-dropout: simple and effective subword
regularization", ACL 2020). A word has VARIANTS segmentations, drawn by its letters; which of them stands at a place is
drawn by the update and the text. So no segmentation depends on what else was read, or by how many workers.
"""

import functools
import itertools
import random
from pathlib import Path

import numpy as np

from pipeline.tokenization.encoder import UNKNOWN_ID, load_vocabulary
from pipeline.tokenization.tokenizers import MODEL_NAME, SentencePieceTokenizer

VARIANTS = 64
LONGEST = 24  # characters of a word; a longer one, as a sentence without blanks is, falls apart where its pieces end
KEPT = 1 << 17  # segmentations
BLANK = "▁"


class Segments:
    """Cuts texts of a tokenized folder anew.

    Args:
        dropout: the probability that a possible merge is left out.

    Raises:
        InputError: the folder's vocabulary or SentencePiece model is missing or damaged.
    """

    def __init__(self, folder: Path, dropout: float) -> None:
        ids = load_vocabulary(folder)
        self._dropout, self._ids = dropout, {piece: i for piece, i in ids.items() if i > UNKNOWN_ID}
        self._pieces = [""] * len(ids)
        for piece, i in self._ids.items():
            self._pieces[i] = piece
        self._ranks = SentencePieceTokenizer(folder / MODEL_NAME).scores()  # the higher, the earlier it is merged
        self._cut = functools.lru_cache(KEPT)(self._drawn)

    def anew(self, ids: np.ndarray, limit: int | None, seed: list[int]) -> np.ndarray:
        """(T',) int32: a text's (T,) ids cut anew, at most `limit`; those of unknown tokens stay."""
        words = self._words(ids)
        variants = np.random.default_rng(seed).integers(VARIANTS, size=len(words)).tolist()
        found: list[int] = []
        for word, variant in zip(words, variants):
            found.extend(self._cut(word, variant) if word else (UNKNOWN_ID,))
        return np.array(found[:limit], np.int32)

    def _words(self, ids: np.ndarray) -> list[str]:
        """Of consecutive pieces; "" stands for an unknown one."""
        words: list[str] = []
        for piece in [self._pieces[i] for i in ids.tolist()]:
            joins = words and words[-1] and piece and not piece.startswith(BLANK)
            if joins and len(words[-1]) + len(piece) <= LONGEST:
                words[-1] += piece
            else:
                words.append(piece)
        return words

    def _drawn(self, word: str, variant: int) -> tuple[int, ...]:
        chance = random.Random(f"{variant} {word}").random
        parts = list(word)
        while True:
            merges = [(self._ranks[pair], -at) for at, pair in enumerate(map("".join, itertools.pairwise(parts)))
                      if pair in self._ranks and chance() >= self._dropout]  # fmt: skip
            if not merges:
                return tuple(self._ids.get(part, UNKNOWN_ID) for part in parts)
            at = -max(merges)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]

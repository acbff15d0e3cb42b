"""Baselines of a language model: chances from counts of single tokens and of pairs."""

import numpy as np


def unigram_nats(train: np.ndarray, text: np.ndarray, vocabulary: int) -> np.ndarray:
    """(L - 1,) nats of each token of (L,) `text` but the first, from counts in `train` with one added to each token's.

    >>> unigram_nats(np.array([2, 2, 3]), np.array([2, 3]), 4).round(3)
    array([1.253])
    """
    return -np.log(_chances(train, vocabulary)[text[1:]])


def bigram_nats(train: np.ndarray, text: np.ndarray, vocabulary: int) -> np.ndarray:
    """(L - 1,) nats of each token of (L,) `text` given the one before.

    Pairs counted in `train`, interpolated with the unigram (Witten and Bell 1991): with c(v, w) pairs and t(v) distinct
    followers of v, p(w | v) = (c(v, w) + t(v) p(w)) / (c(v) + t(v)); v that nothing follows has p(w).

    >>> bigram_nats(np.array([2, 3, 2, 3]), np.array([2, 3]), 4).round(3)
    array([0.234])
    """
    before, after = text[:-1].astype(np.int64), text[1:].astype(np.int64)
    pairs, counts = np.unique(train[:-1].astype(np.int64) * vocabulary + train[1:], return_counts=True)
    followers = np.bincount(pairs // vocabulary, minlength=vocabulary)
    seen = np.bincount(train[:-1], minlength=vocabulary)
    wanted = before * vocabulary + after
    place = np.minimum(np.searchsorted(pairs, wanted), max(0, len(pairs) - 1))
    counted = np.where(pairs[place] == wanted, counts[place], 0) if len(pairs) else np.zeros(len(wanted))
    alone = _chances(train, vocabulary)[after]
    total = seen[before] + followers[before]
    chance = (counted + followers[before] * alone) / np.maximum(total, 1)
    return -np.log(np.where(total > 0, chance, alone))


def _chances(train: np.ndarray, vocabulary: int) -> np.ndarray:
    counts = np.bincount(train, minlength=vocabulary) + 1.0
    return counts / counts.sum()


class Trigram:
    """What follows two tokens of a text, by counts; after two never seen together, what follows the last, or any."""

    def __init__(self, train: np.ndarray) -> None:
        """`train`: (L,) int ids, at least one."""
        self._followers: dict[tuple[int, ...], list[int]] = {}
        ids = train.tolist()
        for width in (2, 1, 0):
            for start in range(len(ids) - width):
                self._followers.setdefault(tuple(ids[start : start + width]), []).append(ids[start + width])

    def write(self, length: int, rng: np.random.Generator) -> list[int]:
        """`length` tokens, each drawn from what followed the two before it in the text.

        >>> Trigram(np.array([1, 2, 3, 1, 2, 3, 1])).write(4, np.random.default_rng(0))
        [2, 3, 1, 2]
        """
        tokens: list[int] = []
        for draw in rng.random(length):
            known = next(
                followers
                for width in (2, 1, 0)
                if len(tokens) >= width and (followers := self._followers.get(tuple(tokens[len(tokens) - width :])))
            )
            tokens.append(known[int(draw * len(known))])
        return tokens

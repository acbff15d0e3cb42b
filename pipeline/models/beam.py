"""Beam search over any decoder, in NumPy alone; with a beam of 1 and no length penalty it is greedy.

Whose arrays a state is made of does not matter: `search.search` is for MXNet's, ONNX Runtime's are NumPy's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = Sequence[Any]  # of a row per hypothesis
# last tokens (R,) int32, state, memory -> log probabilities (R, V) of the next token, and the state after them
Step = Callable[[np.ndarray, Arrays, Arrays], tuple[np.ndarray, Arrays]]


class Found(NamedTuple):
    """The best text found for an example."""

    ids: list[int]  # without the border
    score: float  # log probability over length penalty


def length_penalty(length: int | np.ndarray, alpha: float) -> float | np.ndarray:
    """((5 + length) / 6) ** alpha, the border counted: Wu et al., "Google's neural machine translation system", 2016,
    eq. 14. With alpha 0 all lengths are equal.

    >>> length_penalty(1, 0.6)
    1.0
    """
    return ((5 + length) / 6) ** alpha


class _Beam:
    """The hypotheses of one example: those that go on, and the best that has ended."""

    def __init__(self, width: int, limit: int, alpha: float) -> None:
        self.width, self.limit, self.alpha = width, limit, alpha
        self.texts: list[list[int]] = [[]] * width
        self.chances = np.array([0.0] + [-np.inf] * (width - 1))  # (width,) log probabilities; at first all are one
        self.best: Found | None = None

    def extend(self, candidates: np.ndarray, tokens: np.ndarray, parents: np.ndarray, border: int) -> list[int]:
        """Takes the best of (C,) candidates, best first; returns which hypothesis each of the `width` grew from.

        A text ends only where the border is among the `width` best.
        """
        texts: list[list[int]] = []
        chances: list[float] = []
        came_from: list[int] = []
        for place, (chance, token, parent) in enumerate(zip(candidates.tolist(), tokens.tolist(), parents.tolist())):
            if token == border:
                if place < self.width and chance > -np.inf:
                    self._end(self.texts[parent], chance)
            elif len(texts) < self.width:
                texts.append([*self.texts[parent], token])
                chances.append(chance)
                came_from.append(parent)
        self.texts, self.chances = texts, np.array(chances)
        return came_from

    def _end(self, text: list[int], chance: float) -> None:
        score = chance / float(length_penalty(len(text) + 1, self.alpha))
        if self.best is None or score > self.best.score:
            self.best = Found(text, score)

    def done(self) -> bool:
        """Whether none that goes on can become better: a chance only falls, and its penalty is largest at the limit."""
        if len(self.texts[0]) >= self.limit:
            if self.best is None:
                self._end(self.texts[0], float(self.chances[0]))
            return True
        bound = float(self.chances.max()) / float(length_penalty(self.limit + 1, self.alpha))
        return self.best is not None and self.best.score >= bound


def taken(arrays: Arrays, rows: np.ndarray) -> Arrays:
    """The rows of each NumPy array."""
    return [array[rows] for array in arrays]


def search(
    step: Step, state: Arrays, memory: Arrays, limits: np.ndarray, border: int, beam: int = 1, alpha: float = 0.0,
    barred: tuple[int, ...] = (), take: Callable[[Arrays, np.ndarray], Arrays] = taken,
) -> list[Found]:  # fmt: skip
    """The likeliest texts that `step` can write.

    Args:
        state, memory: arrays of a row per example; the memory is only read.
        limits: (N,) tokens at most, at least 1, for each example.
        border: the token that begins and ends a text.
        alpha: of the length penalty.
        barred: tokens that are never written.
        take: (arrays, (R,) rows) -> those rows of each array of a state or a memory.
    """
    beams = [_Beam(beam, int(limit), alpha) for limit in limits]
    active = np.arange(len(beams))
    if beam > 1:
        each = np.repeat(active, beam)
        state, memory = take(state, each), take(memory, each)
    last = np.full(len(beams) * beam, border, np.int32)
    while True:
        chances, state = step(last, state, memory)
        chances[:, list(barred)] = -np.inf
        rows, tokens, places = [], [], []
        for place, example in enumerate(active.tolist()):
            own = beams[example]
            grown = (own.chances[:, None] + chances[place * beam : (place + 1) * beam]).ravel()
            count = min(2 * beam, grown.size)  # enough to go on with `beam` of them if the others end
            top = np.argpartition(-grown, count - 1)[:count]
            top = top[np.lexsort((top, -grown[top]))]
            parents = own.extend(grown[top], top % chances.shape[1], top // chances.shape[1], border)
            if own.done():
                continue
            places.append(place)
            rows += [place * beam + parent for parent in parents]
            tokens += [text[-1] for text in own.texts]
        if not places:
            break
        last = np.array(tokens, np.int32)
        index = np.array(rows, np.int32)
        state = take(state, index)
        if len(places) < len(active):
            memory = take(memory, index)
            active = active[places]
    return [own.best or Found([], 0.0) for own in beams]

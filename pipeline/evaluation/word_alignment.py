"""Which word of a sentence stands for which of its translation, from counts alone: IBM models 1 and 2, both ways.

Brown et al., "The mathematics of statistical machine translation", 1993; the two directions are joined as in Koehn, Och
and Marcu, "Statistical phrase-based translation", 2003.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

ROUNDS = 5  # of expectation and maximization, for each of the two models
_NEAR = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]

Links = set[tuple[int, int]]  # (place in the source, place in the target)


class Lexicon(NamedTuple):
    """Word translation probabilities t(target | source): pairs as `source * targets + target`, ascending."""

    pairs: np.ndarray  # (P,) int64
    chances: np.ndarray  # (P,)
    targets: int

    def chance(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """t(target | source) of ids, elementwise; 0 for pairs that never stood in one sentence pair."""
        wanted = source.astype(np.int64) * self.targets + target
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        return np.where(self.pairs[place] == wanted, self.chances[place], 0.0)


class _Cells(NamedTuple):
    """Every (source word, target word) of every sentence pair; the sentence's source begins with the empty word 0."""

    pair: np.ndarray  # (C,) which pair of words: a row of the lexicon
    place: np.ndarray  # (C,) which (source place, target place, lengths): a row of model 2's table
    column: np.ndarray  # (C,) which target word of all texts together
    source: np.ndarray  # (C,) place in the source, 0 the empty word
    pairs: np.ndarray  # the distinct pairs, as in Lexicon
    place_group: np.ndarray  # for each row of model 2's table, which (target place, lengths) it is of


def _cells(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], vocabulary: int) -> _Cells:
    words, places, columns, at, first = [], [], [], [], 0
    base = 2 + max(len(text) for text in [*sources, *targets])  # above every place and length
    for source, target in zip(sources, targets):
        rows, width = len(source) + 1, len(target)
        begun = np.concatenate([[0], source]).astype(np.int64)
        words.append((begun[:, None] * vocabulary + target[None]).ravel())
        i, j = (part.ravel() for part in np.indices((rows, width)))
        places.append(((j * base + rows) * base + width) * base + i)
        columns.append(first + j)
        at.append(i)
        first += width
    pairs, pair = np.unique(np.concatenate(words), return_inverse=True)
    distinct, place = np.unique(np.concatenate(places), return_inverse=True)
    group = np.unique(distinct // base, return_inverse=True)[1]
    return _Cells(pair, place, np.concatenate(columns), np.concatenate(at), pairs, group)


def align(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], vocabulary: int
) -> tuple[Lexicon, list[np.ndarray]]:
    """IBM model 1, then model 2 from its lexicon: the lexicon, and for each sentence (T,) the place in the source that
    each target word came from, -1 for none.

    Args:
        sources, targets: N pairs of ids from 1 on; 0 is the empty word.
        vocabulary: above the largest id.
    """
    cells = _cells(sources, targets, vocabulary)
    by_source = cells.pairs // vocabulary
    lexicon, place = np.ones(len(cells.pairs)), np.ones(len(cells.place_group))
    for rounds, learns_places in ((ROUNDS, False), (ROUNDS, True)):
        for _ in range(rounds):
            share = _shares(cells, lexicon, place)
            lexicon = _normalised(np.bincount(cells.pair, share, len(lexicon)), by_source)
            if learns_places:  # a little is added to each, so that lengths seen once do not fix every place
                place = _normalised(np.bincount(cells.place, share, len(place)) + 0.05, cells.place_group)
    chosen = np.zeros(int(cells.column[-1]) + 1, np.int64)
    chances = lexicon[cells.pair] * place[cells.place]
    order = np.lexsort((-cells.source, chances))  # of equal chances the earliest place comes last, and stays
    chosen[cells.column[order]] = cells.source[order]
    ends = np.cumsum([len(target) for target in targets])
    return Lexicon(cells.pairs, lexicon, vocabulary), np.split(chosen - 1, ends[:-1])


def _shares(cells: _Cells, lexicon: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(C,) the chance that each target word came from each source word of its sentence."""
    chances = lexicon[cells.pair] * place[cells.place]
    return np.asarray(chances / np.bincount(cells.column, chances)[cells.column])


def _normalised(counts: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.asarray(counts / np.maximum(np.bincount(group, counts), 1e-300)[group])


def joined(forward: np.ndarray, backward: np.ndarray) -> Links:
    """Both directions' links as one set, "grow-diag-final-and": the links of both, their neighbours that either has and
    whose word has none yet, and then links of either between two words without any.

    Args:
        forward: (T,) for each target word its place in the source, -1 for none; backward: (S,) likewise.

    >>> sorted(joined(np.array([0, 1]), np.array([0, -1])))
    [(0, 0), (1, 1)]
    """
    forward_links = {(int(i), j) for j, i in enumerate(forward) if i >= 0}
    backward_links = {(i, int(j)) for i, j in enumerate(backward) if j >= 0}
    links, either = forward_links & backward_links, forward_links | backward_links
    rows, columns = {i for i, _ in links}, {j for _, j in links}
    grown = True
    while grown:
        grown = False
        for i, j in sorted(links):
            for down, right in _NEAR:
                near = (i + down, j + right)
                if near in either and near not in links and (near[0] not in rows or near[1] not in columns):
                    links.add(near)
                    rows.add(near[0])
                    columns.add(near[1])
                    grown = True
    for i, j in sorted(either):
        if i not in rows and j not in columns:
            links.add((i, j))
            rows.add(i)
            columns.add(j)
    return links


def phrases(source: int, target: int, links: Links, longest: int) -> Iterator[tuple[int, int, int, int]]:
    """(i1, i2, j1, j2): source words i1 up to but without i2 with target words j1 up to j2 whose links stay among
    themselves, at least one of them; words without a link may stand at the ends of the target side.

    Args:
        source, target: numbers of words; longest: most words of either side.
    """
    by_source: dict[int, list[int]] = {}
    by_target: dict[int, list[int]] = {}
    for i, j in links:
        by_source.setdefault(i, []).append(j)
        by_target.setdefault(j, []).append(i)
    for i1 in range(source):
        columns: list[int] = []
        for i2 in range(i1 + 1, min(i1 + longest, source) + 1):
            columns += by_source.get(i2 - 1, [])
            if not columns:
                continue
            low, high = min(columns), max(columns) + 1
            if high - low > longest or any(not i1 <= i < i2 for j in range(low, high) for i in by_target.get(j, [])):
                continue
            j1 = low
            while True:
                j2 = high
                while j2 - j1 <= longest:
                    yield i1, i2, j1, j2
                    j2 += 1
                    if j2 > target or j2 - 1 in by_target:
                        break
                j1 -= 1
                if j1 < 0 or j1 in by_target or high - j1 > longest:
                    break

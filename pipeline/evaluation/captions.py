"""Judging captions: BLEU-1 to 4 and CIDEr by pycocoevalcap, and exact matches."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

Tokens = Sequence[str]
BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")


def scores(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> dict[str, float]:
    """Corpus BLEU-1 to 4, 0 to 1, CIDEr, 0 to 10, and the share of exact captions, of N captions with references each.

    Papineni et al. 2002; Vedantam et al., "CIDEr: consensus-based image description evaluation", 2015: document
    frequencies are counted in these references, so that it means nothing for a single image.
    """
    known = {i: [" ".join(tokens) for tokens in several] for i, several in enumerate(references)}
    candidates = {i: [" ".join(caption)] for i, caption in enumerate(captions)}
    bleu, _ = Bleu(4).compute_score(known, candidates, verbose=0)
    cider, _ = Cider().compute_score(known, candidates)
    bleu_scores = dict(zip(BLEU, map(float, bleu)))
    return {"exact": float(exact(captions, references).mean()), **bleu_scores, "cider": float(cider)}


def exact(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """(N,) 1 where a caption's tokens are those of one of its references.

    >>> exact([["a", "dog"], ["a"]], [[["a", "cat"], ["a", "dog"]], [["the"]]])
    array([1., 0.])
    """
    return np.array([float(list(c) in [list(r) for r in known]) for c, known in zip(captions, references)])


def sentence_bleu(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """(N,) BLEU-4 of each caption by itself."""
    known = {i: [" ".join(tokens) for tokens in several] for i, several in enumerate(references)}
    _, each = Bleu(4).compute_score(known, {i: [" ".join(c)] for i, c in enumerate(captions)}, verbose=0)
    return np.array(each[3])


def most_frequent(captions: Sequence[Tokens]) -> Tokens:
    """The caption that stands most often, the first in alphabetical order among equals.

    >>> most_frequent([["b"], ["a"], ["b"], ["a"]])
    ('a',)
    """
    counts = Counter(map(tuple, captions))
    return min(counts, key=lambda caption: (-counts[caption], caption))


def nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(Q,) for each of (Q, …) images the one of (M, …) known with the least squared distance."""
    flat = known.reshape(len(known), -1).astype(np.float32)
    squares = (flat * flat).sum(axis=1)
    step = max(1, 20_000_000 // max(1, len(flat) + flat.shape[1]))
    places = []
    for start in range(0, len(asked), step):
        part = asked[start : start + step].reshape(-1, flat.shape[1]).astype(np.float32)
        places.append((squares - 2 * part @ flat.T).argmin(axis=1))
    return np.concatenate(places) if places else np.zeros(0, int)

"""Which words of a document answered which words of a query."""

from typing import NamedTuple

import numpy as np

from pipeline.search.bm25_index import WordIndex
from pipeline.search.segments import Encodes
from pipeline.serving.predict.scoring import Encoded
from pipeline.tokenization.passages import Span, places_of

# Words of a text that are left out one by one; a longer text is left out in groups of words, so many of them.
MAX_GROUPS = 64


class Side(NamedTuple):
    """A text in pieces (tokens, or groups of them) with their places."""

    text: str
    pieces: list[Span]
    weights: list[float]  # each piece's share of the score, from 0 to 1 for the greatest


class Explanation(NamedTuple):
    kind: str  # "alignment", "occlusion" or "words"
    score: float
    query: Side
    document: Side
    links: np.ndarray  # (query pieces, document pieces) float32; larger: answered more


def explain(encoder: Encodes, query: str, text: str) -> Explanation:
    """Of late interaction, similarities of tokens; of other heads, what leaving words out on both sides does."""
    if encoder.config.model.scored_by.index == "tokens":
        return alignment(encoder, query, text)
    return occlusion(encoder, query, text)


def by_words(index: WordIndex, encoder: Encodes, query: str, text: str) -> Explanation:
    """Without a model: a link is the inverse document frequency of a term that stands on both sides."""
    sides = [_tokens(encoder, side, side_text) for side, side_text in (("query", query), ("document", text))]
    terms = [[index.analyzer.term(side_text[p.start : p.end].lower()) for p in pieces]
             for side_text, pieces in ((query, sides[0]), (text, sides[1]))]  # fmt: skip
    worth = index.rarities([query[p.start : p.end].lower() for p in sides[0]])
    links = np.array([[worth.get(asked or "", 0.0) * (asked == term) for term in terms[1]] for asked in terms[0]],
                     np.float32).reshape(len(sides[0]), len(sides[1]))  # fmt: skip
    weights = [np.array([worth.get(term or "", 0.0) for term in terms[0]]), links.max(axis=0, initial=0)]
    asking, answering = (
        Side(side_text, pieces, _scaled(w)) for side_text, pieces, w in zip((query, text), sides, weights)
    )
    return Explanation("words", float(links.max(axis=1, initial=0).sum()), asking, answering, links)


def alignment(encoder: Encodes, query: str, text: str) -> Explanation:
    """Links are cosines of token vectors; a query token's weight is its learned importance, and a document token's the
    part of the score that comes by way of it (each query token counts its best document token)."""
    q, d = encoder.encode("query", [query]), encoder.encode("document", [text])
    assert q.weights is not None
    links = q.vectors @ d.vectors.T
    shares = q.weights / q.weights.sum()
    best = links.argmax(axis=1)
    through = np.zeros(links.shape[1])
    np.add.at(through, best, np.maximum(0, shares * links.max(axis=1)))
    score = float(encoder.score_all(q, d)[0, 0])
    sides = (_tokens(encoder, "query", query), _tokens(encoder, "document", text))
    return Explanation(
        "alignment", score, Side(query, sides[0], _scaled(shares)), Side(text, sides[1], _scaled(through)), links
    )


def occlusion(encoder: Encodes, query: str, text: str) -> Explanation:
    """A piece's weight is how much the score falls without it; a link is how much less it falls without both.

    With s the score, s_i without query piece i, s_j without document piece j and s_ij without both, the link is
    s - s_i - s_j + s_ij: what the two give together beyond what each gives alone.

    Reference: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014 (occlusion);
    Grabisch and Roubens, "An axiomatic approach to the concept of interaction", 1999 (of two players).
    """
    pieces = [_groups(_tokens(encoder, side, side_text)) for side, side_text in (("query", query), ("document", text))]
    scores = encoder.score_all(
        _without(encoder, "query", query, pieces[0]), _without(encoder, "document", text, pieces[1])
    )
    whole = scores[0, 0]
    links = whole - scores[1:, :1] - scores[:1, 1:] + scores[1:, 1:]
    sides = (
        Side(query, pieces[0], _scaled(np.maximum(0, whole - scores[1:, 0]))),
        Side(text, pieces[1], _scaled(np.maximum(0, whole - scores[0, 1:]))),
    )
    return Explanation("occlusion", float(whole), *sides, links)


def _tokens(encoder: Encodes, side: str, text: str) -> list[Span]:
    """Places of the tokens that the model sees; a text without any stands as one."""
    return places_of(text, encoder.tokens(side, text)) or [Span(0, len(text))]


def _groups(places: list[Span]) -> list[Span]:
    parts = np.array_split(np.arange(len(places)), min(MAX_GROUPS, len(places)))
    return [Span(places[part[0]].start, places[part[-1]].end) for part in parts]


def _without(encoder: Encodes, side: str, text: str, pieces: list[Span]) -> Encoded:
    """The text encoded whole, then without each piece."""
    return encoder.encode(side, [text, *(f"{text[: p.start]} {text[p.end :]}" for p in pieces)])


def _scaled(values: np.ndarray) -> list[float]:
    greatest = float(values.max(initial=0))
    return [round(float(value) / greatest, 4) if greatest > 0 else 0.0 for value in values]

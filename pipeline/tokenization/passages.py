"""Documents cut into passages that the model sees whole, with places of words in their text."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Tokens = Callable[[str], list[str]]  # a text's tokens, at least up to the model's limit

# A run without white space and the white space after it; punctuation of scripts without spaces ends one too.
_CHUNK = re.compile(r"[^\s。！？；，、]+[。！？；，、]*\s*|[。！？；，、]+\s*")
_SENTENCE_END = re.compile(r"[.!?:;]['\")\]]*\s+$|[。！？；]['\")\]]*\s*$|\n\s*$")
_MARKED = re.compile(r"^#{1,6} \S", re.MULTILINE)
# By a document's format (file_formats): where a section of its text begins.
SECTIONS = {
    "markdown": _MARKED,
    "html": _MARKED,
    "word": _MARKED,
    "text": re.compile(r"^\S[^\n]{0,200}\n([=~^#*-])\1{2,}[ \t]*$", re.MULTILINE),  # an underlined line
    "code": re.compile(r"(?<=\n\n)[^\s#/*})\]]"),  # what follows a blank line in the first column
}
JOINED_SHARE = 0.25  # of a passage's tokens: a shorter section is joined with the next
OVERLAP_SHARE = 0.15  # of a passage's tokens, repeated at the beginning of the next
WORDS_REMEMBERED, MAX_WORD = 1 << 16, 40  # words, characters
MAX_CHARACTERS = 20_000  # of a passage: a word of four million letters is one token of some tokenizers
TITLE_SHARE = 0.25  # of the model's tokens, which a title may take at the most


def best_of(scores: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(..., N) scores of documents, of those of their passages, which stand side by side.

    >>> best_of(np.array([1, 5, 3, 2]), np.array([1, 2, 1]))
    array([1, 5, 2])
    """
    if len(parts) == scores.shape[-1]:
        return scores
    return np.asarray(np.maximum.reduceat(scores, np.cumsum(parts) - parts, axis=-1))


class Span(NamedTuple):
    start: int  # characters
    end: int


def remembered(tokens: Tokens) -> Tokens:
    """The tokens of short texts are kept: a collection's words are asked for again and again."""
    short = lru_cache(WORDS_REMEMBERED)(tokens)
    return lambda text: short(text) if len(text) <= MAX_WORD else tokens(text)


def cut(text: str, max_tokens: int, tokens: Tokens, form: str = "") -> list[Span]:
    """Spans of `text` of at most `max_tokens` tokens and MAX_CHARACTERS characters each.

    Together they hold all of it but for white space.

    A span ends with a sentence where one ends in its last third; the next begins about OVERLAP_SHARE of it earlier, so
    that a sentence's context is not lost at a cut. Of the forms in SECTIONS, no span goes beyond its section, unless
    sections are short: those are joined with the next.
    """
    if len(text) <= MAX_CHARACTERS and len(tokens(text)) < max_tokens:
        return [_stripped(text, 0, len(text))]
    spans: list[Span] = []
    for section in _sections(text, max_tokens, tokens, form):
        part = text[section.start : section.end]
        spans += (Span(span.start + section.start, span.end + section.start) for span in _cut(part, max_tokens, tokens))
    return [span for span in spans if span.end > span.start] or [_stripped(text, 0, len(text))]


def _sections(text: str, max_tokens: int, tokens: Tokens, form: str) -> list[Span]:
    """The text from heading to heading; a section begins only where the one before has JOINED_SHARE of the limit."""
    starts, begun = [0], 0
    for match in SECTIONS[form].finditer(text) if form in SECTIONS else ():
        part = text[begun : match.start()]
        if len(part) > MAX_CHARACTERS or len(tokens(part)) >= JOINED_SHARE * max_tokens:
            begun = match.start()
            starts.append(begun)
    return [Span(start, end) for start, end in zip(starts, [*starts[1:], len(text)])]


def _cut(text: str, max_tokens: int, tokens: Tokens) -> list[Span]:
    if len(text) <= MAX_CHARACTERS and len(tokens(text)) < max_tokens:
        return [_stripped(text, 0, len(text))]
    chunks = [piece for match in _CHUNK.finditer(text)
              for piece in _within(text, Span(*match.span()), max_tokens, tokens)]  # fmt: skip
    if not chunks:
        return [_stripped(text, 0, len(text))]
    sizes = [len(tokens(text[chunk.start : chunk.end])) for chunk in chunks]
    spans, first = [], 0
    while True:
        after, held = first, 0
        end = chunks[first].start + MAX_CHARACTERS
        while after < len(chunks) and held + sizes[after] <= max_tokens and chunks[after].end <= end:
            held += sizes[after]
            after += 1
        after = max(after, first + 1)
        if after < len(chunks):
            after = _at_sentence_end(text, chunks, first, after)
        spans.append(_stripped(text, chunks[first].start, chunks[after - 1].end))
        if after == len(chunks):
            return spans
        following, repeated = after, 0
        while following - 1 > first and repeated + sizes[following - 1] <= OVERLAP_SHARE * max_tokens:
            following -= 1
            repeated += sizes[following]
        first = following


def _at_sentence_end(text: str, chunks: list[Span], first: int, after: int) -> int:
    for end in range(after, first + max(1, (after - first) * 2 // 3), -1):
        if _SENTENCE_END.search(text[chunks[end - 1].start : chunks[end - 1].end]):
            return end
    return after


def _within(text: str, span: Span, max_tokens: int, tokens: Tokens) -> list[Span]:
    """The span, halved as often as it has more tokens than a quarter of the limit (text without white space), or more
    characters than MAX_CHARACTERS."""
    length = span.end - span.start
    if length <= 1 or (
        length <= MAX_CHARACTERS and len(tokens(text[span.start : span.end])) <= max(1, max_tokens // 4)
    ):
        return [span]
    middle = (span.start + span.end) // 2
    halves = Span(span.start, middle), Span(middle, span.end)
    return [piece for half in halves for piece in _within(text, half, max_tokens, tokens)]


def _stripped(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return Span(start, max(start, start + len(piece.strip())))


def short_title(title: str, max_tokens: int, tokens: Tokens) -> str:
    """The words of a title that fit TITLE_SHARE of a passage."""
    limit, held, words = int(TITLE_SHARE * max_tokens), 0, []
    for word in title.split():
        held += len(tokens(word))
        if held > limit:
            break
        words.append(word)
    return " ".join(words)


def index_text(title: str, passage: str) -> str:
    """What is encoded, and what BM25 sees: the passage below its document's title."""
    return f"{title}\n{passage}" if title else passage


def places_of(text: str, tokens: list[str]) -> list[Span]:
    """Where each token of a text stands in it, as tokens(text) gave them.

    Tokens may be lower-cased, normalized, or marked at a word's beginning: one that is not found as it is, whatever
    its case, gets the white-space-free run at which the search stands.
    """
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = text
    runs = [Span(*match.span()) for match in re.finditer(r"\S+", text)]
    spans, at, run = [], 0, 0
    for token in tokens:
        wanted = token.lstrip("▁").lower()
        while run < len(runs) - 1 and runs[run].end <= at:
            run += 1
        limit = runs[min(run + 1, len(runs) - 1)].end if runs else 0
        place = lowered.find(wanted, at, limit) if wanted else -1
        if place >= 0:
            spans.append(Span(place, place + len(wanted)))
            at = place + len(wanted)
        elif runs:
            spans.append(runs[run])
        else:
            spans.append(Span(0, 0))
    return spans

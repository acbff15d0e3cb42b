"""Cutting documents into passages, and finding tokens in their text."""

import itertools
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.tokenization.passages import OVERLAP_SHARE, cut, places_of, short_title
from pipeline.tokenization.tokenizers import tokenizer_of

WORD = tokenizer_of("word", True, Path("."))
CHARACTER = tokenizer_of("character", True, Path("."))
TEXTS = st.text(st.sampled_from("ab cd.\n。京 é_(!?9ﬁ\U0001f600"), max_size=300)


@given(TEXTS, st.integers(4, 40), st.sampled_from([WORD, CHARACTER]))
def test_passages_hold_every_character_and_no_more_tokens_than_fit(text: str, limit: int, tokenizer: object) -> None:
    tokens = tokenizer.tokens  # type: ignore[attr-defined]
    spans = cut(text, limit, tokens)
    covered = {i for start, end in spans for i in range(start, end)}
    assert all(i in covered for i, c in enumerate(text) if not c.isspace())
    assert all(a.start < b.start and a.end <= b.end for a, b in itertools.pairwise(spans))
    if tokenizer is WORD:
        assert all(len(tokens(text[start:end])) <= limit for start, end in spans)


def test_a_short_text_is_one_passage_without_the_space_around_it() -> None:
    assert cut("  two words ", 3, WORD.tokens) == [(2, 11)]
    assert cut("  \n", 3, WORD.tokens) == [(3, 3)]


def test_passages_end_with_sentences_and_overlap() -> None:
    sentence = "one two three four five six seven eight nine. "
    text = (sentence * 12).strip()
    spans = cut(text, 24, WORD.tokens)
    assert all(text[end - 1] == "." for _, end in spans)
    shared = [WORD.tokens(text[b.start : a.end]) for a, b in itertools.pairwise(spans)]
    assert all(0 < len(tokens) <= OVERLAP_SHARE * 24 for tokens in shared)


def test_text_without_spaces_is_cut_too() -> None:
    text = "京" * 100 + "。" + "都" * 100
    spans = cut(text, 30, WORD.tokens)
    assert all(end - start <= 30 for start, end in spans) and len(spans) >= 7


def test_a_title_takes_no_more_than_its_share() -> None:
    assert short_title("one two three four", 8, WORD.tokens) == "one two"
    assert short_title("one two", 3, WORD.tokens) == ""


@given(TEXTS)
def test_tokens_are_found_where_they_stand(text: str) -> None:
    tokens = WORD.tokens(text)
    places = places_of(text, tokens)
    assert len(places) == len(tokens)
    plain = text.isascii()
    for token, (start, end) in zip(tokens, places):
        found = text[start:end].lower()
        assert found == token if plain else (found == token or re.fullmatch(r"\S+", found))
    if plain:
        assert all(a.end <= b.start for a, b in itertools.pairwise(places))


def test_marked_pieces_and_changed_letters_get_places() -> None:
    assert places_of("Hello worlds", ["▁hello", "▁world", "s"]) == [(0, 5), (6, 11), (11, 12)]
    assert places_of("a ﬁx b", ["a", "fix", "b"]) == [(0, 1), (2, 4), (5, 6)]


def test_passages_begin_at_headings() -> None:
    words = lambda text: text.split()
    sections = [f"## Part {i}\n\n" + " ".join(f"w{i}.{j}" for j in range(6 + i)) for i in range(5)]
    text = "\n\n".join(["intro", *sections])
    spans = cut(text, 14, words, "markdown")
    found = [text[span.start : span.end] for span in spans]
    # the introduction is too short to stand alone, Part 4 too long for one passage
    assert [piece.partition("\n")[0] for piece in found[:5]] == ["intro", *(f"## Part {i}" for i in (1, 2, 3, 4))]
    assert all(len(words(piece)) <= 14 for piece in found)
    assert {word for piece in found for word in piece.split()} == {*text.split()}
    plain = [text[span.start : span.end] for span in cut(text, 14, words)]
    assert not all(piece.startswith(("intro", "##")) for piece in plain)
    code = "import a\n\ndef one():\n    x = 1\n\n    return x\n\ndef two():\n    return 2\n"
    assert [code[s.start :][:7] for s in cut(code, 8, words, "code")] == ["import ", "def one", "def two"]

"""Whether a text is taken for its author's: pieces, both sides alike, shares with intervals, and a trigram's text."""

import itertools
from collections import Counter

import numpy as np
import pytest

from benchmarks import author_style
from pipeline.core.errors import InputError
from pipeline.evaluation.ngrams import Trigram


def test_pieces_have_no_layout_and_do_not_run_over_a_texts_end() -> None:
    """Two editions of one text, of other punctuation and line ends, give the same pieces."""
    one = author_style.pieces(["黛玉道：“好。”\n  宝玉笑了！", "第二回"], 4)
    assert one == author_style.pieces(["黛玉道 好\r\n\r\n宝玉笑了．．", "第二回"], 4) == ["黛玉道 ", "好 宝玉"]


def test_both_sides_have_as_many_pieces() -> None:
    rows = author_style.balanced(list("abc"), [str(i) for i in range(50)], np.random.default_rng(1))
    assert Counter(label for label, _ in rows) == {"author": 3, "others": 3}
    assert {text for label, text in rows if label == "author"} == set("abc")
    assert len({text for _, text in rows}) == 6
    with pytest.raises(InputError, match="no whole piece"):
        author_style.balanced([], ["x"], np.random.default_rng(1))


def test_the_share_has_wilsons_interval() -> None:
    """8 of 10: 0.490 to 0.943, from (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) by hand."""
    found = author_style.rate([{"label": "author"}] * 8 + [{"label": "others"}] * 2)
    assert (found["share"], found["pieces"]) == (0.8, 10)
    assert (found["low"], found["high"]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_a_trigram_writes_what_followed_two_tokens_as_often_as_it_did() -> None:
    """After 1 2 came 3 three times in four and 4 once; what ends the text goes on from the last token alone."""
    train = np.array([1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 5])
    found = Trigram(train).write(20_000, np.random.default_rng(0))
    follows = Counter(third for *two, third in zip(found, found[1:], found[2:]) if two == [1, 2])
    assert set(follows) == {3, 4}
    assert follows[3] / follows.total() == pytest.approx(0.75, abs=0.03)
    pairs = {*itertools.pairwise(train.tolist())}
    assert {pair for pair in itertools.pairwise(found) if pair[0] != 5} <= pairs  # nothing ever followed 5


def test_a_trigrams_text_is_of_the_texts_characters() -> None:
    said = author_style.trigram_text(["abab", "abc"], 500, np.random.default_rng(2))
    assert len(said) == 500 and set(said) == set("abc")

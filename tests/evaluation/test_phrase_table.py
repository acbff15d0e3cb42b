"""Statistical translation against values worked out by hand, and on a language that it can learn."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation import word_alignment
from pipeline.evaluation.phrase_table import PhraseTranslator, Trigrams, fitted, phrase_table

THE, HOUSE, BOOK, A = 1, 2, 3, 4
DAS, HAUS, BUCH, EIN = 5, 6, 7, 8
PAIRS = [((DAS, HAUS), (THE, HOUSE)), ((DAS, BUCH), (THE, BOOK)), ((EIN, BUCH), (A, BOOK))]


def arrays(texts: list[tuple[int, ...]]) -> list[np.ndarray]:
    return [np.array(text, np.int32) for text in texts]


def test_model_1_is_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round over the textbook's three sentences: das, haus and the empty word share "the" and "house" evenly, so
    t(the | das) = (1/3 + 1/3) / (4/3) = 1/2 and t(house | das) = (1/3) / (4/3) = 1/4."""
    monkeypatch.setattr(word_alignment, "ROUNDS", 1)
    sources, targets = (arrays([pair[side] for pair in PAIRS]) for side in (0, 1))
    cells = word_alignment._cells(sources, targets, 9)
    ones, place = np.ones(len(cells.pairs)), np.ones(len(cells.place_group))
    counts = np.bincount(cells.pair, word_alignment._shares(cells, ones, place))
    found = word_alignment._normalised(counts, cells.pairs // 9)
    chance = dict(zip(cells.pairs.tolist(), found.tolist()))
    assert chance[DAS * 9 + THE] == pytest.approx(1 / 2) and chance[DAS * 9 + HOUSE] == pytest.approx(1 / 4)
    assert chance[HAUS * 9 + THE] == pytest.approx(1 / 2)
    assert chance[0 * 9 + THE] == pytest.approx(2 / 6)


def test_more_rounds_find_the_words_that_belong_together() -> None:
    sources, targets = (arrays([pair[side] for pair in PAIRS]) for side in (0, 1))
    lexicon, places = word_alignment.align(sources, targets, 9)
    assert [place.tolist() for place in places] == [[0, 1], [0, 1], [0, 1]]
    best = lexicon.chance(np.array([DAS, BUCH, EIN]), np.array([THE, BOOK, A]))
    assert (best > 0.8).all()
    assert lexicon.chance(np.array([HAUS]), np.array([BOOK])).tolist() == [0.0]


def test_a_word_order_that_is_always_turned_round_is_learnt() -> None:
    """Model 2: every target is its source backwards; words alone, all of which are as frequent, tell it too slowly."""
    rng = np.random.default_rng(0)
    sources = [rng.integers(1, 6, 4).astype(np.int32) for _ in range(60)]
    targets = [(source[::-1] + 10).astype(np.int32) for source in sources]
    _, places = word_alignment.align(sources, targets, 16)
    right = np.mean([place.tolist() == [3, 2, 1, 0] for place in places])
    assert right > 0.95


def test_joined_grows_from_the_links_of_both_directions() -> None:
    """Koehn's steps by hand: (0,0) in both; (1,1) is its neighbour; (2,3) joins two unlinked words."""
    forward = np.array([0, 1, -1, 2])
    backward = np.array([0, -1, -1])
    assert word_alignment.joined(forward, backward) == {(0, 0), (1, 1), (2, 3)}


def test_phrases_are_those_of_the_definition() -> None:
    """All consistent pairs, found by trying every pair of spans."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        source, target = (int(n) for n in rng.integers(1, 7, 2))
        links = {(int(rng.integers(source)), int(rng.integers(target))) for _ in range(int(rng.integers(1, 7)))}
        found = list(word_alignment.phrases(source, target, links, 4))
        expected = {
            (i1, i2, j1, j2)
            for i1 in range(source)
            for i2 in range(i1 + 1, min(source, i1 + 4) + 1)
            for j1 in range(target)
            for j2 in range(j1 + 1, min(target, j1 + 4) + 1)
            if any(i1 <= i < i2 and j1 <= j < j2 for i, j in links)
            and all((i1 <= i < i2) == (j1 <= j < j2) for i, j in links)
        }
        assert set(found) == expected and len(found) == len(expected)


def test_trigrams_are_kneser_ney_by_hand() -> None:
    """Two texts "1 2", "1 3": after (border, 1) come 2 and 3 once each; 0.75 of each count goes to the order below."""
    language = Trigrams([[1, 2], [1, 3]], 4)
    # unigrams count contexts: 1 after the border, 2 and 3 after 1, the end after 2 and after 3: 5 in all, 4 kinds
    one = lambda contexts: (max(0, contexts - 0.75) + 0.75 * 4 * (1 / 4)) / 5
    two = (max(0, 1 - 0.75) + 0.75 * 2 * one(1)) / 2  # 2 after 1, in one context of the two that 1 has followers in
    three = (max(0, 1 - 0.75) + 0.75 * 2 * two) / 2
    assert language.log_chance((-1, 1), 2) == pytest.approx(math.log(three))
    total = sum(math.exp(language.log_chance((-1, 1), word)) for word in (1, 2, 3, -1))
    assert total == pytest.approx(1.0)


def test_a_language_of_its_own_is_translated() -> None:
    """Words are renamed, and the two words of each (noun, adjective) change places; sentences of the test are new."""
    rng = np.random.default_rng(0)
    nouns, adjectives = np.arange(1, 13), np.arange(13, 25)

    def pair() -> tuple[np.ndarray, np.ndarray]:
        words = [w for _ in range(3) for w in (rng.choice(adjectives), rng.choice(nouns))]
        turned = [w + 24 for i in range(0, 6, 2) for w in (words[i + 1], words[i])]
        return np.array(words, np.int32), np.array(turned, np.int32)

    train, valid, test = ([pair() for _ in range(count)] for count in (600, 20, 40))
    sources, targets = ([one[side] for one in train] for side in (0, 1))
    exact = lambda written, pairs: float(np.mean([w == t.tolist() for w, (_, t) in zip(written, pairs)]))
    translator = fitted(sources, targets, 49, [source for source, _ in valid], lambda written: exact(written, valid))
    assert exact([translator.translate(source) for source, _ in test], test) > 0.95


def test_unknown_words_are_copied_and_no_words_give_none() -> None:
    sources, targets = (arrays([pair[side] for pair in PAIRS]) for side in (0, 1))
    translator = PhraseTranslator(phrase_table(sources, targets, 9), Trigrams(targets, 9))
    assert translator.translate([DAS, 99]) == [THE, 99] and translator.translate([]) == []


def test_the_table_is_written_and_its_bytes_counted(tmp_path: Path) -> None:
    sources, targets = (arrays([pair[side] for pair in PAIRS]) for side in (0, 1))
    table = phrase_table(sources, targets, 9)
    path = tmp_path / "table.parquet"
    assert table.write(path) == path.stat().st_size
    assert pq.read_table(path).num_rows == table.pairs

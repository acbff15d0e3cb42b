"""Rows by key, against a dictionary; and texts that are read once for counting and for ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tokenization import rows
from pipeline.tokenization.encoder import Encoder, count_tokens
from pipeline.tokenization.rows import Rows
from pipeline.tokenization.tokenizers import WhitespaceTokenizer, WordTokenizer


def by_dictionary(keys: list[str]) -> tuple[list[int], list[bool]]:
    known: dict[str, int] = {}
    found, begins = [], []
    for key in keys:
        begins.append(key not in known)
        found.append(known.setdefault(key, len(known)))
    return found, begins


@pytest.mark.parametrize("range_keys", [4, 1 << 17])
@given(batches=st.lists(st.lists(st.sampled_from([f"key {i}" for i in range(30)] + ["", "é"]))))
@settings(max_examples=60, deadline=None)
def test_rows_are_numbered_as_keys_first_appear(
    range_keys: int, batches: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    keys = [key for some in batches for key in some]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "RANGE_KEYS", range_keys)  # several ranges, and files in place of memory
        patch.setattr(rows, "AT_ONCE", 7)
        found = Rows(batches, len(keys), folder)
    numbers, begins = by_dictionary(keys)
    assert found.of(0, len(keys)).tolist() == numbers
    assert found.begins(0, len(keys)).tolist() == begins
    assert found.texts == len(set(keys))
    for start in range(0, len(keys), 5):
        assert found.of(start, start + 5).tolist() == numbers[start : start + 5]
        assert found.begins(start, start + 3).tolist() == begins[start : start + 3]
    assert not list(folder.iterdir())


FEW = ["a", "b", "<unk>", "<pad>", "ΑΣ", "Σ", "İx", "parseHTTP", "東京", "\n"]
WORDS = st.lists(st.sampled_from(FEW)).map(" ".join)


@given(texts=st.lists(st.one_of(WORDS, st.text(st.characters(exclude_categories=["Cs"])))), limit=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_what_was_read_for_counting_gives_the_ids_that_a_second_reading_would(texts: list[str], limit: int) -> None:
    for tokenizer in (WhitespaceTokenizer(lowercase=True), WordTokenizer(lowercase=True)):
        known = {"<pad>": 0, "<unk>": 1, "a": 2, "ας": 3, "parse": 4, "東": 5}
        encoder = Encoder(tokenizer, known, {"text": limit})
        counted = count_tokens(tokenizer, texts, limit)
        twice, once = encoder.encode_all(texts, "text"), encoder.encode_counted(counted)
        np.testing.assert_array_equal(once.ids, twice.ids)
        np.testing.assert_array_equal(once.lengths, twice.lengths)
        assert once[2:] == twice[2:]
        expected = [known.get(t, 1) if t not in ("<pad>", "<unk>") else 1 for text in texts
                    for t in tokenizer.tokens(text)[:limit] or ["<unk>"]]  # fmt: skip
        assert twice.ids.tolist() == expected
        assert twice.unknown_tokens == expected.count(1) - sum(not tokenizer.tokens(text) for text in texts)


@given(text=st.one_of(WORDS, st.text(st.characters(exclude_categories=["Cs"]))))
@settings(max_examples=300, deadline=None)
def test_words_are_lower_cased_each_by_itself(text: str) -> None:
    as_they_are = WordTokenizer(lowercase=False).tokens(text)
    assert WordTokenizer(lowercase=True).tokens(text) == [token.lower() for token in as_they_are]

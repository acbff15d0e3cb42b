"""Tokenizers against worked examples and over arbitrary text."""

import io
import itertools
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.tokenization import tokenizers
from pipeline.tokenization.tokenizers import CharacterTokenizer, JiebaTokenizer, SentencePieceTokenizer, WordTokenizer

WORDS = WordTokenizer(lowercase=False)
LOWER = WordTokenizer(lowercase=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    model = io.BytesIO()
    texts = ["the cat sat on the mat", "the dog sat on the cat", "a dog and a cat"] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pieces") / tokenizers.MODEL_NAME
    path.write_bytes(model.getvalue())
    return SentencePieceTokenizer(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I sort a list?", "How do I sort a list ?"),
        ("don't stop -- 3.14%", "don ' t stop - - 3 . 14 %"),
        ("parseHTTPHeader_2", "parse HTTP Header 2"),
        ("__init__(self, maxLen=0x1F)", "init ( self , max Len = 0 x 1 F )"),
        ("SCREAMING_SNAKE_CASE macOS McDonald", "SCREAMING SNAKE CASE mac OS Mc Donald"),
        ("all URLs and IDs, HTTPServer", "all URLs and IDs , HTTP Server"),
        ("ÉcoleÀParis ΑΒΓδεζ", "École À Paris ΑΒ Γδεζ"),
        ("我喜歡 Python3", "我 喜 歡 Python 3"),
        ("東京タワー", "東 京 タ ワ ー"),
        ("한국어 텍스트", "한국어 텍스트"),
        ("\U00020000\u3400", "\U00020000 \u3400"),
        ("ＦＵＬＬ１２", "FULL 12"),
        ("cafe\u0301 caf\u00e9", "caf\u00e9 caf\u00e9"),
        ("q\u0323\u0307x", "q\u0323\u0307x"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("שָׁלוֹם עולם", "שָׁלוֹם עולם"),
        ("مَرْحَبًا بالعالم!", "مَرْحَبًا بالعالم !"),
        ("ABCعرب", "ABC عرب"),
        ("می\u200cخواهم", "میخواهم"),
        ("👩\u200d💻 ❤\ufe0f!", "👩 💻 ❤ !"),
        ("👍🏽🇩🇪", "👍 🏽 🇩 🇪"),
        ("co\u00adoperate\u200bnow\ufeff", "cooperate now"),
        ("a\x00b\tc\r\nd", "a b c d"),
        ("\u0301", "\u0301"),
        ("_ \u3000 \n", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    tokens = WORDS.tokens(text)
    assert tokens == [unicodedata.normalize("NFKC", token) for token in expected.split(" ") if token]


def test_words_are_lower_cased_after_the_split() -> None:
    assert LOWER.tokens("parseHTTPHeader ÉCOLE Straße") == ["parse", "http", "header", "école", "straße"]


@pytest.mark.parametrize("text", ["A" * 100_000, "Aa" * 50_000, "A\u0301" * 50_000, "\u0301" * 100_000, "a_" * 50_000])
def test_long_runs_are_read_in_linear_time(text: str) -> None:
    """A pattern that backtracks over the run would not end before the test's timeout."""
    assert sum(map(len, WORDS.tokens(text))) == len(unicodedata.normalize("NFKC", text).replace("_", ""))


def test_characters() -> None:
    assert CharacterTokenizer(lowercase=True).tokens(" Né\u0301 \n 2我 ") == ["n", "é", "\u0301", " ", "2", "我"]
    assert CharacterTokenizer(lowercase=False).tokens("aB") == ["a", "B"]
    assert CharacterTokenizer(lowercase=False).tokens(" \n") == []


def test_jieba_cuts_han_runs_and_leaves_the_rest_to_words() -> None:
    tokens = JiebaTokenizer(lowercase=True).tokens("我来到北京清华大学，看 getHTTP_2 ｔｅｘｔ")
    assert tokens == ["我", "来到", "北京", "清华大学", ",", "看", "get", "http", "2", "text"]


def test_jieba_is_quiet_and_leaves_no_file(tmp_path: Path) -> None:
    code = "from pipeline.tokenization.tokenizers import JiebaTokenizer; print(JiebaTokenizer(True).tokens('北京大学'))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("['北京大学']\n", "")
    assert list(tmp_path.iterdir()) == []


def test_pieces_join_to_the_text(pieces: SentencePieceTokenizer) -> None:
    tokens = pieces.tokens("the cat sat")
    assert "".join(tokens) == "▁the▁cat▁sat"
    assert len(tokens) < len("the cat sat")
    assert pieces.pieces()[:2] == ["<pad>", "<unk>"]
    assert pieces.tokens(" \n ") == []


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / tokenizers.MODEL_NAME
    for content in (None, b"", b"no model"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=str(path)):
            SentencePieceTokenizer(path)


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_any_text_is_tokenized(pieces: SentencePieceTokenizer, text: str) -> None:
    jieba = JiebaTokenizer(lowercase=False)
    for tokenizer in (WORDS, LOWER, CharacterTokenizer(lowercase=True), jieba, pieces):
        tokens = tokenizer.tokens(text)
        assert all(tokens)
    # words: nothing but space, underscores and invisible characters is lost
    kept = "".join(c for c in tokenizers.normalize(text) if not c.isspace() and c != "_")
    assert "".join(WORDS.tokens(text)) == kept
    assert "".join(jieba.tokens(text)) == kept


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.text(st.characters(categories=["Lu", "Ll", "Lo"], max_codepoint=0x2FF), min_size=1)))
def test_words_split_at_each_rise_in_case(words: list[str]) -> None:
    for token in WORDS.tokens(" ".join(words)):
        assert not any(a.islower() and b.isupper() for a, b in itertools.pairwise(token)), token

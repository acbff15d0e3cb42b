"""Vectors from files: every format gives the same rows, bad files a sentence; held rows stay until they are let go."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.tokenization import vocabulary, word_vectors
from pipeline.training import vectors
from tests.training.test_optimizer import ROWS, build, step, values_of

WORDS = ["the", "New_York", "naïve", "Café", "9"]
VALUES = np.random.default_rng(1).normal(size=(len(WORDS), 3)).astype(np.float32)
VOCABULARY = {"<pad>": 0, "<unk>": 1, "café": 2, "the": 3, "absent": 4, "naïve": 5}


def text(words: list[str] = WORDS) -> bytes:
    lines = (" ".join([word, *map(repr, map(float, row))]) for word, row in zip(words, VALUES))
    return "".join(f"{line}\n" for line in lines).encode()


def binary(end: bytes = b"\n") -> bytes:
    parts = [word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in zip(WORDS, VALUES)]
    return f"{len(WORDS)} 3\n".encode() + b"".join(parts)


FORMS = {
    "GloVe": text(),
    "word2vec text": b"5 3\n" + text(),
    "word2vec binary": binary(),
    "word2vec binary without line ends": binary(b""),
    "GloVe by gzip": gzip.compress(text()),
    "word2vec binary by gzip": gzip.compress(binary()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(FORMS[form])
    found = vectors.read(path, VOCABULARY, 3)
    assert found.rows.tolist() == [2, 3, 5]
    np.testing.assert_allclose(found.vectors, VALUES[[3, 0, 2]], rtol=1e-6)
    assert [word for word, _ in word_vectors.entries(path)] == WORDS


def test_a_word_of_text_may_hold_blanks(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_bytes(b"5 3\n" + text(["the", "at name@domain.com", ". . .", "b", "c"]))
    found = dict(word_vectors.entries(tmp_path / "vectors"))
    np.testing.assert_allclose(found["at name@domain.com"], VALUES[1], rtol=1e-6)
    assert ". . ." in found


def test_a_word_in_its_own_case_goes_before_another(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_bytes(text(["THE", "the", "The"]))
    found = vectors.read(tmp_path / "vectors", VOCABULARY, 3)
    np.testing.assert_allclose(found.vectors, VALUES[1:2], rtol=1e-6)


def spoiled() -> dict[str, tuple[bytes, str]]:
    lines = text().splitlines(keepends=True)
    return {
        "cut within a line": (text()[:-30], r"line 5 has \d numbers and others 3"),
        "cut text with a header": (b"5 3\n" + b"".join(lines[:3]), "says 5 words and has 3"),
        "cut binary": (binary()[:-8], "says 5 words and has 4"),
        "cut gzip": (gzip.compress(binary())[:-20], "cannot be read"),
        "longer line": (b"".join([*lines[:2], lines[2].rstrip() + b" x 0.5\n"]), "line 3 holds something"),
        "nan": (text() + b"odd nan 1 2\n", "line 6 holds something that is not a finite number"),
        "infinite, packed": (
            b"1 3\nodd " + np.array([1, np.inf, 0], "<f4").tobytes(), "word 1 has something that is not a finite number"
        ),
        "other width": (text(), "set model.embedding=3"),
        "other width with a header": (b"5 3\n" + text(), "set model.embedding=3"),
        "a model of fastText": ((793712314).to_bytes(4, "little") + bytes(100), r"ends in \.vec"),
        "empty": (b"", "line 1 has 0 numbers"),
    }  # fmt: skip


@pytest.mark.parametrize("case", spoiled())
def test_a_bad_file_is_one_sentence(case: str, tmp_path: Path) -> None:
    data, said = spoiled()[case]
    path = tmp_path / "vectors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        vectors.read(path, VOCABULARY, 4 if "other width" in case else 3)
    with pytest.raises(InputError, match="cannot be read"):
        vectors.read(tmp_path / "nowhere", VOCABULARY, 3)


def test_the_start_is_said_and_few_words_are_warned_of(tmp_path: Path) -> None:
    network, _ = build(World())
    path = tmp_path / "vectors"
    path.write_bytes(text(["b", "c", "x", "y", "z"]))
    known = {word: row for row, word in enumerate(["<pad>", "<unk>", "a", "b", "c", "d", "e"])}
    before = values_of(network)["embedding"]
    given, said = vectors.start(path, network, known)
    after = values_of(network)["embedding"]
    assert given.tolist() == [row in (3, 4) for row in range(ROWS)]
    np.testing.assert_allclose(after[3:5], VALUES[:2], rtol=1e-6)
    assert (after[[0, 1, 2, 5, 6]] != before[[0, 1, 2, 5, 6]]).all()  # of the same spread now
    assert said == [f"vectors for 2 of 5 words of the vocabulary from {path}"]
    many = {f"w{row}": row for row in range(ROWS)}
    path.write_bytes(text())
    assert "only 0.0% of the vocabulary's words" in vectors.start(path, network, many)[1][1]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_held_rows_stay_bit_for_bit_until_they_are_let_go(kind: str) -> None:
    network, optimizer = build(World(), kind=kind, weight_decay=0.1)
    optimizer.hold(np.arange(ROWS) < 3, 2)
    for update in range(3):
        before = values_of(network)["embedding"]
        step(network, optimizer, (0, 2, 4), 0.1, update)
        changed = (values_of(network)["embedding"] != before).any(axis=1)
        assert changed.tolist() == [row in ((0, 2, 4) if update == 2 else (4,)) for row in range(ROWS)]
    network, optimizer = build(World(), kind=kind, weight_decay=0.1)
    before = values_of(network)["embedding"]
    optimizer.hold(np.ones(ROWS, bool), None)
    for update in range(5):
        step(network, optimizer, (0, 2, 4), 0.1, update)
    assert before.tobytes() == values_of(network)["embedding"].tobytes()


def test_words_of_a_file_join_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_bytes(text())
    assert list(vocabulary.more_words(tmp_path / "vectors")) == WORDS
    (tmp_path / "vocabulary.json").write_text('{"idx_to_token": ["<pad>", "a"]}')
    assert list(vocabulary.more_words(tmp_path / "vocabulary.json")) == ["<pad>", "a"]
    (tmp_path / "vocabulary.json").write_text("[]")
    with pytest.raises(InputError, match="not a vocabulary of a trained folder"):
        list(vocabulary.more_words(tmp_path / "vocabulary.json"))
    (tmp_path / "vectors").write_bytes(b"a 1 2\nb 3\n")
    with pytest.raises(InputError, match=r"tokenize\.more_words="):  # not model.vectors, which the file is not of
        list(vocabulary.more_words(tmp_path / "vectors"))

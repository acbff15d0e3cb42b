"""Tagged sentences: CoNLL-U, and lines of a word and its tag."""

from typing import Any

import pytest

HALF = {"max_quarantined_share": 0.95}


def conllu(*words: tuple[str, str, str]) -> str:
    return "".join(f"{number}\t{form}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n" for number, form, tag in words) + "\n"


def read(ingest: Any, write: Any, content: str | bytes, form: str = "conllu", **source: Any) -> Any:
    return ingest({"format": form, "path": write("a", content), **source}, task="tagging", **HALF)


def sentences(found: Any) -> set[tuple[str, str]]:
    return {(row["text"], row["tags"]) for row in found.records()}


HELLO = conllu(("1", "Hello", "INTJ"), ("2", "world", "NOUN"))


@pytest.mark.parametrize("content", [HELLO, "\ufeff" + HELLO, "\ufeff# text = Hello world\n" + HELLO,
                                     HELLO.replace("\n", "\r\n"), HELLO.replace("\n", "\r")])  # fmt: skip
def test_marks_and_line_ends_lose_no_word(content: str, ingest: Any, write: Any) -> None:
    found = read(ingest, write, content)
    assert sentences(found) == {("Hello world", "INTJ NOUN")} and found.counts["records"]["read"] == 1


def test_ranges_and_empty_nodes_are_no_words_and_other_ids_are_bad_rows(ingest: Any, write: Any) -> None:
    good = conllu(("1-2", "vámonos", "_"), ("1", "vamos", "VERB"), ("2", "nos", "PRON"), ("2.1", "hay", "VERB"),
                  ("0.1", "e", "X"), ("10", "ten", "NUM"))  # fmt: skip
    bad = ["x2", "", "\u00b2", "1-", "-1", "1.", "1.x", "01", "0", "\u0661"]
    found = read(ingest, write, good + "".join(conllu(("1", "a", "X"), (name, "b", "X")) for name in bad))
    assert sentences(found) == {("vamos nos ten", "VERB PRON NUM")}
    assert [entry["reason"] for entry in found.quarantine] == [
        f"word id: {name!r} is not a number (1), a range (1-2) or an empty node (1.1)" for name in bad
    ]


def test_a_control_character_within_a_word_makes_no_second_word(ingest: Any, write: Any) -> None:
    found = read(ingest, write, conllu(("1", "a\x7fb", "X"), ("2", "c d", "Y")))
    assert sentences(found) == {("a_b c_d", "X Y")}


TWO = "Confidence B-NP\n# O\n\nIn B-PP\n"
THREE = "-DOCSTART- -X- O\n\nConfidence NN B-NP\n# # O\n\n\nIn IN B-PP"


@pytest.mark.parametrize("content", [TWO, THREE, "\ufeff" + TWO.replace(" ", "\t"), THREE.replace("\n", "\r\n")])
def test_a_word_and_its_tag_on_a_line(content: str, ingest: Any, write: Any) -> None:
    """CoNLL-2000 and CoNLL-2003: the last of 2 or 3 columns is the tag; # is a word."""
    assert sentences(read(ingest, write, content, "conll")) == {("Confidence #", "B-NP O"), ("In", "B-PP")}


def test_a_sentence_of_another_number_of_columns_is_one_bad_row(ingest: Any, write: Any) -> None:
    found = read(ingest, write, "a X\nb Y\n\nc\nd Z\n\ne X Y\n\nf X\n", "conll")
    assert sentences(found) == {("a b", "X Y"), ("f", "X")}
    assert [(entry["row"], entry["reason"]) for entry in found.quarantine] == [
        (4, "wrong number of columns: 1 instead of 2"), (7, "wrong number of columns: 3 instead of 2")
    ]  # fmt: skip


def test_another_encoding(ingest: Any, write: Any) -> None:
    found = read(ingest, write, "für ADP\n".encode("latin-1"), "conll", encoding="latin-1")
    assert sentences(found) == {("für", "ADP")}


def test_only_blanks_and_tabs_divide_columns(ingest: Any, write: Any) -> None:
    """As in CoNLL-U, a blank within a word becomes an underscore: numbers are often written with a no-break space."""
    found = read(ingest, write, "10\u00a0000 B-NUM\nmen  O \n\na O\n", "conll")
    assert sentences(found) == {("10_000 men", "B-NUM O"), ("a", "O")}

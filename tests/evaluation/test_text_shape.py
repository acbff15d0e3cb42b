"""What closes and what parses is counted right, and chances from counts are chances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import ngrams, text_shape
from pipeline.evaluation.text_shape import Count, c_braces, latex_environments, python_snippets


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="{}ab\"'/*\\\n ", max_size=60))
def test_braces_never_close_more_than_open(text: str) -> None:
    count = c_braces(text)
    assert 0 <= count.good <= count.total <= text.count("{")


def test_an_environment_that_ends_in_another_one_stays_open() -> None:
    assert latex_environments(r"\begin{a}\begin{b}\end{a}\end{b}") == Count(1, 2)
    assert latex_environments(r"\end{a}\begin {a} x \end{a}") == Count(1, 1)


def test_snippets_are_whole_functions_and_classes() -> None:
    text = (
        "x = 1\n@cached\ndef f(\n    x,\n):\n    return x\n\n\nclass A:\n    def g(self):\n        retur n\n\nx = 2\n"
    )
    assert python_snippets(text) == Count(1, 2)
    assert python_snippets("    def inner(x):\n        pass\n") == Count(0, 0)
    assert python_snippets("def f():\n    return 1") == Count(0, 0)


def test_shares_over_several_texts_and_of_nothing() -> None:
    assert text_shape.counted("c", ["{}", "{", "}"]) == Count(1, 2)
    said = text_shape.lines("c", Count(0, 0), Count(1, 2))
    assert "written    –" in said and "0.500 (0.095–0.905)" in said


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), st.integers(0, 6))
def test_chances_after_each_token_sum_to_one(train: list[int], before: int) -> None:
    tokens = np.array(train)
    for nats in (ngrams.unigram_nats, ngrams.bigram_nats):
        chances = [np.exp(-nats(tokens, np.array([before, after]), 7))[0] for after in range(7)]
        assert sum(chances) == pytest.approx(1)

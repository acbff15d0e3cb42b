"""BM25 against bm25s, another implementation of Lucene's formula."""

import bm25s
import numpy as np
import pytest

from pipeline.evaluation.bm25 import Bm25


def table(index: Bm25, queries: list[list[str]], k1: float, b: float) -> np.ndarray:
    """(Q, D) all scores."""
    found = np.zeros((len(queries), index.documents))
    for rows, scores in index.scores(index.asked(queries), k1, b):
        found[rows] = scores
    return found


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 1.0), (0.5, 0.0)])
def test_scores_are_those_of_bm25s(k1: float, b: float) -> None:
    rng = np.random.default_rng(0)
    texts = [[f"w{i}" for i in rng.zipf(1.5, rng.integers(1, 30)) if i < 50] or ["w1"] for _ in range(60)]
    queries = [[f"w{i}" for i in rng.integers(1, 50, 4)] for _ in range(9)]  # some words that no text has
    other = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
    other.index(texts, show_progress=False)
    known = {word for text in texts for word in text}
    for row, query in zip(table(Bm25(texts), queries, k1, b), queries):
        asked = [word for word in query if word in known]
        wanted = sum((other.get_scores([word]) for word in asked), np.zeros(60))  # a word asked twice counts twice
        np.testing.assert_allclose(row, wanted, rtol=1e-6, atol=1e-9)


def test_a_stemmed_index_is_that_of_the_stems() -> None:
    texts = [
        ["the", "sorted", "lists", "of", "a", "file"],
        ["sorting", "is", "slow"],
        ["wings", "and", "the", "air"],
        [],
    ]
    queries = [["sort", "the", "list"], ["winged"], ["of", "the"]]
    stemmed = Bm25(texts, "auto")
    assert stemmed.stemmer == "english"
    plain = Bm25([["sort", "list", "file"], ["sort", "slow"], ["wing", "air"], []])
    np.testing.assert_array_equal(
        table(stemmed, queries, 1.2, 0.5), table(plain, [["sort", "list"], ["wing"], []], 1.2, 0.5)
    )


@pytest.mark.parametrize("texts", [[], [[]], [["the"], ["of"]]])
def test_nothing_to_count(texts: list[list[str]]) -> None:
    index = Bm25(texts, "english")
    assert table(index, [["the", "wing"], []], 1.5, 0.75).tolist() == [[0.0] * len(texts)] * 2

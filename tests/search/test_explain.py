"""Which word answered which, where the answer is known by arithmetic."""

import numpy as np
import pytest

from pipeline.search.explain import MAX_GROUPS, explain
from tests.search.double import WordEncoder, vector_of


def test_an_alignment_adds_up_to_the_score() -> None:
    encoder = WordEncoder("late_interaction")
    found = explain(encoder, "Wing loading", "The wing, its lift")
    assert found.kind == "alignment" and found.links.shape == (2, 5)
    pieces = [found.document.text[start:end] for start, end in found.document.pieces]
    assert pieces == ["The", "wing", ",", "its", "lift"]
    weights = np.array([len("wing"), len("loading")]) / 11
    assert found.score == pytest.approx(float(weights @ found.links.max(axis=1)), abs=1e-6)
    assert pieces[int(found.links[0].argmax())] == "wing" and found.links[0].max() == pytest.approx(1, abs=1e-6)
    assert found.document.weights[1] == 1.0 and found.query.weights == pytest.approx([4 / 7, 1], abs=1e-4)


def test_occlusion_gives_each_pair_of_words_its_product() -> None:
    """Sums of word vectors under a dot product: the score is the sum over all pairs, so a link is a pair's share."""
    encoder = WordEncoder("dot")
    asks, answers = ["wing", "drag"], ["moon", "wing", "tide"]
    found = explain(encoder, " ".join(asks), " ".join(answers))
    expected = [[vector_of(a) @ vector_of(b) for b in answers] for a in asks]
    assert found.kind == "occlusion"
    np.testing.assert_allclose(found.links, expected, rtol=1e-4, atol=1e-4)
    assert found.score == pytest.approx(np.sum(expected), rel=1e-5)


@pytest.mark.parametrize("head", ["cosine", "bilinear", "mlp", "late_interaction"])
def test_texts_of_any_length_are_explained(head: str) -> None:
    encoder = WordEncoder(head, document=500)
    text = " ".join(f"w{i}" for i in range(300))
    found = explain(encoder, "w7 …", text)
    assert found.links.shape == (2, 300 if head == "late_interaction" else MAX_GROUPS)
    assert len(found.document.pieces) == found.links.shape[1] == len(found.document.weights)
    assert all(0 <= weight <= 1 for weight in [*found.query.weights, *found.document.weights])
    empty = explain(encoder, "  ", "\n")
    assert empty.links.shape == (1, 1)

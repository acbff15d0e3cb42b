"""A word is said from what stands around it: never from itself, and from nothing behind a text's end."""

import numpy as np
import pytest
from mxnet import nd

from pipeline.config import ModelConfig
from pipeline.models.cloze import Cloze

WORDS, STEPS = 9, 6


def scored(network: Cloze, ids: list[int], length: int | None = None) -> dict[str, np.ndarray]:
    """Each reader's (T, V) scores at all places of one text."""
    column = nd.array(np.array(ids, np.int32)[:, None], dtype="int32")
    lengths = nd.array([length or len(ids)], dtype="int32")
    places = nd.arange(len(ids), dtype="int32")
    table = network.embedding.data()
    return {name: found.asnumpy() for name, found in network(table, column, lengths, places).items()}


@pytest.fixture(params=["lstm", "gru", "rnn_tanh", "rnn_relu"])
def network(request: pytest.FixtureRequest) -> Cloze:
    made = Cloze(ModelConfig(cell=request.param, embedding=8, hidden=8, layers=2, dropout=0.0), WORDS, True)
    made.initialize()
    return made


@pytest.mark.parametrize("place", range(STEPS))
def test_scores_depend_on_the_words_around_and_not_on_the_word(network: Cloze, place: int) -> None:
    text = [3, 4, 5, 6, 7, 8]
    before = scored(network, text)
    after = scored(network, [*text[:place], 2, *text[place + 1 :]])
    for name, sees in (("both", lambda other: other != place), ("left", lambda other: other > place)):
        changed = [not np.allclose(before[name][other], after[name][other], atol=1e-7) for other in range(STEPS)]
        assert changed == [sees(other) for other in range(STEPS)], name


def test_padding_changes_nothing(network: Cloze) -> None:
    text = [3, 4, 5]
    alone, padded = scored(network, text), scored(network, [*text, 8, 7, 6], length=3)
    for name, scores in alone.items():
        np.testing.assert_allclose(padded[name][:3], scores, atol=1e-6)

"""A word is said from what stands around it: never from itself, and from nothing behind a text's end."""

import numpy as np
import pytest
from mxnet import autograd, nd

from pipeline.config import ModelConfig
from pipeline.models.cloze import Cloze
from pipeline.models.parameters import parameters_of
from pipeline.models.sampled import Candidates, Sampler

WORDS, STEPS = 9, 6


def scored(network: Cloze, ids: list[int], length: int | None = None) -> dict[str, np.ndarray]:
    """Each reader's (T, V) scores at all places of one text."""
    column = nd.array(np.array(ids, np.int32)[:, None], dtype="int32")
    lengths = nd.array([length or len(ids)], dtype="int32")
    places = nd.arange(len(ids), dtype="int32")
    table = network.embedding.data()
    expected = network(table, column, lengths, places)
    return {name: found.asnumpy() for name, found in network.scores(expected).items()}


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


def gradients(
    network: Cloze, ids: list[int], targets: list[int], candidates: Candidates | None = None
) -> list[np.ndarray]:
    """Each reader's losses of all places of one text; the gradients of the table and of all else."""
    table = network.embedding.data()
    tokens = np.arange(WORDS + 1) if candidates is None else np.unique([*ids, *targets, *candidates.ids])
    rows = nd.take(table, nd.array(tokens))
    rows.attach_grad()
    with autograd.record():
        column = nd.array(np.searchsorted(tokens, ids)[:, None], dtype="int32")
        expected = network(rows, column, nd.array([len(ids)], dtype="int32"), nd.arange(len(ids), dtype="int32"))
        if candidates is None:
            found = network.losses(expected, np.array(targets))
        else:
            found = network.sampled_losses(expected, np.array(targets), candidates, tokens)
        total = sum(values.sum() for values in found.values())
    total.backward()
    whole = np.zeros(table.shape, np.float32)
    whole[tokens] = rows.grad.asnumpy()
    dense = [p.grad().asnumpy().copy() for name, p in sorted(parameters_of(network).items()) if name != "embedding"]
    return [*(values.asnumpy() for values in found.values()), whole, *dense]


def test_a_sampled_softmax_of_all_words_is_the_whole_one(network: Cloze) -> None:
    """With every word a candidate, expected once, beside targets that are candidates too."""
    ids, targets = [3, 4, WORDS, 6, 4], [3, 4, 5, 6, 4]
    every = Candidates(np.arange(WORDS, dtype=np.int32), np.ones(WORDS), np.ones(len(targets)))
    whole, sampled = gradients(network, ids, targets), gradients(network, ids, targets, every)
    assert len(whole) == len(sampled) > 10
    for one, other in zip(whole, sampled):
        np.testing.assert_allclose(other, one, atol=1e-5)
    assert np.abs(whole[2][WORDS]).max() > 0  # the blank is learned from


def test_fewer_candidates_estimate_the_whole_gradient(network: Cloze) -> None:
    """The mean over many draws points where the whole softmax's gradient does: seldom drawn words count for more."""
    text = [3, 4, 5, 6]
    whole = gradients(network, text, text)[2]
    rng = np.random.default_rng(1)
    sampler = Sampler(np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02]), 6)
    mean = np.zeros_like(whole)
    for _ in range(60):
        mean += gradients(network, text, text, sampler.candidates(sampler.draw(rng), np.array(text)))[2] / 60
    cosine = (mean * whole).sum() / np.linalg.norm(mean) / np.linalg.norm(whole)
    assert cosine > 0.97

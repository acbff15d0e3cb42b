"""An update of the fewest and shortest examples: one text, one token, one label; MXNet cannot hold an empty array."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.tasks.base import task_of
from pipeline.training import accumulation, exchange
from pipeline.training.optimizer import Optimizer
from tests.networks import fresh
from tests.updates.cases import CASES, merged
from tests.updates.steps import fit

ONE_TOKEN = (
    "matching cosine in_batch_softmax", "matching late_interaction hinge", "matching mlp ordinal",
    "classification lstm last", "classification rnn_relu attention", "tagging lstm False False",
    "tagging rnn_relu True True", "language_model", "translation luong lstm",
    "translation bahdanau gru", "captioning vectors first", "captioning vectors every", "captioning grids attention",
)  # fmt: skip
STREAMS = {"language_model": {"streams": 1, "steps": 1}}


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("name", CASES)
def test_an_update_of_few_and_short_examples(name: str, made: Callable[..., Any], world: World) -> None:
    """The shortest alone, the longest alone, both, two of the shortest: the loss is finite and the parameters move."""
    streams = STREAMS if CASES[name]["task"] == "language_model" else {}
    config, _, tokenized = made(**merged(CASES[name], streams))
    task = task_of(config, tokenized)
    network = task.network()
    network.initialize()
    optimizer = Optimizer(network, config.train.optimizer, world)
    order = np.argsort(task.lengths.sum(axis=1), kind="stable")
    several = [order[:1], order[-1:], order[[0, -1]], order[:2]]
    for update, share in enumerate([np.array([0]), np.array([1])] if task.streams else several):
        before = [parameter.data().asnumpy() for parameter in parameters_of(network).values()]
        joint = exchange.join(task, [task.batch([share], 0, [1, 0, 0, update])], world)
        rows = optimizer.rows(joint.tokens, joint.own)
        value = accumulation.backward(task, network, rows, joint.batches, world, [update])
        norm = optimizer.step(rows, 0.01, update, value).asscalar()
        assert np.isfinite(norm)
        assert np.isfinite(value.asscalar())
        after = [parameter.data().asnumpy() for parameter in parameters_of(network).values()]
        assert all(np.isfinite(array).all() for array in after)
        one_document = config.task == "matching" and config.train.loss.kind != "pointwise" and len(share) == 1
        assert norm > 0 or one_document or not value.asscalar()
        assert not norm or any((one != other).any() for one, other in zip(before, after))


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_texts_of_one_token_are_trained_on_and_judged(
    name: str, made: Callable[..., Any], world: World, tmp_path: Path
) -> None:
    """Of one label and one tag too."""
    streams = STREAMS if CASES[name]["task"] == "language_model" else {}
    often: dict[str, Any] = {"max_updates": 2, "validate_every_updates": 2}
    if CASES[name]["task"] == "tagging":  # all tags are one, which begins no span
        often["metric"] = "accuracy"
    config, _, tokenized = made(longest=1, **merged(CASES[name], streams, {"train": often}))
    task = task_of(config, tokenized)
    assert int(task.lengths.max()) == 1
    network = fresh(task)
    state = fit(task, network, config, world, tmp_path)
    assert state.update == 2
    assert state.best is not None and np.isfinite(state.best)


def test_a_cloze_of_unknown_words_is_refused(made: Callable[..., Any], world: World, tmp_path: Path) -> None:
    """Texts of one word, each of which is in one split alone: nothing can be taken out in validation."""
    config, _, tokenized = made(longest=1, **merged(CASES["cloze sampled"], {"train": {"max_updates": 2}}))
    task = task_of(config, tokenized)
    network = task.network()
    network.initialize()
    with pytest.raises(InputError, match="the valid split has no word of the training vocabulary"):
        fit(task, network, config, world, tmp_path)

"""A loss or a cell of a package that gives something else than it should: one sentence, at the first update."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from mxnet import autograd, nd

from pipeline.config import config_model
from pipeline.config.cells import CELLS, Cell
from pipeline.config.losses import LOSSES, GradedLoss, RankingLoss
from pipeline.config.plugins import Brought, Plugins, Table
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from pipeline.training import exchange
from pipeline.training.optimizer import Optimizer

Install = Callable[[Table[Any], Any], None]


@pytest.fixture
def install() -> Iterator[Install]:
    """Puts something into this process as a package's, which is gone again after the test."""
    tables = []

    def put(table: Table[Any], thing: Any) -> None:
        table.__dict__["plugins"] = Plugins({thing.name: Brought("duplet-odd", thing)}, ())
        tables.append(table)
        config_model.cache_clear()

    yield put
    for table in tables:
        del table.__dict__["plugins"]
    config_model.cache_clear()


def updated(made: Callable[..., Any], task: str, **sections: Any) -> float:
    """The loss of one update of three pairs or texts."""
    config, _, tokenized = made(task, **sections)
    job, world = task_of(config, tokenized), World()
    network = job.network()
    network.initialize()
    joint = exchange.join(job, [job.batch([np.arange(3)], 0, [1, 0, 0, 0])], world)
    rows = Optimizer(network, config.train.optimizer, world).rows(joint.tokens, joint.own)
    with autograd.record():
        loss = job.loss(network, rows and rows.table(), joint.batches[0], world)
    return float(loss.value.asscalar())


def ranking(result: Callable[[Any], Any], negatives: Any = 0) -> RankingLoss:
    class Odd(RankingLoss):
        name, summary = "odd", "nothing"

        def drawn(self, options: Any) -> Any:
            return negatives

        def value(self, nd: Any, scores: Any, own: Any, excluded: Any, negatives: Any, options: Any) -> Any:
            return result(scores)

    return Odd()


def graded(result: Callable[[Any], Any], linked: Any = "softmax") -> GradedLoss:
    class Odd(GradedLoss):
        name, summary = "odd", "nothing"

        def link(self, options: Any) -> Any:
            return linked

        def values(self, nd: Any, logits: Any, grades: Any, options: Any) -> Any:
            return result(logits)

    return Odd()


def cell(count: int, result: Callable[[Any], Any]) -> Cell:
    class Odd(Cell):
        name, summary, states = "odd", "nothing", count

        def step(self, m: Any, read: Any, carried: Any, states: Any) -> Any:
            return result(m.tanh(read[0] + carried[0]))

    return Odd()


LOSSES_AND_SENTENCES = {
    "fits": (ranking(lambda scores: scores.mean()), ""),
    "one for each query": (ranking(lambda scores: scores.mean(axis=1)), r"of shape \(3,\) and not \(1,\)"),
    "below zero": (ranking(lambda scores: scores.mean(), -1), "draws -1 negatives, which is not a count"),
    "no number": (ranking(lambda scores: scores.mean(), None), "draws None negatives, which is not a count"),
    "graded, fits": (graded(lambda logits: logits.sum(axis=1)), ""),
    "graded, a column": (graded(lambda logits: logits.sum(axis=1, keepdims=True)), r"\(3, 1\) and not \(3,\)"),
    "graded, a mean": (graded(lambda logits: logits.mean()), r"of shape \(1,\) and not \(3,\)"),
    "graded, no link": (graded(lambda logits: logits.sum(axis=1), "probit"), "'probit', which is neither softmax nor"),
}
CELLS_AND_SENTENCES = {
    "fits": (cell(1, lambda h: (h,)), ""),
    "two for one": (cell(1, lambda h: (h, h)), r"1 of \(\d+, 6\) needed"),
    "one for two": (cell(2, lambda h: (h,)), r"2 of \(\d+, 6\) needed"),
    "without its tuple": (cell(1, lambda h: h), r"1 of \(\d+, 6\) needed"),
    "half as wide": (cell(1, lambda h: (nd.slice_axis(h, axis=1, begin=0, end=3),)), r"\[\(\d+, 3\)\] at a step"),
}


@pytest.mark.parametrize("name", LOSSES_AND_SENTENCES)
def test_losses(name: str, made: Callable[..., Any], install: Install) -> None:
    loss, sentence = LOSSES_AND_SENTENCES[name]
    install(LOSSES, loss)
    kinds = ["graded" if isinstance(loss, GradedLoss) else "ranking"]
    update = lambda: updated(made, "matching", train={"loss": {"kind": "odd"}}, evaluate={"kinds": kinds})
    if not sentence:
        assert isinstance(update(), float)
        return
    with pytest.raises(InputError, match=f"the loss odd of package duplet-odd .*{sentence}.*: update the package"):
        update()


@pytest.mark.parametrize("name", CELLS_AND_SENTENCES)
def test_cells(name: str, made: Callable[..., Any], install: Install) -> None:
    odd, sentence = CELLS_AND_SENTENCES[name]
    install(CELLS, odd)
    update = lambda: updated(made, "classification", model={"cell": "odd"})
    if not sentence:
        assert update() > 0
        return
    with pytest.raises(InputError, match=f"the cell odd of package duplet-odd .*{sentence}.*: update the package"):
        update()

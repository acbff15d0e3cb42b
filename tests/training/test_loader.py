"""Which worker takes which part of an update, and what the workers' parts are together."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.training import exchange
from pipeline.training.batch_plan import Plan, Position
from pipeline.training.loader import Loader

WORKERS, PARTS = 2, 3
LENGTHS = np.random.default_rng(1).integers(1, 9, (40, 2))
PLAN = Plan(LENGTHS, 16, 1000, 1)


class Fake:
    """A task whose batch is its examples' numbers, and tells of their sum."""

    embedding_rows = 64

    def __init__(self) -> None:
        self.config = SimpleNamespace(train=SimpleNamespace(accumulate=PARTS))
        self.train = SimpleNamespace(release=lambda: None)

    def prepare(self) -> None:
        pass

    def batch(self, examples: list[np.ndarray], part: int, seed: list[int]) -> Any:
        rows = examples[part]
        return SimpleNamespace(rows=rows, tokens=np.unique(rows), real=len(rows), cells=2 * len(rows))

    def told(self, batch: Any) -> np.ndarray:
        return np.array([batch.rows.sum()], np.int32)

    def joined(self, batch: Any, everyones: np.ndarray, part: int) -> Any:
        return batch, everyones[:, 0].tolist(), part


class Exchange:
    """The worker of a rank; what the others send is known from a first time, in which each hears itself alone."""

    size = WORKERS

    def __init__(self, rank: int, heard: list[np.ndarray] | None = None) -> None:
        self.rank, self.heard, self.sent = rank, heard, np.zeros(0)

    def gather_numpy(self, rows: np.ndarray, name: str) -> np.ndarray:
        self.sent = rows
        return np.concatenate(self.heard or [rows] * self.size)


def first_update(world: Exchange) -> Any:
    loader = Loader(Fake(), PLAN, world, Position(), 1)  # type: ignore[arg-type]
    try:
        return next(iter(loader))
    finally:
        loader.close()


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The first update, as each worker has it."""
    alone = exchange.Joint([], None, [], 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(exchange, "join", lambda task, batches, world: alone._replace(batches=batches))
        batches = [first_update(Exchange(rank)).batches for rank in range(WORKERS)]
    worlds = [Exchange(rank) for rank in range(WORKERS)]
    for world, own in zip(worlds, batches):
        exchange.join(Fake(), own, world)  # type: ignore[arg-type]
    heard = [world.sent for world in worlds]
    return [
        (own, exchange.join(Fake(), own, Exchange(rank, heard)))  # type: ignore[arg-type]
        for rank, own in enumerate(batches)
    ]


def test_parts_of_all_workers_in_their_order_are_the_batch(updates: list[Any]) -> None:
    rows = [batch.rows for own, _ in updates for batch in own]
    assert len(rows) == WORKERS * PARTS and all(len(part) for part in rows)
    assert np.concatenate(rows).tolist() == PLAN.batches(0, 0)[0].tolist()


def test_what_the_parts_are_together_is_known_to_all(updates: list[Any]) -> None:
    batch = PLAN.batches(0, 0)[0]
    sums = [part.rows.sum() for own, _ in updates for part in own]
    for rank, (own, joint) in enumerate(updates):
        assert (joint.real, joint.cells) == (len(batch), 2 * len(batch))
        assert joint.tokens.tolist() == sorted(batch.tolist())
        for number, (part, (joined, everyones, place)) in enumerate(zip(own, joint.batches, strict=True)):
            assert (joined, everyones, place) == (part, sums, rank * PARTS + number)
            assert joint.tokens[joint.own[number]].tolist() == part.tokens.tolist()

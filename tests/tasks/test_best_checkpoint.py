"""The checkpoint of the best parameters: kept, and what becomes of a training that has lost it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from pipeline.core.errors import DupletError
from pipeline.core.event_log import Spool
from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from pipeline.training import checkpoint, loop
from pipeline.training.checkpoint import State
from tests.networks import fresh
from tests.tasks.examples import small


@pytest.fixture
def fit(prepared: Callable[..., Any], tmp_path: Path) -> Callable[..., State]:
    """fit(nats) trains ten updates, or goes on, and finds these nats at update 5 and 10, one validation at a time."""
    values = {"checkpoint_every_updates": 1, "keep_checkpoints": 2, "max_updates": 10, "validate_every_updates": 5}
    config = check_config(small("language_model", str(tmp_path / "runs"), **values), "test")
    world, tokenized = World(), prepared("language_model")[2]
    (tmp_path / "work").mkdir()

    def run(*nats: float) -> State:
        task, found = task_of(config, tokenized), list(nats)
        task.validate = lambda network, world: {"nats": found.pop(0)}  # type: ignore[method-assign]
        network = fresh(task)
        spool = Spool(tmp_path / "work/points.jsonl")
        return loop.fit(task, network, config, world, tmp_path / "work/checkpoints", spool, lambda line: None)

    return run


def spoil(folder: Path, update: int) -> None:
    path = folder / "work/checkpoints" / f"update-{update:08d}" / "parameters.npz"
    path.write_bytes(path.read_bytes()[:-10])


def test_it_outlives_newer_ones(fit: Callable[..., State], tmp_path: Path) -> None:
    assert fit(3.0, 4.0).best_update == 5
    assert checkpoint.names(tmp_path / "work/checkpoints") == [f"update-{n:08d}" for n in (5, 9, 10)]


def test_one_that_gave_way_to_a_better_one_that_is_damaged_now(fit: Callable[..., State], tmp_path: Path) -> None:
    """Update 10 was better than 5, so 5 went; then 10 turned out to be damaged, and comes out worse this time."""
    assert fit(3.0, 2.0).best_update == 10
    spoil(tmp_path, 10)
    state = fit(3.1)
    assert (state.best, state.best_update) == (3.1, 10)


def test_a_damaged_best_one_ends_with_a_sentence(fit: Callable[..., State], tmp_path: Path) -> None:
    fit(3.0, 4.0)
    spoil(tmp_path, 5)
    with pytest.raises(DupletError, match=r"the best checkpoint is lost .*update-00000005.* delete .* trains anew"):
        fit()

"""No array lies on another device than the network's: every task, head, loss, cell, pooling and optimizer."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mxnet import nd

from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from tests.updates.cases import CASES, merged
from tests.updates.steps import fit
from tests.updates.watch import DEVICE, watched


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.context = DEVICE
    return world


@pytest.mark.parametrize("name", CASES)
def test_all_arrays_lie_on_the_networks_device(
    name: str, made: Callable[..., Any], world: World, tmp_path: Path
) -> None:
    """Updates, a validation, a sample and a checkpoint; then going on from it; and for a case of each task, judging."""
    often = {"max_updates": 3, "validate_every_updates": 2, "checkpoint_every_updates": 1}
    config, ingested, tokenized = made(**merged(CASES[name], {"train": often}))
    task = task_of(config, tokenized)
    for _ in range(2):
        network = task.network()
        network.initialize(ctx=DEVICE)
        with watched() as seen:
            state = fit(task, network, config, world, tmp_path)
            nd.waitall()
        assert state.update == 3
        assert seen.operators > 50
        assert not seen.elsewhere, "\n".join(seen.elsewhere)
        shutil.rmtree(tmp_path / "checkpoints/update-00000003")
    if name != next(other for other, case in CASES.items() if case["task"] == config.task):
        return
    (tmp_path / "evaluated").mkdir()
    with watched() as seen:
        task.evaluate(network, world, ingested, tmp_path / "evaluated")
    assert seen.operators > 5
    assert not seen.elsewhere, "\n".join(seen.elsewhere)

"""Every task, head, loss, cell, pooling and optimizer trains, validates, saves and goes on upon a GPU."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.tasks.base import task_of
from tests.null_gpu import device
from tests.updates.cases import CASES, merged
from tests.updates.steps import fit

pytestmark = pytest.mark.null_gpu


@pytest.mark.parametrize("name", CASES)
def test_all_of_a_training_runs_on_a_gpu(name: str, made: Callable[..., Any], tmp_path: Path) -> None:
    """Updates, a validation, a sample and checkpoints; then going on from one; and judging on the test split.

    The kernels do nothing, so a parameter stays what it was set to: what is saved is what is loaded.
    """
    often = {"max_updates": 3, "validate_every_updates": 2, "checkpoint_every_updates": 1, "gpus": True}
    config, ingested, tokenized = made(**merged(CASES[name], {"train": often}))
    world = World(gpus=True)
    assert world.context == mx.gpu(0)
    task = task_of(config, tokenized)
    held: list[dict[str, np.ndarray]] = []
    for _ in range(2):
        network = task.network()
        network.initialize(ctx=world.context)
        for number, parameter in enumerate(parameters_of(network).values()) if not held else ():
            parameter.set_data(mx.nd.array(np.random.default_rng(number).normal(size=parameter.shape), world.context))
        before = device.counts()
        assert fit(task, network, config, world, tmp_path).update == 3
        asked = device.counts().since(before)
        assert asked.launches > 100 and asked.allocations > 100
        parameters = parameters_of(network)
        assert {parameter.data().context for parameter in parameters.values()} == {world.context}
        held.append({key: parameter.data().asnumpy() for key, parameter in parameters.items()})
        shutil.rmtree(tmp_path / "checkpoints/update-00000003")
    first, second = held
    for key, array in first.items():
        if not key.endswith("embedding"):  # of it rows are copied and put back by kernels
            np.testing.assert_array_equal(array, second[key], err_msg=key)
            assert np.abs(array).max() > 0, key
    (tmp_path / "evaluated").mkdir()
    task.evaluate(network, world, ingested, tmp_path / "evaluated")

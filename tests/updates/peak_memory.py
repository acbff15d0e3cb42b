"""Run by test_memory in a process of its own: trains a few updates and prints by how many bytes its memory grew.

Its arguments are a configuration as JSON and a folder of ids.
"""

import gc
import json
import re
import sys
from pathlib import Path

from mxnet import nd

from pipeline.config import check_config
from pipeline.distributed.world import World
from pipeline.models.kernel import operator
from pipeline.tasks.base import task_of
from pipeline.training import accumulation, exchange, replay
from pipeline.training.batch_plan import shares
from pipeline.training.loop import plan_of
from pipeline.training.optimizer import Optimizer
from tests.networks import fresh

UPDATES = 2


def resident(peak: bool) -> int:
    """Bytes now, or at most since `forget`."""
    name = "VmHWM" if peak else "VmRSS"
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def main() -> None:
    config, world = check_config(json.loads(sys.argv[1]), "test"), World()
    task = task_of(config, Path(sys.argv[2]))
    task.prepare()
    plan, parts = plan_of(task, config), config.train.accumulate
    operator.ready(world.context)  # loads the library
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    before = resident(False)
    network = fresh(task)
    optimizer = Optimizer(network, config.train.optimizer, world)
    for update, batch in enumerate(plan.batches(0, 0)[:UPDATES]):
        everyones = shares(batch, task.lengths, 1, parts)
        joint = exchange.join(task, [task.batch(everyones, part, [1, 0, 0, update]) for part in range(parts)], world)
        rows = optimizer.rows(joint.tokens, joint.own)
        seeds = replay.update_seeds(config, update, world)
        value = accumulation.backward(task, network, rows, joint.batches, world, seeds)
        optimizer.step(rows, 1e-3, update, value)
        nd.waitall()
    print(json.dumps({"grew": resident(True) - before, "pairs": len(batch), "cells": joint.cells}))


if __name__ == "__main__":
    main()

"""Run by test_global_batch under one process or several: a few updates of each case, written by rank 0 as arrays."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config, check_config
from pipeline.distributed.world import World
from pipeline.models.kernel import operator
from pipeline.models.parameters import parameters_of
from pipeline.tasks import matching
from pipeline.tasks.base import task_of
from pipeline.training import accumulation, exchange, replay
from pipeline.training.batch_plan import shares
from pipeline.training.loop import plan_of
from pipeline.training.optimizer import Optimizer
from tests.networks import fresh

MAX_SCORES = matching.MAX_SCORES


def main(cases: Path, parts: int) -> None:
    world = World()
    for number, case in enumerate(json.loads(cases.read_text())):
        matching.MAX_SCORES = case["scores"] if case["scores"] and world.size * parts > 1 else MAX_SCORES
        config = check_config(in_parts(case["config"], parts), "test")
        found = run(Path(case["tokenized"]), config, world, case["rate"], case["others"])
        if world.rank == 0:
            np.savez(cases.with_name(f"size-{world.size}-parts-{parts}-case-{number}.npz"), **found)


def in_parts(config: dict[str, Any], parts: int) -> dict[str, Any]:
    return {**config, "train": {**config["train"], "accumulate": parts}}


def run(
    tokenized: Path, config: Config, world: World, rate: float = 0.05, others: dict[str, str] | None = None
) -> dict[str, np.ndarray]:
    task = task_of(config, tokenized)
    task.others = {name: Path(folder) for name, folder in (others or {}).items()}
    operator.use(config.model.kernel, config.model.precision == "bfloat16" and not operator.no_bfloat16())
    network = fresh(task)
    plan = plan_of(task, config)
    optimizer = Optimizer(network, config.train.optimizer, world)
    found: dict[str, np.ndarray] = {}
    for update, batch in enumerate(plan.batches(0, 0)[:3]):
        parts = config.train.accumulate
        everyones = shares(batch, task.lengths, world.size, parts)
        own = range(world.rank * parts, (world.rank + 1) * parts)
        joint = exchange.join(task, [task.batch(everyones, part, [1, 0, 0, update]) for part in own], world)
        rows = optimizer.rows(joint.tokens, joint.own)
        seeds = replay.update_seeds(config, update, world)
        value = accumulation.backward(task, network, rows, joint.batches, world, seeds).copy()
        world.average([value], "value")
        norm = optimizer.step(rows, rate, update)
        first = joint.batches[0]
        if isinstance(first, matching.PairBatch):
            found[f"listed {update}"] = np.array(len(first.documents) - len(first.queries))
            found[f"excluded {update}"] = np.array(first.excluded.shape[1])
            found[f"sampled {update}"] = np.array((first.negatives >= 0).sum())
            if first.taught:
                found[f"margins {update}"] = np.array(len(first.taught.margins))
                found[f"further {update}"] = np.array(len(first.taught.vectors.get("further", ())))
        found[f"loss {update}"], found[f"norm {update}"] = value.asnumpy(), norm.asnumpy()
        if rows is not None:
            found[f"gradient {update} rows"] = rows.values.grad[: len(joint.tokens)].asnumpy()
        for name, parameter in optimizer.dense:
            found[f"gradient {update} {name}"] = parameter.grad().asnumpy()
    found |= {f"parameter {name}": p.data().asnumpy() for name, p in parameters_of(network).items()}
    found |= {f"valid {name}": np.array(value) for name, value in task.validate(network, world).items()}
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

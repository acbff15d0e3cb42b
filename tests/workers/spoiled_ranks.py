"""Run by test_ranks under three workers: trainings in which one rank's numbers are spoiled; each rank writes what came.

Its argument is a folder with cases.json: tokenized folder, configuration, and the cases by name.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mxnet import nd

from pipeline.config import check_config
from pipeline.core.errors import DupletError
from pipeline.core.event_log import Spool
from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.tasks.base import StepLoss, task_of
from pipeline.training import loop
from pipeline.training.checkpoint import State
from tests.networks import fresh


def spoiler(case: dict[str, Any], network: Any, world: World) -> Callable[[str, int], None]:
    """Adds to one value of a parameter on one rank, after an update."""

    def beat(phase: str, update: int) -> None:
        if (phase, update, world.rank) == ("training", case.get("after"), case["rank"]):
            value = parameters_of(network)[case["parameter"]].data()
            first = nd.zeros_like(value)
            first[0] = case["add"]
            value += first

    return beat


def run(name: str, case: dict[str, Any], given: dict[str, Any], folder: Path, world: World) -> dict[str, Any]:
    data = given["config"]
    config = check_config({**data, "train": {**data["train"], **case.get("train", {})}}, "test")
    loop.State = functools.partial(State, half_scale=case.get("scale", State.half_scale))  # type: ignore[misc, assignment]
    task = task_of(config, Path(given["tokenized"]))
    network, whole, calls = fresh(task), task.loss, [0]

    def loss(*arguments: Any) -> StepLoss:
        calls[0] += 1
        found = whole(*arguments)
        if (calls[0], world.rank) == (case.get("objective at"), case["rank"]):
            return StepLoss(found.objective * float("inf"), found.value)
        return found

    task.loss = loss  # type: ignore[method-assign]
    work = folder / name
    (work / "work").mkdir(parents=True, exist_ok=True)
    try:
        state = loop.fit(
            task, network, config, world, work / "work/checkpoints", Spool(work / "work/points.jsonl"),
            lambda line: None, spoiler(case, network, world),
        )  # fmt: skip
    except DupletError as error:
        return {"error": str(error)}
    parameters = {key: parameter.data().asnumpy() for key, parameter in parameters_of(network).items()}
    total = float(sum(array.astype(np.float64).sum() for array in parameters.values()))
    losses = [point["loss"] for point in state.history if "loss" in point]
    norms = [point["gradient_norm"] for point in state.history if "loss" in point]
    halves = {"overflows": state.overflows, "scale": state.half_scale}
    return {"error": None, "skipped": state.skipped, "sum": total, "losses": losses, "norms": norms, **halves}


def main(folder: Path) -> None:
    world = World()
    given = json.loads((folder / "cases.json").read_text())
    found = {name: run(name, case, given, folder, world) for name, case in given["cases"].items()}
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

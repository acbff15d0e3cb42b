"""What an update that was not finite was computed from, kept on disk, and computing its loss and gradients again."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from pipeline.config import Config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.core.progress import Say
from pipeline.distributed.world import World
from pipeline.models.kernel import library
from pipeline.tasks.base import Task
from pipeline.training import exchange, recurrent_kernel
from pipeline.training.batch_plan import shares
from pipeline.training.optimizer import Optimizer, set_parameters

FORMAT = 1
UPDATE, PARAMETERS, BEGAN = "update.json", "parameters.npz", "began.npz"


@dataclass
class Replayed:
    """An update: its batch by the examples' numbers, its random state, and its result."""

    update: int  # the first is 1
    loss: float
    gradient_norm: float
    examples: list[list[int]]  # numbers, by worker
    batch_seed: list[int]  # of what the batch draws; the dropout masks': see update_seed
    tokenized: str  # the folder of ids
    config: dict[str, Any]
    kernel: str = library.MXNET  # what ran the recurrent layers; before it was kept there were no others


def update_seed(seed: int, update: int, rank: int) -> int:
    """The seed of one update's dropout masks on one worker: MXNet's random state cannot be saved, so it is set anew.

    `update` counts those done before.
    """
    return int(np.random.SeedSequence([seed, update, rank]).generate_state(1)[0] >> 1)


def keep(folder: Path, update: Replayed, parameters: dict[str, np.ndarray], began: dict[str, np.ndarray]) -> None:
    """Writes the folder. `began`: what the streams' reading went on from, of all workers."""
    with atomic_files.new_folder(folder) as new:
        np.savez(new / PARAMETERS, **parameters)
        np.savez(new / BEGAN, **began)
        (new / UPDATE).write_text(json.dumps({"format": FORMAT, **asdict(update)}), encoding="utf-8")


def load(folder: Path) -> Replayed:
    """What `keep` wrote of the update. Raises InputError where that is missing or damaged."""
    try:
        values = json.loads((folder / UPDATE).read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("of another format")
        return Replayed(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{folder} holds no kept update ({error}): give a folder that a training named when it met a loss or "
            "gradient that is not finite"
        ) from None


def again(
    folder: Path,
    task: Task,
    network: gluon.Block,
    config: Config,
    world: World,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Computes the update that `folder` holds, on every rank alike.

    Returns:
        `loss` and `gradient_norm`, `seen` (the two as the training saw them), `same` (whether they have the same bits)
        and `not_finite`: parameter -> {"values": how many it has, "by_rank": how many of each rank's gradient are not
        finite, before they were averaged}.

    Raises:
        InputError: the folder is damaged or of another network or number of workers.
    """
    replayed = load(folder)
    if len(replayed.examples) != world.size:
        raise InputError(f"{folder} is of {len(replayed.examples)} workers and these are {world.size}: use as many")
    recurrent_kernel.agree("auto", "auto", replayed.kernel, world, say)
    began = _restore(folder, network)
    if task.streams:
        own = shares(np.arange(task.streams), task.lengths, world.size)[world.rank]
        task.carry = {name: nd.array(rows[own], world.context) for name, rows in began.items()}
    examples = [np.array(part) for part in replayed.examples]
    joint = exchange.join(task, task.batch(examples, world.rank, replayed.batch_seed), world)
    optimizer = Optimizer(network, config.train.optimizer, world)
    mx.random.seed(update_seed(config.seed, replayed.update - 1, world.rank))
    rows = optimizer.rows(joint.tokens, joint.own)
    with autograd.record():
        loss = task.loss(network, rows and rows.table(), joint.batch, world)
    loss.objective.backward()
    gradients = {name: parameter.grad(world.context) for name, parameter in optimizer.dense}
    if rows is not None:
        gradients["embedding"] = rows.values.grad
    counts = [int((~np.isfinite(gradient.asnumpy())).sum()) for gradient in gradients.values()]
    by_rank = world.gather_numpy(np.array([counts], np.int32), "not finite")  # (workers, parameters)
    value = loss.value.copy()
    world.average([value], "loss")
    norm = optimizer.step(rows, 0.0, 0, value)
    results = {"loss": float(value.asscalar()), "gradient_norm": float(norm.asscalar())}
    seen = {"loss": replayed.loss, "gradient_norm": replayed.gradient_norm}
    return {
        **results,
        "seen": seen,
        "same": all(_same(results[name], seen[name]) for name in seen),
        "not_finite": {
            name: {"values": gradients[name].size, "by_rank": column.tolist()}
            for name, column in zip(gradients, by_rank.T)
            if column.any()
        },
    }


def _restore(folder: Path, network: gluon.Block) -> dict[str, np.ndarray]:
    """Gives the network the parameters; what the streams' reading went on from."""
    try:
        arrays, began = atomic_files.arrays(folder / PARAMETERS), atomic_files.arrays(folder / BEGAN)
        set_parameters(network, arrays)
        return began
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(
            f"the parameters in {folder} cannot be used ({' '.join(str(error).split())[:200]}): it is damaged"
        ) from None


def _same(value: float, other: float) -> bool:
    """Whether two numbers are equal; any two that are not numbers are."""
    return value == other or (math.isnan(value) and math.isnan(other))

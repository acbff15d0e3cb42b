"""What an update that was not finite was computed from, kept on disk, and computing its loss and gradients again."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mxnet import gluon, nd

from pipeline.config import Config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.core.progress import Say
from pipeline.distributed.world import World
from pipeline.models.kernel import library
from pipeline.tasks.base import Task
from pipeline.training import accumulation, exchange, recurrent_kernel
from pipeline.training.optimizer import Optimizer, set_parameters

FORMAT = 1
UPDATE, PARAMETERS, BEGAN = "update.json", "parameters.npz", "began.npz"


@dataclass
class Replayed:
    """An update: its batch by the examples' numbers, its random state, and its result."""

    update: int  # the first is 1
    loss: float
    gradient_norm: float
    examples: list[list[int]]  # numbers, by worker and part
    batch_seed: list[int]  # of what the batch draws; the dropout masks': see update_seeds
    tokenized: str  # the folder of ids
    config: dict[str, Any]
    kernel: str = library.MXNET  # what ran the recurrent layers; before it was kept there were no others
    half_scale: float | None = None  # that the gradients travelled with as float16
    others: dict[str, str] = field(default_factory=dict)  # folders of further stages, by name


def update_seeds(config: Config, update: int, world: World) -> list[int]:
    """The seeds of one update's dropout masks for each part of a worker: MXNet's random state cannot be saved, so it is
    set anew.

    `update` counts those done before. A worker's parts draw as so many workers would.
    """
    parts = config.train.accumulate
    places = range(world.rank * parts, (world.rank + 1) * parts)
    return [int(np.random.SeedSequence([config.seed, update, i]).generate_state(1)[0] >> 1) for i in places]


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
    held_rows: np.ndarray | None = None,
) -> dict[str, Any]:
    """Computes the update that `folder` holds, on every rank alike.

    Args:
        held_rows: (V,) bool, as loop.fit has them in `pretrained_rows`.

    Returns:
        `loss` and `gradient_norm`, `seen` (the two as the training saw them), `same` (whether they have the same bits)
        and `not_finite`: parameter -> {"values": how many it has, "by_rank": how many of each rank's gradient are not
        finite, before they were averaged}.

    Raises:
        InputError: the folder is damaged or of another network or number of workers.
    """
    replayed = load(folder)
    parts = config.train.accumulate
    if len(replayed.examples) != world.size * parts:
        before = len(replayed.examples) / parts
        raise InputError(f"{folder} is of {before:g} workers and these are {world.size}: use as many")
    recurrent_kernel.agree("auto", "auto", replayed.kernel, world, say)
    began = _restore(folder, network)
    if task.streams:
        own = np.concatenate(accumulation.own_streams(task, world, parts))
        task.carry = {name: nd.array(rows[own], world.context) for name, rows in began.items()}
    examples = [np.array(part) for part in replayed.examples]
    places = range(world.rank * parts, (world.rank + 1) * parts)
    joint = exchange.join(task, [task.batch(examples, place, replayed.batch_seed) for place in places], world)
    optimizer = Optimizer(network, config.train.optimizer, world)
    if held_rows is not None:
        optimizer.hold(held_rows, config.model.vectors_tuned_after)
    rows = optimizer.rows(joint.tokens, joint.own)
    seeds = update_seeds(config, replayed.update - 1, world)
    value = accumulation.backward(task, network, rows, joint.batches, world, seeds).copy()
    gradients = {name: parameter.grad(world.context) for name, parameter in optimizer.dense}
    if rows is not None:
        gradients["embedding"] = rows.values.grad
    counts = [int((~np.isfinite(gradient.asnumpy())).sum()) for gradient in gradients.values()]
    by_rank = world.gather_numpy(np.array([counts], np.int32), "not finite")  # (workers, parameters)
    world.average([value], "loss")
    norm = optimizer.step(rows, 0.0, replayed.update - 1, value, replayed.half_scale)
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

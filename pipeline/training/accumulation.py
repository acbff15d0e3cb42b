"""The gradients of an update, by a worker that takes its share of it whole or in parts, one after the other.

In parts (`train.accumulate`) a worker does what so many workers would: the shares, the dropout masks and what the parts
tell each other are theirs. So it needs the memory of one part, and gets the gradients of the whole.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.tasks.base import Task
from pipeline.training.batch_plan import shares
from pipeline.training.optimizer import Rows


def own_streams(task: Task, world: World, parts: int) -> list[np.ndarray]:
    """The numbers of the streams that this worker reads, by part."""
    assert task.streams is not None
    everyones = shares(np.arange(task.streams), task.lengths, world.size, parts)
    return everyones[world.rank * parts : (world.rank + 1) * parts]


def backward(
    task: Task,
    network: gluon.Block,
    rows: Rows | None,
    batches: list[Any],
    world: World,
    seeds: Sequence[int],
    before: Callable[[], None] = lambda: None,
) -> nd.NDArray:
    """Leaves the gradients of all parts together on the network's parameters and on the rows.

    Args:
        batches: this worker's parts.
        seeds: of each part's dropout masks.
        before: called before the first backward pass.

    Returns:
        The worker's value of the loss, (1,).
    """
    draw = lambda part: mx.random.seed(seeds[part])
    if len(batches) == 1:
        draw(0)
        with autograd.record():
            loss = task.loss(network, rows and rows.table(), batches[0], world)
        before()
        loss.objective.backward()
        return loss.value
    _add_up(network)
    with autograd.pause(train_mode=True):
        batches = task.ahead(network, [rows and rows.table(p) for p in range(len(batches))], batches, world, draw)
    before()
    values, carries = [], _carries(task, world, len(batches))
    left: list[dict[str, nd.NDArray]] = []
    began: list[dict[str, nd.NDArray]] = []
    for part, batch in enumerate(batches):
        draw(part)
        task.carry = carries[part]
        with autograd.record():
            loss = task.loss(network, rows and rows.table(part), batch, world)
        loss.objective.backward()
        values.append(loss.value.detach())
        left.append(task.carry)
        began.append(task.began)
    task.carry, task.began = _together(left), _together(began)
    return nd.add_n(*values)


def _add_up(network: gluon.Block) -> None:
    """From here on gradients are added to those that are there, which are none."""
    parameters = [p for p in parameters_of(network).values() if p.grad_req != "null"]
    for parameter in parameters:
        parameter.grad_req = "add"
    gradients = [parameter.list_grad()[0] for parameter in parameters]
    nd.reset_arrays(*gradients, num_arrays=len(gradients))


def _carries(task: Task, world: World, parts: int) -> list[dict[str, nd.NDArray]]:
    """What the streams' reading left behind, for each part's streams."""
    if not task.carry:
        return [{} for _ in range(parts)]
    found, begin = [], 0
    for streams in own_streams(task, world, parts):
        end = begin + len(streams)
        found.append({n: nd.slice_axis(rows, axis=0, begin=begin, end=end) for n, rows in task.carry.items()})
        begin = end
    return found


def _together(parts: list[dict[str, nd.NDArray]]) -> dict[str, nd.NDArray]:
    return {name: nd.concat(*(part[name] for part in parts), dim=0) for name in parts[0]}

"""Adam(W) and SGD over the network's dense parameters and over the embedding rows that an update touches.

The whole table never has a gradient: an update works on copies of the rows that any worker's batch needs, which are
the same rows on every worker, so that their gradient is exchanged like any dense one, and only they (and their
moments) are written back.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
from mxnet import autograd, gluon, nd

from pipeline.config import OptimizerConfig, ScheduleConfig
from pipeline.distributed.world import World, steady
from pipeline.models.devices import on_device, put
from pipeline.models.parameters import parameters_of
from pipeline.training.averaging import EMBEDDING, Averages

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
TOGETHER = 45  # arrays that MXNet's Adam takes in one call


def learning_rate(config: ScheduleConfig, base: float, update: int, total: int) -> float:
    """The rate of update 0 … total - 1: a linear warm-up, then constant or a fall to final_share of the base.

    >>> schedule = ScheduleConfig(kind="linear", warmup_updates=2, final_share=0)
    >>> [round(learning_rate(schedule, 1.0, update, 6), 3) for update in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if update < config.warmup_updates:
        return base * (update + 1) / config.warmup_updates
    if config.kind == "constant":
        return base
    done = min(1.0, (update - config.warmup_updates) / max(1, total - config.warmup_updates))
    left = (1 + math.cos(math.pi * done)) / 2 if config.kind == "cosine" else 1 - done
    return base * (config.final_share + (1 - config.final_share) * left)


class Rows(NamedTuple):
    """Copies of the embedding rows that an update needs, which gradients are collected on."""

    tokens: np.ndarray  # (U,) int32: where they stand in the table
    index: nd.NDArray  # the same on the device
    values: nd.NDArray  # (U', E) with a gradient; U' >= U, rows beyond U are needed by none
    own: list[nd.NDArray | None]  # (u,) int32: those that each part of this worker's texts needs; None for all

    def table(self, part: int = 0) -> nd.NDArray:
        """(u, E) or (U', E): what a task's loss looks tokens up in; called while recording."""
        own = self.own[part]
        return self.values if own is None else nd.take(self.values, own)

    def touched(self) -> tuple[nd.NDArray, nd.NDArray]:
        """(U, E) copies and their gradients."""
        values, gradient, count = self.values.detach(), self.values.grad, len(self.tokens)
        if len(self.values) > count:
            values, gradient = (nd.slice_axis(array, axis=0, begin=0, end=count) for array in (values, gradient))
        return values, gradient


class Optimizer:
    """The parameters of a network that are trained, and what the optimizer remembers of each.

    Adam: Kingma and Ba 2015, with bias correction. AdamW: Loshchilov and Hutter 2019, decoupled decay. Embedding rows
    that an update does not touch keep value and moments (as in lazy Adam); decay reaches touched rows only.

    Args:
        average: decay of the parameters' running mean; 0: none is kept.
    """

    def __init__(self, network: gluon.Block, config: OptimizerConfig, world: World, average: float = 0.0) -> None:
        self.config, self.world = config, world
        self.dense = [(name, p) for name, p in parameters_of(network).items() if p.grad_req != "null"]
        embedding = getattr(network, "embedding", None)
        self.table: nd.NDArray | None = None
        arrays: dict[str, nd.NDArray] = {}
        if isinstance(embedding, gluon.Parameter) and embedding.grad_req == "null":
            arrays[EMBEDDING] = self.table = embedding.data(world.context)
        arrays |= {name: parameter.data(world.context) for name, parameter in self.dense}
        moments = 1 if config.kind == "sgd" else 2
        self.moments = {
            name: [nd.zeros(array.shape, ctx=world.context) for _ in range(moments)] for name, array in arrays.items()
        }
        self.averages = Averages(arrays, average) if average else None
        self._held: tuple[np.ndarray, int | None] | None = None

    def hold(self, held_rows: np.ndarray, until: int | None) -> None:
        """Leaves the embedding `held_rows`, (V,) bool, as they are in all updates before `until`; None: in all."""
        self._held = (held_rows, until)

    def _free(self, rows: Rows | None, update: int) -> nd.NDArray | None:
        """(U', 1): 0 for the rows of this update that are left as they are, else 1; None: none is."""
        if self._held is None or rows is None:
            return None
        held_rows, until = self._held
        if until is not None and update >= until:
            return None
        free = np.ones((len(rows.values), 1), np.float32)
        free[: len(rows.tokens), 0] = ~held_rows[rows.tokens]
        return nd.array(free, self.world.context)

    def rows(self, tokens: np.ndarray | None, own: Sequence[np.ndarray | None] = (None,)) -> Rows | None:
        """The rows of (U,) tokens, all workers'; `own`: (u,) places among them by part of this worker, None for all."""
        if tokens is None:
            return None
        context, spare = self.world.context, 0
        index, *places = on_device(context, tokens, *(part for part in own if part is not None))
        if self.world.size > 1:
            spare = steady(len(tokens)) - len(tokens)
        values = nd.take(self.table, nd.concat(index, nd.zeros(spare, context, "int32"), dim=0) if spare else index)
        values.attach_grad("add" if len(own) > 1 else "write")
        return Rows(tokens, index, values, [None if part is None else places.pop(0) for part in own])

    def step(
        self, rows: Rows | None, rate: float, update: int, loss: nd.NDArray | None = None, half: float | None = None
    ) -> nd.NDArray:
        """Averages the gradients over the workers, clips them together and applies them, without waiting for any of it.

        Clipping scales by an array that only the device sees; where the norm or the loss, (1,) and the same on all
        workers, is not finite, nothing is changed. With `half` the gradients travel as float16, times that number.

        Returns:
            The gradients' norm before clipping, (1,).
        """
        context = self.world.context
        gradients = [p.grad(context) for _, p in self.dense]
        touched = [] if rows is None else [rows.values.grad]
        free = self._free(rows, update)
        if rows is not None:  # shapes that come again have names of their own, so that Horovod knows them again
            if free is not None:
                rows.values.grad[:] = nd.broadcast_mul(rows.values.grad, free)
            self.world.average(touched, f"rows.{len(rows.values)}", half)
        self.world.average(gradients[::-1], "gradient", half)  # the order in which backward finishes them
        everything = [*gradients, *touched]
        norm = nd.multi_sum_sq(*everything, num_arrays=len(everything)).sum().sqrt().reshape(1)
        clip = self.config.clip_norm
        scale = nd.minimum(clip / (norm + 1e-12), 1) if clip else 1
        scale = 0 * (norm if loss is None else norm + loss) + scale  # not a number where one of them is not finite
        correction = math.sqrt(1 - BETA2 ** (update + 1)) / (1 - BETA1 ** (update + 1))
        means = None
        if rows is not None:
            values, gradient = rows.touched()
            if self.averages:
                means = self.averages.before(rows.tokens, rows.index, values, update)
        weights, moments = [p.data(context) for _, p in self.dense], [self.moments[name] for name, _ in self.dense]
        if rows is not None:
            weights, gradients = [*weights, values], [*gradients, gradient]
            moments.append([nd.take(whole, rows.index) for whole in self.moments[EMBEDDING]])
        with autograd.pause():
            old = None if rows is None or free is None else values.copy()
            for start in range(0, len(weights), TOGETHER):
                part = slice(start, start + TOGETHER)
                self._apply(weights[part], gradients[part], moments[part], scale, rate, correction)
            if rows is not None:
                if old is not None:  # decay reaches a row whose gradient is 0
                    left = nd.slice_axis(free, axis=0, begin=0, end=len(old))
                    values = nd.where(nd.broadcast_like(left, old), values, old)
                for whole, changed in zip([self.table, *self.moments[EMBEDDING]], [values, *moments[-1]]):
                    put(whole, rows.index, changed)
        if self.averages:
            index, tokens = (rows.index, rows.tokens) if rows else (None, None)
            self.averages.after(tokens, index, means, update)
        return norm

    def _apply(
        self,
        weights: list[nd.NDArray],
        gradients: list[nd.NDArray],
        moments: list[list[nd.NDArray]],
        scale: nd.NDArray,
        rate: float,
        correction: float,
    ) -> None:
        """Updates arrays in place."""
        decay = self.config.weight_decay
        if self.config.kind != "sgd":
            # MXNet takes eta * (lr * m / (sqrt(v) + epsilon) + wd * weight) off the weight; one call for all, since on
            # a GPU each call fetches the scale
            count = len(weights)
            means, variances = zip(*moments)
            nd.contrib.multi_adamw_update(
                weights, gradients, means, variances, scale, [correction] * count,
                [decay if self.config.kind == "adamw" else 0.0] * count, [rate] * count,
                beta1=BETA1, beta2=BETA2, epsilon=EPSILON, out=weights,
            )  # fmt: skip
            return
        for weight, gradient, (moment,) in zip(weights, gradients, moments):
            # by hand: sgd_mom_update goes on with momentum and decay where the gradient is left out, and nan * 0 is nan
            shape = (1,) * gradient.ndim
            finite = nd.broadcast_like((scale == scale).reshape(shape), weight)
            gradient = nd.broadcast_mul(gradient, scale.reshape(shape)) + decay * weight
            changed = self.config.momentum * moment - rate * gradient
            for old, new in ((weight, weight + changed), (moment, changed)):
                nd.where(finite, new, old, out=old)

    def state(self) -> dict[str, np.ndarray]:
        """The moments, and the means if any are kept, as named arrays."""
        arrays = {f"{name}:{i}": m.asnumpy() for name, moments in self.moments.items() for i, m in enumerate(moments)}
        return arrays | (self.averages.state() if self.averages else {})

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes moments and means from `state`, which must hold exactly the names that it gives itself."""
        for name, moments in self.moments.items():
            for i, moment in enumerate(moments):
                moment[:] = state[f"{name}:{i}"]
        if self.averages:
            self.averages.restore(state)

    def share(self) -> None:
        """Gives every rank what rank 0 remembers."""
        self.world.broadcast([m for moments in self.moments.values() for m in moments], "moments")
        if self.averages:
            self.world.broadcast(list(self.averages.means.values()), "means")
            self.averages.seen[:] = self.world.agree(self.averages.seen, "means' updates")

    def judged(self, updates: int) -> AbstractContextManager[None]:
        """While entered, the network's parameters are those to judge: their means after so many updates, if kept."""
        return self.averages.in_place(updates) if self.averages else nullcontext()


def set_parameters(network: gluon.Block, arrays: Mapping[str, np.ndarray]) -> None:
    """Gives an initialized network the parameters in `arrays`, which are named as `parameters_of` names them.

    Raises:
        KeyError: one is missing. AssertionError: one has another shape.
    """
    for name, parameter in parameters_of(network).items():
        parameter.set_data(nd.array(arrays[name], parameter.list_ctx()[0]))

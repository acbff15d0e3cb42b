"""The training loop and what it calls by name: validating, saving, logging."""

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from pipeline.config import SMALLER_IS_BETTER, Config
from pipeline.errors import DupletError, TryAgain
from pipeline.tasks.base import Task
from pipeline.training import checkpoint
from pipeline.training.checkpoint import State
from pipeline.training.loader import Loader, Update
from pipeline.training.optimizer import Optimizer, learning_rate, parameters_of
from pipeline.training.plan import Plan, StreamPlan, shares
from pipeline.workers import World

CARRY = "carry:"  # before the names of what a stream's reading left behind, among a checkpoint's arrays
SAMPLES = "samples"  # a folder beside the checkpoints: what the model made up at each validation


class Log(Protocol):
    """Where rank 0 puts its points; see pipeline.spool."""

    def write(self, update: int, values: dict[str, float]) -> None: ...

    def keep_until(self, update: int) -> None: ...


def fit(
    task: Task, network: gluon.Block, config: Config, world: World, folder: Path, log: Log, say: Callable[[str], None],
    beat: Callable[[str, int], None] = lambda phase, update: None,
) -> State:  # fmt: skip
    """Trains until the epochs or updates are done or patience ends; goes on from the newest checkpoint under `folder`.

    Returns the final state, with the network holding the best parameters that validation found.

    Raises:
        TryAgain: a signal asked to stop; a checkpoint was saved.
        DupletError: a loss or gradient is not finite; the batch was saved.
    """
    settings = config.train
    plan = plan_of(task, config)
    total = min(settings.epochs * plan.updates_per_epoch(), settings.max_updates or 2**62)
    optimizer = Optimizer(network, settings.optimizer, world)
    state = resume(task, network, optimizer, world, folder, log, say)
    run = Run(task, network, optimizer, config, world, folder, log, say, beat, state, Meter(), total)
    loader = Loader(task, plan, world.rank, world.size, state.position, settings.epochs)
    try:
        with Interruption() as interruption:
            for update in loader if not state.finished else ():
                mx.random.seed(update_seed(config.seed, state.update, world.rank))
                rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, state.update, total)
                index, rows = optimizer.rows(update.batch.tokens)
                with autograd.record():
                    loss = task.loss(network, rows, update.batch, world)
                loss.objective.backward()
                norm = optimizer.step(index, rows, rate, state.update)
                state.update, state.position = state.update + 1, update.after
                beat("training", state.update)
                run.check_previous(Sent(update, loss.value, norm, interruption.asked, world))
                run.log_if_due(rate, loader)
                last = state.update == total or state.position.epoch == settings.epochs
                if validation_due(settings.validate_every_updates, state.update, update.ends_epoch, last):
                    state.finished = run.validate() or last
                    run.save()
                elif state.update % settings.checkpoint_every_updates == 0:
                    run.save()
                if state.finished:
                    break
                if run.stop_agreed:
                    run.save()
                    raise TryAgain(
                        f"stopped at update {state.update}, checkpoint saved: the same command goes on from here"
                    )
    finally:
        loader.close()
    beat("finishing", state.update)
    run.load_best()
    return state


def update_seed(seed: int, update: int, rank: int) -> int:
    """The seed of one update's dropout masks on one worker: MXNet's random state cannot be saved, so it is set anew."""
    return int(np.random.SeedSequence([seed, update, rank]).generate_state(1)[0] >> 1)


def validation_due(every: int | None, update: int, ends_epoch: bool, last: bool) -> bool:
    """Whether to validate after an update: at the end, and at each epoch's end or every so many updates."""
    return last or (ends_epoch if every is None else update % every == 0)


def plan_of(task: Task, config: Config) -> Plan | StreamPlan:
    """The order of a task's training examples."""
    if task.streams:
        return StreamPlan(task.lengths, task.streams, config.seed)
    return Plan(task.lengths, config.train.max_pairs_per_update, config.train.max_tokens_per_update, config.seed)


def resume(
    task: Task,
    network: gluon.Block,
    optimizer: Optimizer,
    world: World,
    folder: Path,
    log: Log,
    say: Callable[[str], None],
) -> State:
    """Loads the newest whole checkpoint that rank 0 finds into network and optimizer, on every rank."""
    found, warnings = checkpoint.newest(folder) if world.rank == 0 else (None, [])
    for warning in warnings:
        say(f"warning: {warning}")
    if found:
        say(f"going on from {found.folder.name}")
        for name, parameter in parameters_of(network).items():
            parameter.set_data(nd.array(found.parameters[name]))
        optimizer.restore(found.moments)
    state = world.agree(found.state if found else State(), "state")
    # every rank starts from rank 0's parameters, whether new or loaded
    world.broadcast([p.data(world.context) for p in parameters_of(network).values()], "parameters")
    world.broadcast([m for moments in optimizer.moments.values() for m in moments], "moments")
    if task.streams:
        arrays = found.moments if found else {}
        carried = {name.removeprefix(CARRY): array for name, array in arrays.items() if name.startswith(CARRY)}
        for name, rows in world.agree(carried, "carry").items():
            own = shares(np.arange(task.streams), task.lengths, world.size)[world.rank]
            task.carry[name] = nd.array(rows[own], world.context)
    if world.rank == 0:
        log.keep_until(state.update)
    return state


class Sent(NamedTuple):
    """An update handed to the device, its results not yet looked at."""

    update: Update
    loss: nd.NDArray
    norm: nd.NDArray
    asked_to_stop: bool
    world: World

    def exchanged(self) -> nd.NDArray:
        """(3,): the loss and the wish to stop, averaged over the workers, and the gradients' norm."""
        pair = nd.concat(self.loss, nd.full(1, float(self.asked_to_stop), ctx=self.loss.context), dim=0)
        self.world.average([pair], "loss")
        return nd.concat(pair, self.norm, dim=0)


@dataclass
class Meter:
    """Sums since the last point logged; clocks are not part of a training's state."""

    began: float = 0.0
    tokens: int = 0
    cells: int = 0
    updates: int = 0
    waited: float = 0.0

    def restart(self, waited: float) -> None:
        self.began, self.tokens, self.cells, self.updates, self.waited = time.perf_counter(), 0, 0, 0, waited


@dataclass
class Run:
    """What the loop's named calls share."""

    task: Task
    network: Any
    optimizer: Optimizer
    config: Config
    world: World
    folder: Path
    log: Log
    say: Callable[[str], None]
    beat: Callable[[str, int], None]
    state: State
    meter: Meter
    total: int
    stop_agreed: bool = False
    _previous: tuple[int, Update, nd.NDArray] | None = None

    def check_previous(self, sent: Sent) -> None:
        """Looks at the results of the update before, so that the device is never left without work."""
        results = sent.exchanged()
        self.meter.tokens += sent.update.batch.real
        self.meter.cells += sent.update.batch.cells
        self.meter.updates += 1
        self.settle()
        self._previous = (self.state.update, sent.update, results)

    def settle(self) -> None:
        """Waits for the newest update's results and takes them in."""
        if self._previous is None:
            return
        number, update, results = self._previous
        self._previous = None
        loss, wish, norm = (float(x) for x in results.asnumpy())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            path = self.folder / f"not-finite-{number:08d}-rank{self.world.rank}.npz"
            _save_batch(path, update)
            raise DupletError(
                f"loss {loss} or gradient norm {norm} is not finite at update {number}: its batch is in {path}; "
                "lower train.optimizer.learning_rate or set train.optimizer.clip_norm"
            )
        self.state.pending.append([loss, norm])
        self.stop_agreed = self.stop_agreed or wish > 0

    def log_if_due(self, rate: float, loader: Loader) -> None:
        """Every log_every_updates: means of loss and norm, and what the clock says, over the updates since."""
        if self.meter.began == 0.0:
            self.meter.restart(loader.waited)  # the first update also pays for setting up
        if self.state.update % self.config.train.log_every_updates:
            return
        self.settle()
        pending = np.array(self.state.pending)
        point = {
            "loss": float(pending[:, 0].mean()),
            "learning_rate": rate,
            "gradient_norm": float(pending[:, 1].mean()),
        }
        self.state.pending = []
        self.state.history.append({"update": self.state.update, **point})
        seconds = time.perf_counter() - self.meter.began
        if self.meter.updates and seconds > 0:
            point |= {
                "interval_s": seconds,
                "tokens_per_s": self.meter.tokens / seconds,
                "padding_share": 1 - self.meter.tokens / self.meter.cells,
                "data_wait_share": (loader.waited - self.meter.waited) / seconds,
            }
        self.meter.restart(loader.waited)
        point["epoch"] = self.state.position.epoch
        if self.world.rank == 0:
            self.log.write(self.state.update, point)
            speed = f", {point['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in point else ""
            self.say(f"update {self.state.update}/{self.total}: loss {point['loss']:.4f}{speed}")

    def validate(self) -> bool:
        """Judges the network on the validation split; returns whether patience has ended. Rank 0's figures decide."""
        self.settle()
        self.beat("validating", self.state.update)
        began, settings, state = time.perf_counter(), self.config.train, self.state
        metrics, name = self.task.validate(self.network, self.world), self.config.metric
        value = metrics[name]
        sign = -1 if name in SMALLER_IS_BETTER else 1
        if state.best is None or sign * value > sign * state.best:
            state.best, state.best_update, state.without_better = value, state.update, 0
        else:
            state.without_better += 1
        state.history.append({"update": state.update, **{f"valid/{key}": v for key, v in metrics.items()}})
        if self.world.rank == 0 and (sample := self.task.sample(self.network, self.world.context)) is not None:
            samples = self.folder.parent / SAMPLES
            samples.mkdir(parents=True, exist_ok=True)
            (samples / f"update-{state.update:08d}.txt").write_text(sample, encoding="utf-8")
        seconds = time.perf_counter() - began
        self.meter.began += seconds
        if self.world.rank == 0:
            self.log.write(state.update, {f"valid/{key}": v for key, v in metrics.items()} | {"validation_s": seconds})
            self.say(f"update {state.update}: valid {name} {value:.4f} (best {state.best:.4f} at {state.best_update})")
        return settings.patience_validations is not None and state.without_better >= settings.patience_validations

    def save(self) -> None:
        """A checkpoint, by rank 0."""
        self.settle()
        self.beat("saving", self.state.update)
        began = time.perf_counter()
        carried = {f"{CARRY}{name}": self.world.gather(rows, name).asnumpy() for name, rows in self.task.carry.items()}
        if self.world.rank == 0:
            parameters = {name: p.data(self.world.context).asnumpy() for name, p in parameters_of(self.network).items()}
            keep = self.config.train.keep_checkpoints
            checkpoint.save(self.folder, self.state, parameters, self.optimizer.state() | carried, keep)
        self.meter.began += time.perf_counter() - began

    def load_best(self) -> None:
        """Puts the best validated parameters back into the network of every rank."""
        if self.world.rank == 0:
            best = checkpoint.load(self.folder / f"update-{self.state.best_update:08d}")
            for name, parameter in parameters_of(self.network).items():
                parameter.set_data(nd.array(best.parameters[name]))
        self.world.broadcast([p.data(self.world.context) for p in parameters_of(self.network).values()], "best")


def _save_batch(path: Path, update: Update) -> None:
    """A failed update's batch: example numbers by worker, and each array of the batch."""
    arrays: dict[str, Any] = {f"examples_{rank}": rows for rank, rows in enumerate(update.examples)}
    for name, value in update.batch._asdict().items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, dict):
            arrays |= {f"{name}_{key}": np.asarray(item) for key, item in value.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, position=np.array(json.dumps(update.after)), **arrays)


class Interruption:
    """While entered, the first SIGTERM or SIGINT only sets `asked`; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)

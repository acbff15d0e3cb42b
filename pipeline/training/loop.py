"""The training loop and what it calls by name: validating, saving, logging."""

import contextlib
import math
import shlex
import signal
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

from pipeline.config import Config, smaller_is_better
from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.progress import Say
from pipeline.distributed.launcher import SAMPLES
from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.tasks.base import Task
from pipeline.training import accumulation, averaging, checkpoint, half, rank_consistency, recurrent_kernel, replay
from pipeline.training.batch_plan import Plan, StreamPlan
from pipeline.training.checkpoint import State
from pipeline.training.loader import Loader, Update
from pipeline.training.optimizer import Optimizer, learning_rate, set_parameters

BULK = 16  # operators
FEW_PAIRS = 16  # below so many for a worker in an update, the workers mostly wait for each other
CARRY = "carry:"  # before the names of what a stream's reading left behind, among a checkpoint's arrays


class Log(Protocol):
    """Where rank 0 puts its points; see pipeline.core.event_log."""

    def write(self, update: int, values: dict[str, float]) -> None: ...

    def keep_until(self, update: int) -> None: ...


def fit(
    task: Task, network: gluon.Block, config: Config, world: World, folder: Path, log: Log, say: Say,
    beat: Callable[[str, int], None] = lambda phase, update: None, pretrained_rows: np.ndarray | None = None,
) -> State:  # fmt: skip
    """Trains until the epochs or updates are done or patience ends; goes on from the newest checkpoint under `folder`.

    Args:
        pretrained_rows: (V,) bool, those of the embedding left alone until model.vectors_tuned_after; None: none.

    Returns the final state, with the network holding the best parameters that validation found, or their means where
    train.average is set.

    Raises:
        TryAgain: a signal asked to stop; a checkpoint was saved.
        DupletError: more losses or gradients than may be skipped are not finite, a parameter is not finite, or workers'
            parameters differ. InputError: validation has no number to choose by.
    """
    settings = config.train
    plan = plan_of(task, config)
    # of large data an estimate, so only the schedule may rest on it
    total = min(settings.epochs * plan.updates_per_epoch(), settings.max_updates or 2**62)
    if world.rank == 0 and (warning := few_pairs(plan, world.size)):
        say(warning)
    optimizer = Optimizer(network, settings.optimizer, world, settings.average)
    if pretrained_rows is not None:
        optimizer.hold(pretrained_rows, config.model.vectors_tuned_after)
    state = resume(task, network, optimizer, world, folder, log, say)
    model = config.model
    state.kernel, phrase = recurrent_kernel.agree(model.runs, model.precision, state.kernel, world, say)
    say(f"recurrent layers: {phrase}")
    run = Run(task, network, optimizer, config, world, folder, log, say, beat, state, Meter(), total)
    loader = Loader(task, plan, world, state.position, settings.epochs)
    try:
        with Interruption() as interruption:
            for update in loader if not state.finished else ():
                rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, state.update, total)
                with bulk(world):
                    rows = optimizer.rows(update.tokens, update.own)
                    seeds = replay.update_seeds(config, state.update, world)
                    # settles the update before: the parameters are still those it was computed from
                    value = accumulation.backward(task, network, rows, update.batches, world, seeds, run.settle)
                    scale = half.scale(settings.compression, state, world)
                    spoiled = None if scale is None else half.spoiled([p for _, p in optimizer.dense], rows, world)
                    results = exchanged(value, interruption.asked, world, spoiled)
                    norm = optimizer.step(rows, rate, state.update, results[:1], scale)
                    keep_finite(task, results[:1], norm)
                    run.sent(update, nd.concat(results, norm, dim=0), scale)
                beat("training", state.update)
                run.log_if_due(rate, loader)
                run.compare_ranks_if_due()
                last = state.position.epoch == settings.epochs or state.update == settings.max_updates
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
        run.writing.close()  # what is being written becomes whole, whatever ends the training
    beat("finishing", state.update)
    run.load_best()
    return state


def few_pairs(plan: Plan | StreamPlan, workers: int) -> str | None:
    """A warning where an update leaves each worker so little that they mostly wait for each other."""
    if not isinstance(plan, Plan) or workers == 1 or plan.max_pairs >= FEW_PAIRS * workers:
        return None
    return (
        f"warning: train.max_pairs_per_update={plan.max_pairs} leaves each of {workers} workers about "
        f"{plan.max_pairs / workers:.0f} examples of an update; raise it, or fewer workers are as fast"
    )


def bulk(world: World) -> contextlib.AbstractContextManager[None]:
    """While entered on a GPU, MXNet waits for the device after so many operators, not after each; a backward pass does
    so of itself."""
    return mx.engine.bulk(BULK) if world.context.device_type == "gpu" else contextlib.nullcontext()


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
    say: Say,
) -> State:
    """Loads the newest whole checkpoint that rank 0 finds into network and optimizer, on every rank."""
    newest, warnings = checkpoint.newest(folder) if world.rank == 0 else (None, [])
    for warning in warnings:
        say(f"warning: {warning}")
    if newest:
        say(f"going on from {newest.folder.name}")
        _forget_lost_best(newest.state, folder)
        set_parameters(network, newest.parameters)
        optimizer.restore(newest.moments)
    state = world.agree(newest.state if newest else State(), "state")
    # every rank starts from rank 0's parameters, whether new or loaded
    world.broadcast([p.data(world.context) for p in parameters_of(network).values()], "parameters")
    optimizer.share()
    if task.streams:
        arrays = newest.moments if newest else {}
        carried = {name.removeprefix(CARRY): array for name, array in arrays.items() if name.startswith(CARRY)}
        for name, rows in world.agree(carried, "carry").items():
            own = np.concatenate(accumulation.own_streams(task, world, task.config.train.accumulate))
            task.carry[name] = nd.array(rows[own], world.context)
    if world.rank == 0:
        log.keep_until(state.update)
    return state


def _forget_lost_best(state: State, folder: Path) -> None:
    """Forgets the best score where the checkpoint that had it is not there.

    A newer best checkpoint may have replaced it and be damaged since. The training then measures that one again.
    """
    if state.best_update is not None and not (folder / f"update-{state.best_update:08d}").exists():
        state.best, state.best_update = None, None


class Sent(NamedTuple):
    """An update handed to the device, its results not yet looked at."""

    number: int
    update: Update
    # (3,): loss, share of the workers that are asked to stop, gradient norm; with a scale (4,): before the norm the
    # share of the workers whose own gradients are not finite
    results: nd.NDArray
    scale: float | None  # that the gradients travelled with as float16
    began: dict[str, nd.NDArray]  # what its reading went on from


def exchanged(loss: nd.NDArray, asked_to_stop: bool, world: World, spoiled: nd.NDArray | None = None) -> nd.NDArray:
    """(2,) or (3,): the loss, the wish to stop and what is `spoiled`, averaged over the workers, without waiting."""
    wish = nd.full(1, float(asked_to_stop), ctx=loss.context)
    together = nd.concat(loss, wish, *([] if spoiled is None else [spoiled]), dim=0)
    world.average([together], "loss")
    return together


def keep_finite(task: Task, loss: nd.NDArray, norm: nd.NDArray) -> None:
    """After an update whose loss or norm, (1,), is not finite a stream's reading goes on from before it, as training
    does."""
    if not task.carry:
        return
    zero = 0 * (loss + norm)
    for name, rows in task.carry.items():
        finite = nd.broadcast_like((zero == zero).reshape((1,) * rows.ndim), rows)
        task.carry[name] = nd.where(finite, rows, task.began[name])


@dataclass
class Meter:
    """Sums since the last point logged, and of all saving; clocks are not part of a training's state."""

    first: float = 0.0
    saving: float = 0.0  # seconds since the first
    began: float = 0.0
    tokens: int = 0
    cells: int = 0
    updates: int = 0
    waited: float = 0.0

    def restart(self, waited: float) -> None:
        self.first = self.first or time.perf_counter()
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
    say: Say
    beat: Callable[[str, int], None]
    state: State
    meter: Meter
    total: int
    stop_agreed: bool = False
    equal_at: int = 0  # the last update after which all workers were seen to hold the same parameters
    saved_at: int | None = None
    writing: checkpoint.Writing = field(default_factory=checkpoint.Writing)
    _previous: Sent | None = None

    def sent(self, update: Update, results: nd.NDArray, scale: float | None = None) -> None:
        """Notes an update that the device is at work on; its results are looked at when the next one's are due."""
        state = self.state
        self._previous = Sent(state.update + 1, update, results, scale, dict(self.task.began))
        state.update, state.position = state.update + 1, update.after
        state.order = zlib.crc32(np.concatenate(update.examples).astype("<i8"), state.order)
        self.meter.tokens += update.real
        self.meter.cells += update.cells
        self.meter.updates += 1

    def settle(self) -> None:
        """Waits for the newest update's results and takes them in."""
        if self._previous is None:
            return
        sent, self._previous = self._previous, None
        loss, wish, *spoiled, norm = (float(x) for x in sent.results.asnumpy())
        self.stop_agreed = self.stop_agreed or wish > 0
        if math.isfinite(loss) and math.isfinite(norm):
            self.state.pending.append([loss, norm])
            if sent.scale is not None:
                half.passed(self.state)
        elif math.isfinite(loss) and spoiled == [0.0]:
            sentence = half.overflowed(self.state, sent.number)
            if self.world.rank == 0:
                self.say(f"warning: {sentence}")
        else:
            self._skip(sent, loss, norm)

    def _skip(self, sent: Sent, loss: float, norm: float) -> None:
        """Keeps what an update that is not finite was computed from, for `duplet replay`; stops after too many."""
        work, most = self.folder.parent, self.config.train.max_skipped_updates
        folder = work.with_name(f"{work.name}-not-finite-{sent.number:08d}")
        began = {name: self.world.gather(rows, name).asnumpy() for name, rows in sent.began.items()}
        if self.world.rank == 0:
            parameters = {name: p.data(self.world.context).asnumpy() for name, p in parameters_of(self.network).items()}
            update = replay.Replayed(
                sent.number, loss, norm, [part.tolist() for part in sent.update.examples], sent.update.seed,
                str(self.task.folder.resolve()), self.config.shown, self.state.kernel, sent.scale,
                {name: str(path.resolve()) for name, path in self.task.others.items()},
            )  # fmt: skip
            replay.keep(folder, update, parameters, began)
        self.state.skipped += 1
        command = shlex.join(["duplet", "replay", str(folder)])
        what = f"loss {loss} or gradient norm {norm} is not finite at update {sent.number}"
        if self.state.skipped > most:
            raise DupletError(
                f"{what}: `{command}` shows it again; lower train.optimizer.learning_rate, set "
                "train.optimizer.clip_norm, or let some be skipped with train.max_skipped_updates"
            )
        if self.world.rank == 0:
            self.say(f"warning: {what}, {self.state.skipped} of {most} skipped; `{command}` shows it again")

    def log_if_due(self, rate: float, loader: Loader) -> None:
        """Every log_every_updates: means of loss and norm, and what the clock says, over the updates since."""
        if self.meter.began == 0.0:
            self.meter.restart(loader.waited)  # the first update also pays for setting up
        if self.state.update % self.config.train.log_every_updates:
            return
        self.settle()
        point = {"learning_rate": rate}
        if self.state.pending:  # not all were skipped
            pending = np.array(self.state.pending)
            point |= {"loss": float(pending[:, 0].mean()), "gradient_norm": float(pending[:, 1].mean())}
        if self.state.skipped:
            point["skipped_updates"] = self.state.skipped
        if self.state.overflows:
            point["overflowed_updates"] = self.state.overflows
        self.state.pending = []
        self.state.history.append({"update": self.state.update, **point})
        seconds = time.perf_counter() - self.meter.began
        if self.meter.updates and seconds > 0:
            point |= {
                "interval_s": seconds,
                "tokens_per_s": self.meter.tokens / seconds,
                "padding_share": 1 - self.meter.tokens / self.meter.cells,
                "data_wait_share": (loader.waited - self.meter.waited) / seconds,
                "save_share": self.meter.saving / (time.perf_counter() - self.meter.first),
            }
        self.meter.restart(loader.waited)
        point["epoch"] = self.state.position.epoch
        if self.world.rank == 0:
            self.log.write(self.state.update, point)
            speed = f", {point['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in point else ""
            loss_said = f"loss {point['loss']:.4f}" if "loss" in point else "all skipped"
            self.say(f"update {self.state.update}/{max(self.total, self.state.update)}: {loss_said}{speed}")

    def compare_ranks_if_due(self) -> None:
        """Every compare_ranks_every_updates: whether all workers still hold the same parameters."""
        if self.state.update % self.config.train.compare_ranks_every_updates == 0:
            self.compare_ranks()

    def compare_ranks(self) -> None:
        """Raises DupletError where a worker's parameters are others than the others', so that none such are saved."""
        if self.world.size > 1:
            rank_consistency.compare(parameters_of(self.network), self.world, self.state.update, self.equal_at)
        self.equal_at = self.state.update

    def validate(self) -> bool:
        """Judges the network on the validation split; returns whether patience has ended. Rank 0's figures decide."""
        self.settle()
        self.beat("validating", self.state.update)
        began, settings, state = time.perf_counter(), self.config.train, self.state
        self.check_finite()
        name = self.config.train.metric
        with self.optimizer.judged(state.update):
            metrics = self.task.validate(self.network, self.world)
            sample = self.task.sample(self.network, self.world.context) if self.world.rank == 0 else None
        self._judge(metrics[name])
        metrics = {key: value for key, value in metrics.items() if math.isfinite(value)}  # JSON has no other
        state.history.append({"update": state.update, **{f"valid/{key}": v for key, v in metrics.items()}})
        if sample is not None:
            samples = self.folder.parent / SAMPLES
            samples.mkdir(parents=True, exist_ok=True)
            atomic_files.write_text(samples / f"update-{state.update:08d}.txt", sample)
        seconds = time.perf_counter() - began
        self.meter.began += seconds
        if self.world.rank == 0:
            self.log.write(state.update, {f"valid/{key}": v for key, v in metrics.items()} | {"validation_s": seconds})
            figure = f"{metrics[name]:.4f}" if name in metrics else "not finite"
            self.say(f"update {state.update}: valid {name} {figure} (best {state.best:.4f} at {state.best_update})")
        return settings.patience_validations is not None and state.without_better >= settings.patience_validations

    def _judge(self, value: float) -> None:
        """Compares a validation's value with the best one. Raises InputError where neither is a number."""
        state, name = self.state, self.config.train.metric
        sign = -1 if smaller_is_better(name) else 1
        if math.isfinite(value) and (state.best is None or sign * value > sign * state.best):
            state.best, state.best_update, state.without_better = value, state.update, 0
            return
        if state.best is None:
            raise InputError(
                f"the first validation gave {name}={value}, which cannot be compared with later ones: set train.metric "
                f"to another of {', '.join(self.config.metrics)}, or give a validation split that {name} can judge"
            )
        state.without_better += 1

    def check_finite(self) -> None:
        """Raises DupletError on all workers where a parameter is not finite, so that no such one is saved."""
        parameters = {name: p.data(self.world.context) for name, p in parameters_of(self.network).items()}
        if nd.multi_all_finite(*parameters.values(), num_arrays=len(parameters)).asscalar():
            return
        wrong = next(name for name, array in parameters.items() if not np.isfinite(array.asnumpy()).all())
        raise DupletError(
            f"parameter {wrong} is not finite at update {self.state.update}: lower train.optimizer.learning_rate; "
            "the same command goes on from the newest checkpoint, where all were finite"
        )

    def save(self) -> None:
        """A checkpoint, unless this update has one: rank 0 copies all of it, and writes while training goes on."""
        self.settle()
        if self.saved_at == self.state.update:
            return
        self.beat("saving", self.state.update)
        nd.waitall()  # the update before is training, not saving
        began = time.perf_counter()
        self.compare_ranks()
        self.check_finite()
        carried = {f"{CARRY}{name}": self.world.gather(rows, name).asnumpy() for name, rows in self.task.carry.items()}
        if self.world.rank == 0:
            parameters = {name: p.data(self.world.context).asnumpy() for name, p in parameters_of(self.network).items()}
            self.writing.begin(
                self.folder, self.state, parameters, self.optimizer.state() | carried,
                self.config.train.keep_checkpoints,
            )  # fmt: skip
        self.saved_at = self.state.update
        seconds = time.perf_counter() - began
        self.meter.saving += seconds
        self.meter.began += seconds

    def load_best(self) -> None:
        """Puts the best validated parameters back into the network of every rank."""
        if self.world.rank == 0:
            try:
                best = checkpoint.load(self.folder / f"update-{self.state.best_update:08d}")
            except ValueError as error:
                raise DupletError(
                    f"the best checkpoint is lost ({error}): delete {self.folder}, and the same command trains anew"
                ) from None
            decay = self.config.train.average
            set_parameters(self.network, averaging.judged(best.parameters, best.moments, decay, best.state.update))
        self.world.broadcast([p.data(self.world.context) for p in parameters_of(self.network).values()], "best")


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

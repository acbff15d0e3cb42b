"""A thread that makes the batches ahead of the loop, in the plan's order, from any position on."""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from pipeline.core import mapped_memory
from pipeline.distributed.world import World
from pipeline.tasks.base import Task
from pipeline.training import exchange
from pipeline.training.batch_plan import Plan, Position, StreamPlan, shares

AHEAD = 4  # batches made before they are needed


class Update(NamedTuple):
    """One update's work for this worker, and what it is of the whole."""

    batches: list[Any]  # this worker's parts
    tokens: np.ndarray | None  # (U,) int32 ascending: the embedding rows that any worker needs
    own: list[np.ndarray | None]  # (u,) int32: where each part's tokens stand among them; None where they are the same
    real: int  # tokens of all workers
    cells: int  # the same with padding
    examples: list[Any]  # example numbers, by worker and part
    seed: list[int]  # of what the batch draws
    after: Position  # where the next update stands
    ends_epoch: bool


class Loader:
    """Iterates over updates from `start` to the last epoch's end; `waited` sums the seconds the loop stood still.

    What the workers must know of each other's part of an update is exchanged while the update before it is computed.
    That is begun when the loop asks for the update before, so all workers begin as many exchanges, however far ahead
    their batches are.
    """

    def __init__(self, task: Task, plan: Plan | StreamPlan, world: World, start: Position, epochs: int) -> None:
        self.waited = 0.0
        task.prepare()
        mapped_memory.trim()  # the C library does so in the main thread's memory alone
        self._task, self._plan, self._world = task, plan, world
        self._start, self._epochs, self._parts = start, epochs, task.config.train.accumulate
        self._queue: queue.Queue[Update | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._joining = ThreadPoolExecutor(1, "exchange")
        self._thread = threading.Thread(target=self._fill, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Update]:
        coming = self._begin()
        while coming is not None:
            began = time.perf_counter()
            update = coming.result()
            self.waited += time.perf_counter() - began
            coming = self._begin()
            yield update

    def _begin(self) -> "Future[Update] | None":
        """Begins the exchange for the next update, if there is one."""
        began = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - began
        if item is None:
            return None
        if isinstance(item, BaseException) or self._world.size == 1:
            done: Future[Update] = Future()
            if isinstance(item, BaseException):
                done.set_exception(item)
            else:
                done.set_result(item)
            return done
        return self._joining.submit(self._joined, item)

    def _joined(self, update: Update) -> Update:
        joint = exchange.join(self._task, update.batches, self._world)
        return update._replace(**joint._asdict())

    def close(self) -> None:
        """Ends the thread; batches made ahead are dropped."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)
        self._joining.shutdown(wait=False)  # where another worker has ended, an exchange may never do

    def _fill(self) -> None:
        try:
            for update in self._updates():
                self._queue.put(update)
                if self._stopped.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # raised again in the loop's thread
            self._queue.put(error)

    def _updates(self) -> Iterator[Update]:
        plan, at = self._plan, self._start
        while at.epoch < self._epochs:
            batches = plan.batches(at.epoch, at.pool)
            for index in range(at.batch, len(batches)):
                after = Position(at.epoch, at.pool, index + 1)
                if index + 1 == len(batches):
                    after = Position(at.epoch, at.pool + 1) if at.pool + 1 < plan.pools else Position(at.epoch + 1)
                examples = shares(batches[index], plan.lengths, self._world.size, self._parts)
                seed = [plan.seed, at.epoch, at.pool, index]
                own = range(self._world.rank * self._parts, (self._world.rank + 1) * self._parts)
                made = [self._task.batch(examples, part, seed) for part in own]
                self._task.train.release()  # else an epoch would end with all files in memory
                update = Update(
                    batches=made,
                    tokens=None,  # from here on as `exchange.join` says
                    own=[],
                    real=0,
                    cells=0,
                    examples=examples,
                    seed=seed,
                    after=after,
                    ends_epoch=after.epoch > at.epoch,
                )
                yield self._joined(update) if self._world.size == 1 else update
            at = after

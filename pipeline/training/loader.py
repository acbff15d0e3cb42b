"""A thread that makes the batches ahead of the loop, in the plan's order, from any position on."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.core import mapped_memory
from pipeline.tasks.base import Task
from pipeline.training.batch_plan import Plan, Position, StreamPlan, shares

AHEAD = 4  # batches made before they are needed


class Update(NamedTuple):
    """One update's work for this worker, and what it is of the whole."""

    batch: Any
    examples: list[Any]  # example numbers, by worker
    seed: list[int]  # of what the batch draws
    after: Position  # where the next update stands
    ends_epoch: bool


class Loader:
    """Iterates over updates from `start` to the last epoch's end; `waited` sums the seconds the loop stood still."""

    def __init__(self, task: Task, plan: Plan | StreamPlan, rank: int, size: int, start: Position, epochs: int) -> None:
        self.waited = 0.0
        task.prepare()
        mapped_memory.trim()  # the C library does so in the main thread's memory alone
        self._task, self._plan, self._rank, self._size = task, plan, rank, size
        self._start, self._epochs = start, epochs
        self._queue: queue.Queue[Update | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Update]:
        while True:
            began = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - began
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            yield item

    def close(self) -> None:
        """Ends the thread; batches made ahead are dropped."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

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
                examples = shares(batches[index], plan.lengths, self._size)
                seed = [plan.seed, at.epoch, at.pool, index]
                batch = self._task.batch(examples, self._rank, seed)
                self._task.train.release()  # else an epoch would end with all files in memory
                yield Update(
                    batch=batch,
                    examples=examples,
                    seed=seed,
                    after=after,
                    ends_epoch=after.epoch > at.epoch,
                )
            at = after

"""The same function over pieces of work, here, in processes of this host or on a Dask cluster: results in order.

What comes out depends on the pieces alone. Whoever cuts them must not ask how many workers there are: then the output
is the same bytes whatever runs them, and whichever worker is killed when.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from pipeline.core.errors import DupletError, InputError, one_line

P = TypeVar("P")
T = TypeVar("T")
_TRIES = 3  # of a piece whose worker ends early
_AHEAD = 2  # pieces per worker that are read before their results are taken


class Executor(Protocol):
    """Runs a function, named in a module that the workers can import, over pieces that can be pickled."""

    def map(self, function: Callable[[P], T], pieces: Iterable[P]) -> Iterator[T]:
        """Results in the order of the pieces, of which only a few are read ahead. Raises DupletError."""
        ...

    def close(self) -> None: ...


class InProcess:
    """Runs the pieces here, one after the other: cheaper than starting processes for a little work."""

    def map(self, function: Callable[[P], T], pieces: Iterable[P]) -> Iterator[T]:
        return map(function, pieces)

    def close(self) -> None:
        pass


class Processes:
    """Runs the pieces in other processes, spawned and not forked: this one may hold the threads of mxnet and OpenMP.

    A piece whose process is killed is done again, by a new one.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(self._workers, multiprocessing.get_context("spawn"), initializer=_prepare_worker)
        # All processes start before the thread that watches them. It does not see one that starts later until something
        # else happens: when that process is killed, a result is waited for that never comes.
        pool._safe_to_dynamically_spawn_children = False  # type: ignore[attr-defined]
        return pool

    def map(self, function: Callable[[P], T], pieces: Iterable[P]) -> Iterator[T]:
        """See Executor.

        Raises:
            DupletError: the process of a piece ended early three times.
        """
        pending: deque[tuple[P, Future[T]]] = deque()
        tries = 0  # of the first that is pending
        source = iter(pieces)
        ended = False
        while True:
            while not ended and len(pending) < _AHEAD * self._workers:
                try:
                    piece = next(source)
                except StopIteration:
                    ended = True
                    break
                pending.append((piece, self._submit(function, piece)))
            if not pending:
                return
            try:
                result = pending[0][1].result()
            except BrokenProcessPool:
                tries += 1
                if tries == _TRIES:
                    raise DupletError(
                        f"a process of this stage ended early {_TRIES} times at the same work, most likely for lack of "
                        "memory: free some and run again"
                    ) from None
                self.close()
                self._pool = self._new_pool()
                pending = deque((piece, self._submit(function, piece)) for piece, _ in pending)
                continue
            pending.popleft()
            tries = 0
            yield result

    def _submit(self, function: Callable[[P], T], piece: P) -> "Future[T]":
        try:
            return self._pool.submit(function, piece)
        except BrokenProcessPool as error:  # said when the result is asked for
            broken: Future[T] = Future()
            broken.set_exception(error)
            return broken

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Dask:
    """Runs the pieces on the workers of a Dask cluster, which must have this program installed; see docs/scale.md.

    Args:
        address: of its scheduler, such as tcp://host:8786; "local" starts one worker process per core of this host.

    Raises:
        InputError: Dask is not installed, or no scheduler answers there.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        try:
            import distributed
        except ImportError:
            raise InputError(
                "execution.engine=dask needs Dask, which is not installed: pip install 'duplet[dask]'"
            ) from None
        self._cluster: Any = None
        if address == "local":
            self._cluster = distributed.LocalCluster(
                n_workers=workers or len(os.sched_getaffinity(0)), threads_per_worker=1, processes=True,
                dashboard_address=None,
            )  # fmt: skip
        try:
            self._client = distributed.Client(self._cluster or address, timeout="30s", set_as_default=False)
        except Exception as error:  # a refused connection, a time-out, a scheduler of another version
            if self._cluster is not None:
                self._cluster.close()
            raise InputError(
                f"no Dask scheduler answers at {address} ({one_line(error, 120) or type(error).__name__}): start one, "
                "or give its execution.address"
            ) from None
        self._lost = distributed.KilledWorker

    def map(self, function: Callable[[P], T], pieces: Iterable[P]) -> Iterator[T]:
        """See Executor. A piece whose worker is lost is done again by another, three times at the most."""
        pending: deque[Any] = deque()
        source = iter(pieces)
        ended = False
        while True:
            window = self._window()  # workers come and go
            while not ended and len(pending) < window:
                try:
                    pending.append(self._client.submit(function, next(source), pure=False))
                except StopIteration:
                    ended = True
            if not pending:
                return
            try:
                result = pending.popleft().result()
            except self._lost as error:
                raise DupletError(
                    f"a Dask worker was lost several times at the same work ({one_line(error, 120)}): see its log"
                ) from None
            yield result

    def _window(self) -> int:
        return _AHEAD * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def close(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def executor(engine: str, address: str, workers: int | None, much: bool) -> Executor:
    """What runs a stage's pieces.

    Args:
        engine: "processes" or "dask".
        address: of the Dask scheduler, or "local".
        workers: processes of this host; None: as many as cores, but only this one unless there is much to do.

    Raises:
        InputError: see Dask.
    """
    if engine == "dask":
        return Dask(address, workers)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if much else 1
    return InProcess() if workers == 1 else Processes(workers)


def _prepare_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it even when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()

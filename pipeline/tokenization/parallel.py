"""The same function over pieces of text on all cores, in order, with a bounded number of pieces in flight."""

import functools
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.core.errors import DupletError
from pipeline.tokenization.encoder import Encoded, Encoder, load_bare_tokenizer, load_vocabulary

T = TypeVar("T")
PIECE_TEXTS = 1000


class Piece(NamedTuple):
    folder: Path  # that holds the tokenizer's files
    field: str
    texts: list[str]


class InProcess:
    """Runs the pieces here: cheaper than starting processes for a few thousand texts."""

    def map(self, function: Callable[[Piece], T], pieces: Iterable[Piece]) -> Iterator[T]:
        return map(function, pieces)

    def close(self) -> None:
        _forget()


class Processes:
    """Runs the pieces in other processes, spawned and not forked: this one may hold the threads of mxnet and OpenMP."""

    def __init__(self, workers: int) -> None:
        self._window = 2 * workers
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_prepare_worker)

    def map(self, function: Callable[[Piece], T], pieces: Iterable[Piece]) -> Iterator[T]:
        """Results in the order of the pieces, of which no more than two per worker are read ahead.

        Raises:
            DupletError: a worker was killed.
        """
        pending: deque[Future[T]] = deque()
        try:
            for piece in pieces:
                pending.append(self._pool.submit(function, piece))
                if len(pending) >= self._window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise DupletError(
                "a tokenizing process ended early, most likely for lack of memory: free some and run again"
            ) from None

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def processes_for(texts: int, workers: int | None) -> InProcess | Processes:
    """What suits so many texts; `workers` None means one per core that this process may use."""
    if workers is None:
        workers = 1 if texts <= 5 * PIECE_TEXTS else len(os.sched_getaffinity(0))
    return InProcess() if workers == 1 else Processes(workers)


def count(piece: Piece) -> Counter[str]:
    """Tokens within the field's limit: what lies behind it is never seen in training."""
    tokenizer, limits = _bare_tokenizer(piece.folder)
    counts: Counter[str] = Counter()
    for text in piece.texts:
        counts.update(tokenizer.tokens(text)[: limits[piece.field]])
    return counts


def encode(piece: Piece) -> Encoded:
    return _encoder(piece.folder).encode_all(piece.texts, piece.field)


# A process tokenizes for one folder only; what it has loaded is forgotten when the run ends.
_bare_tokenizer = functools.cache(load_bare_tokenizer)


@functools.cache
def _encoder(folder: Path) -> Encoder:
    tokenizer, limits = _bare_tokenizer(folder)
    return Encoder(tokenizer, load_vocabulary(folder), limits)


def _forget() -> None:
    _bare_tokenizer.cache_clear()
    _encoder.cache_clear()


def _prepare_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it even when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()

"""Work cut into pieces gives the same results in the same order, whatever runs it and whichever worker is killed."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.core.errors import DupletError, InputError
from pipeline.core.executors import Dask, Executor, InProcess, Processes, executor


class Work(NamedTuple):
    number: int
    killed: Path | None = None  # a file: the first worker that does this piece makes it and is killed


def digest(work: Work) -> str:
    """What a piece gives; slower for some pieces, so that they end out of order."""
    if work.killed is not None and not work.killed.exists():
        work.killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01 * (work.number % 3))
    return hashlib.sha256(str(work.number).encode()).hexdigest()


def stay(work: Work) -> int:
    """Piece 1 kills its process while the other runs piece 2, which does not end by itself."""
    assert work.killed is not None
    running = work.killed.with_name("running")
    if work.killed.exists():
        return work.number
    if work.number == 2:
        running.touch()
        time.sleep(3600)
    while not running.exists():
        time.sleep(0.01)
    work.killed.touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def refuse(work: Work) -> None:
    raise InputError(f"piece {work.number} is wrong")


def killed(work: Work) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


EXPECTED = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20)]


def engines() -> Iterator[Executor]:
    yield InProcess()
    yield from (Processes(workers) for workers in (1, 2, 3))


def test_results_come_in_order_from_any_number_of_processes() -> None:
    for engine in engines():
        with closing(engine):
            assert list(engine.map(digest, map(Work, range(20)))) == EXPECTED
            assert list(engine.map(digest, [])) == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [0, 7, 19])
def test_a_piece_whose_process_is_killed_is_done_again(workers: int, at: int, tmp_path: Path) -> None:
    with closing(Processes(workers)) as engine:
        pieces = (Work(number, tmp_path / "killed" if number == at else None) for number in range(20))
        assert list(engine.map(digest, pieces)) == EXPECTED
    assert (tmp_path / "killed").exists()


@pytest.mark.timeout(60)
def test_the_end_of_the_process_that_starts_last_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = ProcessPoolExecutor._spawn_process  # type: ignore[attr-defined]

    def start_late(pool: ProcessPoolExecutor) -> None:
        time.sleep(0.3)
        start(pool)

    monkeypatch.setattr(ProcessPoolExecutor, "_spawn_process", start_late)
    with closing(Processes(2)) as engine:
        assert list(engine.map(stay, (Work(number, tmp_path / "killed") for number in (2, 1)))) == [2, 1]


def test_a_piece_that_kills_each_process_ends_with_a_sentence() -> None:
    with closing(Processes(1)) as engine, pytest.raises(DupletError, match="ended early 3 times at the same work"):
        list(engine.map(killed, [Work(1)]))


def test_few_pieces_are_read_ahead() -> None:
    taken: list[int] = []

    def pieces() -> Iterator[Work]:
        for number in range(100):
            taken.append(number)
            yield Work(number)

    with closing(Processes(2)) as engine:
        next(engine.map(digest, pieces()))
        assert len(taken) <= 5


def test_a_workers_error_is_the_callers() -> None:
    for engine in (InProcess(), Processes(1)):
        with closing(engine), pytest.raises(InputError, match="piece 3 is wrong"):
            list(engine.map(refuse, [Work(3)]))


def test_little_work_starts_no_process() -> None:
    assert isinstance(executor("processes", "local", None, much=False), InProcess)
    assert isinstance(executor("processes", "local", 1, much=True), InProcess)


def test_dask_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'duplet\[dask\]'"):
        Dask("local")


def test_a_dask_cluster_gives_the_same_and_survives_a_killed_worker(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with closing(Dask("local", workers=2)) as engine:
        assert list(engine.map(digest, map(Work, range(20)))) == EXPECTED
        pieces = (Work(number, tmp_path / "killed" if number == 7 else None) for number in range(20))
        assert list(engine.map(digest, pieces)) == EXPECTED
        with pytest.raises(InputError, match="piece 3 is wrong"):
            list(engine.map(refuse, [Work(3)]))
    assert (tmp_path / "killed").exists()

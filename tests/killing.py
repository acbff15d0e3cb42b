"""Killing a process at each step that it takes on the file system, one after the other; or a worker process."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

STEPS = {
    "open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.truncate", "shutil.rmtree",
    "sqlite3.connect", "subprocess.Popen",
}  # fmt: skip

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def at_every_step(
    work: Callable[[], object], left: Callable[[int], None], stride: int = 1, writing: bool = False
) -> int:
    """Forks a process that does the work and is killed before its n-th step, for n = 1, 2, … until one ends by itself.

    With a stride, n = 1, 1 + stride, … With `writing`, opening a file to read it is no step.

    Args:
        left: called after each, with n; looks at what it left.

    Returns:
        How many were killed.
    """
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            _work_until(work, killed * stride + 1, writing)
        _, status = os.waitpid(child, 0)
        left(killed * stride + 1)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
            return killed
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1


def _work_until(work: Callable[[], object], step: int, writing: bool) -> None:
    """In the child; never returns."""
    taken = 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal taken
        if event not in STEPS or (writing and event == "open" and not given[2] & WRITES):  # the kill's own is none
            return
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(hook)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


@contextmanager
def killing(after_s: float) -> Iterator[list[int]]:
    """Kills the first worker process that is there after so long; yields the numbers of those killed."""
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        time.sleep(after_s)
        while not ended.wait(0.01):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # one that has just ended has no command line
                    command = " ".join(child.cmdline())
                    if "spawn_main" in command and "resource_tracker" not in command:
                        child.kill()
                        killed.append(child.pid)
                        return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()

"""A bound on the time of a whole answer, or other work: a byte now and then meets every timeout of a single read."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

ANSWER_S = 60.0  # for a call that sends or asks for some kilobytes
QUESTIONS_S = 600.0  # for a command's questions, and a model's copy; for a journal beside its files
AGAIN_S = 1.0  # it rings again so often: a library may swallow the first
UPLOAD_BYTES_PER_S = 20_000  # a file may take as long as over a slow line


class TooLong(Exception):
    """An answer took longer than it may."""


class _Rung(BaseException):
    """Not an Exception: a library that is waiting would take that for one of its own errors, and try again."""


@contextlib.contextmanager
def within(seconds: float, what: str = "an answer") -> Iterator[None]:
    """Ends what is done inside after so long; in threads other than the main one, which signals do not reach, not.

    Raises:
        TooLong: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= seconds:  # a wait around this one ends first
        yield
        return
    this = _Rung()

    def ring(*_: object) -> None:
        raise this

    handler = signal.signal(signal.SIGALRM, ring)
    began, (left, _) = time.monotonic(), signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    except _Rung as rung:
        if rung is not this:
            raise
        raise TooLong(f"{what} took more than {seconds:,.0f} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # of a wait around this one
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - began)), AGAIN_S)

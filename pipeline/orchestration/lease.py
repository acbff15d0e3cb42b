"""Who makes a stage's folder in a store: of all machines one at a time.

Arrow's client for S3 writes no object on the condition that it is not there (If-None-Match). So each copy of a root has
a claim of its own, `locks/STAGE-KEY/COPY`, that it writes first, and then it lists all claims. It holds the lease if
there is no other; else it takes its own back and waits. Of two at once, the later to write sees the other's claim, as
stores list what was written. The holder writes its claim anew every 20 s; one that stays the same for 90 s, by the
clock of whoever waits, is of a machine that is gone, and is removed. A holder that was late, for the store did not
answer or the machine slept, looks for others' claims again, and gives way to any.
"""

import random
import secrets
import time
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Protocol

from pipeline.core.errors import DupletError, TryAgain
from pipeline.core.progress import Say

BEAT_S, LEASE_S, POLL_S = 20.0, 90.0, 5.0


class Claims(Protocol):
    """Where claims are kept: see `store.Store`."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def names(self, folder: str) -> list[str]: ...

    def remove(self, *names: str) -> None: ...


class Lease:
    """Held while entered; entering waits for others.

    Args:
        what: STAGE-KEY. copy: the name of this copy of the root; one process at a time asks under it.
        who: is named to those that wait.
    """

    def __init__(self, claims: Claims, what: str, copy: str, who: str, say: Say) -> None:
        self._claims, self._what, self._who, self._say = claims, what, who, say
        self._folder = f"locks/{what}"
        self._own = f"{self._folder}/{copy}"
        self._seen: dict[str, tuple[bytes, float]] = {}  # claims of others, and since when they are the same
        self._end = Event()
        self._lost = False
        self._written = _now()  # when the claim in the store was last known to be new
        self._beats = Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lease":
        said = False
        while True:
            self._write()
            self._written = _now()
            others = self._others()
            if not others:
                break
            self._claims.remove(self._own)
            if not said:
                said = True
                self._say(f"{self._what} is being made by {others[0].decode(errors='replace')}: waiting")
            while others:
                time.sleep(POLL_S * (0.5 + random.random()))  # two that met do not meet again
                others = self._others()
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._beats.join()
        with suppress(DupletError):  # then it ends by itself
            if not self._lost:
                self._claims.remove(self._own)

    def check(self) -> None:
        """Raises TryAgain where another machine has taken the lease over."""
        if self._lost or not self._still():
            self._lost = True
            raise TryAgain(
                f"another machine makes {self._what}, for this one could not reach the store for {LEASE_S:.0f} s: the "
                "same command waits for it"
            )

    def _write(self) -> None:
        self._claims.write(self._own, f"{self._who} ({secrets.token_hex(4)})".encode())

    def _others(self) -> list[bytes]:
        """The claims of machines that are not known to be gone."""
        living = []
        for name in self._claims.names(self._folder):
            claim = None if name == self._own else self._claims.read(name)
            if claim is None:
                continue
            now = time.monotonic()
            if self._seen.get(name, (b"", 0.0))[0] != claim:
                self._seen[name] = (claim, now)
            if now - self._seen[name][1] > LEASE_S:
                self._claims.remove(name)
            else:
                living.append(claim)
        return living

    def _still(self) -> bool:
        """Whether the claim is there, and no other where this one was so late that another may have taken over."""
        if self._claims.read(self._own) is None:
            return False
        return _now() - self._written < LEASE_S - BEAT_S or self._claims.names(self._folder) == [self._own]

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            with suppress(DupletError):  # the next one may pass
                self._lost = self._lost or self._claims.read(self._own) is None
                if not self._lost:
                    self._write()  # may be late itself
                    self._lost = not self._still()
                    self._written = _now()
                    if self._lost:
                        self._claims.remove(self._own)
            if self._lost:
                return


def _now() -> float:
    """Seconds, those in which the machine slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

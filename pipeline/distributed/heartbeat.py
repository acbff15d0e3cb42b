"""Heartbeats: the workers of a host write where they stand into the work folder, and whoever started them watches.

A dead worker is noticed by its launcher. A stalled one is not: the others wait for it in their next exchange, forever.
Two signs tell it. A thread of each worker beats twice a second whatever the worker computes, so a silent worker is
stopped, swapped out or cut off; and the training notes each update, so workers that beat but make no update for much
longer than any update took so far wait for something that will not come.
"""

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BEAT_S = 0.5
TIMES_SLOWEST = 10  # an update (validation, save) may take so many times the slowest of its kind so far
FIRST_OF_ITS_KIND_S = 3600.0  # the bound before one was seen
FULL = "out of room"  # the phase of a worker that could not write
STOP = "stop"  # a file that asks the workers of one start, named by its token, to save and stop
BYTES = 512  # of a worker's slot in its host's file, so that it is written in one piece
LAST_WORDS_S = 2.0


class Beat(NamedTuple):
    """A worker's phase, its last finished update, and the longest duration of each phase so far, in seconds."""

    rank: int
    pid: int
    host: str
    token: str  # of the start it belongs to
    beats: int
    phase: str  # starting, training, validating, saving, finishing, evaluating, ended, out of room
    update: int
    slowest: dict[str, float]


class Heart:
    """One worker's heartbeat. Call it with (phase, update) as the work goes on; the thread does the rest.

    A host has one file, a slot for each worker. The host's first worker writes it: the others tell it by a socket of
    the host, so that a shared file system has one writer for each host. Where it does not listen, before it has begun
    and when it is gone, they write their slots themselves.
    """

    def __init__(self, work: Path, rank: int, token: str, local_rank: int = 0) -> None:
        self.work, self.rank, self.token = work, rank, token
        self._phase, self._update, self._beats = "starting", -1, 0
        self._slowest: dict[str, float] = {}
        self._since, self._asked, self._ended = time.monotonic(), False, False
        self._lock, self._host = threading.Lock(), socket.gethostname()
        self._first, self._place = rank - local_rank, local_rank
        self._slots: dict[int, bytes] = {}  # of the host's workers, as the first has heard of them
        self._file = os.open(path(work, self._first), os.O_RDWR | os.O_CREAT, 0o644)
        digest = hashlib.sha256(f"{work.resolve()} {token} {self._first}".encode()).hexdigest()
        self._address = f"\0duplet-{digest[:32]}"  # of no file: it goes with its process
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if local_rank == 0:
            with contextlib.suppress(OSError):
                self._socket.bind(self._address)
        self._tell()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def __call__(self, phase: str, update: int) -> None:
        """Notes that `update` updates are done and `phase` begins; costs microseconds."""
        now = time.monotonic()
        with self._lock:
            if self._phase != "starting":
                self._slowest[self._phase] = max(self._slowest.get(self._phase, 0.0), round(now - self._since, 3))
            self._phase, self._update, self._since = phase, update, now
            self._tell()

    def end(self) -> None:
        """Notes that this worker has no more to do: from now on its silence is no sign."""
        self("ended", self._update)
        self._last_words()

    def full(self) -> None:
        """Notes that this worker ends because the disk is full, where no other file can say so."""
        self(FULL, self._update)
        self._last_words()

    def _last_words(self) -> None:
        """Sees to it that the newest slot stands in the file, whoever ends first."""
        with self._lock, contextlib.suppress(OSError):
            self._ended = True
            if self._place == 0:
                self._hear()
                self._write_all(self._file)
                self._socket.close()  # the others write themselves from here on
            else:
                self._socket.settimeout(LAST_WORDS_S)
                self._send()
                os.pwrite(self._file, self._slot(), self._place * BYTES)

    def _beat(self) -> None:
        due = time.monotonic() + BEAT_S
        while not self._ended:
            if self._place == 0 and (left := due - time.monotonic()) > 0:
                with contextlib.suppress(OSError, ValueError):  # closed
                    if self._heard_within(left):
                        with self._lock:
                            self._hear()
                        continue
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + BEAT_S
            with self._lock, contextlib.suppress(OSError):  # a full disk ends no training
                if self._ended:
                    return
                self._beats += 1
                if self._place:
                    self._tell()
                else:
                    self._write_anew()
            if self._place == 0:
                self._look_for_stop()

    def _heard_within(self, seconds: float) -> bool:
        """Whether another worker told something; not by select(), which refuses descriptors from 1024 on."""
        ears = select.poll()
        ears.register(self._socket, select.POLLIN)
        return bool(ears.poll(1000 * seconds))

    def _look_for_stop(self) -> None:
        with contextlib.suppress(OSError):
            if not self._asked and (self.work / STOP).read_text(encoding="utf-8") == self.token:
                self._asked = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _tell(self) -> None:
        """Gives this worker's newest slot to whoever writes it."""
        with contextlib.suppress(OSError):
            if self._place == 0 or not self._send():
                os.pwrite(self._file, self._slot(), self._place * BYTES)

    def _send(self) -> bool:
        """Whether the host's first worker hears of this one; where its ears are full it hears of the next beat."""
        try:
            self._socket.sendto(self._slot(), self._address)
        except (BlockingIOError, TimeoutError):
            return True
        except OSError:
            return False
        return True

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                slot = self._socket.recv(BYTES)
                with contextlib.suppress(ValueError, TypeError):
                    self._slots[Beat(*json.loads(slot)).rank - self._first] = slot

    def _write_anew(self) -> None:
        """Opens the file anew: NFS then shows it to others."""
        handle = os.open(path(self.work, self._first), os.O_RDWR)
        try:
            self._write_all(handle)
        finally:
            os.close(handle)

    def _write_all(self, handle: int) -> None:
        self._slots[self._place] = self._slot()
        for place, slot in self._slots.items():
            os.pwrite(handle, slot, place * BYTES)

    def _slot(self) -> bytes:
        beat = Beat(
            self.rank, os.getpid(), self._host, self.token, self._beats, self._phase, self._update, self._slowest
        )
        return json.dumps(beat).encode().ljust(BYTES - 1) + b"\n"


def path(work: Path, first: int) -> Path:
    """The heartbeat file of the host whose first rank is given."""
    return work / f"beat-{first}.json"


def beats(work: Path, token: str | None = None) -> Iterator[Beat]:
    """The newest heartbeat of each worker of one start (of any, without a token), by rank."""
    found = []
    for file in work.glob("beat-*.json"):
        with contextlib.suppress(OSError):
            for slot in file.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError):  # just being made, or of a rank that is yet to come
                    found.append(Beat(*json.loads(slot.strip(b"\0"))))
    yield from sorted((beat for beat in found if token is None or beat.token == token), key=lambda beat: beat.rank)


class Watch:
    """Notices a stall from heartbeats alone; `now` is a time.monotonic(), so that no clocks of hosts are compared."""

    def __init__(self, min_stall_s: float) -> None:
        self.min_stall_s = min_stall_s
        self._seen: dict[int, tuple[int, float]] = {}  # rank -> beats, and when they last changed
        self._moved: dict[int, tuple[tuple[str, int], float]] = {}  # rank -> phase and update, likewise

    def stalled(self, heartbeats: list[Beat], now: float) -> str | None:
        """Who stalled, as a sentence without a full stop; None while all is well."""
        for beat in heartbeats:
            if self._seen.get(beat.rank, (None, 0.0))[0] != beat.beats:
                self._seen[beat.rank] = beat.beats, now
            if self._moved.get(beat.rank, (None, 0.0))[0] != (beat.phase, beat.update):
                self._moved[beat.rank] = (beat.phase, beat.update), now
        at_work = [beat for beat in heartbeats if beat.phase != "ended"]
        for beat in at_work:
            silent = now - self._seen[beat.rank][1]
            if silent > self.min_stall_s:
                return (
                    f"rank {beat.rank} (process {beat.pid} on {beat.host}) has been silent for {silent:.0f} s "
                    f"while {beat.phase}{after(beat)}: stopped, or its host is gone"
                )
        over = [self._over_bound(beat, now) for beat in at_work]
        if over and all(over):  # while one is within its bound, such as a save, the others rightly wait for it
            return str(over[0])
        return None

    def ended(self, heartbeats: list[Beat], workers: int, now: float) -> bool:
        """Whether all workers ended well over `min_stall_s` ago, so that their launcher should have noticed.

        To be called after `stalled`, with the same beats.
        """
        over = [b.phase == "ended" and now - self._moved[b.rank][1] > self.min_stall_s for b in heartbeats]
        return len(over) == workers and all(over)

    def _over_bound(self, beat: Beat, now: float) -> str | None:
        still, bound = now - self._moved[beat.rank][1], self.bound_s(beat)
        if bound is None or still <= bound:
            return None
        return (
            f"rank {beat.rank} and all others wait: {beat.phase}{after(beat)} has taken {still:.0f} s, "
            f"the bound is {bound:.0f} s"
        )

    def bound_s(self, beat: Beat) -> float | None:
        """How long what a worker is at may take, from what it took this worker; None: any time, while it beats."""
        if beat.phase == "evaluating":
            return None
        slowest = beat.slowest.get(beat.phase)
        return max(self.min_stall_s, FIRST_OF_ITS_KIND_S if slowest is None else TIMES_SLOWEST * slowest)


def after(beat: Beat) -> str:
    """` after update N`, where there was one."""
    return f" after update {beat.update}" if beat.update >= 0 else ""


def reached(heartbeats: list[Beat]) -> int | None:
    """The last update that any worker has done; None where none has begun to train."""
    done: list[Any] = [beat.update for beat in heartbeats if beat.update >= 0]
    return max(done, default=None)

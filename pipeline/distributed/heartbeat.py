"""Heartbeats: each worker writes where it stands into its work folder, and whoever started the workers watches.

A dead worker is noticed by its launcher. A stalled one is not: the others wait for it in their next exchange, forever.
Two signs tell it. A thread of each worker beats twice a second whatever the worker computes, so a silent worker is
stopped, swapped out or cut off; and the training notes each update, so workers that beat but make no update for much
longer than any update took so far wait for something that will not come.
"""

import contextlib
import json
import os
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
BYTES = 512  # of a heartbeat file, so that it is written in one piece


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
    """One worker's heartbeat. Call it with (phase, update) as the work goes on; the thread does the rest."""

    def __init__(self, work: Path, rank: int, token: str) -> None:
        self.work, self.rank, self.token = work, rank, token
        self._phase, self._update, self._beats = "starting", -1, 0
        self._slowest: dict[str, float] = {}
        self._since, self._asked = time.monotonic(), False
        self._lock, self._host = threading.Lock(), socket.gethostname()
        self._file = os.open(path(work, rank), os.O_RDWR | os.O_CREAT, 0o644)
        self._write(self._file)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def __call__(self, phase: str, update: int) -> None:
        """Notes that `update` updates are done and `phase` begins; costs microseconds."""
        now = time.monotonic()
        with self._lock:
            if self._phase != "starting":
                self._slowest[self._phase] = max(self._slowest.get(self._phase, 0.0), round(now - self._since, 3))
            self._phase, self._update, self._since = phase, update, now
            self._write(self._file)

    def end(self) -> None:
        """Notes that this worker has no more to do: from now on its silence is no sign."""
        self("ended", self._update)

    def full(self) -> None:
        """Notes that this worker ends because the disk is full, where no other file can say so."""
        self(FULL, self._update)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with self._lock, contextlib.suppress(OSError):  # a full disk ends no training
                self._beats += 1
                handle = os.open(path(self.work, self.rank), os.O_RDWR)  # opened anew: NFS then shows it to others
                try:
                    self._write(handle)
                finally:
                    os.close(handle)
            self._look_for_stop()

    def _look_for_stop(self) -> None:
        with contextlib.suppress(OSError):
            if not self._asked and (self.work / STOP).read_text(encoding="utf-8") == self.token:
                self._asked = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _write(self, handle: int) -> None:
        beat = Beat(
            self.rank, os.getpid(), self._host, self.token, self._beats, self._phase, self._update, self._slowest
        )
        with contextlib.suppress(OSError):
            os.pwrite(handle, json.dumps(beat).encode().ljust(BYTES), 0)


def path(work: Path, rank: int) -> Path:
    """The heartbeat file of a rank."""
    return work / f"beat-{rank}.json"


def beats(work: Path, token: str | None = None) -> Iterator[Beat]:
    """The newest heartbeat of each worker of one start (of any, without a token)."""
    for file in sorted(work.glob("beat-*.json")):
        try:
            beat = Beat(*json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):  # just being made
            continue
        if token is None or beat.token == token:
            yield beat


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

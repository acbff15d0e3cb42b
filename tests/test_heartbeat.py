"""Which heartbeats mean a stall, on a clock of the test's own."""

import contextlib
import itertools
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distributed import heartbeat
from pipeline.distributed.heartbeat import Beat, Heart, Watch


def beat(rank: int, beats: int, update: int, phase: str = "training", slowest: float = 0.1) -> Beat:
    return Beat(rank, 100 + rank, "host", "token", beats, phase, update, {"training": slowest})


def test_a_silent_rank_is_named_though_all_have_stopped_moving() -> None:
    watch = Watch(min_stall_s=30)
    for second in range(31):
        found = [beat(0, second, 7), beat(1, min(second, 4), 7)]
        assert watch.stalled(found, float(second)) is None
    said = watch.stalled([beat(0, 40, 7), beat(1, 4, 7)], 34.5)
    assert said is not None
    assert said.startswith("rank 1 (process 101 on host) has been silent for 30 s while training after update 7")


def test_ranks_that_beat_but_make_no_update_have_ten_times_the_slowest() -> None:
    watch = Watch(min_stall_s=5)
    for second in range(91):
        assert watch.stalled([beat(0, second, 7, slowest=9.0), beat(1, second, 7, slowest=2.0)], float(second)) is None
    said = watch.stalled([beat(0, 91, 7, slowest=9.0), beat(1, 91, 7, slowest=2.0)], 91.0)
    assert said is not None
    assert "the bound is 90 s" in said


def test_the_others_rightly_wait_for_a_rank_that_saves() -> None:
    watch = Watch(min_stall_s=5)
    saving = lambda second: Beat(0, 100, "host", "token", second, "saving", 7, {"saving": 9.0, "training": 0.1})
    for second in range(90):
        assert watch.stalled([saving(second), beat(1, second, 7)], float(second)) is None
    assert watch.stalled([saving(91), beat(1, 91, 7)], 91.0) is not None


def test_what_took_another_rank_no_time_is_no_measure_for_the_rank_that_does_it() -> None:
    watch = Watch(min_stall_s=5)
    for second in range(100):
        first = Beat(0, 100, "host", "token", second, "saving", 7, {"training": 0.1})
        other = Beat(1, 101, "host", "token", second, "training", 8, {"training": 0.1, "saving": 0.001})
        assert watch.stalled([first, other], float(second)) is None


def test_a_rank_that_has_ended_may_be_silent(tmp_path: Path) -> None:
    watch = Watch(min_stall_s=5)
    for second in range(100):
        assert watch.stalled([beat(0, second, second), beat(1, 3, 7, "ended")], float(second)) is None
    assert watch.stalled([], 200.0) is None
    heart = Heart(tmp_path, 0, "token")
    heart("training", 9)
    heart.end()
    (last,) = heartbeat.beats(tmp_path)
    assert (last.phase, last.update) == ("ended", 9)


def test_the_first_validation_and_any_evaluation_may_take_long() -> None:
    watch = Watch(min_stall_s=5)
    assert watch.bound_s(beat(0, 1, 7, "validating")) == heartbeat.FIRST_OF_ITS_KIND_S
    for second in range(0, 100_000, 4):
        assert watch.stalled([beat(0, second, -1, "evaluating")], float(second)) is None


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3), st.floats(2, 30), st.floats(1.01, 1.5))
def test_a_steady_training_is_never_stalled_and_one_that_is_not_always_is(
    shares: list[float], least: float, too_long: float
) -> None:
    """Steps of any lengths within ten times the slowest before them (or `least`), and at last one beyond that."""
    watch, slowest, look_s = Watch(least), 0.5, least / 2
    clock = itertools.count()

    def stalled(update: int, looks: int) -> bool:
        """Whether one of so many looks, `look_s` apart, sees a stall."""
        seen = [Beat(0, 1, "h", "t", at, "training", update, {"training": slowest}) for at in range(looks)]
        return any(watch.stalled([beat._replace(beats=at)], at * look_s) is not None for beat, at in zip(seen, clock))

    for update, share in enumerate(shares):
        looks = 1 + int(share * max(least, 10 * slowest) / look_s)
        assert not stalled(update, looks)
        slowest = max(slowest, (looks - 1) * look_s)
    assert stalled(len(shares), 3 + int(too_long * max(least, 10 * slowest) / look_s))


def test_a_heart_writes_each_update_and_what_took_longest(tmp_path: Path) -> None:
    heart = Heart(tmp_path, 3, "token")
    (first,) = heartbeat.beats(tmp_path)
    assert (first.rank, first.pid, first.phase, first.update) == (3, os.getpid(), "starting", -1)
    heart("training", 1)
    heart("validating", 1)
    heart("training", 2)
    (now,) = heartbeat.beats(tmp_path, "token")
    assert (now.phase, now.update) == ("training", 2)
    assert set(now.slowest) == {"training", "validating"}
    assert heartbeat.reached([first, now]) == 2
    assert heartbeat.reached([first]) is None
    assert not list(heartbeat.beats(tmp_path, "another start"))


def on_one_host(work: Path, workers: int = 3) -> list[Heart]:
    """Hearts of ranks 8, 9 … of the second host."""
    return [Heart(work, 8 + place, "token", place) for place in range(workers)]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120  # a busy machine is no failure
    while not true():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


def test_a_host_has_one_file_that_its_first_worker_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = on_one_host(tmp_path)
    written: list[int] = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, slot, at: (written.append(at), real(handle, slot, at))[1])
    for heart in (first, *others):
        heart("training", 5)
    until(lambda: [b.update for b in heartbeat.beats(tmp_path)] == [5, 5, 5])
    assert [(b.rank, b.phase) for b in heartbeat.beats(tmp_path)] == [
        (8, "training"),
        (9, "training"),
        (10, "training"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["beat-8.json"]
    monkeypatch.setattr(first, "_write_all", lambda handle: None)  # so that what others write themselves would be seen
    time.sleep(heartbeat.BEAT_S)
    written.clear()
    for update in range(6, 30):
        others[0]("training", update)
    assert not [at for at in written if at]
    monkeypatch.undo()
    until(lambda: [b.update for b in heartbeat.beats(tmp_path)] == [5, 29, 5])
    for heart in (first, *others):
        heart.end()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_ends_stand_in_the_file_whoever_ends_first(order: tuple[int, ...], tmp_path: Path) -> None:
    hearts = on_one_host(tmp_path)
    for place in order:
        hearts[place]("training", 7 + place)
        hearts[place].end()
    assert [(b.phase, b.update) for b in heartbeat.beats(tmp_path)] == [("ended", 7), ("ended", 8), ("ended", 9)]
    time.sleep(2 * heartbeat.BEAT_S)  # nobody writes an older one over it
    assert [(b.phase, b.update) for b in heartbeat.beats(tmp_path)] == [("ended", 7), ("ended", 8), ("ended", 9)]


def test_an_end_is_heard_by_a_first_worker_whose_ears_were_full(tmp_path: Path) -> None:
    """It would write what it heard before over what stands there."""
    first, other, third = on_one_host(tmp_path)
    with first._lock:  # it hears nothing meanwhile
        for update in range(1000):
            third("training", update)
        ending = threading.Thread(target=other.end)
        ending.start()
        time.sleep(heartbeat.LAST_WORDS_S / 4)
    ending.join()
    time.sleep(2 * heartbeat.BEAT_S)
    assert [b.phase for b in heartbeat.beats(tmp_path)] == ["starting", "ended", "training"]
    for heart in (first, third):
        heart.end()


def test_workers_beat_on_when_their_hosts_first_is_gone(tmp_path: Path) -> None:
    first, *others = on_one_host(tmp_path)
    first("training", 1)
    first._last_words()  # its process has ended
    others[1]("training", 4)
    until(lambda: [b.update for b in heartbeat.beats(tmp_path) if b.rank == 10] == [4])
    beats = {b.rank: b.beats for b in heartbeat.beats(tmp_path)}
    until(lambda: all(b.beats > beats[b.rank] for b in heartbeat.beats(tmp_path) if b.rank > 8))
    for heart in others:
        heart.end()


def test_a_first_worker_with_a_thousand_open_files_hears_the_others(tmp_path: Path) -> None:
    """The first of 512 ranks has more than that, and select() refuses descriptors from 1024 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            files.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        hearts = on_one_host(tmp_path)
        assert hearts[0]._socket.fileno() >= 1024
        for heart in hearts:
            heart("training", 5)
        until(lambda: [b.update for b in heartbeat.beats(tmp_path)] == [5, 5, 5])
        for heart in hearts:
            heart.end()


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"[]", b"{}", b"\xff"])
def test_a_heartbeat_half_written_is_passed_over(content: bytes, tmp_path: Path) -> None:
    heartbeat.path(tmp_path, 0).write_bytes(content)
    assert not list(heartbeat.beats(tmp_path))

"""What starting workers says of those that die, stall or are asked to stop; small processes take the workers' place."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.core.errors import DupletError, TryAgain
from pipeline.distributed import heartbeat, launcher

# A worker with a heart and nothing else; its work folder is the last word of its command line.
HEART = """
import json, os, signal, sys, time
from pathlib import Path
from pipeline.distributed.heartbeat import Heart
work = Path(sys.argv[-1])
token = json.loads((work / "job.json").read_text())["token"]
heart = Heart(work, 0, token)
heart("training", 7)
def outcome(*_):
    (work / "outcome.json").write_text(json.dumps({"exit_code": 75, "message": "saved", "token": token}))
    os._exit(75)
"""


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *starter: str, tick: object = lambda: None) -> None:
    """Runs a job whose workers are started by a command that takes theirs as further words."""
    monkeypatch.setenv("DUPLET_LAUNCHER", shlex.join(starter))
    job = launcher.Job("train", {}, str(tmp_path / "work"), "", "", "")
    launcher.run(job, 1, 1, 2.0, lambda line: None, tick)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 3", "a worker of train exited with code 3 and no error message: see "),
        (
            "kill -9 $$",
            "a worker of train was killed by SIGKILL; out of memory? Then lower train.max_tokens_per_update: see ",
        ),
        ("kill -SEGV $$", "a worker of train was killed by SIGSEGV: see "),
        ("exit 76", "a worker of train lost the others: one was killed, or the network"),
        ("printf 'Process name: 2\\nExit code: 137\\n'; exit 1", "rank 2 of train was killed by SIGKILL; out of"),
    ],
)
def test_who_died_and_of_what(script: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DupletError) as raised:
        run(tmp_path, monkeypatch, "sh", "-c", script)
    assert str(raised.value).startswith(expected)
    assert str(raised.value).endswith("; the same command goes on from the newest checkpoint")


def test_a_worker_that_asks_for_another_try_and_has_no_room_to_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk filled to its last block it cannot even make a heartbeat's file."""
    for script in ("exit 75", "printf 'Process name: 1\\nExit code: 75\\n'; exit 1"):
        with pytest.raises(TryAgain, match="no space is left on the disk of"):
            run(tmp_path, monkeypatch, "sh", "-c", script)


# Starts the workers, is then stopped, and so never notices their end.
STOPPED_LAUNCHER = '"$@" & sleep 3; kill -STOP $$'


def test_workers_that_are_done_are_believed_over_a_launcher_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = HEART + "heart.end()\ntime.sleep(1)"
    run(tmp_path, monkeypatch, "sh", "-c", STOPPED_LAUNCHER, "launcher", sys.executable, "-c", script)
    assert not any(psutil.pid_exists(beat.pid) for beat in heartbeat.beats(tmp_path / "work"))
    assert not [p for p in psutil.process_iter() if p.ppid() == os.getpid() and p.status() == psutil.STATUS_STOPPED]


def test_a_failure_that_a_stopped_launcher_does_not_pass_on_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TryAgain, match="saved"):
        run(
            tmp_path, monkeypatch, "sh", "-c", STOPPED_LAUNCHER, "launcher",
            sys.executable, "-c", HEART + "time.sleep(0.2)\noutcome()",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "usable"), [(None, 4), ("2,0", 2), ("", 0), ("1,-1,2", 1), ("7", 0), ("GPU-8932f937", 1), (" 3 ", 1)]
)
def test_gpus_that_cuda_hides_are_not_counted(visible: str | None, usable: int) -> None:
    """CUDA C++ Programming Guide: indices, or names from GPU- or MIG- on; what follows a wrong one is hidden."""
    assert launcher.usable_gpus(visible, 4) == usable


def test_an_outcome_of_workers_before_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        'eval work=\\${$#}; echo \'{"exit_code": 2, "message": "old", "token": "old"}\' > $work/outcome.json; exit 1'
    )
    with pytest.raises(DupletError, match="exited with code 1 and no error message") as raised:
        run(tmp_path, monkeypatch, "sh", "-c", script)
    assert (tmp_path / "work" / "outcome.json").read_text().startswith('{"exit_code": 2')
    assert raised.value.exit_code == 1


def test_a_stopped_worker_is_noticed_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = HEART + "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(1000)"
    with pytest.raises(DupletError, match=r"has been silent for \d+ s while training after update 7") as raised:
        run(tmp_path, monkeypatch, sys.executable, "-c", script)
    pid = int(str(raised.value).split("(process ")[1].split(" ")[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_launcher_that_is_ended_and_calls_that_well_done_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = HEART + "os.kill(os.getpid(), signal.SIGSTOP)"
    launcher = 'trap "exit 0" TERM; "$@" & while :; do wait; done'
    with pytest.raises(DupletError, match=r"has been silent for \d+ s while training after update 7"):
        run(tmp_path, monkeypatch, "sh", "-c", launcher, "launcher", sys.executable, "-c", script)


def test_a_worker_that_is_asked_saves_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_once() -> None:
        if any((tmp_path / "work").glob("beat-*.json")) and not asked:
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    asked: list[float] = []
    before = signal.getsignal(signal.SIGTERM)
    script = HEART + "signal.signal(signal.SIGTERM, outcome)\nwhile True: time.sleep(0.05)"
    with pytest.raises(TryAgain, match="saved"):
        run(tmp_path, monkeypatch, sys.executable, "-c", script, tick=ask_once)
    assert asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_ends_workers_that_do_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_twice() -> None:
        if any((tmp_path / "work").glob("beat-*.json")) and len(asked) < 2:
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    asked: list[float] = []
    script = HEART + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)"
    with pytest.raises(TryAgain, match="stopped in the middle of train"):
        run(tmp_path, monkeypatch, sys.executable, "-c", script, tick=ask_twice)

"""Checkpoints are written while training goes on, and none is left half whatever ends it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import DupletError, TryAgain
from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from pipeline.training import checkpoint, loop
from tests import networks
from tests.updates.steps import fit

Save = Callable[..., None]


class Slow:
    """In the place of `checkpoint.save`: the save of an update waits until it may go on."""

    def __init__(self, patch: pytest.MonkeyPatch, update: int) -> None:
        self.update, self.real = update, checkpoint.save
        self.begun, self.may = threading.Event(), threading.Event()
        self.saved: list[int] = []
        patch.setattr(checkpoint, "save", self)

    def __call__(self, folder: Path, state: checkpoint.State, *rest: Any) -> None:
        if state.update == self.update:
            self.begun.set()
            assert self.may.wait(60)
        self.real(folder, state, *rest)
        self.saved.append(state.update)


@pytest.fixture
def run(made: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """run(seen, **train) -> the state; seen(run) is called after each update."""

    def start(seen: Callable[[loop.Run], None], **train: Any) -> loop.State:
        config, _, tokenized = made("classification", train={"keep_checkpoints": 9, "max_updates": 6, **train})
        task = task_of(config, tokenized)
        due = loop.Run.compare_ranks_if_due

        def after(self: loop.Run) -> None:
            due(self)
            seen(self)

        monkeypatch.setattr(loop.Run, "compare_ranks_if_due", after)
        return fit(task, networks.fresh(task), config, World(), tmp_path)

    return start


def test_training_goes_on_while_a_checkpoint_is_written(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is written is of its update, though two more have changed the parameters since."""
    slow, at, noted = Slow(monkeypatch, 2), {}, {}
    begin = checkpoint.Writing.begin

    def noting(self: checkpoint.Writing, folder: Path, state: checkpoint.State, *rest: Any) -> None:
        noted[state.update] = (list(state.pending), list(state.history))
        begin(self, folder, state, *rest)

    monkeypatch.setattr(checkpoint.Writing, "begin", noting)

    def seen(running: loop.Run) -> None:
        at[running.state.update] = running.network.output.bias.data().asnumpy()
        if running.state.update == 4:
            assert slow.begun.wait(60) and slow.saved == []
            slow.may.set()

    run(seen, checkpoint_every_updates=2)
    assert slow.saved[:2] == [2, 4]
    for update in slow.saved:
        found = checkpoint.load(tmp_path / f"checkpoints/update-{update:08d}")
        assert (found.state.pending, found.state.history) == noted[update]
        assert found.state.update == update
        np.testing.assert_array_equal(found.parameters["output.bias"], at[update])
    assert (at[2] != at[4]).any()


def test_a_training_that_is_asked_to_stop_ends_with_a_whole_checkpoint(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, 4)
    threading.Timer(0.3, slow.may.set).start()

    def seen(running: loop.Run) -> None:
        if running.state.update == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TryAgain, match="checkpoint saved"):
        run(seen)
    newest = slow.saved[-1]
    assert newest >= 4
    assert checkpoint.load(tmp_path / f"checkpoints/update-{newest:08d}").state.update == newest


def test_a_training_that_fails_leaves_what_was_being_written_whole(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, 2)

    def seen(running: loop.Run) -> None:
        if running.state.update == 3:
            threading.Timer(1, slow.may.set).start()
            raise DupletError("something else")

    with pytest.raises(DupletError, match="something else"):
        run(seen, checkpoint_every_updates=2)
    assert slow.saved == [2]
    assert checkpoint.names(tmp_path / "checkpoints") == ["update-00000002"]
    assert checkpoint.load(tmp_path / "checkpoints/update-00000002").state.update == 2


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint can be written."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)


@pytest.mark.usefixtures("full_disk")
def test_a_training_that_is_asked_to_stop_does_not_say_saved_of_what_is_not(run: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="No space left"):
        run(lambda running: os.kill(os.getpid(), signal.SIGTERM) if running.state.update == 3 else None)


@pytest.mark.usefixtures("full_disk")
def test_what_keeps_a_checkpoint_from_being_written_ends_the_training(run: Callable[..., Any]) -> None:
    updates: list[int] = []
    with pytest.raises(OSError, match="No space left"):
        run(lambda running: updates.append(running.state.update), checkpoint_every_updates=2)
    assert updates[-1] == 4  # where the next one was due

"""How a training ends, and what validation and saving make of numbers that are none."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import DupletError, InputError
from pipeline.distributed.world import World
from pipeline.tasks.base import Task, task_of
from pipeline.training import checkpoint, loop, warm_start
from pipeline.training.batch_plan import Plan
from tests import networks
from tests.updates.steps import fit

Fresh = Callable[..., tuple[Task, Any, Any]]


@pytest.fixture
def fresh(made: Callable[..., Any]) -> Fresh:
    """fresh(**train) -> a task, its network and its configuration."""

    def make(**train: Any) -> tuple[Task, Any, Any]:
        config, _, tokenized = made("classification", train=train)
        task = task_of(config, tokenized)
        return task, networks.fresh(task), config

    return make


@pytest.mark.parametrize("off_by", [-1, 0, 1])
def test_the_last_epoch_ends_whatever_its_updates_were_taken_for(
    off_by: int, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large data the updates of an epoch are an estimate, by which the schedule alone may go."""
    task, network, config = fresh(epochs=3)
    plan = loop.plan_of(task, config)
    real = sum(len(plan.batches(epoch, pool)) for epoch in range(3) for pool in range(plan.pools))
    monkeypatch.setattr(Plan, "updates_per_epoch", lambda self: real // 3 + off_by)
    state = fit(task, network, config, World(), tmp_path)
    assert (state.update, state.position.epoch, state.finished) == (real, 3, True)


def test_a_point_is_of_all_updates_since_the_last_one_in_parts_too(made: Callable[..., Any], tmp_path: Path) -> None:
    losses = []
    for parts in (1, 2):
        train = {"accumulate": parts, "max_updates": 8, "log_every_updates": 4}
        config, _, tokenized = made("classification", train=train, model={"dropout": 0.0})
        task = task_of(config, tokenized)
        state = fit(task, networks.fresh(task), config, World(), tmp_path / str(parts))
        losses.append([point["loss"] for point in state.history if "loss" in point])
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], rel=1e-5)


def validating(task: Task, values: list[float], **others: float) -> None:
    """Lets a task's validations find these accuracies, one after the other."""
    found: Iterator[float] = iter(values)
    task.validate = lambda network, world: {"accuracy": next(found), **others}  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_validation_that_gives_no_number_first_is_refused(value: float, fresh: Fresh, tmp_path: Path) -> None:
    task, network, config = fresh(validate_every_updates=1, max_updates=4)
    validating(task, [value] * 9)
    with pytest.raises(InputError, match=r"the first validation gave accuracy=.*set train\.metric.*macro_f1"):
        fit(task, network, config, World(), tmp_path)


def test_a_later_one_is_never_the_best(fresh: Fresh, tmp_path: Path) -> None:
    task, network, config = fresh(validate_every_updates=1, max_updates=4, keep_checkpoints=9)
    validating(task, [0.25, math.nan, 0.5, math.inf], macro_f1=math.nan)
    state = fit(task, network, config, World(), tmp_path)
    assert (state.best, state.best_update, state.without_better) == (0.5, 3, 1)
    # JSON as its standard has it: no NaN
    refuse = lambda name: pytest.fail(f"{name} is no JSON")
    for path in (tmp_path / "points.jsonl", *tmp_path.glob("checkpoints/*/state.json")):
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=refuse)


def test_a_value_that_is_no_number_ends_patience_too(fresh: Fresh, tmp_path: Path) -> None:
    task, network, config = fresh(validate_every_updates=1, max_updates=9, patience_validations=2)
    validating(task, [0.25] + [math.nan] * 9)
    assert fit(task, network, config, World(), tmp_path).update == 3


@pytest.mark.parametrize("often", ["validate_every_updates", "checkpoint_every_updates"])
def test_parameters_that_are_not_finite_are_never_saved(often: str, fresh: Fresh, tmp_path: Path) -> None:
    """A finite gradient times a huge rate is infinite, which the update after it would be the first to see."""
    huge = {"kind": "sgd", "learning_rate": 3e38, "clip_norm": None, "momentum": 0.0, "weight_decay": 1e3}
    task, network, config = fresh(**{often: 1}, max_updates=4, optimizer=huge, schedule={"warmup_updates": 0})
    with pytest.raises(DupletError, match=r"parameter \S+ is not finite at update 1: lower .*learning_rate"):
        fit(task, network, config, World(), tmp_path)
    assert not list(tmp_path.glob("checkpoints/update-*"))


def test_a_training_does_not_start_from_parameters_that_are_not_finite(fresh: Fresh, tmp_path: Path) -> None:
    task, network, config = fresh(max_updates=2)
    fit(task, network, config, World(), tmp_path / "work")
    arrays = checkpoint.load(tmp_path / "work/checkpoints/update-00000002").parameters
    arrays["output.bias"][0] = math.nan
    np.savez(tmp_path / "parameters.npz", **arrays)
    (tmp_path / "vocabulary.json").write_bytes((task.folder / "vocabulary.json").read_bytes())
    with pytest.raises(InputError, match=r"output\.bias .*not finite"):
        warm_start.start_from(tmp_path, network, task.folder)


@pytest.mark.parametrize(("task", "name"), [("classification", "label"), ("tagging", "tag")])
def test_what_has_no_class_is_never_trained_on(
    task: str, name: str, made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that means nothing: the class before the first, which would stand for the last one."""
    config, _, tokenized = made(task)
    opened = task_of(config, tokenized)
    field = opened.train.fields["label" if task == "classification" else "tags"]
    ids, padded = type(field).ids, type(field).padded

    def spoiled(values: np.ndarray, of: Any) -> np.ndarray:
        return np.where(values == values.max(), 1, values) if of is field else values

    monkeypatch.setattr(type(field), "ids", lambda self, row: spoiled(ids(self, row), self))
    monkeypatch.setattr(type(field), "padded", lambda self, rows: (spoiled((p := padded(self, rows))[0], self), p[1]))
    with pytest.raises(InputError, match=f"{name} of record .* of the train split is in no vocabulary"):
        opened.batch([np.arange(6)], 0, [1, 0, 0, 0])

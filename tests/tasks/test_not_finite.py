"""Updates whose loss or gradients are not finite, in every task: nothing changes, and a replay gives the same bits."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Config, check_config
from pipeline.core.errors import DupletError, InputError
from pipeline.core.event_log import Spool
from pipeline.distributed.world import World
from pipeline.tasks.base import StepLoss, Task, task_of
from pipeline.training import checkpoint, loop, replay
from tests import networks
from tests.tasks.examples import SMALL, small

Spoil = Callable[[StepLoss], StepLoss]
BAD = 4  # the update that is spoiled
HOW: dict[str, Spoil] = {
    "gradients": lambda found: StepLoss(found.objective * float("inf"), found.value.copy()),
    "loss": lambda found: StepLoss(found.objective, found.value * float("nan")),
}


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, prepared: Callable[..., Any]) -> Callable[..., tuple[Config, Path]]:
    """cases(task, **train) -> a configuration of six updates with all checkpoints kept, and its folder of ids."""
    folder = tmp_path_factory.mktemp("not-finite")

    def make(name: str, **train: Any) -> tuple[Config, Path]:
        train = {"checkpoint_every_updates": 1, "keep_checkpoints": 9, "max_updates": 6, **train}
        return check_config(small(name, str(folder / "runs"), **train), "test"), prepared(name)[2]

    return make


def fresh(config: Config, folder: Path, how: Spoil | None = None, at: int = BAD) -> tuple[Task, Any]:
    """A task whose `at`-th loss is spoiled, and its network."""
    task = task_of(config, folder)
    network, whole, calls = networks.fresh(task), task.loss, [0]

    def loss(*arguments: Any) -> StepLoss:
        calls[0] += 1
        found = whole(*arguments)
        return how(found) if how is not None and calls[0] == at else found

    task.loss = loss  # type: ignore[method-assign]
    return task, network


def fit(task: Task, network: Any, config: Config, world: World, folder: Path, said: list[str]) -> checkpoint.State:
    folder.mkdir(parents=True)
    return loop.fit(task, network, config, world, folder / "checkpoints", Spool(folder / "points.jsonl"), said.append)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SMALL)
def test_a_skipped_update_changes_nothing_but_the_counters(
    name: str, how: str, cases: Callable[..., Any], world: World, tmp_path: Path
) -> None:
    config, folder = cases(name, max_skipped_updates=1)
    said: list[str] = []
    state = fit(*fresh(config, folder, HOW[how]), config, world, tmp_path / "work", said)
    assert state.skipped == 1
    assert len([line for line in said if f"not finite at update {BAD}, 1 of 1 skipped" in line]) == 1
    before, at, after = (checkpoint.load(tmp_path / f"work/checkpoints/update-{BAD + i:08d}") for i in (-1, 0, 1))
    for left, right in ((before.parameters, at.parameters), (before.moments, at.moments)):
        assert left.keys() == right.keys()
        for key in left:
            assert left[key].tobytes() == right[key].tobytes(), key
            assert np.isfinite(right[key]).all()
    assert (at.state.skipped, at.state.update) == (1, BAD)
    assert at.state.order != before.state.order
    assert any(at.parameters[key].tobytes() != after.parameters[key].tobytes() for key in at.parameters)
    for key, array in {**after.parameters, **after.moments}.items():
        assert np.isfinite(array).all(), key
    logged = {point.update: point.values for point, _ in Spool(tmp_path / "work/points.jsonl").read(0)}
    assert all(math.isfinite(value) for values in logged.values() for value in values.values())
    assert logged[BAD]["skipped_updates"] == 1


@pytest.mark.parametrize("name", SMALL)
def test_too_many_stop_and_a_replay_sees_the_same_bits(
    name: str, cases: Callable[..., Any], world: World, tmp_path: Path
) -> None:
    config, folder = cases(name)
    with pytest.raises(DupletError, match=f"not finite at update {BAD}: `duplet replay ") as raised:
        fit(*fresh(config, folder, HOW["gradients"]), config, world, tmp_path / "work", [])
    kept = Path(str(raised.value).split("`duplet replay ")[1].split("`")[0])
    assert kept.parent == tmp_path
    found = replay.again(kept, *fresh(config, folder, HOW["gradients"], at=1), config, world)
    assert found["same"]
    assert math.isfinite(found["loss"])
    assert found["loss"] == found["seen"]["loss"]
    assert not math.isfinite(found["gradient_norm"])
    assert found["not_finite"]
    assert all(0 < sum(row["by_rank"]) <= row["values"] for row in found["not_finite"].values())

    well = replay.again(kept, *fresh(config, folder), config, world)  # without what spoiled it
    assert not well["same"]
    assert well["loss"] == found["loss"]
    assert math.isfinite(well["gradient_norm"])
    assert well["not_finite"] == {}


@pytest.mark.parametrize("after, same", [(None, True), (BAD, True), (BAD - 1, False)])
def test_a_replay_holds_the_rows_that_the_training_held(
    after: int | None, same: bool, cases: Callable[..., Any], world: World, tmp_path: Path
) -> None:
    """Rows of `model.vectors` have no part in the norm while they are held."""
    config, folder = cases("classification")
    config = config.model_copy(update={"model": config.model.model_copy(update={"vectors_tuned_after": after})})
    task, network = fresh(config, folder, HOW["loss"])
    held = np.ones(network.embedding.shape[0], bool)
    (tmp_path / "work").mkdir()
    spool = Spool(tmp_path / "work" / "points.jsonl")
    with pytest.raises(DupletError, match=f"not finite at update {BAD}: `duplet replay ") as raised:
        loop.fit(task, network, config, world, tmp_path / "work/checkpoints", spool, [].append, pretrained_rows=held)
    kept = Path(str(raised.value).split("`duplet replay ")[1].split("`")[0])
    again = lambda rows: replay.again(kept, *fresh(config, folder, HOW["loss"], at=1), config, world, held_rows=rows)
    found, other = again(held), again(None)
    assert found["same"]
    assert (other["gradient_norm"] != found["gradient_norm"]) == same, "they are held until that update"


@pytest.mark.parametrize("name", ["matching", "language_model", "classification"])
def test_a_replay_takes_the_parts_that_the_training_took(
    name: str, cases: Callable[..., Any], world: World, tmp_path: Path
) -> None:
    config, folder = cases(name, accumulate=2)
    with pytest.raises(DupletError, match=f"not finite at update {BAD}: "):
        fit(*fresh(config, folder, HOW["gradients"], at=2 * BAD), config, world, tmp_path / "work", [])
    kept = tmp_path / f"work-not-finite-{BAD:08d}"
    found = replay.again(kept, *fresh(config, folder, HOW["gradients"], at=2), config, world)
    assert found["same"] and found["not_finite"]
    whole = check_config(config.model_dump(mode="json", exclude_unset=True) | {"train": {"accumulate": 1}}, "test")
    with pytest.raises(InputError, match="use as many"):
        replay.again(kept, *fresh(whole, folder), whole, world)


def test_a_training_that_stopped_goes_on_when_it_may_skip(
    cases: Callable[..., Any], world: World, tmp_path: Path
) -> None:
    """And ends as one that was allowed to from the beginning."""
    for work, first in (("stopped", 0), ("whole", 1)):
        config, folder = cases("language_model", max_skipped_updates=first)
        task, network = fresh(config, folder, HOW["gradients"])
        if work == "stopped":
            with pytest.raises(DupletError, match="max_skipped_updates"):
                fit(task, network, config, world, tmp_path / work / "work", [])
            config, folder = cases("language_model", max_skipped_updates=1)
            task, network = fresh(config, folder, HOW["gradients"], at=1)  # goes on from update 3
            loop.fit(
                task, network, config, world, tmp_path / work / "work/checkpoints",
                Spool(tmp_path / work / "work/points.jsonl"), lambda line: None,
            )  # fmt: skip
        else:
            fit(task, network, config, world, tmp_path / work / "work", [])
    names = ("parameters.npz", "moments.npz", "state.json")
    one, two = (
        [(tmp_path / work / "work/checkpoints/update-00000006" / name).read_bytes() for name in names]
        for work in ("stopped", "whole")
    )
    assert one == two


@pytest.mark.parametrize("damage", ["missing", "emptied", "no archive", "other network", "json"])
def test_a_damaged_kept_update_is_refused(damage: str, cases: Callable[..., Any], world: World, tmp_path: Path) -> None:
    config, folder = cases("classification")
    task, network = fresh(config, folder)
    kept = tmp_path / "kept"
    update = replay.Replayed(1, 1.0, 1.0, [[0, 1]], [1, 0, 0, 0], str(folder), config.model_dump(mode="json"))
    arrays = {"other": np.zeros(3)} if damage == "other network" else {
        key: parameter.data().asnumpy() for key, parameter in loop.parameters_of(network).items()
    }  # fmt: skip
    replay.keep(kept, update, arrays, {})
    if damage == "missing":
        (kept / replay.PARAMETERS).unlink()
    elif damage == "emptied":
        (kept / replay.PARAMETERS).write_bytes(b"")
    elif damage == "no archive":
        (kept / replay.BEGAN).write_bytes(b"x" * 100)
    elif damage == "json":
        (kept / replay.UPDATE).write_text(json.dumps({"format": replay.FORMAT, "update": 1}))
    with pytest.raises(InputError) as raised:
        replay.again(kept, task, network, config, world)
    assert str(kept) in str(raised.value)
    assert "\n" not in str(raised.value)

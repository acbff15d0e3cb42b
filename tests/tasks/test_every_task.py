"""What holds for every task: padding changes nothing, a killed training goes on bit for bit, workers share exactly."""

import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.tasks.base import task_of
from tests.networks import fresh
from tests.tasks.examples import SMALL, small, to_predict
from tests.workers.by_workers import run_by
from tests.workers.equality import assert_equal

# workers, parts of each, dropout
SHARED = ((1, 1, 0.0), (2, 1, 0.0), (1, 2, 0.0), (2, 2, 0.0), (1, 1, 0.4), (1, 2, 0.4), (2, 1, 0.4))
IN_PARTS = ("matching", "language_model", "tagging")  # trained in parts where a training is killed
STEPS = Path(__file__).with_name("training_steps.py")


def numbers(value: Any) -> list[float]:
    """All numbers in a prediction, in order."""
    if isinstance(value, dict):
        return [n for key in value for n in numbers(value[key])]
    if isinstance(value, list | tuple):
        return [n for item in value for n in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def words(value: Any) -> list[str]:
    """All texts in a prediction, in order."""
    if isinstance(value, dict):
        return [w for key in value for w in words(value[key])]
    if isinstance(value, list | tuple):
        return [w for item in value for w in words(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.usefixtures("kernel")
# pairs: tests/serving/test_predict.py
@pytest.mark.parametrize("name", [name for name in SMALL if SMALL[name]["task"] != "matching"])
def test_a_prediction_does_not_depend_on_what_it_is_batched_with(name: str, prepared: Callable[..., Any]) -> None:
    config, ingested, tokenized = prepared(name)
    task = task_of(config, tokenized)
    network = fresh(task, 3, init=mx.init.Uniform(0.5))
    rows = [to_predict(name, row) for row in pq.read_table(ingested / "records-valid.parquet").to_pylist()[:12]]
    assert len(rows) == 12
    together = task.predict(network, rows, mx.cpu())
    assert len({json.dumps(answer, default=str) for answer in together}) > 1, "all rows get the same answer"
    for row, answer in zip(rows, together):
        [alone] = task.predict(network, [row], mx.cpu())
        assert words(alone) == words(answer)
        np.testing.assert_allclose(numbers(alone), numbers(answer), atol=2e-6)


def run_steps(folder: Path, *arguments: str, workers: int = 1) -> subprocess.CompletedProcess[str]:
    return run_by(workers, STEPS, *arguments, cwd=folder)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, prepared: Callable[..., Any]) -> Path:
    """cases.json: for each task its folders."""
    folder = tmp_path_factory.mktemp("steps")
    found = {name: str(prepared(name)[2]) for name in SMALL}
    often = {"checkpoint_every_updates": 2, "max_updates": 9}
    configs = {name: small(name, str(folder / "runs"), accumulate=1 + (name in IN_PARTS), **often) for name in SMALL}
    (folder / "cases.json").write_text(json.dumps({"folders": found, "configs": configs}))
    return folder


@pytest.fixture(scope="module")
def resumed(cases: Path) -> Path:
    """Each task trained undisturbed, and killed in its seventh update and started again."""
    done = run_steps(cases, "train", "undisturbed")
    assert done.returncode == 0, done.stderr
    for name in SMALL:
        killed = run_steps(cases, "train", "disturbed", name, "7")
        assert killed.returncode == -9, killed.stderr
    done = run_steps(cases, "train", "disturbed")
    assert done.returncode == 0, done.stderr
    return cases


@pytest.mark.workers
@pytest.mark.parametrize("name", SMALL)
def test_a_killed_training_ends_with_the_same_bits(name: str, resumed: Path) -> None:
    one, two = (dict(np.load(resumed / kind / f"{name}.npz")) for kind in ("undisturbed", "disturbed"))
    assert str(two.pop("said")).startswith("going on from update-0000000")
    one.pop("said")
    assert one.keys() == two.keys()
    for key in one:
        assert one[key].tobytes() == two[key].tobytes(), key


@pytest.fixture(scope="module")
def shared(cases: Path) -> Callable[..., Path]:
    """shared(workers, parts, dropout, name): what so many workers, each in so many parts, computed in three updates."""

    @functools.cache
    def compute(workers: int, parts: int, dropout: float) -> None:
        done = run_steps(cases, "share", str(parts), str(dropout), workers=workers)
        assert done.returncode == 0, done.stdout + done.stderr

    def found(workers: int, parts: int, dropout: float, name: str) -> Path:
        compute(workers, parts, dropout)
        return cases / f"size-{workers}-{parts}-{dropout}-{name}.npz"

    return found


@pytest.mark.workers
@pytest.mark.parametrize("division", SHARED)
def test_all_tasks_can_be_divided(division: tuple[int, int, float], shared: Callable[..., Path]) -> None:
    """By itself, so that no test takes the time of several divisions."""
    assert all(shared(*division, name).exists() for name in SMALL)


@pytest.mark.workers
@pytest.mark.parametrize(("workers", "parts"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", SMALL)
def test_workers_and_parts_equal_the_whole(name: str, workers: int, parts: int, shared: Callable[..., Path]) -> None:
    assert_equal(shared(1, 1, 0.0, name), shared(workers, parts, 0.0, name))


@pytest.mark.workers
@pytest.mark.parametrize("name", SMALL)
def test_with_dropout_parts_equal_as_many_workers(name: str, shared: Callable[..., Path]) -> None:
    """And other masks than one worker's."""
    whole, parts, workers = (shared(*division, 0.4, name) for division in ((1, 1), (1, 2), (2, 1)))
    assert_equal(parts, workers)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal(parts, whole)

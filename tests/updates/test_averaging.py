"""A training that keeps its parameters' means: they are judged and kept, and it goes on to the same ones."""

from pathlib import Path

import numpy as np

from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from pipeline.training import checkpoint
from tests.networks import fresh
from tests.training.test_averaging import plain_means, values_of
from tests.updates.conftest import Made
from tests.updates.steps import fit


def test_means_are_judged_and_kept_and_their_checkpoints_go_on(made: Made, tmp_path: Path) -> None:
    config, _, tokenized = made(
        "classification",
        train={
            "average": 0.6, "checkpoint_every_updates": 1, "keep_checkpoints": 99, "max_updates": 6,
            "validate_every_updates": 3,
        },
    )  # fmt: skip

    task = task_of(config, tokenized)
    network = fresh(task)
    past, seen = [values_of(network)], []
    accuracies = iter([0.5, 0.6])
    task.validate = lambda network, world: (  # type: ignore[method-assign]
        seen.append(values_of(network)) or {"accuracy": next(accuracies), "macro_f1": 0.0}
    )
    state = fit(task, network, config, World(), tmp_path)
    past += [checkpoint.load(tmp_path / "checkpoints" / f"update-{n:08d}").parameters for n in range(1, 7)]
    for found, updates in ((seen[0], 3), (seen[1], 6), (values_of(network), 6)):
        for name, value in plain_means(past[: updates + 1], 0.6).items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=f"{name} after {updates}")
    assert state.best_update == 6

    # going on from the middle gives the same
    for n in (4, 5, 6):
        for path in (tmp_path / "checkpoints" / f"update-{n:08d}").iterdir():
            path.unlink()
        (tmp_path / "checkpoints" / f"update-{n:08d}").rmdir()
    task = task_of(config, tokenized)
    other = fresh(task)
    task.validate = lambda network, world: {"accuracy": 0.6, "macro_f1": 0.0}  # type: ignore[method-assign]
    fit(task, other, config, World(), tmp_path)
    expected, got = values_of(network), values_of(other)
    assert all(expected[name].tobytes() == got[name].tobytes() for name in expected)

"""What MXNet asks a GPU for in one update: golden numbers, of a fixed update of each kind.

They rise where a change adds an operator, a copy or a wait: raise them only where that is worth it,
by `DUPLET_WRITE_GOLDEN=1 make test-null-gpu PYTEST_ARGS="-n 0 -k asks_for"`. Two copies come back: the loss
and norm of the update before, and the factor that MXNet's Adam reads (adamw.cu).
"""

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from pipeline.training import loop
from tests.networks import fresh
from tests.null_gpu import device
from tests.null_gpu.device import Counts
from tests.updates.cases import CASES, Case, merged
from tests.updates.steps import fit
from tests.updates.test_costs import COSTS

pytestmark = pytest.mark.null_gpu

BENCH = yaml.safe_load((Path(__file__).parents[2] / "configs" / "bench.yaml").read_text())
WHICH = 3
FILE = Path(__file__).parents[1] / "golden" / "null_gpu.json"
NAMES = ("launches", "library_calls", "syncs", "to_device", "from_device", "on_device", "allocations")


def case_of(name: str) -> Case:
    """A case of tests/updates, or what `make bench` trains, with the sizes of its layers."""
    if name != "bench":
        return CASES[name]
    settings = {name: BENCH["train"][name] for name in ("loss", "optimizer", "schedule")}
    return {"task": "matching", "model": BENCH["model"], "train": settings}


@pytest.mark.parametrize("name", ["bench", *COSTS])
def test_an_update_asks_for_what_it_did(
    name: str, made: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, kernels = counted(name, made, tmp_path, monkeypatch)
    found = {key: value for key, value in counts._asdict().items() if key in NAMES}
    # MXNet seeds its generators in a thread of its own, in this update's time or in the next one's
    found["launches"] -= sum(count for kernel, count in kernels.items() if "rand_generator_seed" in kernel)
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("DUPLET_WRITE_GOLDEN"):
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {**golden, name: found}.items())
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        wanted = golden[name]
        # an array that is freed ends a bulk of operators, and when that is MXNet's threads decide; a wait after each
        # operator is more than three times as many
        assert found["syncs"] <= 4 + 1.6 * wanted["syncs"]
        assert found | {"syncs": 0} == wanted | {"syncs": 0}, kernels
    assert found["from_device"] <= 2
    if name == "bench":
        assert found["launches"] <= 200 and found["syncs"] <= 60


def counted(
    name: str, made: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Counts, dict[str, int]]:
    """What update WHICH of a case asks for, and its kernels by name."""
    few = {"max_updates": WHICH + 1, "validate_every_updates": 100, "gpus": True}
    config, _, tokenized = made(**merged(case_of(name), {"train": few}))
    world = World(gpus=True)
    task = task_of(config, tokenized)
    network = fresh(task, ctx=world.context)
    counts: dict[int, Counts] = {}
    kernels: dict[int, dict[str, int]] = {}
    sent = loop.Run.sent

    def noted(run: loop.Run, *arguments: Any) -> None:
        sent(run, *arguments)
        counts[run.state.update] = device.counts()
        kernels[run.state.update] = device.kernels()

    monkeypatch.setattr(loop.Run, "sent", noted)
    gc.collect()
    gc.disable()  # an array that is freed ends a bulk of operators
    try:
        fit(task, network, config, world, folder)
    finally:
        gc.enable()
    return counts[WHICH].since(counts[WHICH - 1]), kernels[WHICH]

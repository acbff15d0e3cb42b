"""What an update costs: how many operators it invokes, and how often it waits for a copy between device and host.

The numbers are those of one fixed update. They rise where a change adds an operator or a copy: raise them here only
where that is worth it. The one `asnumpy` is of the results of the update before.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from pipeline.training import loop
from tests.networks import fresh
from tests.updates.cases import CASES, merged
from tests.updates.steps import fit
from tests.updates.watch import DEVICE, watched

# case -> operators that Python invokes (those of the backward pass are not), with our own recurrent layers and with
# MXNet's; copies to the device, copies from it
COSTS: dict[str, tuple[int, int, int, int]] = {
    "matching cosine in_batch_softmax": (121, 121, 14, 1),
    "matching late_interaction hinge": (389, 399, 10, 1),
    "matching mlp softmax": (288, 288, 8, 1),
    "classification lstm last": (43, 49, 4, 1),
    "tagging lstm False False": (40, 40, 5, 1),
    "tagging rnn_relu True True": (143, 152, 8, 1),
    "cloze sampled": (117, 117, 14, 1),
    "cloze whole": (66, 66, 5, 1),
    "language_model": (49, 49, 2, 1),
    "language_model all": (228, 228, 5, 1),
    "translation luong lstm": (65, 71, 5, 1),
    "translation bahdanau lstm": (202, 208, 5, 1),
    "captioning pictures first": (64, 64, 4, 1),
    "captioning pictures attention": (68, 68, 4, 1),
}
WHICH = 3


@pytest.mark.parametrize("kernel", ["auto", "mxnet"])
@pytest.mark.parametrize("name", COSTS)
def test_an_update_costs_what_it_did(
    name: str, kernel: str, made: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, tokenized = made(
        **merged(
            CASES[name],
            {"train": {"max_updates": WHICH + 1, "validate_every_updates": 100}, "model": {"kernel": kernel}},
        )
    )
    world = World()
    world.context = DEVICE
    task = task_of(config, tokenized)
    network = fresh(task, ctx=DEVICE)
    costs: dict[int, tuple[int, dict[str, int]]] = {}
    sent = loop.Run.sent
    with watched() as seen:

        def noted(run: loop.Run, *arguments: Any) -> None:
            sent(run, *arguments)
            costs[run.state.update] = seen.take()

        monkeypatch.setattr(loop.Run, "sent", noted)
        ran = fit(task, network, config, world, tmp_path).kernel
    own, mxnets, to_device, from_device = COSTS[name]
    operators, copies = costs[WHICH]
    assert (operators, copies.pop("_sync_copyfrom"), copies.pop("asnumpy")) == (
        mxnets if ran == "mxnet" else own, to_device, from_device,
    )  # fmt: skip
    assert not copies

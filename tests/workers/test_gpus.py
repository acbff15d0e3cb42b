"""train.gpus=true where a GPU cannot be used: one sentence says what is missing."""

import socket
from typing import Any

import horovod.mxnet as hvd
import mxnet as mx
import pytest

from pipeline.core.errors import InputError
from pipeline.distributed import world


def machine(patch: pytest.MonkeyPatch, cuda: bool, gpus: int | None, nccl: bool, local_rank: int, size: int) -> None:
    """What MXNet and Horovod say of themselves; None: the driver is missing."""

    def num_gpus() -> int:
        if gpus is None:
            raise mx.MXNetError("Check failed: e == cudaSuccess (35 vs. 0) : CUDA driver version is insufficient\n…")
        return gpus

    class Features:
        def is_enabled(self, name: str) -> bool:
            assert name == "CUDA"
            return cuda

    patch.setattr(mx.runtime, "Features", Features)
    patch.setattr(mx.context, "num_gpus", num_gpus)
    for name, value in (("nccl_built", nccl), ("local_rank", local_rank), ("rank", local_rank), ("size", size)):
        patch.setattr(hvd, name, lambda value=value: value)


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        ({"cuda": False}, "built for the CPU alone"),
        (
            {"gpus": None},
            r"CUDA gives none \(.*driver version is insufficient.*nvidia-smi`, whose driver must be 450\.80",
        ),
        ({"gpus": 0}, "needs 2 GPUs on this host, and CUDA shows 0"),
        ({"gpus": 1}, "needs 2 GPUs on this host, and CUDA shows 1: .*CUDA_VISIBLE_DEVICES"),
        ({"nccl": False}, "Horovod built with NCCL"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_one_sentence(
    there: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **{"cuda": True, "gpus": 2, "nccl": True, "local_rank": 1, "size": 2, **there})
    with pytest.raises(InputError, match=sentence) as raised:
        world.World(gpus=True)
    said = str(raised.value)
    assert said.startswith(f"rank 1 on {socket.gethostname()}: train.gpus=true ") and "\n" not in said
    assert said.endswith(", or set train.gpus=false")


@pytest.mark.parametrize(("size", "nccl"), [(2, True), (1, False)])
def test_a_gpu_that_can_be_used_is_the_workers_own(size: int, nccl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker exchanges nothing, so it needs no NCCL."""
    machine(monkeypatch, cuda=True, gpus=2, nccl=nccl, local_rank=size - 1, size=size)
    assert world.World(gpus=True).context == mx.gpu(size - 1)


def test_without_gpus_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=False, gpus=None, nccl=False, local_rank=0, size=1)
    assert world.World().context == mx.cpu()

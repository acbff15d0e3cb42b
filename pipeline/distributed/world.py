"""The workers of one training, and all that they say to each other: the only file that imports Horovod.

A world of one process answers without Horovod's exchange, so it runs the same code. Rank 0's decisions are everybody's:
deciding per rank drifts apart on float noise, and ranks that take different numbers of steps wait for each other
forever.
"""

import ctypes
import os
import socket
from collections.abc import Sequence
from typing import TypeVar

import horovod.mxnet as hvd
import mxnet as mx
import numpy as np
from horovod.mxnet.mpi_ops import MPI_MXNET_LIB_CTYPES as LIBRARY
from mxnet import nd
from mxnet.base import c_handle_array, c_str, check_call

from pipeline.core.errors import InputError, one_line

T = TypeVar("T")
DRIVER = "check `nvidia-smi`, whose driver must be 450.80 or newer"  # for CUDA 11, of either wheel


class World:
    """Rank and size of this process, and the collective operations: every rank must call each, in the same order."""

    def __init__(self, gpus: bool = False) -> None:
        """Joins the others. Raises InputError where GPUs are asked for and cannot be used."""
        # What Horovod sends together depends on what is ready, and in which order a ring of three ranks or more adds up
        # an array on where it stands in what is sent. (Two ranks' sum has one order; a GPU's bits are not promised.)
        self.alone = not gpus and int(os.environ.get("HOROVOD_SIZE", "1")) > 2
        if self.alone:
            os.environ["HOROVOD_FUSION_THRESHOLD"] = "0"
        hvd.init()
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self._results: dict[str, list[list[nd.NDArray]]] = {}  # name -> arrays of the newest exchanges, kept alive
        if gpus and (lack := _lack(self.local_rank, self.size)):
            raise InputError(f"rank {self.rank} on {socket.gethostname()}: {lack}, or set train.gpus=false")
        self.context = mx.gpu(self.local_rank) if gpus else mx.cpu()

    def close(self) -> None:
        """Shuts Horovod down, once all collective operations are done."""
        hvd.shutdown()

    def average(self, gradients: Sequence[nd.NDArray], name: str, scale: float | None = None) -> None:
        """Replaces arrays of equal shapes on all ranks by their mean, in place and without waiting.

        The i-th array is matched with the other ranks' i-th by name; earlier ones go first where several are ready.

        Args:
            scale: of half the bytes: they travel as float16, times the scale. What is too large for that becomes
                infinite or not a number. None: they travel as they are.
        """
        if self.size == 1:
            return
        kind, half, op = name.partition(".")[0], "", hvd.Average
        sent = list(gradients)
        if scale is not None:  # divided before: a sum is larger than a mean
            sent, half, op = [(gradient * (scale / self.size)).astype("float16") for gradient in sent], " half", hvd.Sum
        if self.alone and len(sent) > 1:
            sent = [nd.concat(*(array.reshape(-1) for array in sent), dim=0)]
        for i, array in enumerate(sent):
            hvd.allreduce_(array, op=op, name=f"{name}.{i}{half}", priority=-i)
        if sent[0] is gradients[0]:
            return
        got = sent
        if len(sent) < len(gradients):
            ends = np.cumsum([gradient.size for gradient in gradients]).tolist()
            got = [sent[0][begin:end] for begin, end in zip([0, *ends], ends)]
        for gradient, array in zip(gradients, got):
            gradient[:] = (array if scale is None else array.astype("float32") * (1 / scale)).reshape(gradient.shape)
        self._results[kind] = [*self._results.get(kind, [])[-1:], sent]  # as `gather_equal` does

    def gather(self, rows: nd.NDArray, name: str) -> nd.NDArray:
        """Concatenates (n_r, …) arrays of all ranks along the first axis, in rank order; n_r may differ by rank."""
        return hvd.allgather(rows, name=name) if self.size > 1 else rows

    def gather_numpy(self, rows: np.ndarray, name: str) -> np.ndarray:
        """`gather` for a numpy array of float32 or int32."""
        if self.size == 1:
            return rows
        return self.gather(nd.array(rows, dtype=rows.dtype), name).asnumpy()

    def gather_equal(self, arrays: Sequence[nd.NDArray], name: str) -> list[nd.NDArray]:
        """(n, …) arrays of equal shapes on all ranks to (ranks * n, …) in rank order, together and without waiting.

        Horovod's own function waits for the result, whose shape it does not know; here it is known. Horovod keeps a
        bare pointer to each result, so it must outlive its exchange: two generations are kept, and a caller's next
        exchange of a name depends on what the one before it gave.
        """
        results = [nd.empty((self.size * a.shape[0], *a.shape[1:]), a.context, a.dtype) for a in arrays]
        check_call(
            LIBRARY.horovod_mxnet_allgather_async(
                c_handle_array(arrays), c_handle_array(results), c_str(name), ctypes.c_int(0), ctypes.c_int(0),
                ctypes.c_int(len(results)),
            )
        )  # fmt: skip
        self._results[name] = [*self._results.get(name, [])[-1:], results]
        return results

    def sum_parts(self, arrays: Sequence[nd.NDArray], name: str) -> list[nd.NDArray]:
        """(ranks * n, …) arrays to the sum over ranks of their (n, …) rank-th part, without waiting; spoils them.

        By the sum of all parts: Horovod negotiates a reduce-scatter at length each time, which took twice as long.
        """
        for i, array in enumerate(arrays):
            hvd.allreduce_(array, op=hvd.Sum, name=f"{name}.{i}")
        parts = [len(array) // self.size for array in arrays]
        return [a[n * self.rank : n * (self.rank + 1)] for a, n in zip(arrays, parts)]

    def broadcast(self, arrays: Sequence[nd.NDArray], name: str) -> None:
        """Overwrites the arrays of all ranks with rank 0's, in place."""
        if self.size > 1:
            for i, array in enumerate(arrays):
                hvd.broadcast_(array, root_rank=0, name=f"{name}.{i}")
            for array in arrays:
                array.wait_to_read()

    def agree(self, value: T, name: str) -> T:
        """Rank 0's value, on every rank."""
        if self.size > 1:
            value = hvd.broadcast_object(value, root_rank=0, name=name)
            nd.waitall()  # rank 0 would go on, and perhaps end, before the others have it
        return value


def steady(count: int) -> int:
    """The count rounded up by an eighth at most, so that there are few different ones.

    Horovod negotiates an exchange anew when its shape was not seen before; see docs/training.md.

    >>> [steady(n) for n in (3, 9, 100, 1000, 1025)]
    [3, 9, 104, 1024, 1152]
    """
    step = 2 ** max(0, count.bit_length() - 4)
    return -(-count // step) * step


def _lack(local_rank: int, size: int) -> str | None:
    """What MXNet, the driver or Horovod lacks for this worker to use its GPU, and what to do; None: nothing."""
    if not mx.runtime.Features().is_enabled("CUDA"):
        return (
            "train.gpus=true needs MXNet built for CUDA, and this MXNet is built for the CPU alone: "
            "use the environment of `make setup-gpu` or docker/Dockerfile.gpu"
        )
    try:
        gpus = mx.context.num_gpus()
    except mx.MXNetError as error:  # no driver, or one that is too old
        return f"train.gpus=true needs a GPU, and CUDA gives none ({one_line(error, 150)}): {DRIVER}"
    if local_rank >= gpus:
        return (
            f"train.gpus=true needs {local_rank + 1} GPUs on this host, and CUDA shows {gpus}: {DRIVER}, check "
            "CUDA_VISIBLE_DEVICES, start fewer workers on a host"
        )
    if size > 1 and not hvd.nccl_built():
        return (
            "train.gpus=true with several workers needs Horovod built with NCCL, and this one is not: use the "
            "environment of `make setup-gpu` or docker/Dockerfile.gpu"
        )
    return None

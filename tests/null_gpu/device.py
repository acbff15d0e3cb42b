"""The null GPU as tests see it: whether it is there, and what was asked of it."""

import ctypes
import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from mxnet import nd

RUNTIME = "libcudart.so.11.0"


class Counts(NamedTuple):
    """What MXNet asked of the device; see null_gpu.h for each."""

    launches: int
    library_calls: int
    syncs: int
    to_device: int
    from_device: int
    on_device: int
    bytes_to_device: int
    bytes_from_device: int
    bytes_on_device: int
    allocations: int
    rnn_steps: int

    def since(self, before: "Counts") -> "Counts":
        """What came after `before`."""
        return Counts(*(now - then for now, then in zip(self, before)))


@functools.cache
def _library() -> Any:
    """The null GPU's library; None where another one, or none, is in its place."""
    try:
        library = ctypes.CDLL(RUNTIME)
        return library if hasattr(library, "null_gpu_counts") else None
    except OSError:
        return None


def is_there() -> bool:
    return _library() is not None


def counts() -> Counts:
    """All that was asked so far, once everything is done."""
    nd.waitall()
    found = (ctypes.c_long * len(Counts._fields))()
    _library().null_gpu_counts(found)
    return Counts(*found)


def kernels() -> dict[str, int]:
    """How often each of MXNet's kernels was launched since the last call, by its name in the library."""
    nd.waitall()
    with tempfile.NamedTemporaryFile("r") as file:
        _library().null_gpu_kernels(file.name.encode())
        rows = (line.split(maxsplit=1) for line in Path(file.name).read_text().splitlines())
        return {name: int(count) for count, name in rows}

"""Mapped files, and giving memory back to the system that a process holds without needing it."""

import ctypes
import mmap
from pathlib import Path

import numpy as np
import pyarrow as pa

_LIBC = ctypes.CDLL(None)


def release(address: int, size: int) -> None:
    """Frees the memory of a file's map, from an address in its first page on; later reads fetch it again.

    What was written to a shared map stays written. Any other memory than a file's map would lose its content.
    """
    if size:  # where nothing lies, the address may be anybody's
        before = address % mmap.PAGESIZE
        _LIBC.madvise(ctypes.c_void_p(address - before), ctypes.c_size_t(size + before), mmap.MADV_DONTNEED)


def release_array(array: np.memmap) -> None:
    """Frees the memory of a mapped array."""
    release(array.ctypes.data, array.nbytes)


def mapped_table(path: Path) -> tuple[pa.Table, int, int]:
    """The table of an Arrow file, which lies in its memory map; where the map begins, and its size."""
    mapped = pa.memory_map(str(path))
    whole = mapped.read_buffer()
    mapped.seek(0)
    return pa.ipc.open_file(mapped).read_all(), whole.address, whole.size


def trim() -> None:
    """Lets go of what was allocated once and is free now, which the allocator would keep for later."""
    _LIBC.malloc_trim(0)

"""Giving memory back to the system that a process holds without needing it."""

import ctypes
import mmap

_LIBC = ctypes.CDLL(None)


def release(address: int, size: int) -> None:
    """Lets go of a read-only map's pages from its beginning on; what is asked for next is read again."""
    _LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def trim() -> None:
    """Lets go of what was allocated once and is free now, which the allocator would keep for later."""
    _LIBC.malloc_trim(0)

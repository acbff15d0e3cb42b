"""Arrays that follow from a stage's folder: small ones in memory, large ones in files that all ranks of a host map.

A file lies in `.KEY.arrays` beside the folder. Its pages are the page cache's, which all processes of a host share.
"""

import contextlib
import functools
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import atomic_files
from pipeline.core.fingerprints import stamp_of

LARGE = 1 << 22  # places of an array from which on it lies in a file
AT_ONCE = 1 << 20  # places that are worked on together, so that no temporary array is large
New = Callable[[tuple[int, ...], Any], np.ndarray]  # an array of a shape and a type, to be filled


def derived(source: Path, name: str, places: int, make: Callable[[New], np.ndarray]) -> np.ndarray:
    """What `make` makes; where it is large, the file of whoever made it first.

    Processes that need it at once may each make it, so it must be the same each time.

    Args:
        source: a file of the folder, which tells whether the folder is still the same.
        places: of the largest array that `make` asks for.
        make: is given what makes empty arrays, and returns one of them, filled.

    Returns:
        The array, read-only where it lies in a file. Where no file can be kept it lies in memory.
    """
    if places < LARGE:
        return make(np.empty)
    try:
        return _mapped(source, name, make)
    except OSError:
        return make(np.empty)


def _mapped(source: Path, name: str, make: Callable[[New], np.ndarray]) -> np.ndarray:
    folder = source.resolve().parents[1]
    beside = folder.with_name(f".{folder.name}.arrays")
    stamp = hashlib.sha256(repr(stamp_of(source)).encode()).hexdigest()[:16]
    path = beside / f"{name}-{stamp}.npy"
    if not path.exists():
        beside.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside) as aside:
            made = make(functools.partial(_new, aside))
            assert isinstance(made, np.memmap) and made.filename is not None
            made.flush()
            os.replace(made.filename, path)
        for old in beside.glob(f"{name}-*.npy"):
            if old != path:
                with contextlib.suppress(OSError):
                    old.unlink()
    return np.asarray(np.load(path, mmap_mode="r"))


def _new(folder: str, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    return atomic_files.mapped_array(Path(folder, f"{secrets.token_hex(4)}.npy"), np.dtype(kind), shape)


def parts(places: int) -> list[slice]:
    """So many places, cut into those that are worked on together."""
    return [slice(start, min(start + AT_ONCE, places)) for start in range(0, places, AT_ONCE)]


def counted(places: int, new: New) -> np.ndarray:
    """(places,) int32: 0, 1, …"""
    found = new((places,), np.int32)
    for part in parts(places):
        found[part] = np.arange(part.start, part.stop)
    return found


def selected(mask: Callable[[slice], np.ndarray], places: int, new: New) -> np.ndarray:
    """(n,) int32: the places, of so many, at which a mask is true; it is asked for a part at a time."""
    found = new((sum(int(np.count_nonzero(mask(part))) for part in parts(places)),), np.int32)
    end = 0
    for part in parts(places):
        some = np.flatnonzero(mask(part)) + part.start
        found[end : end + len(some)] = some
        end += len(some)
    return found

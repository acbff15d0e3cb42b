"""Looking through a graph's file before faiss reads it.

faiss trusts what it reads: in a damaged or planted file, a neighbour's number beyond the last row would be read as an
address. So the few parts of the one kind of file that is written here are checked first, without faiss.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

_KIND, _STORAGE = b"IHNf", b"IxFI"  # HNSW over plain vectors; plain vectors compared by dot product
_HEAD = struct.Struct("<iqqq?i")  # width, rows, two unused, trained, metric (0: dot product)
_TAIL = struct.Struct("<5i")  # entry point, highest level, efConstruction, efSearch, one unused


def check(path: Path) -> None:
    """Raises ValueError where a file is not a whole graph of this kind, or one that points outside of itself."""
    with path.open("rb") as file:
        left = path.stat().st_size
        if file.read(4) != _KIND:
            raise ValueError("no HNSW graph")
        width, rows = _header(file)
        _array(file, np.dtype("<f8"), left)  # the chances of a row's level
        places, levels, offsets, neighbours = (
            _array(file, np.dtype(kind), left) for kind in ("<i4", "<i4", "<u8", "<i4")
        )
        entry, highest, *_ = _unpacked(_TAIL, file)
        if file.read(4) != _STORAGE or _header(file) != (width, rows):
            raise ValueError("its vectors are not those of its graph")
        size = _unpacked(struct.Struct("<Q"), file)[0]
        if size != width * rows or file.tell() + 4 * size != left:
            raise ValueError("its vectors are not all there")
    offsets = offsets.astype(np.int64)
    _check_links(rows, places, levels, offsets, neighbours)
    if rows and not (0 <= entry < rows and highest + 1 == levels[entry] == levels.max()):
        raise ValueError("its entry point is none of its rows")


def _check_links(
    rows: int, places: np.ndarray, levels: np.ndarray, offsets: np.ndarray, neighbours: np.ndarray
) -> None:
    """Raises ValueError unless every neighbour is a row that has the level at which it is linked.

    Args:
        places: where a level's neighbours begin among a row's own; levels: (rows,) how many each row has;
        offsets: (rows + 1,) where each row's neighbours begin; neighbours: rows, or -1 for none.
    """
    whole = len(levels) == rows and len(offsets) == rows + 1 and len(places) > 0 and places[0] == 0
    if not whole or not (np.diff(places) >= 0).all():
        raise ValueError("its parts differ in length")
    if not rows:
        return
    if levels.min() < 1 or levels.max() >= len(places) or offsets[0] != 0 or offsets[-1] != len(neighbours):
        raise ValueError("its levels are not those of its rows")
    if not np.array_equal(np.diff(offsets), places[levels]):
        raise ValueError("its rows' neighbours overlap")
    if neighbours.min(initial=-1) < -1 or neighbours.max(initial=-1) >= rows:
        raise ValueError("a neighbour is none of its rows")
    for level in range(1, int(levels.max())):
        for start in offsets[:-1][levels > level].tolist():
            near = neighbours[start + places[level] : start + places[level + 1]]
            if (levels[near[near >= 0]] <= level).any():
                raise ValueError("a neighbour is not on its level")


def _header(file: BinaryIO) -> tuple[int, int]:
    width, rows, _, _, trained, metric = _unpacked(_HEAD, file)
    if not 0 < width < 1 << 20 or not 0 <= rows < 1 << 31 or not trained or metric != 0:
        raise ValueError("a header that is none")
    return width, rows


def _array(file: BinaryIO, kind: np.dtype, file_bytes: int) -> np.ndarray:
    """An array that stands behind its length."""
    size = _unpacked(struct.Struct("<Q"), file)[0]
    if size * kind.itemsize > file_bytes - file.tell():
        raise ValueError("a part is longer than the file")
    return np.frombuffer(file.read(size * kind.itemsize), kind)


def _unpacked(form: struct.Struct, file: BinaryIO) -> tuple[int, ...]:
    content = file.read(form.size)
    if len(content) != form.size:
        raise ValueError("cut short")
    return form.unpack(content)

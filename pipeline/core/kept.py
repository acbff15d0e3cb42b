"""Results of pieces of work that outlive a kill, in files that are whole or not there.

Nothing is synced to the disk, which would cost more than some pieces: after a power cut, a file's checksum tells.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pipeline.core.executors import Executor

P = TypeVar("P")
T = TypeVar("T")


def recall(path: Path, stamp: str) -> bytes | None:
    """What was kept there of a piece with this stamp; None where nothing is, or of another piece, or damaged."""
    try:
        head, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if head == _head(stamp, content) else None


def keep(path: Path, stamp: str, content: bytes) -> None:
    """Keeps a piece's result; `stamp` tells whether a later piece is the same."""
    aside = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    aside.write_bytes(_head(stamp, content) + b"\n" + content)
    aside.rename(path)


def packed(**arrays: Any) -> bytes:
    """Arrays and numbers by name as the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    """What `packed` was given."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _head(stamp: str, content: bytes) -> bytes:
    return f"{stamp} {hashlib.sha256(content).hexdigest()}".encode()


class Form(NamedTuple):
    """How the results of a function are kept: functions that the workers can import."""

    stamp: Callable[[Any], str]  # of a piece
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]


class _Piece(NamedTuple):
    function: Callable[[Any], Any]
    piece: Any
    form: Form
    path: Path


class Kept:
    """An executor that takes from a folder what an earlier run of the same stage has done there.

    Pieces are known by their number, so that a stage must ask for the same ones in the same order each time.

    Args:
        forms: by the name of each function that will be asked for.
    """

    def __init__(self, executor: Executor, folder: Path, forms: Mapping[str, Form]) -> None:
        self._executor, self._folder, self._forms = executor, folder, forms
        self._pieces = 0

    def map(self, function: Callable[[P], T], pieces: Iterable[P]) -> Iterator[T]:
        """See Executor."""
        return self._executor.map(_done, self._numbered(function, pieces))

    def _numbered(self, function: Callable[[P], T], pieces: Iterable[P]) -> Iterator[_Piece]:
        for piece in pieces:
            self._pieces += 1
            path = self._folder / f"{function.__name__}-{self._pieces}.done"
            yield _Piece(function, piece, self._forms[function.__name__], path)

    def close(self) -> None:
        self._executor.close()


def _done(work: _Piece) -> Any:
    stamp = work.form.stamp(work.piece)
    if (known := recall(work.path, stamp)) is not None:
        return work.form.unpack(known)
    result = work.function(work.piece)
    keep(work.path, stamp, work.form.pack(result))
    return result

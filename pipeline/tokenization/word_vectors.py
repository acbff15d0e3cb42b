"""Files of word vectors: word2vec's, text or binary, GloVe's and fastText's `.vec`, packed by gzip or not.

A file is read once from its beginning to its end, a word at a time.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.errors import InputError

_HEADER = re.compile(rb"\s*(\d+) (\d+)\s*")
_FASTTEXT_MODEL = (793712314).to_bytes(4, "little")
_LONGEST_LINE, _LONGEST_WORD = 1 << 20, 10_000  # bytes


def entries(path: Path, width: int | None = None, setting: str = "model.vectors") -> Iterator[tuple[str, np.ndarray]]:
    """Words and their (E,) float32 vectors, in the file's order.

    Args:
        width: E; None: whatever the file has.
        setting: that names the file, for messages.

    Raises:
        InputError: the file cannot be read, is cut short or damaged, or its vectors are of another width.
    """
    name = f"{setting}={path}"
    try:
        with _opened(path) as file:
            yield from _entries(file, name, width)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} cannot be read ({error})") from None


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _entries(file: IO[bytes], name: str, width: int | None) -> Iterator[tuple[str, np.ndarray]]:
    first = file.readline(_LONGEST_LINE)
    if first.startswith(_FASTTEXT_MODEL):
        raise InputError(f"{name} is a model of fastText: give its file of vectors, which ends in .vec")
    header = _HEADER.fullmatch(first)
    if width is None:
        width = int(header.group(2)) if header else max(1, len(first.split()) - 1)
    if header is None:
        yield _line(first, name, 1, width)
        yield from _lines(file, name, 2, width, None)
        return
    count, file_width = (int(number) for number in header.groups())
    if file_width != width:
        raise _width(name, file_width, width)
    peeked = file.read(_LONGEST_WORD + 32 * width)
    rest = _Joined(peeked, file)
    if _is_text(peeked, width):
        yield from _lines(rest, name, 2, width, count)
    else:
        yield from _binary(rest, name, count, width)


class _Joined:
    """What was read of a file already, and the rest of it."""

    def __init__(self, begun: bytes, file: IO[bytes]) -> None:
        self._begun, self._file = begun, file

    def read(self, size: int) -> bytes:
        taken, self._begun = self._begun[:size], self._begun[size:]
        return taken if len(taken) == size else taken + self._file.read(size - len(taken))

    def readline(self, limit: int) -> bytes:
        end = self._begun.find(b"\n")
        if end >= 0:
            return self.read(end + 1)
        taken, self._begun = self._begun, b""
        return taken + self._file.readline(limit)


def _is_text(begun: bytes, width: int) -> bool:
    """Whether what follows the header is a line of a word and numbers, or of too few of them, but no packed numbers."""
    line = begun.split(b"\n")[0]
    parts = line.rstrip().rsplit(b" ", width)
    return _numbers(parts[1:]) is not None and (len(parts) > 1 or not line.strip())


def _width(name: str, file_width: int, width: int) -> InputError:
    return InputError(
        f"{name} has vectors of {file_width} numbers and model.embedding is {width}: set model.embedding={file_width}"
    )


def _line(line: bytes, name: str, number: int, width: int) -> tuple[str, np.ndarray]:
    """A word, which may hold blanks, and its vector. Raises InputError."""
    parts = line.rstrip().rsplit(b" ", width)
    if len(parts) != width + 1:
        if number == 1 and len(parts) > 2:
            raise _width(name, len(parts) - 1, width)
        raise InputError(
            f"{name}: line {number} has {max(0, len(parts) - 1)} numbers and others {width}: it is damaged or cut short"
        )
    if number == 1 and b" " in parts[0] and _numbers(parts[0].split(b" ")[-1:]) is not None:
        raise _width(name, len(line.split()) - 1, width)
    vector = _numbers(parts[1:])
    if vector is None or not np.isfinite(vector).all():
        raise InputError(f"{name}: line {number} holds something that is not a finite number")
    return parts[0].decode("utf-8", "replace"), vector


def _numbers(parts: list[bytes]) -> np.ndarray | None:
    try:
        return np.array([float(part) for part in parts], np.float32)
    except ValueError:
        return None


def _lines(
    file: "IO[bytes] | _Joined", name: str, number: int, width: int, count: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    seen = 0
    while line := file.readline(_LONGEST_LINE):
        if line.strip():
            yield _line(line, name, number, width)
            seen += 1
        number += 1
    if count is not None and seen != count:
        raise _cut(name, count, seen)


def _binary(file: _Joined, name: str, count: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
    for seen in range(count):
        word = bytearray()
        while (byte := file.read(1)) != b" ":
            if not byte or len(word) > _LONGEST_WORD:
                raise _cut(name, count, seen)
            word += byte
        packed = file.read(4 * width)
        if len(packed) < 4 * width:
            raise _cut(name, count, seen)
        vector = np.frombuffer(packed, "<f4")
        if not np.isfinite(vector).all():
            raise InputError(f"{name}: word {seen + 1} has something that is not a finite number")
        yield bytes(word).lstrip(b"\n").decode("utf-8", "replace"), vector


def _cut(name: str, count: int, seen: int) -> InputError:
    return InputError(f"{name} is cut short or damaged: it says {count:,} words and has {seen:,}")

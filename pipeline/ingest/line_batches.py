"""Lines of a source many at a time, as texts where none of them is bad: what takes its time for each line is done once.

The lines are those of `places.lines`, of a whole file or of some bytes of a local one.
"""

import codecs
import contextlib
import io
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from pipeline.ingest import places
from pipeline.ingest.places import Line

_PIECE, _BATCH_BYTES = 1 << 16, 1 << 17
_BY_ITSELF = {"utf-8", "ascii", "iso8859-1", "cp1252"}  # a character means the same wherever it stands


class Lines(NamedTuple):
    """Lines that follow each other, none of them bad; `before` is how many stand before them."""

    before: int
    texts: list[str]


def batches(
    address: str, encoding: str, limit_bytes: int, between: tuple[int, int] | None, before: int
) -> Iterator[Lines | list[Line]]:
    """As `lines`, many at a time: as texts, where none of them is bad, else each by itself.

    Args:
        between: the bytes of a local file, whose beginning `is_plain`, that are read: whole lines. None: all.
        before: how many lines stand before them.
    """
    places.check_encoding(encoding)
    with contextlib.ExitStack() as stack:
        if between is None:
            stream = stack.enter_context(places.open_binary(address))
            with places.sentences(places.shown_address(address), address):
                stream, encoding = places.with_line_feeds(stream, encoding)
        else:
            start, stop = between
            file = stack.enter_context(places.local_path(address).open("rb"))
            file.seek(start)
            stream = cast(IO[bytes], _Bounded(file, stop - start))
        yield from _batches_of(stream, encoding, limit_bytes, address, before)


def each(batch: Lines | list[Line]) -> list[Line]:
    """The lines of a batch, each by itself."""
    if isinstance(batch, list):
        return batch
    return [Line(number, text, None) for number, text in enumerate(batch.texts, batch.before + 1)]


class _Bounded:
    """So many of the next bytes of a file."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self._file, self._left = file, left

    def read(self, size: int) -> bytes:
        piece = self._file.read(min(size, self._left))
        self._left -= len(piece)
        return piece

    def readline(self, size: int) -> bytes:
        line = self._file.readline(min(size, self._left))
        self._left -= len(line)
        return line


def _batches_of(
    stream: IO[bytes], encoding: str, limit_bytes: int, address: str, number: int
) -> Iterator[Lines | list[Line]]:
    """As `batches`, of a stream whose lines end with LF; `number` stand before."""
    by_itself = codecs.lookup(encoding).name in _BY_ITSELF

    def read() -> bytes:
        with places.sentences(places.shown_address(address), address):
            some = stream.read(_BATCH_BYTES)
            if some and not some.endswith(b"\n"):
                some += stream.readline(limit_bytes + 2)
                while not some.endswith(b"\n") and (rest := stream.readline(_PIECE)) and not rest.endswith(b"\n"):
                    pass  # of a line that is too long as it is
            return some

    # a batch is let go of before the next is read
    while some := read():
        texts = _texts(some, encoding, limit_bytes) if by_itself else None
        if texts is None:
            lines = list(places.lines_within(io.BytesIO(some), encoding, limit_bytes, address, number))
        before, number = number, number + len(lines if texts is None else texts)
        del some
        if texts is None:
            yield lines
            del lines
        else:
            yield Lines(before, texts)
        del texts


def _texts(some: bytes, encoding: str, limit_bytes: int) -> list[str] | None:
    """The lines of some bytes; None: one of them may be too long, or has a mark or bytes that the encoding has not."""
    try:
        text = some.decode(encoding)
    except UnicodeError:
        return None
    texts = text.removesuffix("\n").split("\n")
    if "\ufeff" in text or (len(some) > limit_bytes and 4 * max(map(len, texts)) > limit_bytes):
        return None
    return [line.rstrip("\r") for line in texts] if "\r" in text else texts

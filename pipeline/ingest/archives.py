"""WARC and ARC, the files of web crawlers: a record per answer of a server, often each packed by itself.

Crawls are cut off and damaged. A record that cannot be read, or whose length is wrong, is one bad row; reading goes on
with the next record, which is found by the line that begins it. A packed record that is damaged ends there, and reading
goes on with the next packed one. warcio reads what stands within a record.
"""

import contextlib
import io
import re
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from pipeline.ingest.rows import SHOWN, BadRow, too_long
from pipeline.ingest.web_text import needed

_WARC = re.compile(rb"WARC/[0-9.]+\r?\n")
# URL, address of the host, time, type, (of version 2 more), length
_ARC = re.compile(rb"[a-z][a-z0-9+.-]*:[^\r\n]* (?:[0-9.]+|[0-9a-fA-F:]+|-) [0-9]{8,18} [^\r\n]*\r?\n")
_NEXT = re.compile(
    rb"\r?\n(?=WARC/[0-9.]+\r?\n|[a-z][a-z0-9+.-]*:[^\r\n]* (?:[0-9.]+|-) [0-9]{14} [^ \r\n]+ [0-9]+\r?\n)"
)
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*([0-9]{1,15})[ \t]*\r?$")
_GZIP = b"\x1f\x8b\x08"
_DICTIONARY = b"\x5d\x2a\x4d\x18"  # begins a zstandard file whose records are packed with a dictionary of its own
_LOST = b"\r\n\r\nWARC/ lost\r\n\r\n"  # stands for a whole packed record: it ends the one before and is none itself
_PIECE, _LONGEST_HEADER = 1 << 16, 1 << 16
_MARGIN = 256  # looked at behind a record: the line that begins the next one
# What a file may unpack to: so many times its size, or so many bytes where that is more.
_UNPACKED_TIMES, _UNPACKED_BYTES = 200, 64 << 20
_HTML = ("text/html", "application/xhtml")


class Answer(NamedTuple):
    """What a server answered for an address, or why it cannot be read."""

    number: int  # of the record in the file, from 1
    address: str
    charset: str | None
    html: bytes
    shown: str  # how the record begins
    problem: BadRow | None = None


def is_archive(head: bytes) -> bool:
    """Whether an unpacked file begins as WARC or ARC does."""
    return bool(_WARC.match(head) or (head.startswith(b"filedesc:") and _ARC.match(head)))


def needs_dictionary(head: bytes) -> bool:
    """Whether a file begins with the dictionary of zstandard that unpacks the rest, which no reader here does."""
    return head.startswith(_DICTIONARY)


def unpacked(head: bytes) -> bytes:
    """The first bytes of a file, unpacked if gzip packed them."""
    if not head.startswith(_GZIP):
        return head
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(31).decompress(head, _PIECE)
    return b""


def answers(stream: IO[bytes], limit_bytes: int) -> Iterator[Answer]:
    """The HTML pages of an archive, plain or packed, that a server gave with status 200, and its bad records."""
    for number, (record, problem) in enumerate(_records(stream, limit_bytes), start=1):
        shown = record[:SHOWN].decode("utf-8", "replace").partition("\n\n")[0]
        if problem:
            yield Answer(number, "", None, b"", shown, problem)
            continue
        try:
            answer = _answer(number, record, limit_bytes, shown)
        except BadRow as bad:
            answer = Answer(number, "", None, b"", shown, bad)
        if answer:
            yield answer


def _answer(number: int, record: bytes, limit_bytes: int, shown: str) -> Answer | None:
    """The page in one record; None where it holds none. Raises BadRow where it holds what cannot be read."""
    iterator = needed("warcio.archiveiterator").ArchiveIterator
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # warcio writes there what it finds odd
            read = next(iterator(io.BytesIO(record + b"\r\n\r\n")), None)
            if read is None or read.rec_type not in ("response", "resource"):
                return None
            headers = read.http_headers
            kind = (headers or read.rec_headers).get_header("Content-Type") or ""
            status = headers.get_statuscode() if headers else "200"
            if status != "200" or not kind.lower().startswith(_HTML):
                return None
            html = read.content_stream().read(limit_bytes + 1)
    except Exception as error:  # warcio and the packings within have errors of their own
        raise BadRow("bad record", f"it cannot be read ({type(error).__name__})") from None
    if len(html) > limit_bytes:
        raise too_long(limit_bytes, "a page of ")
    address = read.rec_headers.get_header("WARC-Target-URI") or read.rec_headers.get_header("uri") or ""
    charset = re.search(r"charset=[\"']?([\w.:-]+)", kind, re.IGNORECASE)
    return Answer(number, address.strip("<> "), charset[1] if charset else None, html, shown)


def _records(stream: IO[bytes], limit_bytes: int) -> Iterator[tuple[bytes, BadRow | None]]:
    """The records one by one, header and block; of a bad one the beginning, and what is wrong."""
    window = _Window(stream)
    while window.skip_blank_lines():
        head = window.line()
        length = _length(window, head)
        if length is None:
            yield bytes(window.held[:SHOWN]), BadRow("bad record", "no record begins here, or its header is damaged")
            window.go_to_next(1)
            continue
        header, block = length
        if block > limit_bytes:
            yield bytes(window.held[:SHOWN]), too_long(limit_bytes, "a record of ")
            window.skip(header + block)
            continue
        whole = window.fill(header + block)
        record = bytes(window.held[: header + block])
        if whole and window.ends_at(header + block):
            window.skip(header + block)
            yield record, None
            continue
        wrong = BadRow("bad record", "its length is wrong" if whole else "the file ends before it does")
        yield record[:SHOWN], wrong
        window.go_to_next(header)


def _length(window: "_Window", head: bytes) -> tuple[int, int] | None:
    """The bytes of a record's header and of its block; None where no header stands here."""
    if _WARC.match(head):
        header = window.header()
        length = _LENGTH.search(header)
        return (len(header), int(length[1])) if length else None
    if _ARC.match(head):
        last = head.split()[-1]
        return (len(head), int(last)) if last.isdigit() else None
    return None


class _Window:
    """The bytes of a stream from a place on that moves forward; of what is held no more than a record."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = _Members(stream)
        self.held = bytearray()

    def fill(self, size: int) -> bool:
        """Whether so many bytes follow; they are held then."""
        while len(self.held) < size:
            piece = self._stream.read()
            if not piece:
                return False
            self.held += piece
        return True

    def skip(self, size: int) -> None:
        while size > len(self.held):
            size -= len(self.held)
            self.held.clear()
            if not self.fill(1):
                return
        del self.held[:size]

    def skip_blank_lines(self) -> bool:
        """Goes to what is no end of a line; False at the end of the file."""
        while self.fill(1):
            blank = len(self.held) - len(self.held.lstrip(b"\r\n"))
            if not blank:
                return True
            del self.held[:blank]
        return False

    def line(self) -> bytes:
        self.fill(_LONGEST_HEADER)
        end = self.held.find(b"\n", 0, _LONGEST_HEADER)
        return bytes(self.held[: end + 1])

    def header(self) -> bytes:
        """The lines up to the first blank one, and it; b"" where there is none."""
        match = re.search(rb"\n\r?\n", self.held[:_LONGEST_HEADER])
        return bytes(self.held[: match.end()]) if match else b""

    def ends_at(self, place: int) -> bool:
        """Whether blank lines and then a record, or nothing, follow there."""
        self.fill(place + _MARGIN)
        rest = bytes(self.held[place : place + _MARGIN]).lstrip(b"\r\n")
        return not rest or rest.startswith(b"WARC/") or re.match(rb"[a-z][a-z0-9+.-]*:", rest) is not None

    def go_to_next(self, start: int) -> None:
        """Goes to the line that begins the next record behind `start`, or to the end."""
        start = max(start - 2, 1)
        while True:
            match = _NEXT.search(self.held, start)
            if match:
                del self.held[: match.end()]
                return
            start = max(start, len(self.held) - _LONGEST_HEADER)
            if start > 2 * _LONGEST_HEADER:
                del self.held[: start - 1]
                start = 1
            if not self.fill(len(self.held) + 1):
                self.held.clear()
                return


class _Members:
    """The unpacked bytes of a file of gzip members, or of a plain one; behind a damaged member the next one follows."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = stream.read(_PIECE)
        self._packed = self._left.startswith(_GZIP)
        self._read, self._unpacked = len(self._left), 0  # bytes
        self._unpacker, self._fresh = zlib.decompressobj(31), True  # fresh: nothing of its member is unpacked

    def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        while True:
            piece = self._left or self._stream.read(_PIECE)
            self._read += 0 if self._left else len(piece)
            self._left = b""
            if not piece or not self._packed:
                return piece
            try:
                content = self._unpacker.decompress(piece, _PIECE)
            except zlib.error:
                return self._after_damage(piece)
            if self._unpacker.eof:
                self._left = self._unpacker.unused_data
                self._unpacker, self._fresh = zlib.decompressobj(31), True
                self._left = self._left.lstrip(b"\0")  # some writers fill up blocks
            else:
                self._left, self._fresh = self._unpacker.unconsumed_tail, False
            self._unpacked += len(content)
            if self._unpacked > max(_UNPACKED_BYTES, _UNPACKED_TIMES * self._read):
                raise ValueError(
                    f"unpacks to more than {_UNPACKED_TIMES} times its size: it is not an archive of pages"
                )
            if content:
                return content

    def _after_damage(self, piece: bytes) -> bytes:
        """Goes to the next member that can be unpacked; a line of its own stands for what is lost, so that the record
        it was lost from is none."""
        lost = _LOST if self._fresh else b"\r\n\0\r\n"
        self._fresh = True
        rest = piece[1:]
        while True:
            place = rest.find(_GZIP)
            if place < 0:
                more = self._stream.read(_PIECE)
                if not more:
                    self._left = b""
                    return lost
                rest = rest[-2:] + more
                continue
            rest = rest[place:] + (self._stream.read(_PIECE) if len(rest) - place < _PIECE else b"")
            unpacker = zlib.decompressobj(31)
            with contextlib.suppress(zlib.error):
                if unpacker.decompress(rest, SHOWN) or unpacker.eof:
                    self._left, self._unpacker = rest, zlib.decompressobj(31)
                    return lost
            rest = rest[1:]

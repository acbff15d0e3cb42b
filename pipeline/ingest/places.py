"""Opening a source wherever it lies: local or fsspec address, plain or compressed, and reading lines of bounded length.

Compression is told from the content (the magic number), so that a name is free. What is packed may unpack to 200 times
its size, and lines are cut at the row limit: neither a small file of terabytes nor a line of gigabytes does harm.

All that is read by lines is read by `lines` or `lines_of`: line ends are LF, CR LF, or CR in a file without LF; a byte
order mark is no part of a line; a file that begins with UTF-16's mark is read as UTF-16.
"""

import codecs
import contextlib
import difflib
import functools
import gzip
import importlib.util
import io
import re
import shutil
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import fsspec
import pyarrow as pa
from fsspec.registry import known_implementations

from pipeline.core import atomic_files, fingerprints
from pipeline.core.errors import DupletError, InputError, one_line
from pipeline.ingest import s3
from pipeline.ingest.rows import SHOWN, BadRow, Row, shorten, too_long

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PIECE = 1 << 16
# What a packed file may unpack to: so many times its size, or so many bytes where that is more.
_UNPACKED_TIMES, _UNPACKED_BYTES = 200, 64 << 20
_NAME_IT = ": name the encoding it is in, such as cp1252 (ingest.source.encoding, or --encoding)"
_LOOKED_THROUGH_BYTES = 8 << 20  # packed files up to this size are unpacked once before they are read
_STAMPS = ("etag", "size", "mtime", "lastmodified", "last_modified", "updated", "created", "md5hash", "crc32c")


class Line(NamedTuple):
    number: int  # from 1
    text: str  # without its end; of a bad line only the beginning
    problem: BadRow | None  # too long, or bytes that the encoding does not know
    cut: bool = False  # too long: `text` is only its beginning


def is_remote(address: str) -> bool:
    return "://" in address and not address.startswith(("file://", "local://"))


@functools.lru_cache(maxsize=64)  # asked for every row
def name_of(address: str) -> str:
    """The file's name, without folders, and of an address without its query part, which may hold a secret."""
    return re.split(r"[?#]", address)[0].rstrip("/").rpartition("/")[2] if is_remote(address) else Path(address).name


def shown_address(address: str) -> str:
    """The address for a message: without user, password and query part."""
    return re.sub(r"(?<=://)[^/@]*@", "", re.split(r"[?#]", address)[0]) if is_remote(address) else address


def path_of(address: str) -> Path:
    """Where a local address points, whether or not anything is there."""
    return atomic_files.path_at_home(re.sub(r"^(file|local)://", "", address))


def local_path(address: str) -> Path:
    """The path of a local file.

    Raises:
        InputError: nothing there, or no plain file.
    """
    path = path_of(address)
    if not path.exists():
        raise InputError(f"no source at {path}; {holds(existing_folder(path), path.name)}")
    if not path.is_file():
        kind = "folder" if path.is_dir() else "special file"
        raise InputError(f"source {path} is a {kind}, not a file; give the file itself")
    return path


def existing_folder(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next((parent for parent in path.parents if parent.is_dir()), Path("/"))


def holds(folder: Path, wanted: str = "") -> str:
    """What is in a folder, for a message; names like the wanted one come first."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    likely = difflib.get_close_matches(wanted, names, 8, 0.5)
    names = [*likely, *(name for name in names if name not in likely)]
    here = f"the working directory {Path.cwd()}" if folder == Path() else str(folder)
    return f"{here} holds {', '.join(names[:8]) or 'nothing'}"


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of a remote address and the path on it.

    Raises:
        InputError: an unknown scheme, or a driver that is not installed, named.
    """
    scheme = address.partition("://")[0].rpartition("::")[2]
    try:
        if address.partition("://")[0] in s3.SCHEMES and importlib.util.find_spec("s3fs") is None:
            return s3.file_system(address)
        return cast(tuple[Any, str], fsspec.core.url_to_fs(address))
    except ImportError as error:
        hint = known_implementations.get(scheme, {}).get("err") or str(error)
        raise InputError(f"{shown_address(address)} needs a driver that is not installed: {hint}") from None
    except Exception as error:
        raise InputError(f"{shown_address(address)} cannot be opened: {sentence(error, address)}") from None


def fingerprint(address: str) -> str:
    """A local file's sha256, or a digest of what a remote file system tells about its version.

    Raises:
        InputError: it does not exist or cannot be read.
    """
    try:
        if not is_remote(address):
            return fingerprints.sha256(local_path(address))
        system, remote = file_system(address)
        info = {str(key).lower().replace("-", ""): str(value) for key, value in system.info(remote).items()}
        told = {key: info[key] for key in _STAMPS if key in info}
        # ukey of some systems is a digest of the address alone, info of some holds no version: together they do
        return "remote:" + atomic_files.digest([str(system.ukey(remote)), told])
    except InputError:
        raise
    except Exception as error:  # each driver has errors of its own
        raise InputError(f"source {shown_address(address)} cannot be read: {sentence(error, address)}") from None


def size_of(address: str) -> int | None:
    """The bytes of a file as it lies; None where a remote file system does not tell. Raises InputError."""
    if not is_remote(address):
        return local_path(address).stat().st_size
    system, path = file_system(address)
    with sentences(shown_address(address), address):
        size = system.info(path).get("size")
    return None if size is None else int(size)


@contextlib.contextmanager
def open_packed(address: str) -> Iterator[io.BufferedReader]:
    """The bytes of a source as they lie, with `peek`. Raises InputError as `open_binary` does."""
    with contextlib.ExitStack() as stack:
        yield _raw(address, stack)


@contextlib.contextmanager
def open_binary(address: str, ahead: bool = True) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a source, with `peek`.

    Args:
        ahead: a small packed file is unpacked once before, so that a damaged one is found at once.

    Raises:
        InputError: it is absent or cannot be opened; or, maybe in the reading, it unpacks to far more than its size.
    """
    with contextlib.ExitStack() as stack:
        stream, packed = _opened(address, stack)
        if (
            ahead
            and packed
            and not is_remote(address.rpartition("::")[2])
            and _packed_bytes(address) <= _LOOKED_THROUGH_BYTES
        ):
            # millions of short rows would be worked on for minutes before the limit is reached
            with sentences(shown_address(address), address):
                while stream.read(1 << 20):
                    pass
            stream, _ = _opened(address, stack)
        yield cast(IO[bytes], stream)


def _opened(address: str, stack: contextlib.ExitStack) -> tuple[io.BufferedReader, bool]:
    """The unpacked bytes, and whether they were packed. Raises InputError."""
    stream = _raw(address, stack)
    with _openings(address):
        head = stream.peek(4)
        if head.startswith(_GZIP):
            return _bounded(stack.enter_context(gzip.GzipFile(fileobj=stream)), address), True
        if head.startswith(_ZSTD):
            # Arrow's reader, since zstandard's own takes a file cut short for a whole one
            unpacked: Any = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))
            return _bounded(unpacked, address), True
        in_archive = "::" in address  # unpacked by fsspec
        return (_bounded(stream, address) if in_archive else stream), in_archive


def _raw(address: str, stack: contextlib.ExitStack) -> io.BufferedReader:
    """The bytes as they lie. Raises InputError."""
    with _openings(address):
        if is_remote(address):
            system, path = file_system(address)
            stack.callback(lambda: system)  # keeps it: an archive is closed with its file system
            opened: Any = stack.enter_context(system.open(path, "rb"))
        else:
            opened = stack.enter_context(local_path(address).open("rb"))
        return io.BufferedReader(opened, _PIECE)


@contextlib.contextmanager
def _openings(address: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"source {shown_address(address)} cannot be opened: {sentence(error, address)}") from None


class _Through(io.RawIOBase):
    """A stream's bytes through a function, a piece at a time; b"" tells it that the stream has ended."""

    def __init__(self, stream: Any, change: Callable[[bytes], bytes]) -> None:
        self._stream, self._change = stream, change
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = b"."
        while piece and not self._left:
            piece = self._stream.read(_PIECE)
            self._left = self._change(piece)
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def _bounded(stream: Any, address: str) -> io.BufferedReader:
    """The stream; reading more of it than the limit of a packed file raises InputError."""
    left = max(_UNPACKED_BYTES, _UNPACKED_TIMES * _packed_bytes(address))

    def count(piece: bytes) -> bytes:
        nonlocal left
        left -= len(piece)
        if left < 0:
            raise InputError(
                f"{shown_address(address)} unpacks to more than {_UNPACKED_TIMES} times its size: "
                "if that is meant, unpack it yourself and name the unpacked file"
            )
        return piece

    return io.BufferedReader(_Through(stream, count), _PIECE)


def _packed_bytes(address: str) -> int:
    """The size of a packed file, of one within an archive that of the archive; 0 where it cannot be known."""
    outermost = address.rpartition("::")[2]
    if not is_remote(outermost):
        return local_path(outermost).stat().st_size
    system, path = file_system(outermost)
    return int(system.info(path).get("size") or 0)


@contextlib.contextmanager
def open_seekable(address: str, scratch: Path) -> Iterator[IO[bytes]]:
    """As `open_binary`, for formats read from their end; a packed file is unpacked into the folder `scratch`.

    Raises:
        InputError: also for a file that unpacks to far more than any table does.
    """
    if not is_remote(address):
        path = local_path(address)
        with path.open("rb") as file:
            if not file.read(4).startswith((_GZIP, _ZSTD)):
                file.seek(0)
                yield file
                return
    with open_binary(address) as stream, tempfile.TemporaryFile(dir=scratch) as copy:
        with sentences(shown_address(address), address):
            shutil.copyfileobj(stream, copy, 1 << 20)
        copy.seek(0)
        yield cast(IO[bytes], copy)


@contextlib.contextmanager
def sentences(shown: str, address: str = "") -> Iterator[None]:
    """What goes wrong in reading becomes an InputError; gzip, Arrow and each remote driver have errors of their own."""
    try:
        yield
    except DupletError:
        raise
    except Exception as error:
        raise InputError(f"{shown} cannot be read to its end: {sentence(error, address)}") from None


def lines(address: str, encoding: str, limit_bytes: int) -> Iterator[Line]:
    """All lines of a source, blank ones too; never more than the limit and a bit of one is held.

    Raises:
        InputError: absent, unreadable, packed data that is damaged or cut short, or an encoding that is none.
    """
    with open_binary(address) as stream:
        yield from lines_of(stream, encoding, limit_bytes, address)


def lines_of(stream: IO[bytes], encoding: str, limit_bytes: int, address: str) -> Iterator[Line]:
    """As `lines`, of a stream that is open already and has `peek`; `address` is for messages."""
    check_encoding(encoding)
    with sentences(shown_address(address), address):
        stream, encoding = with_line_feeds(stream, encoding)
    yield from lines_within(stream, encoding, limit_bytes, address)


def is_zstandard(head: bytes) -> bool:
    """Whether zstandard packed a file that begins so."""
    return head.startswith(_ZSTD)


def is_plain(head: bytes) -> bool:
    """Whether a file that begins so is neither packed nor UTF-16 by its mark, and its lines end with LF."""
    marks = (_GZIP, _ZSTD, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return not head.startswith(marks) and not _ends_with_cr(head)


def _ends_with_cr(head: bytes) -> bool:
    return b"\r" in head[:-1] and b"\n" not in head


def lines_within(stream: IO[bytes], encoding: str, limit_bytes: int, address: str, number: int = 0) -> Iterator[Line]:
    """As `lines_of`, of a stream whose lines end with LF; `number` stand before."""

    def read(size: int) -> bytes:
        with sentences(shown_address(address), address):
            return stream.readline(size)

    while raw := read(limit_bytes + 2):
        number += 1
        content = raw.removesuffix(b"\n").rstrip(b"\r")
        if len(content) > limit_bytes:
            head = content[:SHOWN].decode(encoding, "replace")
            while not raw.endswith(b"\n") and (raw := read(_PIECE)):
                pass
            yield Line(number, _without_mark(head), too_long(limit_bytes), cut=True)
            continue
        try:
            yield Line(number, _without_mark(content.decode(encoding)), None)
        except UnicodeError as error:
            yield Line(
                number, _without_mark(content.decode(encoding, "replace")), undecodable(error, encoding, _NAME_IT)
            )


def stdin_lines(limit_bytes: int) -> Iterator[Line]:
    """The lines of standard input, as they come."""
    return lines_of(sys.stdin.buffer, "utf-8", limit_bytes, "standard input")


def with_line_feeds(stream: Any, encoding: str) -> tuple[IO[bytes], str]:
    """The stream with LF as line end and the encoding it then has, by what its first bytes show."""
    head = stream.peek(_PIECE)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        decoder = codecs.getincrementaldecoder("utf-16")()
        change = lambda piece: decoder.decode(piece, final=not piece).encode("utf-8")
        return with_line_feeds(io.BufferedReader(_Through(stream, change), _PIECE), "utf-8")
    if _ends_with_cr(head):
        stream = io.BufferedReader(_Through(stream, lambda piece: piece.replace(b"\r", b"\n")), _PIECE)
    return stream, encoding


def _without_mark(text: str) -> str:
    """The line without byte order marks before it; files that were put together have them in their midst."""
    return text.lstrip("\ufeff")


def undecodable(error: UnicodeError, encoding: str, remedy: str = "") -> BadRow:
    """What is wrong with bytes that are not of an encoding: which one, and where."""
    where = ""
    if isinstance(error, UnicodeDecodeError):
        where = f" (byte 0x{error.object[error.start]:02x} at position {error.start})"
    return BadRow("undecodable bytes", f"not {encoding}{where}{remedy}")


def bad_line(address: str, line: Line) -> Row:
    """The row of a line that could not be read."""
    return Row(name_of(address), line.number, {}, shorten(line.text), line.problem)


def check_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
        if b"\n".decode(encoding) == "\n":
            return
    except (LookupError, ValueError):
        pass
    raise InputError(
        f"encoding {encoding!r} is unknown or does not keep a line's end as one byte: "
        "name another, or convert the file to utf-8 (e.g. with iconv)"
    )


def sentence(error: Exception, address: str = "") -> str:
    """A driver's error on one line; a driver may have put the address with its secrets into it."""
    text = one_line(error) or type(error).__name__
    if address.partition("://")[0] in s3.SCHEMES:
        text = s3.hint(text)
    return (text.replace(address, shown_address(address)) if address else text)[:300]


def join(folder: str, name: str) -> str:
    """A name below a folder, local or remote."""
    return f"{folder.rstrip('/')}/{name}"


def names_in(folder: str) -> list[str]:
    """The names in a local or remote folder, sorted.

    Raises:
        InputError: it does not exist or is not a folder.
    """
    try:
        if is_remote(folder):
            system, path = file_system(folder)
            return sorted(
                urllib.parse.unquote(entry.rstrip("/").rpartition("/")[2]) for entry in system.ls(path, False)
            )
        return sorted(entry.name for entry in path_of(folder).iterdir())
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"source folder {shown_address(folder)} cannot be listed: {sentence(error, folder)}") from None

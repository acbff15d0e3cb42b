"""Opening a source wherever it lies: local or fsspec address, plain or compressed, and reading lines of bounded length.

Compression is told from the content (the magic number), so that a name is free. Decompression is streamed and lines are
cut at the row limit, so that neither an archive that unpacks to terabytes nor a line of gigabytes fills the memory.
"""

import codecs
import contextlib
import difflib
import functools
import gzip
import io
import re
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import fsspec
import pyarrow as pa
from fsspec.registry import known_implementations

from pipeline import files
from pipeline.errors import InputError, one_line
from pipeline.ingest.rows import SHOWN, BadRow, Row, shorten

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PIECE = 1 << 16
# What a packed file may unpack to on disk: so many times its size, or so many bytes where that is more.
_UNPACKED_TIMES, _UNPACKED_BYTES = 200, 64 << 20
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


def local_path(address: str) -> Path:
    """The path of a local file.

    Raises:
        InputError: nothing there, or no plain file.
    """
    path = files.path_at_home(re.sub(r"^(file|local)://", "", address))
    if not path.exists():
        folder = next((parent for parent in path.parents if parent.is_dir()), Path("/"))
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        likely = difflib.get_close_matches(path.name, names, 8, 0.5)
        names = [*likely, *(name for name in names if name not in likely)]
        here = f"the working directory {Path.cwd()}" if folder == Path() else str(folder)
        raise InputError(f"no source at {path}; {here} holds {', '.join(names[:8]) or 'nothing'}")
    if not path.is_file():
        kind = "folder" if path.is_dir() else "special file"
        raise InputError(f"source {path} is a {kind}, not a file; give the file itself")
    return path


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of a remote address and the path on it.

    Raises:
        InputError: an unknown scheme, or a driver that is not installed, named.
    """
    scheme = address.partition("://")[0].rpartition("::")[2]
    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(address))
    except ImportError as error:
        hint = known_implementations.get(scheme, {}).get("err") or str(error)
        raise InputError(f"{shown_address(address)} needs a driver that is not installed: {hint}") from None
    except Exception as error:
        raise InputError(f"{shown_address(address)} cannot be opened: {_sentence(error, address)}") from None


def fingerprint(address: str) -> str:
    """A local file's sha256, or a digest of what a remote file system tells about its version.

    Raises:
        InputError: it does not exist or cannot be read.
    """
    try:
        if not is_remote(address):
            return files.sha256(local_path(address))
        system, path = file_system(address)
        info = {str(key).lower().replace("-", ""): str(value) for key, value in system.info(path).items()}
        told = {key: info[key] for key in _STAMPS if key in info}
        # ukey of some systems is a digest of the address alone, info of some holds no version: together they do
        return "remote:" + files.digest([str(system.ukey(path)), told])
    except InputError:
        raise
    except Exception as error:  # each driver has errors of its own
        raise InputError(f"source {shown_address(address)} cannot be read: {_sentence(error, address)}") from None


@contextlib.contextmanager
def open_binary(address: str) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a source. Raises InputError if it is absent or cannot be opened."""
    with contextlib.ExitStack() as stack:
        try:
            if is_remote(address):
                system, path = file_system(address)
                opened: Any = stack.enter_context(system.open(path, "rb"))
            else:
                opened = stack.enter_context(local_path(address).open("rb"))
            buffered = io.BufferedReader(opened, _PIECE)
            stream = cast(IO[bytes], buffered)
            head = buffered.peek(4)
            if head.startswith(_GZIP):
                stream = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
            elif head.startswith(_ZSTD):
                # Arrow's reader, since zstandard's own takes a file cut short for a whole one
                unpacked: Any = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))
                stream = cast(IO[bytes], io.BufferedReader(unpacked, _PIECE))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"source {shown_address(address)} cannot be opened: {_sentence(error, address)}") from None
        yield stream


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
        try:
            _copy(stream, copy, address)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{shown_address(address)} cannot be read to its end: {_sentence(error, address)}"
            ) from None
        copy.seek(0)
        yield cast(IO[bytes], copy)


def _copy(stream: IO[bytes], copy: IO[bytes], address: str) -> None:
    """Copies what a packed file unpacks to, up to its limit, so that a small file cannot fill the disk."""
    if is_remote(address):
        system, path = file_system(address)
        packed = int(system.info(path).get("size") or 0)
    else:
        packed = local_path(address).stat().st_size
    left = max(_UNPACKED_BYTES, _UNPACKED_TIMES * packed)
    while piece := stream.read(min(1 << 20, left + 1)):
        left -= len(piece)
        if left < 0:
            raise InputError(
                f"{shown_address(address)} unpacks to more than {_UNPACKED_TIMES} times its size: "
                "if that is meant, unpack it yourself and name the unpacked file"
            )
        copy.write(piece)


def lines(address: str, encoding: str, limit_bytes: int) -> Iterator[Line]:
    """All lines of a source, blank ones too; never more than the limit and a bit of one is held.

    Raises:
        InputError: absent, unreadable, packed data that is damaged or cut short, or an encoding that is none.
    """
    _check_encoding(encoding)

    def read(size: int) -> bytes:
        try:
            return stream.readline(size)
        except Exception as error:  # gzip, Arrow and each remote driver have errors of their own
            raise InputError(
                f"{shown_address(address)} cannot be read to its end: {_sentence(error, address)}"
            ) from None

    with open_binary(address) as stream:
        number = 0
        while raw := read(limit_bytes + 2):
            number += 1
            content = raw.removesuffix(b"\n").removesuffix(b"\r")
            if len(content) > limit_bytes:
                head = content[:SHOWN].decode(encoding, "replace")
                while not raw.endswith(b"\n") and (raw := read(_PIECE)):
                    pass
                yield Line(
                    number, head, BadRow("too long", f"more than ingest.max_row_kb={limit_bytes // 1024} KiB"), cut=True
                )
                continue
            try:
                yield Line(number, content.decode(encoding), None)
            except UnicodeError as error:
                text = content.decode(encoding, "replace")
                yield Line(number, text, BadRow("undecodable bytes", f"no {encoding} ({_sentence(error)[-60:]})"))


def bad_line(address: str, line: Line) -> Row:
    """The row of a line that could not be read."""
    return Row(name_of(address), line.number, {}, shorten(line.text), line.problem)


def _check_encoding(encoding: str) -> None:
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


def _sentence(error: Exception, address: str = "") -> str:
    """The error on one line; a driver may have put the address with its secrets into it."""
    text = one_line(error) or type(error).__name__
    return (text.replace(address, shown_address(address)) if address else text)[:200]


def join(folder: str, name: str) -> str:
    """A name below a folder, local or remote."""
    return f"{folder.rstrip('/')}/{name}"


def names_in(folder: str) -> list[str]:
    """The names in a local or remote folder, sorted.

    Raises:
        InputError: it does not exist or is no folder.
    """
    try:
        if is_remote(folder):
            system, path = file_system(folder)
            return sorted(
                urllib.parse.unquote(entry.rstrip("/").rpartition("/")[2]) for entry in system.ls(path, False)
            )
        return sorted(entry.name for entry in files.path_at_home(folder).iterdir())
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"source folder {shown_address(folder)} cannot be listed: {_sentence(error, folder)}"
        ) from None

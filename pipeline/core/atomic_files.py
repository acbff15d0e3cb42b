"""Files that exist whole or not at all, their hashes, and locks between processes."""

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

LOCK_POLL_S = 0.1
# What reading a damaged or foreign .npy file may raise: its header is a Python literal, which is parsed (and not run).
NOT_AN_ARRAY = (
    OSError, ValueError, TypeError, EOFError, OverflowError, RecursionError, MemoryError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip


def at_home(path: str) -> str:
    """A path with a leading ~ as the person's home folder; an address, and ~NAME of nobody, as it is.

    >>> at_home("~/data") == os.path.expanduser("~/data"), at_home("s3://bucket/~/x"), at_home("a~/b")
    (True, 's3://bucket/~/x', 'a~/b')
    """
    return path if "://" in path else os.path.expanduser(path)


def path_here(text: str) -> Path:
    """A path of a command line, of a file or folder on this machine.

    Raises:
        ArgumentTypeError: it is an address, such as s3://bucket/x, of which a folder `s3:` would be made here.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is an address: give a path on this machine")
    return path_at_home(text)


def path_at_home(text: str) -> Path:
    """As `at_home`, for the paths of a command line."""
    return Path(at_home(text))


def check_root(root: Path) -> None:
    """Raises InputError where the root that a command was given is not a folder."""
    if not root.is_dir():
        raise InputError(f"no folder {root}: give --root, the `root` of the runs' configuration")


def sha256(path: Path) -> str:
    """The hex digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """The hex digest of a JSON-able value; equal values give equal digests on any machine."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def is_utf8(text: str) -> bool:
    """Whether a name, such as one of the command line or of a folder, can be written into a file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_json(value: Any, **options: Any) -> str:
    """`json.dumps` whose result any reader of JSON can read: a number that is not finite becomes null.

    >>> as_json({"auc": float("nan"), "loss": [1.5, float("inf")]})
    '{"auc": null, "loss": [1.5, null]}'
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; empty where the file is not there, is damaged, or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def fsync_folder(folder: Path) -> None:
    """Makes the folder's entries (not its files' content) survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def owners_folder(folder: Path) -> None:
    """Makes a folder, and those above it that are missing, for its owner only; what is there keeps its mode."""
    for path in reversed([folder, *folder.parents]):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Writes and fsyncs aside, then renames into place; `mode` as of `write_bytes`."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    """As `write_text`, of bytes.

    Args:
        mode: permissions, such as 0o600, which the file has before its content; None: what the umask leaves.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        if mode is not None:
            partial.chmod(mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    fsync_folder(path.parent)


def add_line(path: Path, line: str) -> None:
    """Adds a line to a file, made if absent; a last one that a full disk or a kill cut short is ended first."""
    with path.open("a+b") as file:
        whole = not file.tell() or os.pread(file.fileno(), 1, file.tell() - 1) == b"\n"
        file.write(("" if whole else "\n").encode() + line.encode() + b"\n")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; on a clean exit its files are fsynced and it is renamed into place.

    On an error it is removed; after a kill it stays as `.NAME.partial`, which `finished` never lists, and the next
    writer removes it. A folder that was there is moved to `.NAME.old` and then removed: at any moment `folder` is
    absent, the old one or the new one, and whole. One writer at a time: hold `lock` around it.
    """
    partial, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            elif path.is_dir():
                fsync_folder(path)
        fsync_folder(partial)
        if folder.exists():
            folder.rename(old)  # removed in place, it would be there in part for a while
        partial.rename(folder)
        fsync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def finished(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies below a folder by names that match `pattern`, sorted, without what is still being written.

    What `new_folder`, `write_text` and `remove_folder` are at work on has a name that begins with a point, and may look
    whole: a kill just before the rename leaves it so. Nothing else below a folder that is listed has such a name.
    """
    paths = folder.glob(pattern)
    return sorted(path for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def mapped_array(path: Path, kind: Any, shape: tuple[int, ...]) -> "np.memmap":
    """A new .npy file of zeros as an array that is written through its memory map.

    Its space is taken first: a full disk would otherwise end the process with SIGBUS at some later write.

    Raises:
        OSError: the disk has no room for it (errno ENOSPC); the file is removed.
    """
    import numpy as np

    array: np.memmap = np.lib.format.open_memmap(path, "w+", kind, shape)
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink()
        raise
    return array


@contextlib.contextmanager
def new_database(path: Path) -> Iterator[Path]:
    """Yields the place of a SQLite file; on a clean exit it is fsynced and renamed to `path`, which may be there.

    A kill leaves `.NAME.partial`, which the next writer removes. One writer at a time: hold `lock` around it.
    """
    partial = path.with_name(f".{path.name}.partial")
    _remove_database(partial)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        if not path.exists():
            _remove_database(path)  # the journal of one that was deleted would be played back into this one
        partial.rename(path)
        fsync_folder(path.parent)
    finally:
        _remove_database(partial)


def _remove_database(path: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(f"{path.name}{end}").unlink(missing_ok=True)


def arrays(path: Path) -> "dict[str, np.ndarray]":
    """The arrays of a file that `np.savez` wrote; nothing is unpickled, and no more is held than the file has bytes.

    Raises:
        ValueError: it is not such a file, a damaged one, or one that was packed, which np.savez does not do.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it would unpack to more than it holds")
        with np.load(path, allow_pickle=False) as members:
            read = {name: members[name] for name in members.files}
        if not all(isinstance(array, np.ndarray) for array in read.values()):
            raise ValueError("a member is not an array")
        return read
    except (*NOT_AN_ARRAY, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} holds no arrays ({type(error).__name__}: {error})") from None


def remove_folder(folder: Path) -> None:
    """Removes a folder; a kill meanwhile leaves all of it, or nothing of that name."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Holds an exclusive lock on `path` (made if absent); yields whether another process held it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    try:
        file = owned(path)
    except BlockingIOError:
        waited, file = True, owned(path, math.inf)
    with file:
        yield waited


def owned(path: Path, patience_s: float = 0.0) -> BinaryIO:
    """Opens a file for appending, made if absent, under an exclusive lock that ends when the file is closed.

    A file that its holder removed or renamed meanwhile is not taken: the path is opened again. Every lock of ours is
    taken here.

    Args:
        patience_s: how long to wait for another holder; who asks `is_locked` is one for a moment.

    Raises:
        BlockingIOError: another process still holds it. FileNotFoundError: its folder is not there.
    """
    end = time.monotonic() + patience_s
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if patience_s == math.inf else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() >= end:
                file.close()
                raise
            time.sleep(LOCK_POLL_S)
        except BaseException:
            file.close()
            raise
        file.close()


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock on `path`."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # nobody ever locked it
        return False

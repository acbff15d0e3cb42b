"""The errors a command turns into an exit code: one sentence saying what is wrong, where, and what to do."""

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# A path without the rights, on a disk that is read only, too long, or with a file where a folder should be.
_UNUSABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST,
}  # fmt: skip
_SQLITE_UNUSABLE = {3, 8, 14}  # PERM, READONLY, CANTOPEN
SQLITE_FULL = 13  # sqlite3's own name for it would cost every command the import
# What libraries say that lose the system's number: faiss, safetensors and Arrow repeat its text, NumPy has its own.
_FULL = re.compile(
    "No space left on device|Disk quota exceeded|Not enough free space to write|[0-9]+ requested and [0-9]+ written"
)


class DupletError(Exception):
    """A failure of ours; exit 1, with the traceback in the log file."""

    exit_code = 1


class InputError(DupletError):
    """The person's input, data or configuration is wrong; exit 2, no traceback."""

    exit_code = 2


class GateError(DupletError):
    """The work ran and a quality gate refused the result; exit 3."""

    exit_code = 3


class TryAgain(DupletError):
    """Interrupted or busy: the same command later goes on from here; exit 75."""

    exit_code = 75


def one_line(message: object, limit: int | None = None) -> str:
    """What was said (an error, a program's output) on one line, of at most `limit` characters."""
    return " ".join(str(message).split())[:limit]


def guess(name: str, known: Iterable[str], cutoff: float = 0.5, before: str = "; ") -> str:
    """What a message asks after a name that is not known: whether the nearest one was meant; empty if none is near.

    Args:
        cutoff: how alike the two must be, from 0 (not at all) to 1.

    >>> guess("serach", ["run", "search"]), guess("x", ["run", "search"])
    ('; did you mean search?', '')
    """
    near = difflib.get_close_matches(name, [*known], 1, cutoff)
    return f"{before}did you mean {near[0]}?" if near else ""


@contextlib.contextmanager
def room_on(where: Path | str) -> Iterator[None]:
    """Around what reads and writes files, on the disk of `where` above all: what its owner can mend becomes a sentence.

    Raises:
        TryAgain: the disk is full. InputError: a file or folder cannot be used, for lack of a right, say.
    """
    try:
        yield
    except DupletError:
        raise
    except Exception as error:
        if _is_full(error):
            raise TryAgain(full_disk(where)) from None
        if sentence := unusable(error):
            raise InputError(sentence) from None
        raise


def unusable(error: Exception) -> str | None:
    """What is wrong with a path that the person gave, or with the folder that it lies in; None for other errors."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_UNUSABLE:  # it says no path
        return f"a database in the folder that is written cannot be used ({error}): check the folder's rights"
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) or number is None:
        return None
    path = error.filename2 or error.filename
    lost = number == errno.ENOENT and path is not None and not Path(os.fsdecode(path)).parent.is_dir()
    if (number not in _UNUSABLE and not lost) or (path is None and "file" not in str(error)):
        return None  # else of a socket or a process, say
    what = os.fsdecode(path) if isinstance(path, str | bytes) else one_line(error, 300)
    return f"{what} cannot be used ({os.strerror(number)}): give a place that you can write, or change its rights"


def _is_full(error: Exception) -> bool:
    """Whether an error of the system, or of a library that writes files, tells of a full disk."""
    number = getattr(error, "errno", None)
    full = number in (errno.ENOSPC, errno.EDQUOT) or getattr(error, "sqlite_errorcode", None) == SQLITE_FULL
    return full or (number is None and _FULL.search(str(error)) is not None)


def full_disk(where: Path | str) -> str:
    """The error message for a full disk."""
    return f"no space is left on the disk of {where}: make room there, then the same command goes on"

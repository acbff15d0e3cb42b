"""The errors a command turns into an exit code: one sentence saying what is wrong, where, and what to do."""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

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


def one_line(said: object, limit: int | None = None) -> str:
    """What was said (an error, a program's output) on one line, of at most `limit` characters."""
    return " ".join(str(said).split())[:limit]


@contextlib.contextmanager
def room_on(where: Path | str) -> Iterator[None]:
    """Around what writes to the disk of `where`: a full one becomes a sentence. Raises TryAgain."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DupletError) or not _is_full(error):
            raise
        raise TryAgain(full_disk(where)) from None


def _is_full(error: Exception) -> bool:
    """Whether an error of the system, or of a library that writes files, tells of a full disk."""
    number = getattr(error, "errno", None)
    full = number in (errno.ENOSPC, errno.EDQUOT) or getattr(error, "sqlite_errorcode", None) == SQLITE_FULL
    return full or (number is None and _FULL.search(str(error)) is not None)


def full_disk(where: Path | str) -> str:
    """What a full disk ends with."""
    return f"no space is left on the disk of {where}: make room there, then the same command goes on"

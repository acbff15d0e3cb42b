"""Sends what the runs under a root still have to say to MLflow, where it was down or their command was killed."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core import deadline
from pipeline.core.errors import InputError
from pipeline.core.progress import Say
from pipeline.tracking import journal as journals
from pipeline.tracking.client import Address, address, at, local
from pipeline.tracking.journal import Journal
from pipeline.tracking.sender import Away, Gone, Sender, Slow, reason_of, size_of

TRIES = 20  # runs that may have to be brought back within one journal
SENDERS_END_S = 60.0  # for the sender of a command that is gone: it finishes a database that it is making, and ends


class Outcome(NamedTuple):
    """What became of one journal: done, left (and why), or busy."""

    journal: str
    name: str  # of the run
    run_id: str | None
    state: str
    sent: dict[str, int]  # points, files, …
    said: str


def sync(root: Path, uri: str | None, say: Say) -> Iterator[Outcome]:
    """Sends every journal under a root, the oldest first; one that MLflow has wholly taken is removed.

    A server whose answer did not end, or that took too long for a whole journal, is not asked for the journals that
    come later: each would wait as long.

    Args:
        uri: where to, instead of the address that each run had.

    Raises:
        InputError: no MLflow can be reached by `uri`.
    """
    if uri:
        at(uri, root)  # refused before the first journal
    slow: set[str] = set()
    for journal in journals.under(root):
        with contextlib.ExitStack() as locks:
            held = ((journals.WRITER, 0.0), (journals.SENDER, SENDERS_END_S))
            try:
                alone = all(locks.enter_context(journals.held(journal.folder, *lock)) for lock in held)
            except FileNotFoundError:  # sent and removed by another process meanwhile
                continue
            if not alone:
                yield _outcome(journal, None, "busy", "its command is still running and sends it")
                continue
            try:
                where = _where(journal, root, uri)
            except InputError as error:
                yield _outcome(journal, None, "left", str(error))
                continue
            if where.uri in slow:
                yield _outcome(journal, None, "left", f"MLflow at {where.shown} did not answer in time before")
                continue
            yield _send(journal, where, say, slow)


def _send(journal: Journal, where: Address, say: Say, slow: set[str]) -> Outcome:
    """Adds the address to `slow` where its answer did not end."""
    _end_killed(journal)
    sender = None
    try:
        with _patience(journal, where):
            sender = Sender(journal, where)
            for _ in range(TRIES):
                try:
                    sender.send()
                    break
                except Gone as gone:
                    say(f"{gone}: " + ("taken out of MLflow's bin" if gone.restorable else "made anew"))
                    sender.bring_back(gone)
            else:
                told = f"runs are deleted in MLflow at {where.shown} while they are sent"
                return _outcome(journal, sender, "left", told)
    except (Away, deadline.TooLong) as error:
        if not isinstance(error, Away) or isinstance(error, Slow):
            slow.add(where.uri)
        return _outcome(journal, sender, "left", f"MLflow at {where.shown} does not accept it ({error})")
    except Exception as error:
        return _outcome(journal, sender, "left", f"MLflow at {where.shown}: {reason_of(error)}")
    for sentence in sender.refused:
        say(f"warning: {sentence}")
    if sender.state["left"]:
        if sender.slow_store:
            slow.add(where.uri)
        return _outcome(journal, sender, "left", f"{len(sender.state['left'])} files: {sender.state.get('why_left')}")
    outcome = _outcome(journal, sender, "done", "")
    shutil.rmtree(journal.folder, ignore_errors=True)
    return outcome


def _patience(journal: Journal, where: Address) -> contextlib.AbstractContextManager[None]:
    """Bounds the time of a whole journal by its bytes: a server may meet the bound of each single answer, for hours."""
    if not where.is_remote:
        return contextlib.nullcontext()
    files = [journal.file(entry["path"]) for entry in journal.entries() if entry["do"] == "artifact"]
    size = sum(size_of(path) for path in (journal.folder, *files) if path.exists())
    return deadline.within(deadline.QUESTIONS_S + size / deadline.UPLOAD_BYTES_PER_S, f"a run of {size / 1e6:.1f} MB")


def _end_killed(journal: Journal) -> None:
    """Ends the runs of a command that was killed before it could: nobody else holds the journal."""
    begun: dict[str, None] = {}
    for entry in journal.entries():
        if entry["do"] in ("run", "again"):
            begun[entry["run"]] = None
        elif entry["do"] == "end":
            begun.pop(entry["run"], None)
    for run in reversed(begun):
        journal.append({"do": "end", "run": run, "status": "KILLED", "time_ms": int(time.time() * 1000)})


def _where(journal: Journal, root: Path, uri: str | None) -> Address:
    """The address that the journal's run had. Raises InputError where a password in it was not kept."""
    if uri:
        return at(uri, root)
    configured = journal.opened().get("address")
    return local(root) if configured is None else address(configured, root)


def _outcome(journal: Journal, sender: Sender | None, state: str, why: str) -> Outcome:
    first: dict[str, Any] = next((entry for entry in journal.entries() if entry["do"] == "run"), {})
    runs = sender.runs if sender else journal.sent()["runs"]
    counts = sender.sent if sender else {}
    sent = {"points": counts.get("points", 0), "files": counts.get("artifact", 0) + counts.get("model", 0)}
    return Outcome(journal.folder.name, first.get("name", "?"), runs.get(first.get("run", "")), state, sent, why)

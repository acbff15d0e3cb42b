"""`duplet jobs list|status|logs|wait|cancel|resume`: the same questions and answers for every target."""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.naming import root_here

if TYPE_CHECKING:
    from jobs.folder import Record
    from jobs.targets import JobState, Target

POLL_S = 0.5  # at first; then more and more rarely, as a cluster's controller has others to answer


ACTIONS = {
    "list": "all jobs under a root, oldest first",
    "status": "how a job stands, and its restarts",
    "logs": "what it said",
    "wait": "until it has ended; exits with the job's own code",
    "cancel": "save and stop",
    "resume": "go on with a job that has ended unfinished",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to ask, of which job."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help in ACTIONS.items():
        action = actions.add_parser(name, help=help, description=help)
        if name != "list":
            action.add_argument("id", metavar="ID", help="a job's id, the beginning of one, or its folder")
        action.add_argument("--root", type=root_here, default="runs", help="the configuration's root (default runs)")
        if name == "logs":
            action.add_argument("-f", "--follow", action="store_true", help="until the job has ended")
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object, last")


def run(args: argparse.Namespace) -> int:
    """Answers on stdout; `wait` ends with the job's own exit code."""
    from jobs import folder

    if args.action == "list":
        return _list(args)
    record = folder.find(Path(args.root), args.id)
    return {"status": _status, "logs": _logs, "wait": _wait, "cancel": _cancel, "resume": _resume}[args.action](
        args, record
    )


def _state(record: "Record") -> "JobState":
    from jobs import targets

    return targets.target(record.spec.target).state(record)


def _row(record: "Record", state: "JobState") -> dict[str, Any]:
    from jobs import bad_nodes, targets

    spec, noted = record.spec, record.state()
    code = targets.exit_code(state) if state.name in targets.ENDED else None
    return {
        "id": spec.id, "name": spec.name, "target": spec.target, "state": state.name, "reason": state.reason,
        "exit_code": code, "restarts": len(noted.get("restarts", [])), "workers": noted.get("workers"),
        "handle": record.handle, "folder": str(record.folder),
        "left_out": bad_nodes.known(record.folder).excluded,
    }  # fmt: skip


def _list(args: argparse.Namespace) -> int:
    from jobs import folder, targets

    rows = []
    asked: dict[str, Target] = {}
    for record in folder.records(Path(args.root)):
        try:
            if record.spec.target not in asked:
                asked[record.spec.target] = targets.target(record.spec.target)
                with contextlib.suppress(DupletError):  # then each job is asked for by itself, and says what is wrong
                    asked[record.spec.target].look()
            rows.append(_row(record, asked[record.spec.target].state(record)))
        except DupletError as error:  # a client that is missing, or busy, says nothing about the other jobs
            spec = record.spec
            unknown = {"state": "unknown", "reason": str(error)}
            rows.append({"id": spec.id, "name": spec.name, "target": spec.target, **unknown})
    if args.json:
        print(json.dumps({"jobs": rows}))
        return 0
    if not rows:
        print(f"no jobs under {Path(args.root) / 'jobs'}; --root says where else to look", file=sys.stderr)
    width = max((len(row["id"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['id']:{width}}  {row['target']:10}  {row['state']:9}  {row['reason']}".rstrip())
    return 0


def _status(args: argparse.Namespace, record: "Record") -> int:
    row = _row(record, _state(record))
    if args.json:
        print(json.dumps(row))
        return 0
    for name, value in row.items():
        if value not in (None, "", {}):
            print(f"{name:9} {', '.join(value) if isinstance(value, dict) else value}")
    for restart in record.state().get("restarts", []):
        print(f"restart   {restart['sentence']}")
    return 0


def _logs(args: argparse.Namespace, record: "Record") -> int:
    from jobs import targets

    for line in targets.target(record.spec.target).logs(record, args.follow):
        print(line, flush=True)
    if args.json:
        print(json.dumps({"id": record.spec.id, "state": _state(record).name}))
    return 0


def _wait(args: argparse.Namespace, record: "Record") -> int:
    from jobs import targets

    longest, pause = targets.target(record.spec.target).ask_s, POLL_S
    unanswered = 0.0
    while True:
        try:
            state, unanswered = _state(record), 0.0
            if state.name in targets.ENDED:
                break
        except TryAgain:  # a controller that is busy for a while does not end the waiting
            unanswered += pause
            if unanswered > targets.UNANSWERED_S:
                raise
        time.sleep(pause)
        pause = min(longest, 1.5 * pause)
    code = targets.exit_code(state)
    if args.json:
        print(json.dumps({"id": record.spec.id, "state": state.name, "reason": state.reason, "exit_code": code}))
    else:
        print(f"{state.name}: {state.reason}" if state.reason else state.name)
    return code


def _cancel(args: argparse.Namespace, record: "Record") -> int:
    from jobs import folder, targets
    from jobs.texts import shell

    state, marker = _state(record), record.folder / folder.CANCEL
    if state.name in ("finished", "failed", "lost"):
        raise InputError(f"job {record.spec.id} has ended already ({state.name}): there is nothing to cancel")
    if state.name == "cancelled":
        message = f"job {record.spec.id} is cancelled already"
    elif marker.exists():
        message = f"job {record.spec.id} was asked already and saves"
    else:
        with contextlib.suppress(OSError):  # on a full disk it is stopped all the same
            marker.touch()
        targets.target(record.spec.target).cancel(record)
        wait = shell("duplet", "jobs", "wait", record.spec.id, "--root", record.spec.root)
        message = f"job {record.spec.id} saves and stops; `{wait}` waits for it"
    print(json.dumps({"id": record.spec.id, "said": message}) if args.json else message)
    return 0


def _resume(args: argparse.Namespace, record: "Record") -> int:
    from jobs import folder, targets

    state = _state(record)
    if state.name in ("queued", "running"):
        raise InputError(f"job {record.spec.id} is {state.name}: there is nothing to resume")
    if state.name == "finished":
        raise InputError(f"job {record.spec.id} has finished: there is nothing to resume")
    (record.folder / folder.CANCEL).unlink(missing_ok=True)
    handle = targets.target(record.spec.target).resume(record)
    folder.write_handle(record.folder, handle)
    print(json.dumps({"id": record.spec.id, "handle": handle}) if args.json else record.spec.id)
    return 0

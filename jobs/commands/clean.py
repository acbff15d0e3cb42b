"""`duplet clean`: removes unfinished work, failed runs, and stages that no run uses."""

import argparse
import json
from pathlib import Path

from pipeline.core.atomic_files import path_here
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how much stays."""
    parser.add_argument("--root", type=path_here, default=Path("runs"), help="the configuration's root (runs)")
    parser.add_argument("--days", type=float, default=7.0, metavar="N", help="what is younger than this stays (7)")
    parser.add_argument(
        "--keep-runs", type=int, metavar="N", help="of each configuration only its newest N runs stay (default: all); "
        "a training that an index elsewhere than under the root or beside it was built with is not known, and may go"
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def run(args: argparse.Namespace) -> int:
    """A line per thing that goes on stderr, their number and the bytes before and after on stdout."""
    from jobs import cleaning
    from pipeline.registry import disk

    with Talk() as say:
        outcome = cleaning.collect(args.root.resolve(), args.days, args.keep_runs, args.dry_run, say)
    if args.json:
        print(json.dumps({**outcome._asdict(), "dry_run": args.dry_run}))
        return 0
    would = "would be removed" if args.dry_run else "removed"
    print(
        f"{len(outcome.folders)} folders and {len(outcome.runs)} failed runs of MLflow {would}; "
        f"{disk.shown(outcome.before)} before, {disk.shown(outcome.after)} after"
    )
    return 0

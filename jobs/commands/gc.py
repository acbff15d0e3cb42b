"""`duplet gc`: removes the nights of schedules that are past the newest, and what belongs to them alone."""

import argparse
import json
from pathlib import Path

from pipeline.core.atomic_files import path_here
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how much stays."""
    parser.add_argument("--root", type=path_here, default=Path("runs"), help="the configuration's root (runs)")
    parser.add_argument("--keep-nights", type=int, default=14, metavar="N", help="newest of each schedule (14)")
    parser.add_argument(
        "--keep-champions", type=int, default=5, metavar="N", help="newest versions that were champion (5)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def run(args: argparse.Namespace) -> int:
    """A line per night on stderr, the bytes before and after on stdout."""
    from jobs import retention
    from pipeline.registry import disk

    with Talk() as say:
        outcome = retention.collect(args.root.resolve(), args.keep_nights, args.keep_champions, args.dry_run, say)
    if args.json:
        print(json.dumps({**outcome._asdict(), "dry_run": args.dry_run}))
        return 0
    would = "would be removed" if args.dry_run else "removed"
    print(
        f"{len(outcome.nights)} nights {would}: {outcome.folders} folders, {outcome.runs} runs, "
        f"{outcome.versions} versions; {disk.shown(outcome.before)} before, {disk.shown(outcome.after)} after"
    )
    return 0

"""`duplet gc`: removes the nights of schedules that are past the newest, and what belongs to them alone."""

import argparse

from jobs.commands import removal
from pipeline.core.number_options import count
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how much stays."""
    removal.arguments(parser)
    parser.add_argument("--keep-nights", type=count, default=14, metavar="N", help="newest of each schedule (14)")
    parser.add_argument(
        "--keep-champions", type=count, default=5, metavar="N", help="newest versions that were champion (5)"
    )


def run(args: argparse.Namespace) -> int:
    """A line per night on stderr, the bytes before and after on stdout."""
    from jobs import retention

    with Talk() as say:
        outcome = retention.collect(args.root.resolve(), args.keep_nights, args.keep_champions, args.dry_run, say)
    parts = f": {outcome.folders} folders, {outcome.runs} runs, {outcome.versions} versions"
    return removal.report(args, outcome, f"{len(outcome.nights)} nights", parts)

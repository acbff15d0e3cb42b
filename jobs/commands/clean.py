"""`duplet clean`: removes unfinished work, failed runs, and stages that no run uses."""

import argparse

from jobs.commands import removal
from pipeline.core.number_options import count
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how much stays."""
    removal.arguments(parser)
    parser.add_argument("--days", type=float, default=7.0, metavar="N", help="what is younger than this stays (7)")
    parser.add_argument(
        "--keep-runs", type=count, metavar="N", help="of each configuration only its newest N runs stay (all); "
        "a training that an index elsewhere than under the root or beside it was built with is not known, and may go"
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """A line per thing that goes on stderr, their number and the bytes before and after on stdout."""
    from jobs import cleaning

    with Talk() as say:
        outcome = cleaning.collect(args.root.resolve(), args.days, args.keep_runs, args.dry_run, say)
    what = f"{len(outcome.folders)} folders and {len(outcome.runs)} failed runs of MLflow"
    return removal.report(args, outcome, what)

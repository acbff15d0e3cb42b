"""`duplet sync`: sends to MLflow what it missed of the runs under a root."""

import argparse
import json
from pathlib import Path

from pipeline.core.atomic_files import check_root
from pipeline.core.errors import TryAgain
from pipeline.core.naming import root_here
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where they go."""
    parser.add_argument("--root", type=root_here, default=Path("runs"), help="the folder of all runs (runs)")
    parser.add_argument("--uri", help="MLflow's address, instead of the one that each run had")


def run(args: argparse.Namespace) -> int:
    """A line per run on stdout: what was sent, or why it was not. Raises TryAgain where something is left."""
    check_root(args.root)
    from pipeline.tracking.sync import sync

    outcomes = []
    with Talk() as say:
        for outcome in sync(args.root, args.uri, say):
            outcomes.append(outcome)
            if not args.json:
                what = (
                    ", ".join(f"{count} {name}" for name, count in outcome.sent.items() if count) or "nothing to send"
                )
                print(
                    f"{outcome.name} ({outcome.run_id or 'not in MLflow'}): {outcome.state}, {what}"
                    + (f"; {outcome.said}" if outcome.said else "")
                )
    if not outcomes and not args.json:
        print(f"MLflow has all of the runs under {args.root}")
    left = [outcome for outcome in outcomes if outcome.state != "done"]
    if args.json:
        print(json.dumps({"runs": [outcome._asdict() for outcome in outcomes], "left": len(left)}))
    if any(outcome.state == "left" for outcome in left):
        raise TryAgain(
            f"{len(left)} of {len(outcomes)} runs are not completely in MLflow yet: run the same command again"
        )
    return 0

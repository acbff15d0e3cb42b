"""What `duplet gc` and `duplet clean` share: where, whether in earnest, and what is said at the end."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.naming import root_here

if TYPE_CHECKING:
    from jobs import cleaning, retention


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and whether in earnest."""
    parser.add_argument("--root", type=root_here, default=Path("runs"), help="the configuration's root (runs)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def report(
    args: argparse.Namespace, outcome: "retention.Outcome | cleaning.Outcome", what: str, parts: str = ""
) -> int:
    """A line on stdout: what went, or would go, and its parts, and the bytes before and after; with --json, all."""
    from pipeline.registry import disk

    if args.json:
        print(json.dumps({**outcome._asdict(), "dry_run": args.dry_run}))
        return 0
    would = "would be removed" if args.dry_run else "removed"
    print(f"{what} {would}{parts}; {disk.shown(outcome.before)} before, {disk.shown(outcome.after)} after")
    return 0

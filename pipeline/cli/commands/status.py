"""`duplet status`: which stages are up to date, and what changed."""

import argparse
import json
from pathlib import Path

from pipeline.cli.commands import configured


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration, and what to show of it."""
    configured.arguments(parser)
    parser.add_argument("--disk", action="store_true", help="how much disk each folder under its root takes")
    configured.verify_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a line per stage."""
    config = configured.load(args)
    if args.disk:
        return _disk(config.local_root, args.json)
    from pipeline.orchestration import flow

    rows = flow.status(config, args.verify)
    for row in rows:
        changed = f" ({', '.join(row['changed'])})" if row["changed"] else ""
        print(f"{row['stage']:9} {row['state']:12} {row['folder']}{changed}")
    if args.json:
        print(json.dumps({"stages": rows}))
    return 0


def _disk(root: Path, as_json: bool) -> int:
    """A line per folder of the root, the largest first."""
    from pipeline.registry import disk

    parts = disk.usage(root)
    for part in parts:
        print(f"{disk.shown(part.bytes):>10}  {part.name:16} {part.entries:6,}  {part.what}".rstrip())
    print(f"{disk.shown(sum(part.bytes for part in parts)):>10}  {root}")
    if as_json:
        print(json.dumps({"root": str(root), "parts": [part._asdict() for part in parts]}))
    return 0

"""`duplet status`: which stages are up to date, and what changed."""

import argparse
import json

from pipeline.cli.commands import configured

arguments = configured.arguments


def run(args: argparse.Namespace) -> int:
    """Prints a line per stage."""
    config = configured.load(args)
    from pipeline.orchestration import flow

    rows = flow.status(config)
    for row in rows:
        changed = f" ({', '.join(row['changed'])})" if row["changed"] else ""
        print(f"{row['stage']:9} {row['state']:12} {row['folder']}{changed}")
    if args.json:
        print(json.dumps({"stages": rows}))
    return 0

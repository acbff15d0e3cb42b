"""`duplet doctor`: what this machine has and lacks, each lack with its fix."""

import argparse
import json
import os
from pathlib import Path

from pipeline.cli.commands import configured


def arguments(parser: argparse.ArgumentParser) -> None:
    """Maybe a configuration, for its root, workers and MLflow address."""
    configured.arguments(parser, optional=True)


def run(args: argparse.Namespace) -> int:
    """Prints the table; 2 when a line has failed."""
    from rich.console import Console

    from pipeline.cli import diagnostics

    config = configured.load(args) if args.config else None
    root = config.local_root if config else Path("runs")
    uri = (config.tracking.uri if config else None) or os.environ.get("MLFLOW_TRACKING_URI")
    checks = diagnostics.examine(root, uri, config.train.workers if config else 2)
    Console().print(diagnostics.table(checks))
    failed = any(check.state == "failed" for check in checks)
    if args.json:
        print(json.dumps({"checks": [check._asdict() for check in checks], "ok": not failed}))
    return 2 if failed else 0

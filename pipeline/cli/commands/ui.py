"""`duplet ui`: MLflow's pages over the runs under a root, on this machine only."""

import argparse
import os
from pathlib import Path

from pipeline.core.atomic_files import path_here
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where to listen."""
    parser.add_argument("run", nargs="?", metavar="RUN_ID", help="print the address of this run's page")
    parser.add_argument("--root", type=path_here, default=Path("runs"), help="where the runs lie (runs)")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (5000); 0: any free one")


def run(args: argparse.Namespace) -> int:
    """Prints the address, then becomes MLflow's server until it is stopped."""
    from pipeline.tracking.pages import pages

    shown = pages(args.root, args.run, args.port)
    Talk(bar=False)(f"MLflow's pages: {shown.url} (Ctrl-C stops)")
    os.execve(shown.command[0], shown.command, shown.environment)

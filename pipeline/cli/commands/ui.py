"""`duplet ui`: MLflow's pages over the runs under a root, on this machine only."""

import argparse
import os
import re
import tempfile
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.naming import root_here
from pipeline.core.number_options import port
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where to listen."""
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="print the address of this run's page: an MLflow run id, or a "
        "configuration or a trained folder, of which the newest run is meant",
    )  # fmt: skip
    parser.add_argument("--root", type=root_here, help="the folder of all runs (the configuration's, or runs)")
    parser.add_argument("--port", type=port, default=5000, help="port on 127.0.0.1 (5000); 0: any free one")


def run(args: argparse.Namespace) -> int:
    """Prints the address, then becomes MLflow's server until it is stopped."""
    from pipeline.tracking.pages import pages

    root, run_id = _named(args)
    shown = pages(root, run_id, args.port)
    Talk(bar=False)(f"MLflow's pages: {shown.url} (Ctrl-C stops)")
    os.execve(shown.command[0], shown.command, shown.environment)


def _named(args: argparse.Namespace) -> tuple[Path, str | None]:
    """The root, and the id of the run. Raises InputError where the root's MLflow does not have it."""
    if args.run is None or re.fullmatch("[0-9a-f]{32}", args.run):
        return args.root or Path("runs"), args.run
    from pipeline.registry import mlflow_registry, resolve_run
    from pipeline.tracking.client import local

    with tempfile.TemporaryDirectory(prefix="duplet-ui-") as store:
        found = resolve_run.find(args.run, [], args.root, None, Path(store))
    where = local(found.root)
    run_id = mlflow_registry.stage_run(where, "evaluate", found.evaluation.resolve().name)
    if run_id is None:
        raise InputError(f"MLflow under {found.root} has no run of {args.run}: `duplet sync` sends what it has not got")
    return found.root, mlflow_registry.command_run(where, run_id)

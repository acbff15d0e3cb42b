"""`duplet report`: the page of a run, one HTML file that needs no other; prints where it lies."""

import argparse
import json
import tempfile
from pathlib import Path

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import path_here


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where to."""
    parser.add_argument(
        "run", help="a configuration, an evaluation's or a trained folder, an MLflow run id, or models:/NAME@champion"
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings of the configuration")
    parser.add_argument(
        "--output", type=path_here, metavar="FILE",
        help="make the page anew here; without it, the page of the evaluation's folder",
    )  # fmt: skip
    configured.root_arguments(parser, of_run=True)


def run(args: argparse.Namespace) -> int:
    """Prints the page's path."""
    from pipeline.registry import resolve_run
    from pipeline.reporting.folder import REPORT

    with tempfile.TemporaryDirectory(prefix="duplet-report-") as store:
        evaluated_run = resolve_run.find(args.run, args.overrides, args.root, args.uri, Path(store))
        path = evaluated_run.evaluation / REPORT
        if args.output is None and evaluated_run.evaluation.is_relative_to(store):
            args.output = Path(f"report-{evaluated_run.trained}.html")  # only in MLflow: there is no folder here
        if args.output is not None or not path.exists():
            from pipeline.reporting import page

            path = args.output or path
            page.write(evaluated_run.evaluation, path)
    print(json.dumps({"report": str(path)}) if args.json else path)
    return 0

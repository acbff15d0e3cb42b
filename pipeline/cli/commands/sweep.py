"""`duplet sweep`: one configuration with several values of some settings, as runs under one MLflow run."""

import argparse
import json

from pipeline.cli.commands import configured
from pipeline.core.number_options import count
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration, what is varied, and how."""
    parser.add_argument("config", help="a YAML file")
    parser.add_argument(
        "overrides", nargs="+", metavar="key=…", help="model.layers=1,2,3 or model.dropout=0..0.5 or a single value"
    )
    parser.add_argument("--search", choices=("grid", "random", "bayesian"), default="grid", help="grid: every one")
    parser.add_argument("--trials", type=count, help="how many, for random and bayesian")
    configured.workers_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table, best first. The same command goes on with a sweep that was cut off."""
    from pipeline.orchestration.sweep import Sweep

    with Talk() as say:
        report = Sweep(args.config, configured.overrides_of(args), args.search, args.trials, say).run()
    print(report.pop("table"), end="")
    if args.json:
        print(json.dumps(report))
    else:
        say(f"best: {' '.join(f'{key}={value}' for key, value in report['best'].items())}; all in {report['folder']}")
    return 0

"""What verbs have in common: a configuration, and where runs lie."""

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from pipeline.core.naming import root_here
from pipeline.core.number_options import count

if TYPE_CHECKING:
    from pipeline.config import Config


def arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """A configuration, overrides and --json; `optional`: the verb works without a configuration."""
    parser.add_argument("config", nargs="?" if optional else None, help="a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings by dotted path, train.epochs=3"
    )


def root_arguments(parser: argparse.ArgumentParser, of_run: bool = False) -> None:
    """Where runs lie, and where MLflow knows them; `of_run`: for a verb over a run, which may say so itself."""
    shown = (
        "the folder of all runs (default: the run's, or runs)"
        if of_run
        else "the folder of all runs and of mlflow.db (runs)"
    )
    parser.add_argument("--root", type=root_here, default=None if of_run else "runs", help=shown)
    parser.add_argument("--uri", help="MLflow's address, if not under root")


def verify_argument(parser: argparse.ArgumentParser) -> None:
    """Whether files are read whole."""
    parser.add_argument(
        "--verify", action="store_true",
        help="read every file of the source and of finished stages whole, in place of trusting its size and time",
    )  # fmt: skip


def worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Shorthands for where the work runs."""
    workers_argument(parser)
    parser.add_argument("--gpus", action="store_true", help="as train.gpus=true")


def workers_argument(parser: argparse.ArgumentParser) -> None:
    """How many processes train."""
    parser.add_argument("--workers", type=count, metavar="N", help="as train.workers=N")


def threads_argument(parser: argparse.ArgumentParser) -> None:
    """How many threads encode."""
    shown = "for encoding; as many as there are, if not given"
    parser.add_argument("--threads", type=count, metavar="N", help=shown)


def stop_by_sigterm() -> None:
    """From here on a SIGTERM stops the command as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The overrides that a verb's arguments give, shorthands included."""
    from pipeline.config.schema import problems

    for problem in problems():
        print(f"warning: {problem}", file=sys.stderr)
    overrides = list(args.overrides)
    if getattr(args, "workers", None) is not None:
        overrides.append(f"train.workers={args.workers}")
    if getattr(args, "gpus", False):
        overrides.append("train.gpus=true")
    return overrides


def load(args: argparse.Namespace) -> "Config":
    """The configuration that a verb's arguments give. Raises InputError."""
    from pipeline.config import load_config

    return load_config(args.config, overrides_of(args))

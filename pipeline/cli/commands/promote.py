"""`duplet promote`: a trained model becomes the registry's champion if it passes the gate; `--back` undoes the last."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import as_json
from pipeline.core.progress import Talk

if TYPE_CHECKING:
    from pipeline.registry.promotion import Outcome


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to promote, under which name, through which gate."""
    parser.add_argument(
        "model", nargs="?", help="a configuration, an evaluation's or a trained folder, an MLflow run id, or "
        "models:/NAME/VERSION; with --back, a configuration or nothing",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings of the configuration")
    parser.add_argument(
        "--name", help="name of the registered model (default: promote.name, else the configuration's name)"
    )
    parser.add_argument(
        "--gate", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of the section promote: min_difference=-0.01, judge_by=mean, floors.map@100=0.3",
    )  # fmt: skip
    parser.add_argument("--back", action="store_true", help="return the alias to the version that had it before")
    parser.add_argument("--reason", help="why; kept with the decision in MLflow")
    configured.root_arguments(parser, of_run=True)


def run(args: argparse.Namespace) -> int:
    """Prints the table and who is champion; 3 where the gate refused."""
    from pipeline.core.errors import InputError
    from pipeline.registry import gate, promotion, resolve_run

    if args.back:
        return _back(args)
    if not args.model:
        raise InputError(f"what to promote? give {resolve_run.HELP}")
    with Talk() as say:
        store = (args.root or Path("runs")) / "models"
        evaluated_run = resolve_run.find(args.model, args.overrides, args.root, args.uri, store)
        settings = promotion.settings_of(evaluated_run, args.gate)
        outcome = promotion.promote(evaluated_run, settings, args.name, args.reason, say)
    if outcome.decision:
        champion = f"champion (version {outcome.champion.number})" if outcome.champion else None
        print(gate.table_text(outcome.decision, f"version {outcome.version.number}", champion))
        print()
    _say_outcome(args, outcome)
    return 0 if outcome.passed else 3


def _back(args: argparse.Namespace) -> int:
    from pipeline import tracking
    from pipeline.config import load_config
    from pipeline.core.errors import InputError
    from pipeline.registry import promotion
    from pipeline.registry.mlflow_registry import Registry

    name, root, uri = args.name, args.root, args.uri
    if args.model:
        config = load_config(args.model, args.overrides)
        name, root = name or config.promote.name, root or config.local_root
        uri = uri or config.tracking.uri
    if not name:
        raise InputError("--back of which model? give --name, or the configuration")
    root = root or Path("runs")
    registry = Registry(tracking.address(uri, root), name)
    _say_outcome(args, promotion.back(registry, args.reason or "asked for with --back", root))
    return 0


def _say_outcome(args: argparse.Namespace, outcome: "Outcome") -> None:
    version, champion = outcome.version, outcome.champion
    if outcome.passed:
        before = f" instead of version {champion.number}" if champion and champion.number != version.number else ""
        print(f"models:/{version.name}@champion is version {version.number}{before}: {outcome.reason}")
    else:
        stays = f"version {champion.number} stays champion" if champion else "there is no champion"
        line = f"duplet promote: version {version.number} of {version.name} is refused: {outcome.reason}; {stays}"
        print(line, file=sys.stderr)
    if args.json:
        print(as_json(outcome.as_dict() | {"exit_code": 0 if outcome.passed else 3}))

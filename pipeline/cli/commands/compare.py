"""`duplet compare`: shows how runs differ: in settings and data, in metrics, and in the examples they get right."""

import argparse
import json
import tempfile
from pathlib import Path

from pipeline.cli.commands import configured
from pipeline.core import atomic_files
from pipeline.core.atomic_files import as_json, path_here
from pipeline.core.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Two or more runs."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a configuration, an evaluation's or a trained folder, an MLflow run "
        "id, or models:/NAME@champion; the first is what the others are compared with. A sweep's folder stands for its "
        "trials",
    )  # fmt: skip
    parser.add_argument("--html", type=path_here, metavar="FILE", help="write a page that needs no other file")
    configured.root_arguments(parser, of_run=True)


def run(args: argparse.Namespace) -> int:
    """Prints the tables."""
    from pipeline.registry import resolve_run
    from pipeline.reporting import folder

    runs = [run for name in args.runs for run in _trials(name)]
    if len(runs) < 2:
        raise InputError(f"compare needs two runs or more: each {resolve_run.HELP}")
    with tempfile.TemporaryDirectory(prefix="duplet-compare-") as store:
        evaluations = [
            folder.load(resolve_run.find(run, [], args.root, args.uri, Path(store) / str(i)).evaluation)
            for i, run in enumerate(runs)
        ]
        from pipeline.reporting import comparison

        compared = comparison.compare(evaluations)
        if args.html:
            try:
                atomic_files.write_text(args.html, comparison.html(compared))
            except OSError as error:
                raise InputError(f"{args.html} cannot be written ({error.strerror})") from None
    print(as_json(comparison.as_dict(compared)) if args.json else comparison.text(compared))
    return 0


def _trials(name: str) -> list[str]:
    """The evaluations of a sweep's folder, its best trial first; anything else is itself. Raises InputError.

    A sweep notes them as its configuration named the root, which may be relative or have been moved: those under the
    root that the sweep's own folder lies in (ROOT/sweeps/NAME) come first.
    """

    path = atomic_files.path_at_home(name) / "results.json"
    if not path.is_file():
        return [name]
    try:
        evaluations = [str(trial["evaluation"]) for trial in json.loads(path.read_text(encoding="utf-8"))["trials"]]
    except (OSError, ValueError, LookupError, TypeError):
        evaluations = [""]
    if not all(evaluations):  # of `--seeds`, or of a sweep that an older version made
        raise InputError(f"{path} names no evaluations of a sweep: give the runs one by one, by their ids")
    beside = [path.resolve().parents[2] / "evaluate" / Path(evaluation).name for evaluation in evaluations]
    return [str(own) if own.is_dir() else evaluation for own, evaluation in zip(beside, evaluations)]

"""`duplet run` and the four stages: all stages up to one of them, doing only what is not up to date."""

import argparse
import shlex

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.core.number_options import count
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration, and how many workers."""
    configured.arguments(parser)
    configured.worker_arguments(parser)
    configured.verify_argument(parser)
    parser.add_argument(
        "--seeds", type=count, metavar="N", help="duplet run: with N seeds on the same splits, for means and intervals"
    )
    parser.add_argument(
        "--refresh-epochs", type=count, metavar="N", help="duplet run: mine anew every N epochs, by the model so far"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the stages; the table, or the last stage's folder, goes to stdout."""
    if args.seeds is not None:
        return _several(args)
    if args.refresh_epochs is not None and args.verb != "run":
        raise InputError("--refresh-epochs belongs to `duplet run`, which judges what was trained")
    config = configured.load(args)
    from pipeline.config import secrets_sent
    from pipeline.orchestration import flow, rounds

    until = "evaluate" if args.verb == "run" else args.verb
    with Talk() as say:
        for line in secrets_sent(args.config, args.overrides):
            say(line)
        if args.refresh_epochs is not None:
            every = rounds.Rounds(args.config, configured.overrides_of(args), args.refresh_epochs, say)
            result = every.run(args.verify)
        else:
            result = flow.run(config, " ".join([args.config, *args.overrides]), until, say, args.verify)
    if result.table:
        print(result.table)
    elif not args.json:
        print(result.stages[until]["folder"])
    if args.json:
        print(as_json({"run_id": result.run_id, "stages": result.stages, "metrics": result.metrics}))
    elif result.run_id:
        say(f"MLflow run {result.run_id} (`{pages(str(config.local_root), result.run_id)}` shows it)")
    return 0


def _several(args: argparse.Namespace) -> int:
    """All stages with several seeds; the table of their means goes to stdout."""
    if args.refresh_epochs is not None:
        raise InputError("--seeds and --refresh-epochs do not go together: give one, and run it once for each seed")
    if args.verb != "run":
        raise InputError("--seeds belongs to `duplet run`, which judges what was trained")
    from pipeline.config import secrets_sent
    from pipeline.orchestration.seeds import Seeds

    with Talk() as say:
        for line in secrets_sent(args.config, args.overrides):
            say(line)
        report = Seeds(args.config, configured.overrides_of(args), args.seeds, say).run()
    print(report.pop("table"), end="")
    if args.json:
        print(as_json(report))
    else:
        say(f"all in {report['folder']}")
    return 0


def pages(root: str, run_id: str) -> str:
    """The command that shows a run's page, to be copied into a shell.

    >>> pages("runs", "3a5e"), pages("my $runs", "3a5e")
    ('duplet ui 3a5e', "duplet ui 3a5e --root 'my $runs'")
    """
    return shlex.join(["duplet", "ui", run_id, *([] if root == "runs" else ["--root", root])])

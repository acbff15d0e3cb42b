"""`duplet runs`: what there is under a root: runs, their stages, best value, size, and where MLflow has them."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.commands import configured
from pipeline.core.atomic_files import check_root
from pipeline.core.errors import DupletError
from pipeline.core.progress import Talk

if TYPE_CHECKING:
    from pipeline.registry.finished import Run, Unfinished

COLUMNS = ("made", "name", "stages", "value", "size", "folder", "MLflow run")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which root, and where its runs are known."""
    configured.root_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """A line per run, the newest first, then those per unfinished work."""
    check_root(args.root)
    from pipeline.registry import finished

    stages = finished.made(args.root)
    runs, unfinished = list(finished.runs(stages)), finished.unfinished(args.root)
    damaged = [str(folder.path) for folder in stages.values() if folder.manifest is None]
    with Talk() as say:
        known = _known(args.root, args.uri, say) if runs else {}
        for path in damaged:
            say(f"warning: {path} is damaged or of another version, and is left out")
    if args.json:
        rows = [
            {**run._asdict(), "folder": str(run.folder), "run_id": known.get(run.folder.name)} for run in runs
        ]  # fmt: skip
        print(json.dumps({"runs": rows, "unfinished": [_unfinished(work) for work in unfinished], "damaged": damaged}))
        return 0
    _print([*(_row(run, known) for run in runs), *(_work_row(work) for work in unfinished)], args.root)
    return 0


def _known(root: Path, uri: str | None, say: Talk) -> dict[str, str]:
    """Key of a stage -> MLflow's run; a warning where MLflow does not answer."""
    from pipeline.tracking import address, listing

    try:
        return listing.by_key(listing.known(address(uri, root)))
    except DupletError as error:
        say(f"warning: {error}")
        return {}


def _row(run: "Run", known: dict[str, str]) -> tuple[str, ...]:
    from pipeline.registry import disk

    value = "" if run.value is None else f"{run.metric} {run.value:.4g}"
    folder = f"{run.folder.parent.name}/{run.folder.name}"
    when = run.made[:16].replace("T", " ")
    return when, run.name, ", ".join(run.stages), value, disk.shown(run.bytes), folder, known.get(run.folder.name, "")


def _work_row(work: "Unfinished") -> tuple[str, ...]:
    from pipeline.registry import disk

    changed = time.strftime("%Y-%m-%d %H:%M", time.gmtime(work.changed))
    state = f"{work.stage} {'at work' if work.at_work else 'unfinished'}"
    return changed, work.name, state, "", disk.shown(disk.taken(work.path)), f"work/{work.path.name}", ""


def _unfinished(work: "Unfinished") -> dict[str, Any]:
    from pipeline.registry import disk

    return {**work._asdict(), "path": str(work.path), "name": work.name, "bytes": disk.taken(work.path)}


def _print(rows: list[tuple[str, ...]], root: Path) -> None:
    """Columns as wide as what is in them; times are UTC."""
    if not rows:
        print(f"there is nothing under {root} yet: `duplet run` with a configuration makes a run")
        return
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    for row in (COLUMNS, *rows):
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths)).rstrip())

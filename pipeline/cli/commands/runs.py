"""`duplet runs`: what there is under a root: runs, their stages, best value, size, and where MLflow has them."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.atomic_files import path_here
from pipeline.core.errors import DupletError, InputError
from pipeline.core.progress import Talk

if TYPE_CHECKING:
    from pipeline.registry.finished import Run, Unfinished

COLUMNS = ("made", "name", "stages", "value", "size", "folder", "MLflow run")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which root, and where its runs are known."""
    parser.add_argument("--root", type=path_here, default=Path("runs"), help="where the runs lie (runs)")
    parser.add_argument("--uri", help="MLflow's address, if not under root")


def run(args: argparse.Namespace) -> int:
    """A line per run, the newest first, then those per unfinished work."""
    if not args.root.is_dir():
        raise InputError(f"no folder {args.root}: give --root, the `root` of the runs' configuration")
    from pipeline.registry import finished

    found, work = list(finished.runs(args.root)), finished.unfinished(args.root)
    damaged = [str(one.path) for one in finished.made(args.root).values() if one.manifest is None]
    with Talk() as say:
        known = _known(args.root, args.uri, say) if found else {}
        for path in damaged:
            say(f"warning: {path} is damaged or of another version, and is left out")
    if args.json:
        rows = [
            {**one._asdict(), "folder": str(one.folder), "run_id": known.get(one.folder.name)} for one in found
        ]  # fmt: skip
        print(json.dumps({"runs": rows, "unfinished": [_unfinished(one) for one in work], "damaged": damaged}))
        return 0
    _print([*(_row(one, known) for one in found), *(_work_row(one) for one in work)], args.root)
    return 0


def _known(root: Path, uri: str | None, say: Talk) -> dict[str, str]:
    """Key of a stage -> MLflow's run; a warning where MLflow does not answer."""
    from pipeline.tracking import address, listing

    try:
        return listing.by_key(listing.known(address(uri, root)))
    except DupletError as error:
        say(f"warning: {error}")
        return {}


def _row(one: "Run", known: dict[str, str]) -> tuple[str, ...]:
    from pipeline.registry import disk

    value = "" if one.value is None else f"{one.metric} {one.value:.4g}"
    folder = f"{one.folder.parent.name}/{one.folder.name}"
    made = one.made[:16].replace("T", " ")
    return made, one.name, ", ".join(one.stages), value, disk.shown(one.bytes), folder, known.get(one.folder.name, "")


def _work_row(one: "Unfinished") -> tuple[str, ...]:
    from pipeline.registry import disk

    changed = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.changed))
    state = f"{one.stage} {'at work' if one.at_work else 'unfinished'}"
    return changed, one.name, state, "", disk.shown(disk.taken(one.path)), f"work/{one.path.name}", ""


def _unfinished(one: "Unfinished") -> dict[str, Any]:
    from pipeline.registry import disk

    return {**one._asdict(), "path": str(one.path), "name": one.name, "bytes": disk.taken(one.path)}


def _print(rows: list[tuple[str, ...]], root: Path) -> None:
    """Columns as wide as what is in them; times are UTC."""
    if not rows:
        print(f"there is nothing under {root} yet: `duplet run` with a configuration makes a run")
        return
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    for row in (COLUMNS, *rows):
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths)).rstrip())

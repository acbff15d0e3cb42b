"""`duplet replay`: computes an update again whose loss or gradients were not finite, from what was kept of it."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from pipeline.core.atomic_files import path_here
from pipeline.core.errors import DupletError, InputError
from pipeline.core.progress import Talk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which update."""
    parser.add_argument(
        "folder", type=path_here, help="the folder that a training named: work/train-KEY-not-finite-UPDATE"
    )


def run(args: argparse.Namespace) -> int:
    """Starts as many workers as the training had; loss, norm and the gradients that are not finite go to stdout."""
    if not args.folder.is_dir():
        raise InputError(f"no folder {args.folder}: give the one that a training named")
    from pipeline.config import check_config
    from pipeline.distributed import launcher
    from pipeline.training import replay

    seen_update = replay.load(args.folder)
    config = check_config(seen_update.config, str(args.folder / replay.UPDATE))
    if not Path(seen_update.tokenized).is_dir():
        raise InputError(f"{seen_update.tokenized}, the ids that the update read, is missing: put it back")
    for stage, read in seen_update.others.items():
        if not Path(read).is_dir():
            raise InputError(f"{read}, the folder of the stage {stage} that the update read, is missing: put it back")
    workers = len(seen_update.examples) // config.train.accumulate  # a worker's parts stand side by side
    with Talk() as say, tempfile.TemporaryDirectory(prefix="duplet-replay-") as scratch:
        folder = str(args.folder.resolve())
        job = launcher.Job(
            "replay", seen_update.config, f"{scratch}/work", scratch, "", seen_update.tokenized, folder,
            others=seen_update.others,
        )  # fmt: skip
        threads = launcher.threads_per_worker(workers, config.train.threads_per_worker)
        launcher.run(job, workers, threads, config.train.min_stall_s, say, lambda: None)
        result = json.loads((Path(scratch) / "result.json").read_text(encoding="utf-8"))
    print(json.dumps(result) if args.json else "\n".join(_lines(seen_update.update, workers, result)))
    if not result["same"]:
        raise DupletError(
            f"update {seen_update.update} gives loss {result['loss']} and gradient norm {result['gradient_norm']}, "
            "and gave others in the training: use the same machine, settings and versions"
        )
    return 0


def _lines(update: int, workers: int, result: dict[str, Any]) -> list[str]:
    lines = [
        f"update {update}, {workers} worker{'s' if workers > 1 else ''}",
        f"loss           {result['loss']} (seen: {result['seen']['loss']})",
        f"gradient norm  {result['gradient_norm']} (seen: {result['seen']['gradient_norm']})",
    ]
    if not result["not_finite"]:
        return [*lines, "every gradient is finite; their norm, or the loss, is not"]
    lines.append("gradients with values that are not finite:")
    for name, row in result["not_finite"].items():
        by_rank = ", ".join(f"rank {rank}: {count}" for rank, count in enumerate(row["by_rank"]))
        lines.append(f"  {name}  of {row['values']} values {by_rank}")
    return lines

"""Running the loop over a task, as the worker does."""

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.core.event_log import Spool
from pipeline.distributed.world import World
from pipeline.tasks.base import Task
from pipeline.training import loop


def fit(task: Task, network: Any, config: Config, world: World, folder: Path) -> loop.State:
    """Trains under a folder, or goes on from the checkpoints there."""
    folder.mkdir(exist_ok=True)
    spool = Spool(folder / "points.jsonl")
    return loop.fit(task, network, config, world, folder / "checkpoints", spool, lambda line: None)

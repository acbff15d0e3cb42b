"""Run by test_every_task in processes of their own: trains the cases of cases.json, whole or to a kill, or shared.

train FOLDER [TASK UPDATE]: trains all tasks under FOLDER, or one that kills itself in that update.
share PARTS [DROPOUT]: a few updates of each task, by as many workers as there are, each in so many parts.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from pipeline.config import Config, check_config
from pipeline.core.event_log import Spool
from pipeline.distributed.world import World
from pipeline.models.parameters import parameters_of
from pipeline.tasks.base import task_of
from pipeline.training import loop
from tests.networks import fresh
from tests.workers.global_step import in_parts
from tests.workers.global_step import run as run_updates


class Killing(Spool):
    """A log that ends the process without a word at its first point of an update or a later one."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path)
        self.at = at

    def write(self, update: int, values: dict[str, float]) -> None:
        super().write(update, values)
        if update >= self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def train(name: str, folder: Path, tokenized: Path, config: Config, world: World, kill_at: int | None) -> None:
    task = task_of(config, tokenized)
    network = fresh(task)
    said: list[str] = []
    (folder / name).mkdir(parents=True, exist_ok=True)
    points = folder / name / "points.jsonl"
    log = Spool(points) if kill_at is None else Killing(points, kill_at)
    state = loop.fit(task, network, config, world, folder / name / "checkpoints", log, said.append)
    arrays = {key: parameter.data().asnumpy() for key, parameter in parameters_of(network).items()}
    history = np.array(json.dumps(state.history))
    np.savez(folder / f"{name}.npz", said=np.array(said[0] if said else ""), history=history, **arrays)


def main() -> None:
    verb, *rest = sys.argv[1:]
    cases = json.loads(Path("cases.json").read_text())
    world = World()
    for name, data in cases["configs"].items():
        tokenized = Path(cases["folders"][name])
        if verb == "share":
            parts, dropout = int(rest[0]), float(rest[1])
            data["model"] = {**data.get("model", {}), "dropout": dropout}
            data["train"] = {**data["train"], "optimizer": {"clip_norm": 0.3, "kind": "sgd"}}
            found = run_updates(tokenized, check_config(in_parts(data, parts), "test"), world)
            if world.rank == 0:
                np.savez(f"size-{world.size}-{parts}-{dropout}-{name}.npz", **found)
        elif len(rest) == 1 or rest[1] == name:
            at = int(rest[2]) if len(rest) > 1 else None
            train(name, Path(rest[0]), tokenized, check_config(data, "test"), world, at)


if __name__ == "__main__":
    main()

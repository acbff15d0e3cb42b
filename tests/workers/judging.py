"""Run by test_judging under one process or several: each case judged with a network that learned nothing."""

import json
import sys
from pathlib import Path

from pipeline.config import check_config
from pipeline.distributed.world import World
from pipeline.tasks import matching_evaluation
from pipeline.tasks.base import task_of
from tests.networks import fresh


def main(cases: Path) -> None:
    world = World()
    for number, case in enumerate(json.loads(cases.read_text())):
        config, tokenized = check_config(case["config"], "test"), Path(case["tokenized"])
        network = fresh(task_of(config, tokenized))
        folder = cases.parent / f"size-{world.size}-case-{number}"
        if world.rank == 0:
            folder.mkdir()
        validation = matching_evaluation.validate(config, tokenized, network, world)
        matching_evaluation.evaluate(config, tokenized, network, world, Path(case["ingested"]), folder)
        if world.rank == 0:
            (folder / "validation.json").write_text(json.dumps(validation))
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

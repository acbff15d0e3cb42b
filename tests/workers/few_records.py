"""Run by test_few_records under one process or several: judges splits of one record, fewer than workers."""

import json
import sys
from pathlib import Path

from pipeline.config import check_config
from pipeline.distributed.world import World
from pipeline.tasks.base import task_of
from tests.networks import fresh


def main(cases: Path) -> None:
    world = World()
    found = {}
    for name, case in json.loads(cases.read_text()).items():
        task = task_of(check_config(case["config"], "test"), Path(case["tokenized"]))
        network = fresh(task)
        folder = cases.parent / f"evaluated-{world.size}-{name}"
        folder.mkdir(exist_ok=True)
        found[name] = task.validate(network, world)
        found[name] |= world.agree(task.evaluate(network, world, Path(case["ingested"]), folder), "evaluated")
    cases.with_name(f"size-{world.size}-rank-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What MXNet asks a GPU for in an update of configs/bench.yaml, counted over the null GPU (tests/null_gpu).

Counts are of updates 3 to 12, one worker, 64 pairs: each number's mean, and its least and most. With --kernels, how
often each of MXNet's kernels is launched in an update. cuDNN and cuBLAS launch kernels of their own, which nobody
counts here: each of their calls stands as one.

    make test-null-gpu PYTEST_ARGS=--collect-only   # makes the null GPU
    python benchmarks/gpu_calls.py [--kernels] [--pairs 3000] [settings, such as model.layers=1]
"""

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MADE = HERE.parent / ".null_gpu"
FROM, UNTIL = 3, 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    if not (MADE / "stamp").exists():
        sys.exit("gpu_calls: there is no null GPU: run `make test-null-gpu PYTEST_ARGS=--collect-only`")
    if os.environ.get("LD_LIBRARY_PATH") != str(MADE / "lib"):  # is read when a process begins
        paths = {"LD_LIBRARY_PATH": str(MADE / "lib"), "PYTHONPATH": f"{MADE / 'site'}:{HERE.parent}",
                 "MXNET_GPU_MEM_POOL_TYPE": "Unpooled"}  # fmt: skip
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **paths})
    counted, kernels = count(arguments.pairs, arguments.settings)
    for name in counted[0]._fields:
        values = [getattr(row, name) for row in counted]
        print(f"{name:<20} {sum(values) / len(values):12,.1f} {min(values):12,} {max(values):12,}")
    if arguments.kernels:
        for name, launches in sorted(kernels.items(), key=lambda item: -item[1]):
            print(f"{launches / len(counted):8.1f}  {name[:160]}")
    return 0


def count(pairs: int, settings: list[str]) -> tuple[list[Any], dict[str, int]]:
    """The counts of each update, and launches by kernel in all of them."""
    from pipeline.config import load_config
    from pipeline.core.event_log import Spool
    from pipeline.distributed.world import World
    from pipeline.orchestration import flow
    from pipeline.tasks.base import task_of
    from pipeline.training import loop
    from tests.null_gpu import device

    counted: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        given = [f"root={folder}/runs", f"ingest.source.max_pairs={pairs}", f"train.max_updates={UNTIL + 1}",
                 "train.workers=1", "train.validate_every_updates=1000", "tracking.send=later", *settings]  # fmt: skip
        path = str(HERE.parent / "configs" / "bench.yaml")
        stages: dict[str, Any] = flow.run(load_config(path, given), path, "tokenize", lambda line: None).stages
        config, world = load_config(path, [*given, "train.gpus=true"]), World(True)
        task = task_of(config, Path(stages["tokenize"]["folder"]))
        network = task.network()
        network.initialize(ctx=world.context)
        counts: list[Any] = []
        sent = loop.Run.sent

        def noted(run: Any, *rest: Any) -> None:
            sent(run, *rest)
            if run.state.update == FROM - 1:
                device.kernels()
            if FROM - 1 <= run.state.update <= UNTIL:
                counts.append(device.counts())

        loop.Run.sent = noted  # type: ignore[method-assign, assignment]
        spool = Spool(Path(folder) / "points.jsonl")
        loop.fit(task, network, config, world, Path(folder) / "checkpoints", spool, lambda line: None)
        counted = [after.since(before) for before, after in itertools.pairwise(counts)]
    return counted, device.kernels()


if __name__ == "__main__":
    sys.exit(main())

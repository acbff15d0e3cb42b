"""A worker in the real one's place, whose rank 1 is on a host with a fault: run by test_bad_ranks through the launcher.

python bad_rank.py FAULT … WORK
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import horovod.mxnet as hvd
import mxnet as mx

from pipeline.distributed.launcher import Job
from pipeline.distributed.world import World
from pipeline.training import worker

# What CUDA and NCCL say, as MXNet and Horovod pass it on (nccl_operations.cc: ErrorCheck).
SAID = {
    "network": "ncclCommInitRank failed: unhandled system error (run with NCCL_DEBUG=INFO for details)",
    "code": "Check failed: (209 vs. 0) : ErrStr:no kernel image is available for execution on the device",
    "memory": "Check failed: e == cudaSuccess (2 vs. 0) : CUDA: out of memory",
}
AT = {"network": 7}  # of a process, the update in which it is said; else the second


def main(fault: str, work: Path) -> None:
    hvd.init()
    if hvd.rank() == 1:
        spoil(fault)
    worker.main(work)


def spoil(fault: str) -> None:
    """Lets this process have a fault."""
    if fault == "vocabulary":
        worker.Job = lambda **values: other_vocabulary(Job(**values))  # type: ignore[assignment, misc]
    else:
        average, done = World.average, [0]

        def failing(self: World, arrays: Any, name: str, scale: float | None = None) -> None:
            done[0] += name == "loss"
            if done[0] == AT.get(fault, 2):
                raise mx.MXNetError(SAID[fault])
            average(self, arrays, name, scale)

        World.average = failing  # type: ignore[method-assign]


def other_vocabulary(job: Job) -> Job:
    """The job with a copy of the tokenized folder, one of whose words is another."""
    copy = Path(f"{job.work}-other")
    if not copy.exists():
        shutil.copytree(job.tokenized, copy)
    words = json.loads((copy / "vocabulary.json").read_text())
    (copy / "vocabulary.json").write_text(json.dumps(words).replace('"w"', '"v"'))
    return replace(job, tokenized=str(copy))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[-1]))

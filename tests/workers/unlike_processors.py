"""Run by test_recurrent_kernel on two ranks, the second of which may use fewer instructions: what each decides."""

import os
import sys
from pathlib import Path

if os.environ["HOROVOD_RANK"] == "1":
    os.environ["ONEDNN_MAX_CPU_ISA"] = sys.argv[1]

from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.training import recurrent_kernel

world, found = World(), []
for setting in ("auto", "own"):
    try:
        found.append(recurrent_kernel.agree(setting, "float32", "", world, print)[0])
    except InputError as error:
        found.append(str(error))
(Path(sys.argv[2]) / f"rank-{world.rank}").write_text("\n".join(found))

"""A worker that is killed in an update: `python -m tests.null_gpu.killed_worker WORK UPDATE`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.training import loop, worker

sent = loop.Run.sent


def killed(run: loop.Run, *arguments: Any) -> None:
    """In the place of Run.sent."""
    if run.state.update == int(sys.argv[2]):
        run.writing.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    sent(run, *arguments)


if __name__ == "__main__":
    loop.Run.sent = killed  # type: ignore[method-assign]
    worker.main(Path(sys.argv[1]))

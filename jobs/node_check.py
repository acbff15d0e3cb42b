"""What one node of an allocation can do: `python -m jobs.node_check ROOT GPUS [COMMAND]`, run on each by srun.

Prints one line, MARK and a JSON object: the node's name, and for each check "" or what is wrong. Its exit code is 0
whatever it finds, so that no node ends the look at the others.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

MARK = "duplet-node "
PATIENCE_S = 60.0  # for all checks together; one that hangs is one that fails
WORD = 300  # characters of what a check says
# What a rank needs; on each GPU an operation, which finds a driver that does not answer and a card that fails
WORKS = """\
import sys
import mxnet
import horovod.mxnet
for number in range(int(sys.argv[1])):
    assert mxnet.nd.ones((64, 64), ctx=mxnet.gpu(number)).sum().asscalar() == 4096, f"GPU {number} adds wrongly"
"""


def gpus(wanted: int) -> str:
    """What is wrong with the driver and its cards."""
    if shutil.which("nvidia-smi") is None:
        return "there is no nvidia-smi"
    query = "--query-gpu=ecc.errors.uncorrected.volatile.total"
    said = _said(["nvidia-smi", query, "--format=csv,noheader"])
    if isinstance(said, str):
        return f"nvidia-smi: {said}"
    counts = said.stdout.split("\n") if said.stdout.strip() else []
    errors = [line.strip() for line in counts if re.fullmatch(r"\s*[1-9]\d*\s*", line)]
    there = len([line for line in counts if line.strip()])
    if there < wanted:
        return f"nvidia-smi shows {there} GPUs, and the job has {wanted} on each node"
    return f"a GPU has {errors[0]} memory errors that could not be corrected" if errors else ""


def disk(folder: Path) -> str:
    """What is wrong with a folder that must take files."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".duplet-node-") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{folder} takes no file ({error.strerror})"
    return ""


def does(command: list[str]) -> str:
    """What a command that must end well says where it does not."""
    said = _said(command)
    return said if isinstance(said, str) else ""


def _said(command: list[str]) -> subprocess.CompletedProcess[str] | str:
    """A command's end, or what is wrong with it."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return _hangs()
    except OSError as error:
        return str(error.strerror)
    if done.returncode == 0:
        return done
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return f"exit {done.returncode}" + (f", {lines[-1]}" if lines else "")


def _hangs() -> str:
    return f"no answer within {PATIENCE_S:.0f} s"


def look(checks: dict[str, Callable[[], str]], patience_s: float = PATIENCE_S + 5) -> dict[str, str]:
    """Does all checks at once; a disk that hangs holds up none of the others, and not the answer."""
    found = dict.fromkeys(checks, _hangs())

    def do(name: str) -> None:
        try:
            found[name] = checks[name]()[:WORD]
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:WORD]

    threads = [threading.Thread(target=do, args=(name,), daemon=True) for name in checks]
    for thread in threads:
        thread.start()
    end = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(found)


def main(arguments: list[str]) -> int:
    """`ROOT GPUS [COMMAND]`."""
    root, wanted, *command = arguments
    checks: dict[str, Callable[[], str]] = {
        "disk": lambda: disk(Path(tempfile.gettempdir())),
        "root": lambda: disk(Path(root)),
        "python": lambda: does([sys.executable, "-P", "-c", WORKS, wanted]),
    }
    if int(wanted):
        checks["gpus"] = lambda: gpus(int(wanted))
    if command:
        checks["command"] = lambda: does(["/bin/sh", "-c", command[0]])
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    print(MARK + json.dumps({"node": node, "found": look(checks)}), flush=True)
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # a check that hangs in the kernel would hold the interpreter's end

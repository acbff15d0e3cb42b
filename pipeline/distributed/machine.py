"""How much memory this host and its GPUs have."""

import subprocess
from pathlib import Path

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container or an allocation


def memory_bytes() -> int:
    """Of this host, or what its container may use of it."""
    import psutil  # takes time

    limits = [int(psutil.virtual_memory().total)]
    for path in map(Path, LIMITS):
        try:
            limits.append(int(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # none, or "max"
            continue
    return min(limits)


def card_bytes() -> int | None:
    """Of the smallest GPU here; None where the driver's `nvidia-smi` does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
        return min(int(line) for line in told.splitlines()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None

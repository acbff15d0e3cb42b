"""Run by test_full_disk in a mount namespace of its own: what commands do on disks of ever less room.

Its arguments are a folder to mount a tmpfs on, a model's folder, a file of documents and a configuration of captions
whose root lies on the disk. Prints a JSON object: for each command its exit code and last sentence, by the kB that it
lacked.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.small_disk import duplet

LACKING_KB = (0, 4, 8, 12, 20, 32, 52, 84, 136)


def of_sizes(disk: Path, *arguments: str) -> dict[str, Any]:
    """The command on a disk with room, and on disks that lack some of what that took."""
    found = {}
    needed = 64 << 10
    for lacking in (None, *LACKING_KB):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={needed - (lacking or 0)}k", "tmpfs", str(disk)], check=True
        )
        try:
            found[str(lacking)] = duplet(*arguments)
            if lacking is None:
                needed = shutil.disk_usage(disk).used >> 10
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return found


def main() -> None:
    disk, model, documents, config = Path(sys.argv[1]), *sys.argv[2:]
    made = {
        "index": of_sizes(disk, "index", model, "--documents", documents, "--output", str(disk / "index")),
        "captions": of_sizes(disk, "ingest", config),
        "export": of_sizes(disk, "export", model, "--to", "onnx", "--output", str(disk / "onnx")),
    }
    print(json.dumps(made))


if __name__ == "__main__":
    main()

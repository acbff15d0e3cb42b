"""Who takes how much of the disk under a root."""

import os
from pathlib import Path
from typing import NamedTuple

STAGES = ("ingest", "tokenize", "teach", "mine", "pretrain", "train", "evaluate")
# folder or file of a root -> what it is for
KNOWN = {
    "ingest": "records", "tokenize": "ids and vocabularies", "train": "parameters", "evaluate": "tables and pages",
    "teach": "what a teacher says of the training texts", "mine": "hard negatives",
    "pretrain": "parameters of a training on pairs of documents",
    "seeds": "means over several seeds",
    "work": "checkpoints of work that is not done", "rejudged": "champions on newer test data",
    "models": "copies from MLflow", "jobs": "jobs and their logs", "schedules": "schedules and their verdicts",
    "sweeps": "sweeps", "export": "exports", "tracking": "not sent to MLflow yet",
    "mlflow-artifacts": "files of MLflow's runs", "mlflow.db": "MLflow's database",
}  # fmt: skip


class Part(NamedTuple):
    """A folder or file of a root: its bytes on the disk, and how many folders or files lie in it."""

    name: str
    bytes: int
    entries: int
    what: str


def taken(path: Path) -> int:
    """Bytes that a file or folder takes on the disk, each file once; what goes meanwhile counts as nothing."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, below, files in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
        links = [name for name in below if os.path.islink(os.path.join(folder, name))]
        for name in (".", *files, *links) if path.is_dir() else files:
            try:
                status = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += 512 * status.st_blocks
    return total


def usage(root: Path) -> list[Part]:
    """What lies in a root, the largest first."""
    parts = []
    for path in root.iterdir() if root.is_dir() else ():
        entries = sum(1 for _ in path.iterdir()) if path.is_dir() else 1
        what = KNOWN.get(path.name, "not Duplet's" if not path.name.startswith(".") else "")
        parts.append(Part(path.name, taken(path), entries, what))
    return sorted(parts, key=lambda part: (-part.bytes, part.name))


def shown(size: int) -> str:
    """A number of bytes for people.

    >>> [shown(n) for n in (0, 1536, 5 * 2**20, 3 * 2**30)]
    ['0 KiB', '2 KiB', '5.0 MiB', '3.0 GiB']
    """
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size / 1024:.0f} KiB"

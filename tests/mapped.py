"""How much of the files that this process has mapped is in its memory."""

from pathlib import Path


def resident(folder: Path) -> int:
    """kB of the maps of a folder's files that are in memory."""
    held, own = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            own = line.rpartition(" ")[2].startswith(str(folder))
        elif own and line.startswith("Rss:"):
            held += int(line.split()[1])
    return held

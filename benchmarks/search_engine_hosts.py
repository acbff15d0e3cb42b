"""The search engine's data on two hosts and on this one: `python benchmarks/search_engine_hosts.py FOLDER` as root.

Two network namespaces, joined by a cable, stand for the hosts: a Dask scheduler and a worker run in one, another worker
in the other. `benchmarks/search_engine.py` runs with them, and without them in processes of this host. Then all files
that both have made are compared. Words after the folder go to search_engine.py: `--pages 1000 train.epochs=1`.
"""

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ENGINE = Path(__file__).with_name("search_engine.py")
ADDRESS = "10.78.0.1:8786"
# what a run says of its own times, places and settings, and an index of the names that it has drawn
OF_ITS_OWN = {"manifest.json", "sources.json", "config.json", "points.jsonl", "run.json", "report.html", "index.json"}


@contextlib.contextmanager
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces that reach each other at 10.78.0.1 and 10.78.0.2."""
    names = (f"duplet{os.getpid()}a", f"duplet{os.getpid()}b")
    ip = lambda *words: subprocess.run(["ip", *words], check=True)
    try:
        for name in names:
            ip("netns", "add", name)
        ends = [f"dp{os.getpid() % 100_000}{side}" for side in "ab"]
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for number, (name, end) in enumerate(zip(names, ends), 1):
            ip("-n", name, "address", "add", f"10.78.0.{number}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def cluster(names: tuple[str, str]) -> Iterator[None]:
    """A Dask scheduler on the first host, a worker on each."""
    dask = [sys.executable, "-m", "dask"]
    worker = [*dask, "worker", f"tcp://{ADDRESS}", "--nworkers", "1", "--nthreads", "1", "--no-dashboard"]
    commands = [(names[0], [*dask, "scheduler", "--host", ADDRESS, "--no-dashboard"]), *((n, worker) for n in names)]
    started = []
    try:
        for name, command in commands:
            started.append(subprocess.Popen(["ip", "netns", "exec", name, *command], stderr=subprocess.DEVNULL))
            time.sleep(3)
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def digests(root: Path) -> list[tuple[str, str]]:
    """Place and sha256 of each file of the stages and the index; an index's segments have names that are drawn."""
    stages = [root / stage for stage in ("ingest", "tokenize", "train", "evaluate")] + [root / "pages.index"]
    files = [path for stage in stages for path in stage.rglob("*") if path.is_file()]
    kept = [path for path in files if path.name not in OF_ITS_OWN and not path.name.startswith(".")]
    place = lambda path: f"{path.relative_to(root).parts[0]}/{path.name}"
    return sorted((place(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    given, words = parser.parse_known_args()
    folder = given.folder.resolve()
    here, there = folder / "here", folder / "there"
    run = [sys.executable, str(ENGINE), str(folder), *words]
    times = {}
    began = time.monotonic()
    subprocess.run([*run, "--output", str(here / "pages.index"), f"root={here}"], check=True)
    times["processes of this host"] = time.monotonic() - began
    with hosts() as names, cluster(names):
        began = time.monotonic()
        dask = ["execution.engine=dask", f"execution.address=tcp://{ADDRESS}"]
        command = [
            "ip",
            "netns",
            "exec",
            names[0],
            *run,
            "--output",
            str(there / "pages.index"),
            f"root={there}",
            *dask,
        ]
        subprocess.run(command, check=True)
        times["Dask on two hosts"] = time.monotonic() - began
    first, second = Counter(digests(here)), Counter(digests(there))
    differ = sorted({name for name, _ in (first - second) + (second - first)})
    for name, seconds in times.items():
        print(f"{name}: {seconds:.0f} s")
    print(f"{first.total()} files, {len(differ)} differ" + "".join(f"\n  {name}" for name in differ))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())

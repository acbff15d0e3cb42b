"""Kills the first command of a new root while MLflow's database is made: `make torture-first-command`.

Whatever is killed (the command, the process that sends its journal, or both) and whenever, `duplet sync` then sends
what there is, and MLflow has the run. Ends with 1 where it does not.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from pipeline.core import atomic_files
from pipeline.tracking import database

KINDS = ("the command", "its sender", "both")
LIMIT_S = 240.0


class Kill(NamedTuple):
    kind: str
    after_s: float  # since the making began
    found: str  # of the database, at once after the kill
    failure: str  # empty: all is well


def configuration(folder: Path) -> Path:
    """Forty small pairs."""
    rows = [{"query": f"w{i} w{i + 1}", "document": f"w{i + 1} w{i}"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"format": "jsonl", "path": str(folder / "pairs.jsonl")}
    values = {"name": "first", "ingest": {"source": source}, "tracking": {"system_metrics": False}}
    (folder / "first.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "first.yaml"


def duplet(*arguments: object) -> list[str]:
    """A command line."""
    return [sys.executable, "-P", "-m", "pipeline.cli", *map(str, arguments)]


def making_s(config: Path, root: Path) -> float:
    """How long an undisturbed first command has the database in the making, in seconds."""
    with _first_command(config, root) as process:
        _when_making(root, process)
        began = time.monotonic()
        while not (root / "mlflow.db").exists():
            time.sleep(0.005)
        span = time.monotonic() - began
        process.wait(LIMIT_S)
    return span


def kill_once(config: Path, root: Path, kind: str, after_s: float) -> Kill:
    """Starts a first command, kills it within the making, and lets `duplet sync` send what there is."""
    with _first_command(config, root) as process:
        _when_making(root, process)
        senders = [p for p in psutil.Process(process.pid).children() if "pipeline.tracking" in p.cmdline()]
        time.sleep(after_s)
        for pid in {"the command": [process.pid], "its sender": [p.pid for p in senders]}.get(
            kind, [process.pid, *(p.pid for p in senders)]
        ):
            os.kill(pid, signal.SIGKILL)
        found = "made" if (root / "mlflow.db").exists() else "not made"
        process.wait(LIMIT_S)
    sync = subprocess.run(duplet("sync", "--root", root), capture_output=True, text=True, timeout=LIMIT_S)
    failure = "" if sync.returncode == 0 else f"sync exits {sync.returncode}: {sync.stdout} {sync.stderr}"
    return Kill(kind, after_s, found, failure or "; ".join(_wrong(root)))


def _wrong(root: Path) -> Iterator[str]:
    if list((root / "tracking").glob("*/journal.jsonl")):
        yield "a journal is left"
    if list(root.glob("mlflow.db.half-made-*")):
        yield "a database was set aside"
    with sqlite3.connect(root / "mlflow.db") as found:
        runs = found.execute("SELECT name, status FROM runs").fetchall()
        if found.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            yield "the database is damaged"
    if not runs or runs[0][0] != "first" or {status for _, status in runs} & {"RUNNING", "SCHEDULED"}:
        yield f"MLflow has {runs}"


def _first_command(config: Path, root: Path) -> "subprocess.Popen[bytes]":
    with (root.parent / f"{root.name}.log").open("wb") as log:
        return subprocess.Popen(duplet("ingest", config, f"root={root}"), stdout=log, stderr=log)


def _when_making(root: Path, process: "subprocess.Popen[bytes]") -> None:
    """Waits until a command's sender holds the database's lock."""
    lock = database.lock_of(root / "mlflow.db")
    while not atomic_files.is_locked(lock):
        if process.poll() is not None:
            raise RuntimeError(f"the command ended before MLflow's database was made: see {root}.log")
        time.sleep(0.005)


def kills(folder: Path, count: int, say: Callable[[str], None], seed: int = 0) -> list[Kill]:
    """So many kills at random moments within the making; returns all."""
    config, rng, done = configuration(folder), random.Random(seed), []
    span = making_s(config, folder / "undisturbed")
    say(f"undisturbed, the database is {span:.1f} s in the making")
    for number in range(count):
        kill = kill_once(config, folder / f"root-{number}", KINDS[number % len(KINDS)], rng.uniform(0, span))
        what = f"{kill.kind} killed after {kill.after_s:.2f} s, {kill.found}"
        say(f"{number + 1}/{count}: {what}: {kill.failure or 'well'}")
        done.append(kill)
    return done


def main() -> int:
    """Prints a line per kill, and how many went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-command-") as folder:
        done = kills(Path(folder), args.kills, lambda line: print(line, flush=True), args.seed)
    wrong = [kill for kill in done if kill.failure]
    before = Counter(kill.found for kill in done)
    print(f"{len(done)} kills ({dict(before)} at that moment): {len(wrong)} went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

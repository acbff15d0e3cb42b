"""What tracking costs a training: the writing within its steps, and the processor time of what runs beside it.

Trains a configuration once per state of a real MLflow server (well, hanging, dead) and prints a table. Shares are of
the training's wall time: `within` is the time that the training's own process spends on its points; `beside` the
processor time of the launching and the sending process, over all processors.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.core.event_log import Spool

STATES = ("well", "hanging", "dead")
WRITES = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml")
    parser.add_argument("overrides", nargs="*", default=["train.max_updates=200"])
    parser.add_argument("--states", nargs="+", choices=STATES, default=list(STATES))
    args = parser.parse_args()
    print(f"{'server':10} {'updates':>8} {'step ms':>8} {'write µs':>9} {'within':>9} {'beside':>9} {'end s':>6}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        root = folder / "runs"
        subprocess.run(  # its records and ids once for all
            command("tokenize", args, root, "http://127.0.0.1:9", "tracking.max_wait_s=0"),
            check=True, capture_output=True,
        )  # fmt: skip
        for number, state in enumerate(args.states):
            with server(state, folder) as uri:
                row = trained(command("train", args, root, uri, f"train.optimizer.learning_rate=1.00{number}e-3"), root)
            print(f"{state:10} {row}", flush=True)
    return 0


def command(verb: str, args: argparse.Namespace, root: Path, uri: str, *more: str) -> list[str]:
    settings = [*args.overrides, f"root={root}", f"tracking.uri={uri}", *more]
    return [sys.executable, "-m", "pipeline.cli", verb, args.config, *settings]


@contextlib.contextmanager
def server(state: str, folder: Path) -> Iterator[str]:
    """The address of an MLflow server, of a socket that never answers, or of nobody."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{one.getsockname()[1]}"
        if state == "hanging":
            one.listen(100)
            yield address
            return
    if state == "dead":
        yield address
        return
    port = address.rpartition(":")[2]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", "1", "--backend-store-uri",
            f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "artifacts"),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def trained(command: list[str], root: Path) -> str:
    """Runs one training and returns its row."""
    before = set(root.glob("train/[0-9a-f]*"))
    process = psutil.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    seen: list[tuple[float, float]] = []  # (time, processor seconds) from the first point to the end of the training
    while process.poll() is None:
        if next(root.glob("work/train-*/points.jsonl"), None) and (used := processor_s(process)) is not None:
            seen = [*seen[:1], (time.monotonic(), used)]
        time.sleep(0.2)
    wall = time.monotonic()
    if process.returncode != 0 or len(seen) < 2:
        raise SystemExit(f"the training failed (exit {process.returncode})")
    (made,) = set(root.glob("train/[0-9a-f]*")) - before
    rows = [point for point, _ in Spool(made / "points.jsonl").read(0) if "interval_s" in point.values]
    every = rows[1].update - rows[0].update
    step_s = statistics.median(point.values["interval_s"] for point in rows) / every
    write_s = writing(rows[0].values)
    (began, used_before), (ended, used_after) = seen
    share = (used_after - used_before) / ((ended - began) * (os.cpu_count() or 1))
    return (
        f"{rows[-1].update:8} {1e3 * step_s:8.1f} {1e6 * write_s:9.1f} {write_s / every / step_s:9.4%} {share:9.3%} "
        f"{wall - ended:6.1f}"
    )


def processor_s(process: psutil.Process) -> float | None:
    """Processor seconds so far of a command's own process and the one that sends; None when it has ended."""
    of = lambda one: sum(one.cpu_times()[:2])
    with contextlib.suppress(psutil.Error):
        senders = [child for child in process.children() if "pipeline.tracking" in child.cmdline()]
        return float(of(process) + sum(map(of, senders)))
    return None


def writing(values: dict[str, float]) -> float:
    """Seconds that a point's writing takes, into a file of its own."""
    with tempfile.TemporaryDirectory() as made:
        spool = Spool(Path(made) / "points.jsonl", 64 * 2**20)
        began = time.perf_counter()
        for update in range(WRITES):
            spool.write(update, values)
        return (time.perf_counter() - began) / WRITES


if __name__ == "__main__":
    sys.exit(main())

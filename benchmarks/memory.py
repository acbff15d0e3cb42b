"""Peak resident memory of each stage over 100,000 and over 1,000,000 records: it should not grow with them.

Each stage runs in a process of its own, which looks at /proc/self/status every 20 ms and reports the highest value of
its private memory (RssAnon) and of all that is resident (VmRSS), mapped files included: those are the page cache's,
and are given back when memory is short. Records are pairs of 6 and 20 words out of 5,000, all texts different.

    python benchmarks/memory.py [--sizes 100000 1000000] [--stages ingest tokenize train index] [--root FOLDER]

Needs about 4 GB under --root for the default sizes.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.config import Config, check_config
from pipeline.serving.onnx import graph_cache

WORDS = 5000
VALID = 500  # records of the validation split, whatever the size
UPDATES = 40
STAGES = ("ingest", "tokenize", "train", "index")


class Peak:
    """While entered, the highest of what this process holds, in MB."""

    def __enter__(self) -> "Peak":
        self.anonymous = self.resident = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.anonymous = max(self.anonymous, int(fields["RssAnon"].split()[0]) / 1024)
            self.resident = max(self.resident, int(fields["VmRSS"].split()[0]) / 1024)
            if self._end.wait(0.02):
                return


def write_source(path: Path, size: int) -> None:
    """Pairs, all different, of words that many share: a vocabulary that grows is another matter."""
    rng = np.random.default_rng(1)
    with path.open("w") as file:
        file.write("query\tdocument\n")
        for start in range(0, size, 1000):
            words = rng.integers(0, WORDS, (min(1000, size - start), 26))
            for number, row in enumerate(words.tolist(), start):
                end = f"{number // 1000 % 1000} {number % 1000}"  # words that others have too
                query = " ".join(f"w{i}" for i in row[:4])
                file.write(f"{query} {end}\t{' '.join(f'w{i}' for i in row[4:22])} {end}\n")


def configuration(root: Path, size: int) -> Config:
    data: dict[str, Any] = {
        "name": "memory", "root": str(root),
        "ingest": {"source": {"format": "tsv", "path": str(root / "pairs.tsv")},
                   "split": {"valid": VALID / size, "test": VALID / size}},
        "tokenize": {"max_tokens": {"query": 8, "document": 24}},
        "model": {"embedding": 16, "hidden": 16},
        "train": {"max_updates": UPDATES, "validate_every_updates": UPDATES, "schedule": {"warmup_updates": 5}},
    }  # fmt: skip
    return check_config(data, "benchmark")


# --- what is measured -------------------------------------------------------------------------------------------------
def ingest(config: Config, root: Path) -> None:
    from pipeline.ingest import stage

    stage.run(config, root / "ingest")


def tokenize(config: Config, root: Path) -> None:
    from pipeline.tokenization import stage

    stage.run(config, root / "ingest", root / "tokenize", workers=1)


def train(config: Config, root: Path) -> None:
    from pipeline.core.event_log import Spool
    from pipeline.distributed.world import World
    from pipeline.tasks.base import task_of
    from pipeline.training import loop

    world, task = World(False), task_of(config, root / "tokenize")
    network = task.network()
    network.initialize()
    loop.fit(task, network, config, world, root / "train" / "checkpoints", Spool(root / "train" / "points"), print)


def index(config: Config, root: Path) -> None:
    from pipeline.models.matcher import Matcher
    from pipeline.models.parameters import parameters_of
    from pipeline.search.build import Update
    from pipeline.search.documents import Table
    from pipeline.search.index_store import ModelStamp, Settings
    from pipeline.serving.onnx import session
    from pipeline.serving.predict.scoring import Scorer
    from pipeline.serving.predict.text_encoder import TextEncoder
    from pipeline.tokenization import shards

    network = Matcher(config.model, shards.vocabulary_size(root / "tokenize"), prefix="matcher_")
    network.initialize()
    arrays = {name: parameter.data().asnumpy() for name, parameter in parameters_of(network).items()}
    graphs = root / "index" / "graphs"
    graphs.mkdir()
    graph_cache.write_graphs(config, arrays, graphs, False)
    tokenizer = shards.load_tokenizer(root / "tokenize")
    encoder = TextEncoder(config, tokenizer, session.represent_with(graphs), Scorer(config, arrays), 1)
    stamp = ModelStamp("k", "train", str(root), "random", config.model.head, config.task)
    # exact search: benchmarks/many_passages.py measures clusters
    settings = Settings(documents_per_segment=20_000, approximate_above=10**9)
    reader = Table(str(root / "pairs.tsv"), {"text": "document"}, root / "index" / "bad", root / "index")
    with Update(root / "index" / "made", None, encoder, stamp, settings, print) as update:
        update.put(reader, False)
        update.publish()


MEASURED: dict[str, Callable[[Config, Path], None]] = {
    "ingest": ingest, "tokenize": tokenize, "train": train, "index": index
}  # fmt: skip


def _measured(stage: str, root: Path, size: int, told: Any) -> None:
    """In a process of its own."""
    sys.stdout = sys.stderr
    config = configuration(root, size)
    (root / stage).mkdir()
    began = time.monotonic()
    with Peak() as peak:
        MEASURED[stage](config, root)
    told.send({"anonymous_mb": peak.anonymous, "resident_mb": peak.resident, "seconds": time.monotonic() - began})


def measure(stage: str, root: Path, size: int) -> dict[str, float]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_measured, args=(stage, root, size, there))
    process.start()
    there.close()
    try:
        found: dict[str, float] = here.recv()
    except EOFError:
        process.join()
        sys.exit(f"memory: {stage} of {size:,} records ended with {process.exitcode}")
    process.join()
    print(f"{stage} {size:,}: " + ", ".join(f"{name} {value:,.0f}" for name, value in found.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--root", type=Path, help="a folder to work in; a temporary one, if not given")
    options = parser.parse_args()
    found: dict[str, dict[int, dict[str, float]]] = {stage: {} for stage in options.stages}
    with tempfile.TemporaryDirectory(dir=options.root) as home:
        for size in options.sizes:
            root = Path(home, str(size))
            root.mkdir()
            write_source(root / "pairs.tsv", size)
            for stage in STAGES[: 1 + max(STAGES.index(stage) for stage in options.stages)]:
                if stage in options.stages or stage in ("ingest", "tokenize"):
                    row = measure(stage, root, size)
                    if stage in found:
                        found[stage][size] = row
    report(found, options.sizes)


def report(found: dict[str, dict[int, dict[str, float]]], sizes: list[int]) -> None:
    """The table, and one JSON object on the last line."""
    table = Table(title="Peak memory, MB: private (all that is resident)")
    table.add_column("")
    for size in sizes:
        table.add_column(f"{size:,} records", justify="right")
    table.add_column("private, last : first", justify="right")
    for stage, rows in found.items():
        cells = [f"{rows[size]['anonymous_mb']:,.0f} ({rows[size]['resident_mb']:,.0f})" for size in sizes]
        ratio = rows[sizes[-1]]["anonymous_mb"] / rows[sizes[0]]["anonymous_mb"]
        table.add_row(stage, *cells, f"{ratio:.2f}")
    Console(width=100).print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Rates of the first stages: `python benchmarks/data_rates.py [--rows N] [--only NAME …]`; see docs/benchmarks.md.

Times are of this machine as it is; what is compared is run in turn, and ratios are what counts.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import check_config
from pipeline.core.executors import Dask, Executor, InProcess, Processes
from pipeline.ingest import stage as ingestion
from pipeline.ingest.click_models import MODELS, Impressions
from pipeline.tokenization import shard_files, shards

ROUNDS = 3


def ingest_rates(folder: Path, rows: int) -> Iterator[tuple[str, str]]:
    """Rows per second of pairs in TSV, all different."""
    rng = np.random.default_rng(1)
    with (folder / "pairs.tsv").open("w") as file:
        file.write("query\tdocument\tlabel\n")
        for number in range(rows):
            words = [f"w{i}" for i in rng.integers(0, 5000, 40).tolist()]
            file.write(f"{' '.join(words[:5])} {number // 3}\t{' '.join(words[5:])} {number}\t{number % 2}\n")
    source = {"format": "tsv", "path": str(folder / "pairs.tsv"), "columns": {"relevance": "label"}}
    for workers in (1, 2):
        settings = {"name": "t", "ingest": {"source": source}, "execution": {"workers": workers}}
        config = check_config(settings, "rates")
        seconds = [_timed(ingestion.run, config, _new(folder)) for _ in range(ROUNDS)]
        yield f"ingest, TSV pairs, {workers} process{'es' * (workers > 1)}", f"{rows / min(seconds):,.0f} rows/s"


def page_rates(folder: Path, rows: int) -> Iterator[tuple[str, str]]:
    """Pages per second of DUPLET_DATA's web_articles, 174 kB each."""
    data = Path(os.environ.get("DUPLET_DATA", "/nowhere")) / "web_articles" / "html"
    if not data.exists():
        yield "pages", "DUPLET_DATA names no folder with web_articles"
        return
    for workers in (1, 2):
        settings = {
            "name": "t", "task": "cloze", "execution": {"workers": workers},
            "ingest": {"source": {"format": "pages", "path": str(data)}},
        }  # fmt: skip
        config = check_config(settings, "rates")
        seconds = _timed(ingestion.run, config, _new(folder))
        name = f"pages, {workers} process{'es' * (workers > 1)}"
        yield name, f"{len(list(data.iterdir())) / seconds:,.1f} pages/s"


def click_rates(folder: Path, rows: int) -> Iterator[tuple[str, str]]:
    """Lists of ten results per second and step of the fit."""
    rng = np.random.default_rng(1)
    log = Impressions(folder)
    for _ in range(rows):
        first = int(rng.integers(0, rows // 20 + 1)) * 15
        log.add((first + rng.permutation(15)[:10]).tolist(), (rng.random(10) < 0.1).tolist())
    for name in ("position", "cascade"):
        seconds = _timed(MODELS[name], log, 1.0, 1)
        yield f"clicks, {name} model", f"{rows / seconds:,.0f} lists/s and step"
    log.close()


def file_opens(folder: Path, rows: int) -> Iterator[tuple[str, str]]:
    """Files opened per update of 1,024 pairs, both fields, over 4,000 shards: of the first and of later updates."""
    from pipeline.tokenization.encoder import Encoded
    from pipeline.tokenization.stage import write_shard

    place, size, count = folder / "shards", 8, 4000
    place.mkdir()
    for number in range(count):
        lengths = np.full(size, 3, np.int32)
        encoded = Encoded(np.arange(3 * size, dtype=np.int32), lengths, 0, 0, 0)
        write_shard(place / shards.shard_name("document", number), [f"{number}-{i}" for i in range(size)], [encoded])
    texts = shards.Texts(place, "document")
    opened, real = [0], os.open

    def counted(*how: Any, **more: Any) -> int:
        opened[0] += 1
        return real(*how, **more)

    shard_files.os.open = counted
    try:
        order, counts = np.random.default_rng(1).permutation(size * count), []
        for _ in range(3):
            for start in range(0, len(order), 2048):
                opened[0] = 0
                texts.read(order[start : start + 2048])
                counts.append(opened[0])
    finally:
        shard_files.os.open = real
    later = counts[len(counts) // 3 :]
    yield "files opened per update, 4,000 shards", f"first {counts[0]:,}; after the first epoch {max(later):,}"


def start(folder: Path, rows: int) -> Iterator[tuple[str, str]]:
    """The lengths of 10^8 pairs' texts, over 2,000 shards: what the plan of an epoch begins with."""
    count, size = 10**8, 50_000
    lengths = np.random.default_rng(1).integers(1, 200, count, dtype=np.int32)
    texts = shards.Texts.__new__(shards.Texts)
    texts._lengths = [lengths[i : i + size] for i in range(0, count, size)]
    texts._first_rows = np.arange(0, count, size)
    order = np.arange(count, dtype=np.int32)
    seconds = _timed(texts.lengths_of, order)
    yield "lengths of 10^8 texts, 2,000 shards", f"{seconds:.1f} s"


def work(number: int) -> int:
    """Some arithmetic in Python, as tokenizing is."""
    return sum(i * i % 7 for i in range(200_000)) + number


def engines(folder: Path, rows: int) -> Iterator[tuple[str, str]]:
    """The same pieces on two processes and on a Dask cluster of two workers, in turn."""
    made: dict[str, Callable[[], Executor]] = {"processes": lambda: Processes(2), "dask": lambda: Dask("local", 2)}
    times: dict[str, list[float]] = {name: [] for name in made}
    for name, make in made.items():
        with contextlib.closing(make()) as engine:
            list(engine.map(work, range(4)))  # started
            times[name] = [_timed(_all, engine) for _ in range(ROUNDS)]
    alone = _timed(_all, InProcess())
    ratio = statistics.median(times["dask"]) / statistics.median(times["processes"])
    yield "Dask against processes, two workers", f"{ratio:.2f} times the time"
    yield "two processes against none", f"{alone / statistics.median(times['processes']):.2f} times as fast"


def _all(engine: Executor) -> list[int]:
    return list(engine.map(work, range(200)))


def _timed(function: Callable[..., Any], *given: Any) -> float:
    began = time.perf_counter()
    function(*given)
    return time.perf_counter() - began


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


RATES: dict[str, Callable[[Path, int], Iterator[tuple[str, str]]]] = {
    "ingest": ingest_rates, "pages": page_rates, "clicks": click_rates, "opens": file_opens, "start": start,
    "engines": engines,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000, help="rows of TSV (200,000); of the log a tenth")
    parser.add_argument("--only", nargs="+", choices=RATES, default=list(RATES), metavar="NAME")
    given = parser.parse_args()
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            rows = given.rows // 10 if name == "clicks" else given.rows
            for what, rate in RATES[name](Path(folder), rows):
                print(f"{what:45} {rate}", flush=True)

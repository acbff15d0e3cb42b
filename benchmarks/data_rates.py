"""Rates of the first stages: `python benchmarks/data_rates.py [--rows N] [--only NAME …]`; see docs/benchmarks.md.

Times are of this machine as it is; what is compared is run in turn, and ratios are what counts.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import SPLITS, check_config
from pipeline.ingest import stage as ingestion
from pipeline.ingest.click_models import MODELS, Impressions
from pipeline.tokenization import shard_files, shards
from pipeline.tokenization import stage as tokenization

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


def token_rates(folder: Path, rows: int) -> Iterator[tuple[str, str]]:
    """Tokens per second of whole tokenization stages, vocabulary included: by engine; Hugging Face's encoding beside.

    The first needs the extra `dask` for its last row; the peer is `tokenizers` in the environment of
    `benchmarks/setup_peer.sh`: two threads encode the same texts with a WordPiece vocabulary trained before.
    """
    rng = np.random.default_rng(1)
    words = np.array([f"{'aeiou'[i % 5]}{i:x}" for i in range(60_000)])
    with (folder / "pairs.tsv").open("w") as file:
        file.write("query\tdocument\n")
        for _ in range(rows):
            drawn = words[np.minimum(rng.zipf(1.2, 60), len(words)) - 1]
            file.write(f"{' '.join(drawn[:10])}\t{' '.join(drawn[10:])}\n")
    source = {"format": "tsv", "path": str(folder / "pairs.tsv")}
    settings = {"name": "t", "ingest": {"source": source}, "tokenize": {"max_tokens": {"query": 64, "document": 64}}}
    ingested = _new(folder)
    ingestion.run(check_config(settings, "rates"), ingested)
    engines = {
        "one process": {"workers": 1}, "two processes": {"workers": 2},
        "Dask, two processes": {"engine": "dask", "address": "local", "workers": 2},
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for name in list(engines) * ROUNDS:  # in turn
        config = check_config(settings | {"execution": engines[name]}, "rates")
        began = time.perf_counter()
        counts = tokenization.run(config, ingested, _new(folder))
        seconds[name].append(time.perf_counter() - began)
        tokens = sum(counts[split][field]["tokens"] for split in SPLITS for field in ("query", "document"))
    for name, times in seconds.items():
        yield f"tokenization, {name}", f"{tokens / statistics.median(times):,.0f} tokens/s"
    ratio = statistics.median(d / p for d, p in zip(seconds["Dask, two processes"], seconds["two processes"]))
    yield "Dask against processes", f"{ratio:.2f} times the time"
    python = Path(__file__).parents[1] / ".peer" / "bin" / "python"
    if not python.exists():
        yield "Hugging Face tokenizers", "no .peer: benchmarks/setup_peer.sh makes it"
        return
    done = subprocess.run(
        [str(python), "-c", PEER, str(folder / "pairs.tsv")], capture_output=True, text=True, check=True,
        env={**os.environ, "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"},
    )  # fmt: skip
    yield "Hugging Face WordPiece, two threads", f"{tokens / float(done.stdout):,.0f} of the same tokens/s"


PEER = """
import sys, time
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
texts = [text for line in open(sys.argv[1]).readlines()[1:] for text in line.rstrip("\\n").split("\\t")]
tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
trainer = trainers.WordPieceTrainer(vocab_size=30_000, special_tokens=["[UNK]"], show_progress=False)
tokenizer.train_from_iterator(texts[:100_000], trainer)
began = time.perf_counter()
for start in range(0, len(texts), 10_000):
    ids = [encoded.ids for encoded in tokenizer.encode_batch(texts[start : start + 10_000])]
print(time.perf_counter() - began)
"""


def _timed(function: Callable[..., Any], *given: Any) -> float:
    began = time.perf_counter()
    function(*given)
    return time.perf_counter() - began


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


RATES: dict[str, Callable[[Path, int], Iterator[tuple[str, str]]]] = {
    "ingest": ingest_rates, "pages": page_rates, "clicks": click_rates, "opens": file_opens, "start": start,
    "tokens": token_rates,
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

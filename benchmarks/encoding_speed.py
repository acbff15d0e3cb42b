"""Encoding speed beside sentence-transformers' own LSTM: the same texts as ids, sizes and number of threads.

Both encode the test documents of `configs/bench.yaml` in turn, fp32, eight bits, the peer, again and again; each ratio
is the median over these rounds. Real tokens per second: neither padding counts, nor what lies behind the limit of 200
tokens. Ours starts from the text of the documents (`TextEncoder.encode`: tokenizing, batching, network), the peer from
the same ids written as words for its whitespace tokenizer (`SentenceTransformer.encode`). Weights are random.

    python benchmarks/encoding_speed.py [--rounds 5] [--threads 2]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipeline.config import Config, load_config
from pipeline.serving.onnx import graph_cache, session
from pipeline.serving.predict.scoring import Scorer
from pipeline.serving.predict.text_encoder import TextEncoder
from pipeline.tokenization import shards

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "bench.yaml"


def random_parameters(config: Config, vocabulary: int) -> dict[str, np.ndarray]:
    """Arrays of the network's names and shapes, so that nothing need be trained to measure speed."""
    from pipeline.models.matcher import Matcher
    from pipeline.models.parameters import parameters_of

    network = Matcher(config.model, vocabulary, prefix="matcher_")
    network.initialize()
    return {name: parameter.data().asnumpy() for name, parameter in parameters_of(network).items()}


def opened(config: Config, arrays: dict[str, np.ndarray], tokenized: Path, int8: bool, threads: int) -> TextEncoder:
    with tempfile.TemporaryDirectory() as folder:
        graph_cache.write_graphs(config, arrays, Path(folder), int8)
        represent = session.represent_with(Path(folder))
    return TextEncoder(config, shards.load_tokenizer(tokenized), represent, Scorer(config, arrays), threads)


def peer(config: Config, texts: Path, vocabulary: int, threads: int) -> subprocess.Popen[str]:
    python = HERE.parent / ".peer" / "bin" / "python"
    command = [str(python), str(HERE / "peer_encode.py"), "--texts", str(texts), "--vocabulary", str(vocabulary),
               "--threads", str(threads)]  # fmt: skip
    for name in ("embedding", "hidden", "layers"):
        command += [f"--{name}", str(getattr(config.model, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert started.stdout is not None
    if started.stdout.readline().strip() != "ready":
        sys.exit("encoding_speed: the peer does not start: run benchmarks/setup_peer.sh")
    return started


def tokenize(root: Path) -> tuple[Path, Path]:
    """The folders of records and of ids."""
    command = [sys.executable, "-m", "pipeline.cli", "tokenize", str(CONFIG), f"root={root}", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"encoding_speed: `{' '.join(command)}` failed with {done.returncode}")
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    return Path(stages["ingest"]["folder"]), Path(stages["tokenize"]["folder"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--root", type=Path, default=HERE.parent / "runs" / "bench")
    options = parser.parse_args()
    config, root = load_config(CONFIG), options.root.resolve()
    ingested, tokenized = tokenize(root)
    split = shards.open_split(tokenized, "test").fields["document"]
    rows, tokens = [split.ids(row).tolist() for row in range(len(split))], int(split.lengths.sum())
    (root / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    records = pq.read_table(ingested / "records-test.parquet", columns=["document_id", "document"])
    text_of = dict(zip(*(column.to_pylist() for column in records.columns)))
    texts = [text_of[key] for key in split.keys]
    vocabulary = shards.vocabulary_size(tokenized)
    arrays = random_parameters(config, vocabulary)
    ours = {name: opened(config, arrays, tokenized, name == "int8", options.threads) for name in ("fp32", "int8")}
    rates: dict[str, list[float]] = {"fp32": [], "int8": [], "peer": []}
    other = peer(config, root / "documents.jsonl", vocabulary, options.threads)
    assert other.stdin is not None and other.stdout is not None
    for encoder in ours.values():
        encoder.encode("document", texts[:64])
    for number in range(options.rounds):
        for name, encoder in ours.items():
            began = time.perf_counter()
            encoder.encode("document", texts)
            rates[name].append(tokens / (time.perf_counter() - began))
        other.stdin.write("go\n")
        other.stdin.flush()
        rates["peer"].append(float(other.stdout.readline()))
        print(f"round {number + 1}: " + ", ".join(f"{k} {v[-1]:,.0f}" for k, v in rates.items()), flush=True)
    other.stdin.close()
    other.wait()
    report(config, rates, options.threads)


def report(config: Config, rates: dict[str, list[float]], threads: int) -> None:
    """The table, and one JSON object on the last line."""
    model, figures = config.model, dict[str, Any]()
    table = Table(title=f"Encoding: embedding {model.embedding}, hidden {model.hidden}, {model.layers} layers, "
                        f"{threads} threads")  # fmt: skip
    for column in ("", "real tokens/s (median)", "ratio (median of rounds)"):
        table.add_column(column, justify="right" if column else "left")
    for name, label in (("fp32", "Duplet fp32"), ("int8", "Duplet int8"), ("peer", "sentence-transformers")):
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates["peer"]))
        figures[f"{name}_tokens_per_s"], figures[f"{name}_ratio"] = statistics.median(rates[name]), ratio
        table.add_row(label, f"{statistics.median(rates[name]):,.0f}", f"{ratio:.2f}")
    Console(width=100).print(table)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

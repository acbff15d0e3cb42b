"""Encoding speed beside sentence-transformers' own LSTM and all-MiniLM-L6-v2: the same texts and number of threads.

All encode the test documents of a configuration in turn, again and again; each ratio is the median over these
rounds. Real tokens per second: neither padding counts, nor what lies behind the limit of 200 tokens. Ours starts from
the text of the documents (`TextEncoder.encode`: tokenizing, batching, network), the peer's LSTM from the same ids
written as words for its whitespace tokenizer (`SentenceTransformer.encode`), both with random weights of the same
sizes. MiniLM runs on ONNX Runtime, from its own tokens, which are more for the same text (`peer_minilm.py`).

    python benchmarks/encoding_speed.py [--rounds 5] [--threads 2] [--config configs/demo.yaml model.hidden=96]
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
PEER, MINILM = "sentence-transformers' LSTM", "all-MiniLM-L6-v2"


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


def peer(script: str, *arguments: str, threads: int) -> subprocess.Popen[str]:
    """A process that encodes all its texts for each line on its stdin, and answers with precision -> tokens/s."""
    command = [str(HERE.parent / ".peer" / "bin" / "python"), str(HERE / script), *arguments, "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert started.stdout is not None
    if started.stdout.readline().strip() != "ready":
        sys.exit(f"encoding_speed: {script} does not start: run benchmarks/setup_peer.sh")
    return started


def tokenize(config: Path, settings: list[str], root: Path) -> tuple[Path, Path]:
    """The folders of records and of ids."""
    command = [sys.executable, "-m", "pipeline.cli", "tokenize", str(config), *settings, f"root={root}", "--json"]
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
    parser.add_argument("--config", type=Path, default=CONFIG, help="of a matcher (configs/bench.yaml)")
    options, settings = parser.parse_known_args()
    config, root = load_config(options.config, settings), options.root.resolve()
    ingested, tokenized = tokenize(options.config, settings, root)
    split = shards.open_split(tokenized, "test").fields["document"]
    rows, tokens = [split.ids(row).tolist() for row in range(len(split))], int(split.lengths.sum())
    (root / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = [ingested / "records-test.parquet", *ingested.glob("collection.parquet")]
    tables = [pq.read_table(path, columns=["document_id", "document"]).to_pydict() for path in read]
    text_of = {key: text for table in tables for key, text in zip(table["document_id"], table["document"])}
    texts = [text_of[key] for key in split.keys]
    vocabulary = shards.vocabulary_size(tokenized)
    arrays = random_parameters(config, vocabulary)
    ours = {name: opened(config, arrays, tokenized, name == "int8", options.threads) for name in ("fp32", "int8")}
    for encoder in ours.values():
        encoder.encode("document", texts[:64])
    (root / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    sizes = [f"--{name}={getattr(config.model, name)}" for name in ("embedding", "hidden", "layers")]
    given = ("--texts", str(root / "documents.jsonl"), "--vocabulary", str(vocabulary), *sizes)
    peers = {
        PEER: peer("peer_encode.py", *given, threads=options.threads),
        MINILM: peer("peer_minilm.py", "--texts", str(root / "texts.jsonl"), threads=options.threads),
    }
    rates: dict[str, list[float]] = {}
    for number in range(options.rounds):
        found = {}
        for name, encoder in ours.items():
            began = time.perf_counter()
            encoder.encode("document", texts)
            found[f"Duplet, {name}"] = tokens / (time.perf_counter() - began)
        for name, process in peers.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            found |= {f"{name}, {precision}": rate for precision, rate in answer.items()}
        print(f"round {number + 1}: " + ", ".join(f"{k} {v:,.0f}" for k, v in found.items()), flush=True)
        for name, rate in found.items():
            rates.setdefault(name, []).append(rate)
    for process in peers.values():
        process.communicate()
    report(config, rates, options.threads)


def report(config: Config, rates: dict[str, list[float]], threads: int) -> None:
    """The table, and one JSON object on the last line."""
    model, figures = config.model, dict[str, Any]()
    table = Table(title=f"Encoding: embedding {model.embedding}, hidden {model.hidden}, {model.layers} layers, "
                        f"{threads} threads; real tokens/s, and ours against it (median of rounds)")  # fmt: skip
    for column in ("", "tokens/s", "Duplet, fp32", "Duplet, int8"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in rates.items():
        ratios = []
        for own in ("Duplet, fp32", "Duplet, int8"):
            ratios.append(statistics.median(mine / other for mine, other in zip(rates[own], each)))
            figures[f"{own} against {name}"] = round(ratios[-1], 3)
        figures[name] = round(statistics.median(each))
        table.add_row(name, f"{figures[name]:,}", *(f"{ratio:.2f}" for ratio in ratios))
    Console(width=100).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

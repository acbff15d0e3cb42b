"""Training speed and quality beside sentence-transformers' own LSTM: same pairs, ids, sizes and number of workers.

Speed is the median over paired runs (Duplet, then the peer, again and again) of the ratio of real tokens per second,
from after the first updates to the last. Quality is MRR@10 on the test split after the same epochs, each system
judged the same way.

    python benchmarks/training_speed.py [--pairs 3] [--updates 30] [--epochs 1]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.config import Config, load_config
from pipeline.core.event_log import Spool
from pipeline.tokenization import shards

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "bench.yaml"
WARM_UP_UPDATES = 5


def duplet(root: Path, verb: str, *overrides: str) -> dict[str, Any]:
    """Runs a verb over the bench configuration from an empty training; the JSON of its last line."""
    command = [sys.executable, "-m", "pipeline.cli", verb, str(CONFIG), f"root={root}", *overrides, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"training_speed: `{' '.join(command)}` failed with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def train(root: Path, *overrides: str) -> dict[str, float]:
    """Trains anew; real tokens/s, share of padding and of waiting for data, after the warm-up."""
    for stage in ("train", "evaluate", "work"):
        shutil.rmtree(root / stage, ignore_errors=True)
    folder = Path(duplet(root, "train", *overrides)["stages"]["train"]["folder"])
    points = [p.values for p, _ in Spool(folder / "points.jsonl").read(0) if p.update > WARM_UP_UPDATES]
    points = [values for values in points if "tokens_per_s" in values]
    seconds = sum(values["interval_s"] for values in points)
    mean = lambda name: sum(values[name] * values["interval_s"] for values in points) / seconds
    return {name: mean(name) for name in ("tokens_per_s", "padding_share", "data_wait_share")}


def write_ids(tokenized: Path, split: str, path: Path) -> None:
    """A split's pairs as the peer reads them: one JSON line of ids each."""
    pairs = shards.open_split(tokenized, split)
    with path.open("w", encoding="utf-8") as file:
        for query, document in zip(pairs.rows["query"].tolist(), pairs.rows["document"].tolist()):
            row = {
                f"{side}_ids": pairs.fields[side].ids(r).tolist()
                for side, r in (("query", query), ("document", document))
            }
            file.write(json.dumps(row) + "\n")


def peer(folder: Path, config: Config, workers: int, *options: str) -> dict[str, float]:
    """Runs the peer on the written ids; the JSON of its last line."""
    torchrun = HERE.parent / ".peer" / "bin" / "torchrun"
    command = [
        str(torchrun), "--standalone", "--nproc-per-node", str(workers), str(HERE / "peer_sentence_transformers.py"),
        "--train", str(folder / "train.jsonl"), "--test", str(folder / "test.jsonl"),
        "--embedding", str(config.model.embedding), "--hidden", str(config.model.hidden),
        "--layers", str(config.model.layers), "--batch", str(config.train.max_pairs_per_update // workers),
        "--warmup-steps", str(WARM_UP_UPDATES), *options,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"training_speed: the peer failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def flops_per_token(config: Config) -> float:
    """Of the recurrent layers' matrix products, forward and twice that backward: 3 * 2 * weights."""
    model, weights, inputs = config.model, 0, config.model.embedding
    for _ in range(model.layers):
        weights += model.directions * 4 * model.hidden * (inputs + model.hidden)
        inputs = model.directions * model.hidden
    return 6.0 * weights


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="paired runs")
    parser.add_argument("--updates", type=int, default=30, help="of each paired run")
    parser.add_argument("--epochs", type=int, default=1, help="before MRR@10 is compared; 0 leaves that out")
    parser.add_argument("--root", type=Path, default=HERE.parent / "runs" / "bench")
    options = parser.parse_args()
    config, root = load_config(CONFIG), options.root.resolve()
    tokenized = Path(duplet(root, "tokenize")["stages"]["tokenize"]["folder"])
    for split in ("train", "test"):
        write_ids(tokenized, split, root / f"{split}.jsonl")
    peak = json.loads(
        subprocess.run(
            [sys.executable, str(HERE / "matmul_peak.py")], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    )
    workers, short = config.train.workers, f"train.max_updates={options.updates}"
    ours, theirs = [], []
    for number in range(options.pairs):
        ours.append(train(root, short))
        theirs.append(peer(root, config, workers, "--max-steps", str(options.updates)))
        rates = ours[-1]["tokens_per_s"], theirs[-1]["tokens_per_s"]
        print(
            f"pair {number + 1}: {rates[0]:,.0f} and {rates[1]:,.0f} real tokens/s: {rates[0] / rates[1]:.2f}",
            flush=True,
        )
    single = train(root, short, "train.workers=1", "train.threads_per_worker=1")
    middle = lambda rows, name: statistics.median(row[name] for row in rows)
    rate, padded = middle(ours, "tokens_per_s"), middle(ours, "padding_share")
    model = config.model
    table = Table(title=f"Training: embedding {model.embedding}, hidden {model.hidden}, {model.layers} layers")
    for column in ("", "Duplet", "sentence-transformers"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("real tokens/s (median)", f"{rate:,.0f}", f"{middle(theirs, 'tokens_per_s'):,.0f}")
    ratio = statistics.median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(ours, theirs))
    table.add_row("ratio (median of pairs)", f"{ratio:.2f}", "1")
    table.add_row("padding", f"{padded:.1%}", f"{middle(theirs, 'padding'):.1%}")
    table.add_row("waiting for data", f"{middle(ours, 'data_wait_share'):.2%}", "")
    share = rate / (1 - padded) * flops_per_token(config) / 1e9 / peak["peak_gflops"]
    table.add_row(f"share of {peak['peak_gflops']:.0f} GFLOP/s peak", f"{share:.0%}", "")
    table.add_row(f"{workers} workers against 1", f"{rate / single['tokens_per_s']:.2f}", "")
    figures = {"ratio": ratio, "scaling": rate / single["tokens_per_s"], "peak_share": share, "padding": padded}
    if options.epochs:
        shutil.rmtree(root / "train", ignore_errors=True)
        score = duplet(root, "evaluate", f"train.epochs={options.epochs}")["metrics"]["test/mrr@10"]
        other = peer(root, config, workers, "--epochs", str(options.epochs))["mrr@10"]
        table.add_row(f"test MRR@10 after {options.epochs} epoch(s)", f"{score:.3f}", f"{other:.3f}")
        figures |= {"mrr@10": score, "peer_mrr@10": other}
    Console(width=100).print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

"""Training speed beside sentence-transformers' own LSTM and PyTorch at its best: same pairs, ids, sizes and workers.

Speed is the median over rounds (Duplet, then each peer, again and again) of the ratio of real tokens per second, from
after the first updates to the last; the share of the peak is that of the recurrent layers' products over real tokens
alone, of the peak of its precision. Quality is MRR@10 on the test split after the same epochs, of Duplet in float32
and sentence-transformers, each judged the same way.

    python benchmarks/training_speed.py [--rounds 3] [--updates 30] [--epochs 1]
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
from pipeline.models.kernel import library
from pipeline.tokenization import shards

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "bench.yaml"
WARM_UP_UPDATES = 5
USUAL = "peer_sentence_transformers.py"
PEERS = {"sentence-transformers": (USUAL,)} | {  # what runs, and with which options
    f"PyTorch, {way}, {precision}": ("peer_torch.py", "--way", way, "--precision", precision, "--parts", parts)
    for way, parts in (("packed", "1"), ("padded", "4"))  # of 1, 2, 4 and 8 parts, four were the fastest
    for precision in ("float32", "bfloat16")
}


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


def peer(folder: Path, config: Config, workers: int, script: str, *options: str) -> dict[str, float]:
    """Runs a peer on the written ids; the JSON of its last line."""
    torchrun = HERE.parent / ".peer" / "bin" / "torchrun"
    command = [
        str(torchrun), "--standalone", "--nproc-per-node", str(workers), str(HERE / script),
        "--train", str(folder / "train.jsonl"), "--test", str(folder / "test.jsonl"),
        "--embedding", str(config.model.embedding), "--hidden", str(config.model.hidden),
        "--layers", str(config.model.layers), "--batch", str(config.train.max_pairs_per_update // workers),
        "--warmup-steps", str(WARM_UP_UPDATES), *options,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"training_speed: {script} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def flops_per_token(config: Config) -> float:
    """Of the recurrent layers' matrix products, forward and twice that backward: 3 * 2 * weights."""
    model, weights, inputs = config.model, 0, config.model.embedding
    for _ in range(model.layers):
        weights += model.directions * 4 * model.hidden * (inputs + model.hidden)
        inputs = model.directions * model.hidden
    return 6.0 * weights


def in_turn(
    root: Path, config: Config, updates: int, rounds: int, peers: list[str]
) -> dict[str, list[dict[str, float]]]:
    """Figures of each system, round by round: all systems of a round run one after the other."""
    ours = ["float32"] if library.found().no_bfloat16 else ["float32", "bfloat16"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*(f"Duplet, {own}" for own in ours), *peers)}
    for number in range(rounds):
        for precision in ours:
            row = train(root, f"train.max_updates={updates}", f"model.precision={precision}")
            found[f"Duplet, {precision}"].append(row)
        for name in peers:
            script, *options = PEERS[name]
            found[name].append(peer(root, config, config.train.workers, script, "--max-steps", str(updates), *options))
        rates = ", ".join(f"{name}: {rows[-1]['tokens_per_s']:,.0f}" for name, rows in found.items())
        print(f"round {number + 1}, real tokens/s: {rates}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="in which all systems run in turn")
    parser.add_argument("--updates", type=int, default=30, help="of each run")
    parser.add_argument("--epochs", type=int, default=1, help="before MRR@10 is compared; 0 leaves that out")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="all, unless named")
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
    found = in_turn(root, config, options.updates, options.rounds, options.peers)
    single = train(root, f"train.max_updates={options.updates}", "train.workers=1", "train.threads_per_worker=1")
    middle = lambda name, what: statistics.median(row[what] for row in found[name])
    model = config.model
    table = Table(title=f"Training: embedding {model.embedding}, hidden {model.hidden}, {model.layers} layers")
    for column in ("", "real tokens/s", "padding", "float32 against it", "bfloat16 against it", "share of the peak"):
        table.add_column(column, justify="left" if not column else "right")
    figures: dict[str, float] = {}
    for name in found:
        ratios = []
        for own in ("Duplet, float32", "Duplet, bfloat16"):
            pairs = zip(found.get(own, []), found[name])
            each = [mine["tokens_per_s"] / theirs["tokens_per_s"] for mine, theirs in pairs]
            ratios.append(f"{statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})" if each else "")
            figures |= {f"{own} against {name}": statistics.median(each)} if each and own != name else {}
        padding = middle(name, "padding_share" if name.startswith("Duplet") else "padding")
        top = peak["peak_bfloat16_gflops" if "bfloat16" in name else "peak_gflops"]
        share = middle(name, "tokens_per_s") * flops_per_token(config) / 1e9 / top
        table.add_row(name, f"{middle(name, 'tokens_per_s'):,.0f}", f"{padding:.1%}", *ratios, f"{share:.0%}")
    scaling = middle("Duplet, float32", "tokens_per_s") / single["tokens_per_s"]
    table.add_row(f"{config.train.workers} workers against 1", "", "", f"{scaling:.2f}", "", "")
    table.add_row("waiting for data", "", "", f"{middle('Duplet, float32', 'data_wait_share'):.2%}", "", "")
    figures |= {"scaling": scaling}
    if options.epochs:
        shutil.rmtree(root / "train", ignore_errors=True)
        score = duplet(root, "evaluate", f"train.epochs={options.epochs}")["metrics"]["test/mrr@10"]
        other = peer(root, config, config.train.workers, USUAL, "--epochs", str(options.epochs))["mrr@10"]
        shown = f"Duplet {score:.3f}, sentence-transformers {other:.3f}"
        table.caption = f"test MRR@10 after {options.epochs} epoch(s): {shown}"
        figures |= {"mrr@10": score, "peer_mrr@10": other}
    Console(width=140).print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

"""Our recurrent layers, float32 and bfloat16, beside MXNet's, in turn in one process: by themselves, and whole updates.

    .venv/bin/python benchmarks/kernel_speed.py [--rounds 11] [--threads 1 2] [--root runs/bench]
    .venv/bin/python benchmarks/kernel_speed.py --trainings 3 --updates 60 --workers 2 --config configs/demo.yaml

The second measures trainings as a person starts them, in turn too: real tokens/s from after the first updates on, what
that is in GFLOP/s of the recurrent layers' products, and the processor time of all processes from start to end.

Each round runs all, one after the other; what is told is the median over the rounds of the ratio of their times. With
one thread a time is the process's own processor time, which other programs on the machine disturb less; with more it is
the clock's. The last line of stdout is one JSON object.

Operations are those of the matrix products alone: forward 2 * gates * hidden * (inputs + hidden) per token and
direction, backward twice that.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "bench.yaml"
KERNELS = {  # what runs, by settings; the second only where the processor has AVX512_BF16
    "own": {"model.kernel": "own"}, "bfloat16": {"model.precision": "bfloat16"}, "mxnet": {"model.kernel": "mxnet"},
}  # fmt: skip
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}
# cell, steps, texts, inputs, hidden, directions: the layers of configs/bench.yaml; and others
LAYERS = (
    ("lstm", 100, 32, 128, 256, 2),
    ("lstm", 100, 32, 512, 256, 2),
    ("lstm", 50, 64, 256, 256, 1),
    ("gru", 50, 64, 256, 256, 2),
    ("rnn_tanh", 50, 64, 256, 256, 2),
)


def in_turn(once: Callable[[int], None], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of `once` by each of KERNELS, round by round, after a first one that does not count."""
    import mxnet as mx
    from mxnet import nd

    from pipeline.models.kernel import operator

    operator.use("own")
    if not operator.ready(mx.cpu()):  # else MXNet's layers would be compared with themselves
        sys.exit(f"kernel_speed: {operator.told()}")
    times: dict[str, list[float]] = {name: [] for name in KERNELS if name != "bfloat16" or not operator.no_bfloat16()}
    for number in range(rounds + 1):
        for name, mine in times.items():
            operator.use("mxnet" if name == "mxnet" else "own", bfloat16=name == "bfloat16")
            nd.waitall()
            began = clock()
            once(number)
            nd.waitall()
            if number:
                mine.append(clock() - began)
    return times


def beside_mxnets(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """By kernel: how many times MXNet's speed it has, the rounds' median, least and most."""
    found = {}
    for name in times:
        ratios = sorted(b / a for a, b in zip(times[name], times["mxnet"]))
        median = round(statistics.median(ratios), 2)
        found[name] = {"ratio": median, "from": round(ratios[0], 2), "to": round(ratios[-1], 2)}
    return found


def layer(cell: str, steps: int, texts: int, inputs: int, hidden: int, directions: int) -> Callable[[int], None]:
    """Forward and backward of one layer over texts of equal length."""
    import mxnet as mx
    from mxnet import autograd, nd

    from pipeline.models.recurrent import RecurrentLayer

    made = RecurrentLayer(cell, inputs, hidden, directions)
    made.initialize()
    x, padding = nd.random.normal(shape=(steps, texts, inputs)), nd.zeros((steps, texts, 1))
    slopes = nd.random.normal(shape=(steps, texts, directions * hidden))
    x.attach_grad()

    def once(number: int) -> None:
        with autograd.record():
            y = made(x, padding, made.packed(mx.cpu()))
        y.backward(slopes)

    return once


def updates(tokenized: Path, count: int) -> Callable[[int], None]:
    """Whole updates of one worker over the first batches: loss, backward, optimizer; no validation, no saving."""
    import mxnet as mx
    import numpy as np

    from pipeline.config import load_config
    from pipeline.distributed.world import World
    from pipeline.tasks.base import task_of
    from pipeline.training import accumulation
    from pipeline.training.batch_plan import Position
    from pipeline.training.loader import Loader
    from pipeline.training.loop import plan_of
    from pipeline.training.optimizer import Optimizer

    config, world = load_config(CONFIG, ["train.workers=1", "train.max_pairs_per_update=32"]), World()
    task = task_of(config, tokenized)
    network = task.network()
    mx.random.seed(config.seed)
    np.random.seed(config.seed)
    network.initialize(ctx=world.context)
    optimizer = Optimizer(network, config.train.optimizer, world)
    loader = Loader(task, plan_of(task, config), world, Position(), 1)
    made = [update for update, _ in zip(loader, range(count))]
    loader.close()

    def once(number: int) -> None:
        update = made[number % len(made)]
        rows = optimizer.rows(update.tokens, update.own)
        value = accumulation.backward(task, network, rows, update.batches, world, [number])
        optimizer.step(rows, 1e-3, number, value)

    return once


def measure(rounds: int, tokenized: Path | None) -> dict[str, Any]:
    """What a process with its own number of threads finds."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    clock = time.process_time if threads == 1 else time.perf_counter
    found: dict[str, Any] = {"threads": threads, "layers": []}
    if tokenized is not None:
        times = in_turn(updates(tokenized, rounds + 1), rounds, clock)
        found["update"] = beside_mxnets(times) | {"seconds": {k: statistics.median(v) for k, v in times.items()}}
        print(found["update"], file=sys.stderr, flush=True)
    for cell, steps, texts, inputs, hidden, directions in LAYERS:
        operations = 6.0 * steps * texts * directions * GATES[cell] * hidden * (inputs + hidden)
        times = in_turn(layer(cell, steps, texts, inputs, hidden, directions), rounds, clock)
        found["layers"].append({
            "layer": f"{cell} T={steps} N={texts} C={inputs} H={hidden} D={directions}",
            "gflops": {name: round(operations / statistics.median(mine) / 1e9) for name, mine in times.items()},
            "ratios": {name: row["ratio"] for name, row in beside_mxnets(times).items()},
        })  # fmt: skip
    return found


def tokenized_by(config: Path, root: Path) -> Path:
    """The folder of ids that a configuration makes under a root, or has there."""
    return Path(duplet("tokenize", config, root)["stages"]["tokenize"]["folder"])


def duplet(verb: str, config: Path, root: Path, *overrides: str) -> dict[str, Any]:
    """What a verb over a configuration prints as JSON."""
    command = [sys.executable, "-m", "pipeline.cli", verb, str(config), f"root={root.resolve()}", *overrides, "--json"]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
    )
    return found


def training(config: Path, root: Path, kernel: str, updates: int, workers: int) -> dict[str, float]:
    """One training from nothing: real tokens/s after the warm-up, processor and clock seconds from start to end."""
    from pipeline.core.event_log import Spool

    for stage in ("train", "evaluate", "work"):
        shutil.rmtree(root / stage, ignore_errors=True)
    settings = {**KERNELS[kernel], "train.workers": workers, "train.max_updates": updates,
                "train.validate_every_updates": updates, "train.log_every_updates": 5}  # fmt: skip
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    overrides = [f"{name}={value}" for name, value in settings.items()]
    folder = Path(duplet("train", config, root, *overrides)["stages"]["train"]["folder"])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = (folder / "recurrent_layers.txt").read_text().strip()
    if kernel != ("mxnet" if ran == "mxnet" else "bfloat16" if ran.endswith("_bf16") else "own"):
        sys.exit(f"kernel_speed: {ran} ran in place of {kernel}")
    points = [point.values for point, _ in Spool(folder / "points.jsonl").read(0) if "tokens_per_s" in point.values][1:]
    seconds = sum(values["interval_s"] for values in points)
    rate = sum(values["tokens_per_s"] * values["interval_s"] for values in points) / seconds
    return {
        "tokens_per_s": rate,
        "gflops": rate * products_of_token(config),
        "processor_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "clock_s": time.perf_counter() - began,
    }


def products_of_token(config: Path) -> float:
    """The recurrent layers' products for a real token of a matching model, forward and backward, in 10^9 operations."""
    from pipeline.config import load_config

    model, operations, inputs = load_config(config).model, 0, load_config(config).model.embedding
    for _ in range(model.layers):
        operations += 6 * model.directions * model.steps_by.gates * model.hidden * (inputs + model.hidden)
        inputs = model.directions * model.hidden
    return operations / 1e9


def trainings(config: Path, root: Path, rounds: int, updates: int, workers: int) -> dict[str, Any]:
    """Medians of all, and of their ratios to MXNet's round by round, above 1 where they are better."""
    from pipeline.models.kernel import library

    tokenized_by(config, root)
    names = [name for name in KERNELS if name != "bfloat16" or not library.found().no_bfloat16]
    made: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for kernel in names[:: -1 if number % 2 else 1]:
            made[kernel].append(training(config, root, kernel, updates, workers))
            print(kernel, made[kernel][-1], file=sys.stderr, flush=True)
    found: dict[str, Any] = {"config": config.name, "workers": workers, "updates": updates, "rounds": rounds}
    for what in made["mxnet"][0]:
        found[what] = {}
        for name, rows in made.items():
            pairs = [(ours[what], theirs[what]) for ours, theirs in zip(rows, made["mxnet"])]
            ratios = sorted(b / a if what.endswith("_s") and what != "tokens_per_s" else a / b for a, b in pairs)
            found[what][name] = {"median": round(statistics.median(a for a, _ in pairs), 1),
                                 "ratio": round(statistics.median(ratios), 2),
                                 "from": round(ratios[0], 2), "to": round(ratios[-1], 2)}  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--root", type=Path, default=HERE.parent / "runs" / "bench", help="where ids are, or are made")
    parser.add_argument("--layers-only", action="store_true", help="no training data, no whole updates")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trainings", type=int, default=0, metavar="ROUNDS", help="whole trainings in turn instead")
    parser.add_argument("--updates", type=int, default=60, help="of each training")
    parser.add_argument("--workers", type=int, default=2, help="of each training")
    parser.add_argument("--config", type=Path, default=CONFIG, help="of the trainings")
    options = parser.parse_args()
    if options.trainings:
        found = trainings(options.config, options.root, options.trainings, options.updates, options.workers)
        print(json.dumps(found))
        return
    if options.child:
        found = measure(options.rounds, None if options.layers_only else options.child)
        print(json.dumps(found))
        return
    tokenized = HERE
    if not options.layers_only:
        tokenized = tokenized_by(CONFIG, options.root)
    results = []
    for threads in dict.fromkeys(options.threads):
        child = [sys.executable, str(Path(__file__).resolve()), "--child", str(tokenized), "--rounds",
                 str(options.rounds), *(["--layers-only"] if options.layers_only else [])]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MXNET_CPU_WORKER_NTHREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), environment.get("PYTHONPATH", "")])
        done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{threads} threads", *(f"  {row}" for row in results[-1]["layers"]), sep="\n")
        print(f"  update: {results[-1].get('update')}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

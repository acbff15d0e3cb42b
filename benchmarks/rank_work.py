"""What an update asks of one of many ranks: making its part of the batch, memory of the loss, and exchanges.

Each rank has 64 pairs of made-up texts, 10 and 60 tokens long on average. `batch` is the processor time of rank 0's
own part and of joining it with what the others told, which the loader's threads do; `excluded` documents are those
that are known to be relevant. `scores` is what the loss holds in its largest part, and `pairs of texts` what all
scores at once would need.

The exchanges are those of one update between two ranks of this machine, in turns: as they were (four gathers, each
waited for) and as they are (one of the next update's tokens and documents, one of the documents' vectors, one sum of
their gradients). Their time is of an update that computes nothing.

    python benchmarks/rank_work.py [--ranks 1,16,64,128] [--listed 0] [--rounds 30]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PAIRS, VECTOR = 64, 512
WORDS = 20_000


def configuration(folder: Path, listed: int) -> dict[str, Any]:
    """A training over made-up pairs; with `listed`, each query also has as many documents judged 0."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, WORDS + 1)
    chances /= chances.sum()
    draw = lambda mean: " ".join(f"w{i}" for i in rng.choice(WORDS, max(1, rng.poisson(mean)), p=chances))
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for q in range(9000):
            query = draw(10)
            for grade in [1, *[0] * listed]:
                row = {"qid": f"q{q}", "query": query, "document": draw(60), "relevance": grade}
                file.write(json.dumps(row) + "\n")
    source = {"format": "jsonl", "path": str(path), "columns": {"query_id": "qid", "relevance": "relevance"}}
    return {
        "name": "rank_work",
        "root": str(folder / "runs"),
        "ingest": {"source": source, "split": {"valid": 0.01, "test": 0.01}},
        "tokenize": {"max_tokens": {"query": 32, "document": 128}, "min_count": 1},
        "train": {"loss": {"listed_negatives": listed}},
        "tracking": {"system_metrics": False},
    }


def measure_batches(folder: Path, ranks: list[int], listed: int, rounds: int) -> list[dict[str, float]]:
    """For each number of ranks: milliseconds of rank 0, its texts' tokens, MiB of the loss."""
    from pipeline.config import check_config
    from pipeline.orchestration import flow
    from pipeline.tasks import matching
    from pipeline.tasks.base import task_of
    from pipeline.training.batch_plan import shares

    config = check_config(configuration(folder, listed), "rank_work")
    stages: dict[str, Any] = flow.run(config, "rank_work", "tokenize", lambda line: None).stages
    task = task_of(config, Path(stages["tokenize"]["folder"]))
    task.prepare()
    found = []
    for size in ranks:
        rng, took = np.random.default_rng(size), []
        examples = rng.choice(len(task.lengths), PAIRS * size, replace=False)
        parts = shares(examples[np.argsort(task.lengths[examples, 1], kind="stable")], task.lengths, size)
        seed = [1, 0, 0, 0]
        told = np.stack([task.told(task.batch(parts, rank, seed)) for rank in range(size)])
        for _ in range(rounds):
            began = time.process_time()
            batch = task.batch(parts, 0, seed)
            told[0] = task.told(batch)
            joined = task.joined(batch, told, 0)
            task.train.release()
            took.append(1e3 * (time.process_time() - began))
        queries, documents = (batch.sides[side].steps for side in matching.SIDES)
        total = int(joined.order.max()) + 1 if joined.order is not None else len(batch.documents)
        every = PAIRS * queries * total * documents * 4 / 2**20
        found.append(
            {
                "ranks": size, "batch ms": float(np.median(took)), "own tokens": batch.real,
                "excluded": joined.excluded.shape[1],
                "late interaction: scores MiB": min(every, matching.MAX_SCORES * 4 / 2**20),
                "all scores on each rank MiB": every * size,
            }
        )  # fmt: skip
    return found


def measure_exchanges(rounds: int) -> dict[str, float]:
    """Run by two ranks: median milliseconds of the old and the new exchanges, in turns."""
    import horovod.mxnet as hvd
    from mxnet import nd

    from pipeline.distributed.world import World

    world = World()
    vectors, ones, message = nd.ones((PAIRS // 2, VECTOR)), nd.ones((PAIRS // 2, 1)), np.zeros((1, 1600), np.int32)
    nd.waitall()

    def before() -> None:
        for name, array in (("q.v", vectors), ("q.w", ones), ("d.v", vectors), ("d.w", ones)):
            hvd.allgather(array, name=name)

    def now() -> None:
        (documents,) = world.gather_equal([vectors], "documents")
        (gradient,) = world.sum_parts([documents], "gradient")
        gradient.wait_to_read()

    took: dict[str, list[float]] = {"four gathers": [], "gather and sum": [], "next update": []}
    for _ in range(rounds):
        for name, call in zip(took, (before, now, lambda: world.gather_numpy(message, "update"))):
            call()
            began = time.perf_counter()
            call()
            took[name].append(1e3 * (time.perf_counter() - began))
    found = {name: float(np.median(times)) for name, times in took.items()}
    if world.rank == 0:
        print(json.dumps(found), flush=True)
    nd.waitall()
    world.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,4,16,64,128")
    parser.add_argument("--listed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--exchange", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.exchange:
        measure_exchanges(arguments.rounds)
        os._exit(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_batches(
            Path(folder), [int(n) for n in arguments.ranks.split(",")], arguments.listed, arguments.rounds
        )
    print("  ".join(rows[0]))
    for row in rows:
        print("  ".join(f"{value:{len(name)},.{1 if isinstance(value, float) else 0}f}" for name, value in row.items()))
    launcher = [str(Path(sys.executable).with_name("horovodrun")), "--gloo", "-np", "2", "-H", "localhost:2"]
    command = [*launcher, sys.executable, __file__, "--exchange", "--rounds", str(arguments.rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    print("exchanges of an update between two local ranks, ms:", done.stdout.strip().rpartition(">:")[2] or done.stderr)


if __name__ == "__main__":
    main()

"""How a training starts on very many pairs: `python benchmarks/many_pairs.py [--pairs 100000000] [--root FOLDER]`.

A tokenized folder is made whose shards are one shard of 50,000 made-up texts, linked as often as needed, so that it
takes the disk of its examples alone, some 20 bytes a pair. A process of its own opens it as a rank does, twice: at the
first start all is checked, later what did not change is not. It makes the plan and the first batch of two epochs.
Printed are seconds, and memory beyond what one shard takes: private (RssAnon), and mapped (RssFile, pages that ranks
of a host share).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.config import Config, check_config
from pipeline.ingest import stage as ingestion
from pipeline.tokenization import shards
from pipeline.tokenization import stage as tokenization

SHARD = 50_000
FIELDS = ("query", "document")
WAYS = ("first start, all is checked", "later start")


def settings(folder: Path) -> Config:
    source = {"format": "tsv", "path": str(folder / "pairs.tsv"), "header": True}
    return check_config({"name": "t", "ingest": {"source": source}}, "many_pairs")


def made(folder: Path, pairs: int) -> Path:
    """A tokenized folder of so many pairs; all of its texts are known by different names, not by what they say."""
    rng = np.random.default_rng(1)
    with (folder / "pairs.tsv").open("w") as file:
        file.write("query\tdocument\n")
        file.writelines(f"w{row} a\tw{row} b c\n" for row in range(100))
    ingested, tokenized = folder / "ingested", folder / f"tokenized-{pairs}"
    for stage in (ingested, tokenized):
        stage.mkdir(exist_ok=True)
    ingestion.run(settings(folder), ingested)
    tokenization.run(settings(folder), ingested, tokenized)
    train = tokenized / "train"
    for old in train.iterdir():
        old.unlink()
    for field, longest in zip(FIELDS, (8, 24)):
        lengths = rng.integers(1, longest, SHARD, dtype=np.int32)
        ids = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype("i4"),
                                       rng.integers(2, 80, lengths.sum(), dtype=np.int32))  # fmt: skip
        keys = pa.array([f"{field}{row}" for row in range(SHARD)])
        _write(train / shards.shard_name(field, 0), pa.table([keys, ids, lengths], shards.TEXTS_SCHEMA))
        for number in range(1, -(-pairs // SHARD)):
            os.link(train / shards.shard_name(field, 0), train / shards.shard_name(field, number))
    schema = shards.examples_schema(FIELDS)
    rows = np.arange(pairs, dtype=np.int32)  # one record batch, as the stage writes it
    _write(train / shards.EXAMPLES_NAME, pa.table([pa.repeat("pair", pairs), rows, rows, np.ones(pairs, "f4")], schema))
    return tokenized


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def memory() -> dict[str, int]:
    """MB of this process, private and mapped."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) // 1024 for name, key in (("private", "RssAnon"), ("mapped", "RssFile"))}


def rank(folder: Path, tokenized: Path) -> None:
    """What a rank does before its first update, and at the start of its second epoch."""
    from pipeline.distributed.world import World
    from pipeline.tasks.base import task_of
    from pipeline.training import rank_consistency
    from pipeline.training.batch_plan import Position
    from pipeline.training.loader import Loader
    from pipeline.training.loop import plan_of

    began, before = time.perf_counter(), memory()
    told: dict[str, float] = {}
    config = settings(folder)
    task = task_of(config, tokenized)
    world = World()
    rank_consistency.check_alike(tokenized, task.lengths, config.packages, world)
    plan = plan_of(task, config)
    plan.updates_per_epoch()
    for epoch in range(2):
        loader = Loader(task, plan, world, Position(epoch), epoch + 1)
        next(iter(loader))
        loader.close()
        told[f"seconds to the first batch of epoch {epoch + 1}"] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()
    told |= {name: amount - before[name] for name, amount in memory().items()}
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10**8)
    parser.add_argument("--root", type=Path, help="a folder to work in; a temporary one, if not given")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        rank(given.rank.parent, given.rank)
        return
    with tempfile.TemporaryDirectory(dir=given.root) as name:
        few: dict[str, int] = {}
        for pairs in (SHARD, given.pairs):
            tokenized = made(Path(name), pairs)
            for way in WAYS:
                command = [sys.executable, __file__, "--rank", str(tokenized)]
                found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
                if pairs == SHARD:
                    few = found
                    continue
                for what in ("private", "mapped"):
                    found[f"MB more than of {SHARD:,} pairs, {what}"] = found.pop(what) - few[what]
                print(f"{pairs:,} pairs, {way}: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()

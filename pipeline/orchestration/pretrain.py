"""The stage `pretrain`: a training on pairs made of the source's documents, from which the one on the labels starts.

Lee, Chang and Toutanova, "Latent retrieval for weakly supervised open domain question answering", ACL 2019; Chang et
al., "Pre-training tasks for embedding-based large-scale retrieval", ICLR 2020.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.config import Config, SplitName, check_config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.core.manifest import KeyParts
from pipeline.core.record_schema import missing_name
from pipeline.ingest import leaks
from pipeline.ingest import stage as ingestion
from pipeline.orchestration.model_stages import Train, WorkerStage, check_memory, complete
from pipeline.orchestration.stage import StageContext, numbers
from pipeline.tokenization import shards, training_pairs
from pipeline.tokenization import stage as tokenization

LEAST = 100  # pairs to train on
PAIRS = "pairs"  # folder of the pairs within the stage's


class Document(NamedTuple):
    """A document of the source."""

    id: str
    text: str
    title: str = ""
    known: Mapping[str, Any] = {}


class Pretrain(WorkerStage):
    """Ids and documents -> parameters that have read the documents."""

    name = "pretrain"
    splits = ("train",)

    def wanted(self, config: Config) -> bool:
        return bool(config.pretrain.pairs) and config.train.start_from is None

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        trained = Train().key(_configuration(config, Path()), {"tokenize": keys["tokenize"]})
        return replace(trained, config=trained.config | {"pretrain": {"code": 1, "pairs": config.pretrain.pairs}})

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        config, plan = context.config, context.plan
        tokenized, data = plan.folder("tokenize"), plan.work(self.name) / "data"
        check_memory(config, tokenized)
        own = _configuration(config, data / PAIRS)
        if not data.exists():  # else a training that was cut off goes on
            with atomic_files.new_folder(data) as new:
                _write(config, plan.folder("ingest"), tokenized, new)
                for stage in ("ingest", "tokenize"):
                    (new / stage).mkdir()
                ingestion.run(_configuration(config, new / PAIRS), new / "ingest")
                tokenization.run(own, new / "ingest", new / "tokenize", vocabulary_from=tokenized)
        texts, _ = leaks.read_before(own, data / "ingest", None)
        folders = {stage: data / stage for stage in ("ingest", "tokenize")}
        counts = self.by_workers(context, folder, "train", own, folders)
        complete(folder, own, tokenized, texts)
        (folder / PAIRS).mkdir()
        for path in sorted((data / PAIRS).iterdir()):
            (folder / PAIRS / path.name).write_bytes(path.read_bytes())
        return counts | {"pairs": json.loads((folder / PAIRS / "counts.json").read_text(encoding="utf-8"))}

    def summary(self, context: StageContext, counts: dict[str, Any], needed: tuple[SplitName, ...]) -> Iterator[str]:
        pairs, metric = counts["pairs"], context.config.train.metric
        kinds = " and ".join(f"{pairs[kind]:,} {kind}s" for kind in ("heading", "sentence") if pairs.get(kind))
        yield (
            f"pretrain: {pairs['train']:,} pairs of documents to train on, {pairs['valid']:,} to choose by ({kinds} as "
            f"queries); valid {metric} of these {counts[f'valid/{metric}']:.4f} at update {counts['best_update']:,} of "
            f"{counts['updates']:,}"
        )

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        super().log(context, numbers(counts))


def _configuration(config: Config, pairs: Path) -> Config:
    """The first training's: as the other one, over the pairs in a folder, which are not those of the labels."""
    data = config.shown
    files = {split: str(pairs / f"{split}.jsonl") for split in ("train", "valid")}
    columns = {"query": "query", "document": "document", "metadata": ["source"]}
    data["ingest"] = {"source": {"format": "jsonl", "paths": files, "columns": columns}, "split": {"test": 0}}
    data["evaluate"] |= {"kinds": ["ranking"], "candidates": "collection"}
    data["train"] |= {"epochs": config.pretrain.epochs, "max_updates": None, "sure_precision": None}
    data["train"]["loss"]["listed_negatives"] = 0
    for section in ("pretrain", "teach", "mine", "rerank", "nights"):
        del data[section]
    return check_config(data, "pretrain")


def _write(config: Config, ingested: Path, tokenized: Path, folder: Path) -> None:
    """Makes the pairs; none has a query of valid or test. Raises InputError where the documents give too few."""
    (folder / PAIRS).mkdir()
    limit, encoder = config.tokenize.limit("document"), shards.load_tokenizer(tokenized)
    made = training_pairs.write(
        _documents(ingested, tokenization.learns_collection(config)), folder / PAIRS, config.pretrain.pairs,
        config.seed, training_pairs.Cutting(limit, encoder.tokens), _held_out(ingested), test_share=0,
    )  # fmt: skip
    if made["train"] < LEAST or not made["valid"]:
        raise InputError(
            f"pretrain.pairs={config.pretrain.pairs}: the documents of the source give {made['train']} pairs to train "
            f"on and {made['valid']} to choose by, and at least {LEAST} and 1 are needed; a query is a heading or a "
            f"sentence of {training_pairs.MIN_WORDS} to {training_pairs.MAX_WORDS} words of a longer text: give more "
            "or longer documents, or set pretrain.pairs=0"
        )
    (folder / PAIRS / "counts.json").write_text(atomic_files.as_json(dict(made)), encoding="utf-8")


def _documents(ingested: Path, collection: bool) -> Iterator[Document]:
    """Those of the collection, or each document of the training records once."""
    path, seen = ingested / (tokenization.COLLECTION_NAME if collection else "records-train.parquet"), set[str]()
    for batch in pq.ParquetFile(path).iter_batches(1024, columns=["document_id", "document"]):
        for key, text in zip(batch["document_id"].to_pylist(), batch["document"].to_pylist()):
            if key not in seen:
                seen.add(key)
                yield Document(key, text)


def _held_out(ingested: Path) -> set[str]:
    """The queries of valid and test, normalized; those too whose documents are missing."""
    paths = [ingested / name for split in leaks.HELD_OUT for name in (f"records-{split}.parquet", missing_name(split))]
    return {
        leaks.normalized(query)
        for path in paths if path.exists()
        for batch in pq.ParquetFile(path).iter_batches(10_000, columns=["query"])
        for query in batch["query"].to_pylist()
    }  # fmt: skip

"""The stage `mine`: hard negatives for the training pairs, by BM25, a trained model, or both."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config, SplitName
from pipeline.config.mining import ranking_model
from pipeline.core.errors import InputError
from pipeline.core.manifest import KeyParts, versions
from pipeline.ingest.places import fingerprint
from pipeline.orchestration.model_stages import run_workers
from pipeline.orchestration.stage import Stage, StageContext, numbers
from pipeline.tokenization import shards


class Mine(Stage):
    """Ids, and a trained model if there is one -> documents that look relevant to each query and are not."""

    name = "mine"
    splits = ("train",)

    def wanted(self, config: Config) -> bool:
        return bool(config.mine.by)

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        read = {name: key for name, key in keys.items() if name == "tokenize" or config.mine.veto is not None}
        settings = {"mine": config.mine.model_dump(mode="json", exclude={"model", "seed"}), "seed": seed_of(config)}
        libraries = versions("bm25s", "pystemmer")
        if "bm25" in config.mine.by:
            settings["bm25"] = config.evaluate.model_dump(mode="json", include={"stemmer", "bm25_k1", "bm25_b"})
        if "model" in config.mine.by:
            read["mine.model"] = fingerprint(str(Path(str(ranking_model(config))) / "parameters.npz"))
            settings["model"] = config.settings["model"] | {"kernel": None, "vectors": None}
            libraries |= versions("mxnet", *config.packages)
        return KeyParts(2, settings, {name: key for name, key in read.items() if name != "ingest"}, libraries)

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        from pipeline.tasks import matching_teaching, mining  # they load MXNet, which `duplet status` must not

        config, plan = context.config, context.plan
        split = shards.open_split(plan.folder("tokenize"), "train")
        if "model" in config.mine.by:
            folders = {name: plan.folder(name) for name in ("ingest", "tokenize")}
            run_workers(self.name, config, folders, plan.work(self.name), folder, context.say, lambda: None)
            (folder / "result.json").unlink()
        words = mining.ByWords(config, plan.folder("tokenize"), split) if "bm25" in config.mine.by else None
        cosine = None
        if config.mine.veto is not None:
            cosine = matching_teaching.Teacher(plan.folder("teach"), config.teach).cosines
        sieve = mining.Sieve(config.mine, split.fields["document"], seed_of(config), cosine)
        shape = (len(split.fields["query"]), config.mine.per_query)
        negatives = np.lib.format.open_memmap(folder / mining.NAME, "w+", np.int32, shape)
        negatives[:] = -1
        queries = 0
        for number, block in enumerate(mining.blocks(split)):
            found = [words.found(block)] if words else []
            if "model" in config.mine.by:
                path = folder / f"{mining.BY_MODEL}-{number:05d}.npz"
                with np.load(path) as arrays:
                    found.append(mining.Found(**arrays))
                path.unlink()
            for place, (row, relevant) in enumerate(zip(block.rows.tolist(), block.relevant)):
                ranked = [(by.documents[place], by.scores[place], float(by.best[place])) for by in found]
                left = sieve.of(row, relevant, ranked)
                negatives[row, : len(left)] = left
            queries += len(block.rows)
            split.release()
        negatives.flush()
        counts = {"queries": queries, **{name: sieve.counts[name] for name in COUNTED}}
        if not counts["kept"]:
            raise InputError(f"no hard negative was found: {_told(counts)}; {REMEDY}")
        return counts

    def summary(self, context: StageContext, counts: dict[str, Any], needed: tuple[SplitName, ...]) -> Iterator[str]:
        yield f"mine: by {' and '.join(context.config.mine.by)}: {_told(counts)}"
        if 2 * counts["queries_without"] > counts["queries"]:
            yield f"warning: most queries have no hard negative; {REMEDY}"

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        context.tracking.metrics(numbers(counts))


COUNTED = ("ranked", "above_margin", "near", "vetoed", "kept", "queries_without")
REMEDY = "lower mine.first_rank, mine.margin or mine.veto, or raise mine.last_rank"


def seed_of(config: Config) -> int:
    """Start of the random numbers that draw negatives."""
    return config.seed if config.mine.seed is None else config.mine.seed


def _told(counts: dict[str, Any]) -> str:
    return (
        f"{counts['kept']:,} documents for {counts['queries']:,} queries, {counts['queries_without']:,} of which have "
        f"none; of {counts['ranked']:,} in the range of ranks {counts['above_margin']:,} are scored nearly as a "
        f"relevant one or better, {counts['near']:,} have nearly its words, {counts['vetoed']:,} are vetoed by the "
        "teacher"
    )

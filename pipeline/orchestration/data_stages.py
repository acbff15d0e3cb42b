"""The stages `ingest` and `tokenize`: a source becomes records, records become ids."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import SPLITS, Config, SplitName
from pipeline.core import manifest
from pipeline.core.manifest import KeyParts
from pipeline.ingest import clicks
from pipeline.ingest import stage as ingestion
from pipeline.orchestration import split_checks, summary
from pipeline.orchestration.stage import Stage, StageContext, numbers
from pipeline.tokenization import stage as tokenization

PICTURE = "examination.png"  # of a click log: how likely each place is looked at


class Ingest(Stage):
    """A raw source -> records, collection and quarantine."""

    name = "ingest"

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        return ingestion.parts(config)

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        inputs, work = context.plan.parts[self.name].inputs, context.plan.work(self.name)
        counts = ingestion.run(context.config, folder, inputs, work)
        if (folder / clicks.NAME).exists():
            from pipeline.reporting import plots  # draws with matplotlib, which other sources do without

            click_model = json.loads((folder / clicks.NAME).read_text(encoding="utf-8"))
            plots.examination(click_model["examination"], folder / PICTURE)
        return counts

    def summary(self, context: StageContext, counts: dict[str, Any], needed: tuple[SplitName, ...]) -> Iterator[str]:
        folder = context.plan.folder(self.name)
        yield summary.ingest(counts, folder)
        yield from summary.leaks(counts, context.config)
        split_checks.check(context.config, folder, needed, context.say)

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        folder, tracking = context.plan.folder(self.name), context.tracking
        tracking.metrics(numbers(counts))
        for name in ("quarantine.jsonl", clicks.NAME, PICTURE):
            if (folder / name).exists():
                tracking.artifact(folder / name)
        source = json.dumps(context.config.shown["ingest"]["source"])
        listed = json.loads((folder / manifest.NAME).read_text(encoding="utf-8"))["files"]
        for split in SPLITS:
            digest = listed[f"records-{split}.parquet"]["sha256"]
            tracking.dataset(f"{context.config.name}-{split}", digest, source, json.dumps(counts), split)


class Tokenize(Stage):
    """Records -> ids and vocabularies."""

    name = "tokenize"

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        return tokenization.parts(config, keys["ingest"])

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        plan = context.plan
        return tokenization.run(context.config, plan.folder("ingest"), folder, work=plan.work(self.name))

    def summary(self, context: StageContext, counts: dict[str, Any], needed: tuple[SplitName, ...]) -> Iterator[str]:
        yield from summary.tokenize(counts, context.config)
        summary.check_tokens(counts, context.config, needed, context.say)

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        context.tracking.metrics(numbers(counts))
        context.tracking.artifact(context.plan.folder(self.name) / "vocabulary.json")

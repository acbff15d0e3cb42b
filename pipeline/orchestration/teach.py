"""The stage `teach`: what a teacher says of the training texts, checked, judged on the validation split and kept."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config, SplitName
from pipeline.core.manifest import KeyParts, installed
from pipeline.evaluation import metrics
from pipeline.ingest.places import fingerprint
from pipeline.orchestration import onnx_teacher
from pipeline.orchestration.stage import Stage, StageContext, numbers
from pipeline.tasks import decoding, teaching
from pipeline.tokenization import shards


class Teach(Stage):
    """A teacher's files, or a teacher -> arrays in the order of the training split."""

    name = "teach"
    splits = ("train", "valid")

    def wanted(self, config: Config) -> bool:
        return bool(config.teach.who)

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        files = {setting: fingerprint(path) for setting, path in config.teach.files.items()}
        libraries = {}
        if config.teach.onnx:
            found = onnx_teacher.files(Path(config.teach.onnx))
            files |= {f"teach.onnx/{name}": fingerprint(path) for name, path in found.items()}
            libraries = installed("onnxruntime", "tokenizers")
        judged: dict[str, Any] = {}
        if config.spec.relevance:
            judged = {"judged": config.evaluate.model_dump(mode="json", include={"kinds", "candidates", "depth"})}
            judged |= {"metric": config.train.metric, "seed": config.seed}
        return KeyParts(1, judged, {"tokenize": keys["tokenize"], **files}, libraries)

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        tokenized, task = context.plan.folder("tokenize"), context.config.task
        if context.config.spec.relevance:
            from pipeline.orchestration import teach_pairs  # loads MXNet, which `duplet status` must not

            work = context.plan.work(self.name)
            folders = teach_pairs.Folders(context.plan.folder("ingest"), tokenized, folder, work)
            return teach_pairs.keep(context.config, folders, context.say)
        names = decoding.tokens_by_id(tokenized / "label")[decoding.SPECIAL :]
        teacher = teaching.read(Path(str(context.config.teach.scores)), names)
        train, valid = (shards.open_split(tokenized, split, task) for split in ("train", "valid"))
        counts: dict[str, Any] = {"texts": len(train.ids)}
        for name, split in (("valid", valid), ("train", train)):
            scored, logits = teacher.of(split)
            if scored.any():
                labels = decoding.classes_given(split, len(names))[scored]
                predictions = logits.argmax(axis=1)
                counts[name] = {"texts": int(scored.sum()), "accuracy": metrics.accuracy(labels, predictions)}
                counts[name]["macro_f1"] = metrics.macro_f1(labels, predictions)
        np.save(folder / teaching.NAME, teaching.of_all(teacher, train))
        return counts

    def summary(self, context: StageContext, counts: dict[str, Any], needed: tuple[SplitName, ...]) -> Iterator[str]:
        who = context.config.teach.who
        if context.config.spec.relevance:
            from pipeline.orchestration import teach_pairs

            yield from teach_pairs.sentences(context.config, counts)
        elif "valid" in counts:
            valid = counts["valid"]
            yield (
                f"teach: {who} has accuracy {valid['accuracy']:.4f} and macro_f1 {valid['macro_f1']:.4f} on "
                f"{valid['texts']:,} texts of valid, {counts['train']['accuracy']:.4f} accuracy on train"
            )
        else:
            yield (
                f"warning: {who} has scored no text of valid, so how good a teacher it is there is not known; on train "
                f"its accuracy is {counts['train']['accuracy']:.4f}"
            )

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        context.tracking.metrics(numbers(counts))

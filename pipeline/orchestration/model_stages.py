"""The stages `train` and `evaluate`, whose work is done by worker processes."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import SPLITS, Config, SplitName, memory
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.core.event_log import Spool
from pipeline.core.manifest import KeyParts
from pipeline.core.progress import Say
from pipeline.distributed import launcher, machine
from pipeline.ingest import leaks
from pipeline.ingest.places import fingerprint
from pipeline.orchestration import summary
from pipeline.orchestration.stage import Stage, StageContext
from pipeline.reporting import folder as reporting
from pipeline.tokenization.encoder import forms

# How the work is done and watched, not what comes out (but for float noise): no part of the key; nor is model.kernel.
EXECUTION = {
    "workers", "gpus", "threads_per_worker", "accumulate", "checkpoint_every_updates", "keep_checkpoints",
    "log_every_updates", "max_skipped_updates", "compare_ranks_every_updates", "min_stall_s",
    "start_from",  # its content is an input
}  # fmt: skip
# What a folder needs to be used by itself, copied beside the parameters.
READING = ("vocabulary.json", "tokenizer.json", "sentencepiece.model", "images.json")


def run_workers(
    verb: str, config: Config, folders: Mapping[str, Path], work: Path, output: Path, say: Say, tick: Callable[[], None]
) -> dict[str, Any]:
    """Has the workers do a stage's work and returns what they wrote as result.json.

    Args:
        folders: of the stages that are read, by name: ingest and tokenize, and train for an evaluation.
        work: what outlives a kill.
        tick: called about twice a second meanwhile.
    """
    resolved = {name: str(folder.resolve()) for name, folder in folders.items()}
    job = launcher.Job(
        verb=verb,
        config=config.shown,  # workers read no source and know no server
        work=str(work.resolve()),
        output=str(output.resolve()),
        ingested=resolved.pop("ingest"),
        tokenized=resolved.pop("tokenize"),
        trained=resolved.pop("train", None),
        others=resolved,
    )
    threads = launcher.threads_per_worker(config.train.workers, config.train.threads_per_worker)
    launcher.run(job, config.train.workers, threads, config.train.min_stall_s, say, tick)
    result: dict[str, Any] = json.loads((output / "result.json").read_text(encoding="utf-8"))
    return result


def _without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in names}


def _idle(config: Config) -> list[str]:
    """Settings of training that change nothing as they are, so that older folders stay up to date."""
    off = {"compression": "none", "bpe_dropout": 0.0, "swap_share": 0.0}
    idle = [name for name, value in off.items() if getattr(config.train, name) == value]
    return [*idle, *([] if config.joins_overlap else ["join_overlap"])]


def _shifts(config: Config) -> bool:
    """Whether the classes that a classifier says are shifted, which older folders do not have."""
    return config.task == "classification" and config.train.join_naive_bayes and config.train.metric == "macro_f1"


def _judging(config: Config) -> list[str]:
    """Settings of the evaluation by which training judges its checkpoints, and chooses a threshold of sure answers."""
    sure = config.spec.relevance and config.train.sure_precision is not None
    return ["kinds", "candidates", "depth", *(["collection"] if sure else [])]


def vocabulary_of(tokenized: Path) -> int:
    """Tokens of the largest vocabulary of a folder of ids; 0 where it is not there yet."""
    found = manifest.readable(tokenized, "tokenize")
    sizes = [count for name, count in found.counts.items() if name.endswith("vocabulary")] if found else []
    return int(max(sizes, default=0))


def check_memory(config: Config, tokenized: Path) -> None:
    """Raises InputError where the workers of this host cannot hold an update as large as the settings allow.

    Args:
        tokenized: the folder of ids, whose vocabulary counts where it is there.
    """
    if os.environ.get("DUPLET_LAUNCHER"):
        return  # the workers' hosts are others; `duplet submit` has looked at what they have
    vocabulary = vocabulary_of(tokenized)
    if config.train.gpus:
        card = machine.card_bytes()
        sentence = card and memory.refusal(config, card, "a GPU of this host", 1, vocabulary)
    else:
        sentence = memory.refusal(config, machine.memory_bytes(), "this host", config.train.workers, vocabulary)
    if sentence:
        raise InputError(sentence)


class WorkerStage(Stage):
    """A stage whose work the workers do: the verb of its name in `pipeline.training.worker`."""

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        return self.by_workers(context, folder, self.name, context.config, context.plan.before(self.name))

    def by_workers(
        self, context: StageContext, folder: Path, verb: str, config: Config, folders: Mapping[str, Path]
    ) -> dict[str, Any]:
        """As `run_workers`, tracked."""
        work = context.plan.work(self.name)
        spool = Spool(work / "points.jsonl")

        def tick() -> None:
            context.tracking.points(spool)
            context.tracking.new_files(work / launcher.SAMPLES)

        return run_workers(verb, config, folders, work, folder, context.say, tick)

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        context.tracking.metrics({name: value for name, value in counts.items() if value is not None})

    def _log_model(self, context: StageContext, made: dict[str, Any]) -> None:
        """Logs the trained folder once more, as a model that MLflow serves without MXNet.

        Args:
            made: fusion.json, whose second stage the model has too; {}: none.
        """
        if not context.tracking.on or context.config.spec.opens_onnx is None:
            return
        from pipeline.serving.export import onnx_export
        from pipeline.serving.mlflow_model import pack

        try:
            scratch = context.tracking.scratch()
            onnx_export.export(context.plan.folder("train"), scratch / "onnx", False, lambda _: None, made)
            context.tracking.model(**pack.pack(scratch / "onnx", scratch / "code")._asdict())
        except Exception as error:  # the work is done, and must not be lost to its copy
            context.say(f"warning: the model was not logged for serving ({type(error).__name__}: {str(error)[:200]})")


def complete(folder: Path, config: Config, tokenized: Path, texts: np.ndarray) -> None:
    """Puts beside trained parameters what a folder needs to be used by itself, and which texts they have read."""
    np.save(folder / leaks.READ, texts)
    for vocabulary in forms(config):
        (folder / vocabulary).mkdir(exist_ok=True)
        for file in READING:
            if (tokenized / vocabulary / file).exists():
                shutil.copy(tokenized / vocabulary / file, folder / vocabulary)
    settings = json.dumps(config.shown, indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(settings, encoding="utf-8")


class Train(WorkerStage):
    """Ids -> parameters."""

    name = "train"
    splits = ("train", "valid")
    VERSION = 5  # raised when the output for equal settings changes

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        settings = config.settings
        return KeyParts(
            code=self.VERSION,
            config={
                "task": config.task,
                "seed": config.seed,
                # vectors: the content is an input; float32: the keys of before
                "model": _without(
                    settings["model"],
                    "vectors",
                    "kernel",
                    *(["precision"] if config.model.precision == "float32" else []),
                ),
                "options": settings.get(config.task, {}),
                "train": _without(settings["train"], *EXECUTION, *_idle(config)),
                **({"teach": config.teach.shaping(config.spec.relevance)} if "teach" in keys else {}),
                "judged": {key: settings["evaluate"][key] for key in _judging(config)},
                **({"rare_classes": "shifted"} if _shifts(config) else {}),
                **({"started_by": "vocabularies"} if config.train.start_from else {}),
            },
            inputs={
                **_without(dict(keys), "ingest"),  # that stands in tokenize's key
                **{setting: fingerprint(path) for setting, path in config.training_files.items()},
            },
            libraries=manifest.versions("mxnet", "horovod", *config.packages),
        )

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        config, tokenized = context.config, context.plan.folder("tokenize")
        check_memory(config, tokenized)  # again: now the vocabulary is known
        folders = context.plan.before(self.name)
        started = folders.get("pretrain", Path(config.train.start_from) if config.train.start_from else None)
        texts, sentence = leaks.read_before(config, context.plan.folder("ingest"), started)
        if sentence:
            context.say(sentence)
        counts = super().work(context, folder)
        complete(folder, config, tokenized, texts)
        return counts

    def summary(self, context: StageContext, counts: dict[str, Any], needed: tuple[SplitName, ...]) -> Iterator[str]:
        yield summary.train(counts, context.plan.folder(self.name), context.config)

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        super().log(context, counts)
        context.tracking.artifact(context.plan.folder(self.name), "model")
        self._log_model(context, {})


class Evaluate(WorkerStage):
    """Parameters -> tables, lists and a page."""

    name = "evaluate"
    splits = SPLITS
    VERSION = 10

    def key(self, config: Config, keys: Mapping[str, str]) -> KeyParts:
        second = config.rerank.model
        if second and not (Path(second) / "config.json").exists():
            raise InputError(f"rerank.model={second} is not the folder of a trained model (no config.json)")
        files = ("parameters.npz", "config.json") if second else ()
        return KeyParts(
            code=self.VERSION,
            config={"evaluate": config.evaluate.model_dump(mode="json"), "seed": config.seed}
            | ({"rerank": config.rerank.top} if second else {})
            | ({"beside": "overlap"} if "graded" in config.evaluate.kinds else {}),
            inputs={**keys, **{f"rerank.model/{name}": fingerprint(str(Path(second or "") / name)) for name in files}},
            libraries=manifest.versions("mxnet", "ir-measures", "bm25s", "pystemmer", *config.packages),
        )

    def work(self, context: StageContext, folder: Path) -> dict[str, Any]:
        """See Stage. The folder also says where it comes from, and has a page."""
        if second := context.config.rerank.model:
            folder_of_texts = context.plan.folder("ingest")
            _, sentence = leaks.read_before(context.config, folder_of_texts, Path(second), "rerank.model")
            if sentence:
                context.say(sentence)
        counts = super().work(context, folder)
        reporting.record(folder, context.config, context.command, context.plan.before(self.name))
        try:
            from pipeline.reporting import page  # draws with matplotlib, which the other stages do without

            page.write(folder, folder / reporting.REPORT)
        except Exception as error:  # a page that cannot be drawn costs a warning
            context.say(f"warning: the report page was not made ({type(error).__name__}: {error})")
        return counts

    def log(self, context: StageContext, counts: dict[str, Any]) -> None:
        super().log(context, counts)
        folder = context.plan.folder(self.name)
        context.tracking.artifact(folder, "evaluation")
        from pipeline.serving import second_stage

        if second_stage.weighs(made := reporting.read_json(folder / reporting.FUSION, {})):
            self._log_model(context, made)

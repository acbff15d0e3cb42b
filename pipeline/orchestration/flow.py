"""The stages in order: which are up to date, why not, and running those that are not, each tracked."""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import SPLITS, Config
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError, TryAgain, room_on
from pipeline.core.event_log import Spool
from pipeline.core.manifest import KeyParts
from pipeline.distributed import job_folder, launcher
from pipeline.ingest import stage as ingest
from pipeline.ingest.places import fingerprint
from pipeline.orchestration import split_checks, summary
from pipeline.reporting import folder as reporting
from pipeline.tokenization import stage as tokenization
from pipeline.tokenization.encoder import forms
from pipeline.tracking import Tracking, address

STAGES = ("ingest", "tokenize", "train", "evaluate")
# Raised when a stage's output for equal settings changes.
TRAIN_VERSION, EVALUATE_VERSION = 4, 6
# How the work is done and watched, not what comes out (but for float noise): no part of the key.
EXECUTION = {
    "workers", "gpus", "threads_per_worker", "checkpoint_every_updates", "keep_checkpoints", "log_every_updates",
    "max_skipped_updates", "compare_ranks_every_updates", "min_stall_s",
    "start_from",  # its content is an input
}  # fmt: skip
# What a folder needs to be used by itself, copied beside the parameters.
READING = ("vocabulary.json", "tokenizer.json", "sentencepiece.model", "images.json")

LONGEST_ROOT = 384  # bytes: SQLite takes paths of 512, and its files lie up to 120 below the root

Say = Callable[[str], None]


class Result(NamedTuple):
    """What a command did: `stages` as name -> {"state", "seconds", "folder"}, and the metrics of the last one."""

    run_id: str | None
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, float]
    table: str


class Plan(NamedTuple):
    """The keys of all stages, and where their folders are."""

    root: Path
    parts: dict[str, KeyParts]

    def folder(self, stage: str) -> Path:
        return self.root / stage / self.parts[stage].key

    def work(self, stage: str) -> Path:
        """Where a stage's workers keep what must outlive a kill."""
        return self.root / "work" / f"{stage}-{self.parts[stage].key}"


def plan(config: Config) -> Plan:
    """The keys that this configuration gives to each stage, each resting on the one before."""
    settings = config.model_dump(mode="json")
    parts = {"ingest": ingest.parts(config)}
    parts["tokenize"] = tokenization.parts(config, parts["ingest"].key)
    parts["train"] = KeyParts(
        code=TRAIN_VERSION,
        config={
            "task": config.task,
            "seed": config.seed,
            "model": settings["model"],
            "options": settings.get(config.task, {}),
            "train": {key: value for key, value in settings["train"].items() if key not in EXECUTION},
            "judged": {key: settings["evaluate"][key] for key in ("kinds", "candidates", "depth")},
        },
        inputs={"tokenize": parts["tokenize"].key, **_files_of(config)},
        libraries=manifest.versions("mxnet", "horovod"),
    )
    parts["evaluate"] = KeyParts(
        code=EVALUATE_VERSION,
        config={"evaluate": settings["evaluate"], "seed": config.seed},
        inputs={name: parts[name].key for name in ("ingest", "tokenize", "train")},
        libraries=manifest.versions("mxnet", "ir-measures", "bm25s", "pystemmer"),
    )
    return Plan(Path(config.root), parts)


def _files_of(config: Config) -> dict[str, str]:
    """Content of the files that training reads beside the stages' folders, by setting."""
    return {setting: fingerprint(path) for setting, path in config.training_files.items()}


def status(config: Config) -> list[dict[str, Any]]:
    """For each stage: its folder, whether it is up to date, and if not, what changed since its newest folder."""
    found = plan(config)
    rows = []
    for stage in STAGES:
        folder = found.folder(stage)
        row: dict[str, Any] = {"stage": stage, "folder": str(folder), "state": "up to date", "changed": []}
        if not (folder / manifest.NAME).exists():
            row["state"] = "interrupted" if found.work(stage).exists() else "not run"
            manifests = atomic_files.finished(folder.parent, f"*/{manifest.NAME}")
            beside = (manifest.readable(path.parent, stage) for path in manifests)
            # of this configuration; a folder of an older version does not say of which it is
            others = sorted(
                (one for one in beside if one and one.extra.get("configuration", config.name) == config.name),
                key=lambda one: one.created,
            )
            if others:
                row["changed"] = found.parts[stage].changed_since(others[-1].key_parts)
                row["state"] = "changed" if row["state"] == "not run" else row["state"]
        elif manifest.readable(folder, stage) is None:
            row["state"] = "damaged"  # `duplet run` says what to do
        rows.append(row)
    return rows


def run(config: Config, command: str, until: str, say: Say) -> Result:
    """Runs the stages up to `until` that are not up to date.

    Args:
        command: the configuration as the person gave it, for sentences that name a command.

    Raises:
        DupletError or a subclass: a stage's own sentence.
    """
    launcher.check_resources(config.train.workers, config.train.gpus, say)
    root = Path(config.root)
    try:
        atomic_files.owners_folder(root)
    except OSError as error:
        raise InputError(
            f"root={config.root} cannot be used ({error.strerror}): set root to a folder you can write"
        ) from None
    if (length := len(os.fsencode(root.resolve()))) > LONGEST_ROOT:
        raise InputError(
            f"root={config.root}: its path has {length} bytes, SQLite takes {LONGEST_ROOT}: set root to a shorter one"
        )
    keys = plan(config)
    where = address(config.tracking.uri, root)
    tracking = Tracking(
        where,
        config.tracking.experiment,
        config.name,
        say,
        config.tracking.system_metrics,
        job_folder.runs(job_folder.folder()),
        config.tracking.spool_mb,
        config.tracking.max_wait_s,
        keep=job_folder.folder() is not None,  # for the next start, and for whoever supervises the job
    )
    job_folder.keep_run(None, tracking.journal)
    ended = "FAILED"
    try:
        tracking.params(config.shown)
        tracking.tags({"duplet.command": command, **_provenance(), **job_folder.tags()})
        tracking.tags({f"duplet.key.{stage}": parts.key for stage, parts in keys.parts.items()})
        stages = {}
        for stage in STAGES[: STAGES.index(until) + 1]:
            with room_on(root):
                stages[stage] = _ensure(Context(config, keys, stage, command, tracking, say))
                _say_summary(config, stage, keys.folder(stage), until, say)
        folder = keys.folder(until)
        metrics, table = _outcome(folder)
        tracking.metrics(metrics | {f"seconds/{name}": row["seconds"] for name, row in stages.items()})
        if table:
            tracking.artifact(folder / "table.txt")
        ended = "FINISHED"
    except (TryAgain, KeyboardInterrupt):
        ended = "KILLED"
        raise
    finally:
        tracking.close(ended)
        job_folder.keep_run(tracking.run_id, None)
    return Result(tracking.run_id, stages, metrics, table)


def _say_summary(config: Config, stage: str, folder: Path, until: str, say: Say) -> None:
    """One line of what a stage's folder holds, and what to know of it.

    Raises:
        InputError: a split cannot be used by the stages up to `until`: it is said before any of them begins.
    """
    found = manifest.readable(folder, stage)
    counts = found.counts if found else {}
    needed = {"train": ("train", "valid"), "evaluate": SPLITS}.get(until, ())
    if stage == "ingest":
        say(summary.ingest(counts, folder))
        split_checks.check(config, folder, needed, say)
    elif stage == "tokenize":
        for line in summary.tokenize(counts, config):
            say(line)
        summary.check_tokens(counts, config, needed, say)
    elif stage == "train":
        say(summary.train(counts, folder, config))


class Context(NamedTuple):
    """What running one stage needs."""

    config: Config
    plan: Plan
    stage: str
    command: str
    tracking: Tracking
    say: Say

    @property
    def folder(self) -> Path:
        return self.plan.folder(self.stage)


def _ensure(context: Context) -> dict[str, Any]:
    """Makes one stage's folder unless it is there; of two processes at once, one works and the other waits for it."""
    began, folder, stage = time.time(), context.folder, context.stage
    remake = f"duplet {stage} {context.command}"
    state = "up to date"
    atomic_files.owners_folder(folder.parent)
    with ExitStack() as stack:
        if not (folder / manifest.NAME).exists():
            stack.enter_context(atomic_files.lock(folder.parent / f".{folder.name}.lock"))
        if (folder / manifest.NAME).exists():
            manifest.load(folder, stage, remake)
            context.say(f"{stage}: up to date ({folder})")
        else:
            state = "ran"
            context.say(f"{stage}: running")
            with context.tracking.stage(stage):
                _make(context, began)
            context.say(f"{stage}: done in {time.time() - began:.1f} s ({folder})")
    return {"state": state, "seconds": round(time.time() - began, 2), "folder": str(folder)}


def _make(context: Context, began: float) -> None:
    config, keys, tracking, stage = context.config, context.plan, context.tracking, context.stage
    parts = keys.parts[stage]
    tracking.params({"key": parts.key, **parts.config})
    with atomic_files.new_folder(context.folder) as new:
        if stage == "ingest":
            counts = ingest.run(config, new)
        elif stage == "tokenize":
            counts = tokenization.run(config, keys.folder("ingest"), new)
        else:
            counts = _run_workers(context, new)
            if stage == "train":
                for name in forms(config):
                    (new / name).mkdir(exist_ok=True)
                    for file in READING:
                        if (keys.folder("tokenize") / name / file).exists():
                            shutil.copy(keys.folder("tokenize") / name / file, new / name)
                settings = json.dumps(config.shown, indent=1, ensure_ascii=False)
                (new / "config.json").write_text(settings, encoding="utf-8")
            else:
                _report(context, new)
        extra = {"configuration": config.name}
        manifest.write(new, stage, parts, counts, began, extra)
    _track_folder(context, counts)
    if stage in ("train", "evaluate"):
        shutil.rmtree(keys.work(stage), ignore_errors=True)


def _report(context: Context, new: Path) -> None:
    """Adds to an evaluation where it comes from, and its page; one that cannot be drawn is said and costs nothing."""
    stages = {name: context.plan.folder(name) for name in STAGES[:3]}
    reporting.record(new, context.config, context.command, stages)
    try:
        from pipeline.reporting import page  # draws with matplotlib, which the other stages do without

        page.write(new, new / reporting.REPORT)
    except Exception as error:
        context.say(f"warning: the report page was not made ({type(error).__name__}: {error})")


def _run_workers(context: Context, new: Path) -> dict[str, Any]:
    config, keys, stage = context.config, context.plan, context.stage
    work = keys.work(stage)
    trained = str(keys.folder("train").resolve()) if stage == "evaluate" else None
    job = launcher.Job(
        verb=stage,
        config=config.shown,  # workers read no source and know no server
        work=str(work.resolve()),
        output=str(new.resolve()),
        ingested=str(keys.folder("ingest").resolve()),
        tokenized=str(keys.folder("tokenize").resolve()),
        trained=trained,
    )
    spool = Spool(work / "points.jsonl")
    threads = launcher.threads_per_worker(config.train.workers, config.train.threads_per_worker)

    def tick() -> None:
        context.tracking.points(spool)
        context.tracking.new_files(work / launcher.SAMPLES)

    launcher.run(job, config.train.workers, threads, config.train.min_stall_s, context.say, tick)
    result: dict[str, Any] = json.loads((new / "result.json").read_text(encoding="utf-8"))
    return result


def _track_folder(context: Context, counts: dict[str, Any]) -> None:
    """Gives the stage's child run its figures and files; the heavy tables of records and ids stay on disk."""
    tracking, folder, stage = context.tracking, context.folder, context.stage
    tracking.artifact(folder / manifest.NAME)
    if stage == "ingest":
        tracking.metrics(_numbers(counts))
        tracking.artifact(folder / "quarantine.jsonl")
        source = json.dumps(context.config.shown["ingest"]["source"])
        listed = json.loads((folder / manifest.NAME).read_text(encoding="utf-8"))["files"]
        for split in ("train", "valid", "test"):
            digest = listed[f"records-{split}.parquet"]["sha256"]
            tracking.dataset(f"{context.config.name}-{split}", digest, source, json.dumps(counts), split)
    elif stage == "tokenize":
        tracking.metrics(_numbers(counts))
        tracking.artifact(folder / "vocabulary.json")
    elif stage == "train":
        tracking.metrics({name: value for name, value in counts.items() if value is not None})
        tracking.artifact(folder, "model")
        _log_model(context)
    else:
        tracking.metrics({name: value for name, value in counts.items() if value is not None})
        tracking.artifact(folder, "evaluation")


def _log_model(context: Context) -> None:
    """Logs the trained folder once more, as a model that MLflow serves without MXNet."""
    if not context.tracking.on:
        return
    from pipeline.serving.predict.base import ON_ONNX

    if context.config.task not in ON_ONNX:
        return
    from pipeline.serving.export import onnx_export
    from pipeline.serving.mlflow_model import pack

    try:
        scratch = context.tracking.scratch()
        onnx_export.export(context.folder, scratch / "onnx", False, lambda _: None)
        context.tracking.model(**pack.pack(scratch / "onnx", scratch / "code")._asdict())
    except Exception as error:  # the training is done, and must not be lost to its copy
        context.say(f"warning: the model was not logged for serving ({type(error).__name__}: {str(error)[:200]})")


def _numbers(counts: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in counts.items():
        clean = "".join(c if c.isalnum() or c in "_-. /" else "_" for c in f"{prefix}{name}")
        if isinstance(value, dict):
            found |= _numbers(value, f"{clean}/")
        elif isinstance(value, int | float):
            found[clean] = value
    return found


def _outcome(folder: Path) -> tuple[dict[str, float], str]:
    """The metrics and the table that a stage folder holds, if any."""
    result = folder / "result.json"
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    metrics = {name: value for name, value in found.items() if value is not None}  # null: it does not exist
    table = folder / "table.txt"
    return metrics, table.read_text(encoding="utf-8") if table.exists() else ""


def _provenance() -> dict[str, str]:
    names = ("mxnet", "gluonnlp", "horovod", "mlflow", "numpy", "pyarrow")
    tags = {f"version.{name}": version for name, version in manifest.versions(*names).items()}
    commit = manifest.git_commit()
    return tags | ({"mlflow.source.git.commit": commit.rstrip("+"), "duplet.git": commit} if commit else {})

"""The stages in order: which are up to date, why not, and running those that are not, each tracked."""

import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.core import atomic_files, fingerprints, manifest
from pipeline.core.errors import DupletError, InputError, TryAgain, room_on
from pipeline.core.progress import Say
from pipeline.distributed import job_folder, launcher
from pipeline.models.kernel import library
from pipeline.orchestration.data_stages import Ingest, Tokenize
from pipeline.orchestration.lease import Lease
from pipeline.orchestration.mine import Mine
from pipeline.orchestration.model_stages import Evaluate, Train, WorkerStage, check_memory
from pipeline.orchestration.pretrain import Pretrain
from pipeline.orchestration.stage import Plan, Stage, StageContext
from pipeline.orchestration.store import Store
from pipeline.orchestration.teach import Teach
from pipeline.reporting.folder import REPORT
from pipeline.tracking import Tracking
from pipeline.tracking.journal import STAGE_TAG

STAGES: tuple[Stage, ...] = (Ingest(), Tokenize(), Teach(), Mine(), Pretrain(), Train(), Evaluate())

LONGEST_ROOT = 384  # bytes: SQLite takes paths of 512, and its files lie up to 120 below the root


class Result(NamedTuple):
    """What a command did: `stages` as name -> {"state", "seconds", "folder"}, and the metrics of the last one."""

    run_id: str | None
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, float]
    table: str


def stages_of(config: Config, until: str | None = None) -> list[Stage]:
    """The stages that a configuration has, up to one of them (None: all).

    Raises:
        InputError: it has no stage of that name.
    """
    wanted = [stage for stage in STAGES if stage.wanted(config)]
    names = [stage.name for stage in wanted]
    if until is not None and until not in names:
        raise InputError(f"this configuration has no stage {until} (stages: {', '.join(names)})")
    return wanted[: names.index(until) + 1] if until else wanted


def plan(config: Config) -> Plan:
    """The keys that this configuration gives to each stage, each resting on those before."""
    root = config.local_root
    planned = Plan(root, {}, Store(config.root, root) if "://" in config.root else None)
    with fingerprints.kept_under(planned.root):
        for stage in stages_of(config):
            keys = {name: parts.key for name, parts in planned.parts.items()}
            planned.parts[stage.name] = stage.key(config, keys)
    return planned


def status(config: Config, verify: bool = False) -> list[dict[str, Any]]:
    """For each stage: its folder, whether it is up to date, and if not, what changed since its newest folder.

    Args:
        verify: reads every file whole, sources and stages' folders.
    """
    with fingerprints.kept_under(config.local_root, verify):
        planned = plan(config)
        return [_status(config, planned, stage, verify) for stage in planned.parts]


def _status(config: Config, planned: Plan, stage: str, verify: bool) -> dict[str, Any]:
    folder = planned.folder(stage)
    row: dict[str, Any] = {"stage": stage, "folder": str(folder), "state": "up to date", "changed": []}
    if planned.is_made(stage):
        if (folder / manifest.NAME).exists() and manifest.readable(folder, stage, verify) is None:
            row["state"] = "damaged"  # `duplet run` says what to do
        return row
    row["state"] = "interrupted" if planned.work(stage).exists() else "not run"
    manifests = atomic_files.finished(folder.parent, f"*/{manifest.NAME}")
    beside = (manifest.readable(path.parent, stage) for path in manifests)
    # of this configuration; a folder of an older version does not say of which it is
    others = sorted(
        (other for other in beside if other and other.extra.get("configuration", config.name) == config.name),
        key=lambda other: other.created,
    )
    if others:
        row["changed"] = planned.parts[stage].changed_since(others[-1].key_parts)
        row["state"] = "changed" if row["state"] == "not run" else row["state"]
    return row


def run(config: Config, command: str, until: str, say: Say, verify: bool = False) -> Result:
    """Runs the stages up to `until` that are not up to date.

    Args:
        command: the configuration as the person gave it, for sentences that name a command.
        verify: reads every file of the source and of folders that are up to date whole, in place of trusting the size,
            time and inode that it had when it was last read.

    Raises:
        DupletError or a subclass: a stage's own sentence.
    """
    wanted = stages_of(config, until)
    if any(isinstance(stage, WorkerStage) for stage in wanted):  # the others need no GPU
        launcher.check_resources(config.train.workers, config.train.gpus, say)
    root = config.local_root
    here = "DUPLET_CACHE" if "://" in config.root else "root"
    try:
        atomic_files.owners_folder(root)
    except OSError as error:
        raise InputError(
            f"root={root} cannot be used ({error.strerror}): set {here} to a folder you can write"
        ) from None
    if (length := len(os.fsencode(root.resolve()))) > LONGEST_ROOT:
        raise InputError(
            f"root={root}: its path has {length} bytes, SQLite takes {LONGEST_ROOT}: set {here} to a shorter one"
        )
    with fingerprints.kept_under(root, verify):
        return _run(config, wanted, command, say)


def _to_do(planned: Plan, wanted: list[Stage]) -> list[Stage]:
    return [stage for stage in wanted if not planned.is_made(stage.name)]


def _kernel(config: Config, work: list[Stage]) -> str:
    """Which recurrent layers run. Raises InputError where workers would start without those that are wanted."""
    recurrent = library.planned(config.model.runs, config.train.gpus, config.model.precision)
    here = not os.environ.get("DUPLET_LAUNCHER")  # else the workers' hosts are others
    needed = here and any(isinstance(stage, WorkerStage) for stage in work)
    if needed and config.model.kernel == "own" and library.found().path is None:
        raise InputError(library.missing(recurrent))
    trains = any(isinstance(stage, Train) for stage in work)
    if here and trains and config.model.precision == "bfloat16" and library.found().no_bfloat16:
        raise InputError(library.missing_bfloat16(library.found().no_bfloat16))
    return recurrent


def _run(config: Config, wanted: list[Stage], command: str, say: Say) -> Result:
    """As `run`, under a root that can be used."""
    root, planned = config.local_root, plan(config)
    work = _to_do(planned, wanted)
    if any(stage.name == Train.name for stage in work):
        check_memory(config, planned.folder("tokenize"))
    recurrent = _kernel(config, work)
    tracking = Tracking.of(
        config, config.name, say, config.tracking.system_metrics, goes_on=job_folder.runs(job_folder.folder()),
        keep=job_folder.folder() is not None,  # for the next start, and for whoever supervises the job
        idle=not work,
    )  # fmt: skip
    job_folder.keep_run(None, tracking.journal)
    job_folder.keep_stages({stage: parts.key for stage, parts in planned.parts.items()})
    ended = "FAILED"
    try:
        tracking.params(config.shown)
        tracking.tags({"duplet.command": command, "duplet.recurrent": recurrent, **_provenance(), **job_folder.tags()})
        tracking.tags({f"{STAGE_TAG}{stage}": parts.key for stage, parts in planned.parts.items()})
        context = StageContext(config, planned, command, tracking, say)
        stages = {}
        for stage in wanted:
            with room_on(root):
                stages[stage.name] = _ensure(stage, context)
                folder = planned.folder(stage.name)
                finished = manifest.readable(folder, stage.name)
                if stage.name == Train.name and not recurrent.startswith(ran := library.told(library.ran(folder))):
                    tracking.tags({"duplet.recurrent": ran})  # by another host or setting, or what it went on from
                for line in stage.summary(context, finished.counts if finished else {}, wanted[-1].splits):
                    say(line)
        folder = planned.folder(wanted[-1].name)
        metrics, table = _outcome(folder)
        tracking.metrics(metrics | {f"seconds/{name}": row["seconds"] for name, row in stages.items()})
        if table:
            shown = [folder / name for name in ("table.txt", REPORT) if (folder / name).exists()]
            taught = f", taught by {config.teach.who} beside the labels" if config.teach.who else ""
            tracking.describe(f"The result on the test split{taught}:", table, shown)
        ended = "FINISHED"
    except (TryAgain, KeyboardInterrupt):
        ended = "KILLED"
        raise
    except DupletError as error:
        tracking.describe(f"It ended with: {error}")
        raise
    finally:
        tracking.close(ended)
        job_folder.keep_run(tracking.run_id, None)
    return Result(tracking.run_id, stages, metrics, table)


def _ensure(stage: Stage, context: StageContext) -> dict[str, Any]:
    """Makes one stage's folder unless it is there; of two processes at once, one works and the other waits for it."""
    planned, say = context.plan, context.say
    began, folder = time.time(), planned.folder(stage.name)
    state, lease = "up to date", None
    atomic_files.owners_folder(folder.parent)
    with ExitStack() as stack:
        if not (there := planned.fetch(stage.name)):
            lease = stack.enter_context(planned.alone(stage.name, say))
            there = planned.fetch(stage.name)  # made meanwhile
        if (folder / manifest.NAME).exists():
            manifest.load(folder, stage.name, f"duplet {stage.name} {context.command}")
            say(f"{stage.name}: up to date ({folder})")
        else:
            state = "ran"
            say(f"{stage.name}: running")
            with context.tracking.stage(stage.name):
                _make(stage, context, lease, began)
            say(f"{stage.name}: done in {time.time() - began:.1f} s ({folder})")
        if planned.store and lease and not there:
            planned.store.send(folder, lease)
            planned.store.forget(planned.work(stage.name))
    return {"state": state, "seconds": round(time.time() - began, 2), "folder": str(folder)}


def _make(stage: Stage, context: StageContext, lease: Lease | None, began: float) -> None:
    parts, folder = context.plan.parts[stage.name], context.plan.folder(stage.name)
    context.tracking.params({"key": parts.key, **parts.config})
    with atomic_files.new_folder(folder) as new:
        with context.plan.carried(stage.name, lease, context.say):
            counts = stage.work(context, new)
        extra = {"configuration": context.config.name, **context.config.needed}
        manifest.write(new, stage.name, parts, counts, began, extra)
    context.tracking.artifact(folder / manifest.NAME)
    stage.log(context, counts)
    shutil.rmtree(context.plan.work(stage.name), ignore_errors=True)


def _outcome(folder: Path) -> tuple[dict[str, float], str]:
    """The metrics and the table that a stage folder holds, if any."""
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    metrics = {name: value for name, value in result.items() if value is not None}  # null: it does not exist
    table = folder / "table.txt"
    return metrics, table.read_text(encoding="utf-8") if table.exists() else ""


def _provenance() -> dict[str, str]:
    names = ("mxnet", "gluonnlp", "horovod", "mlflow", "numpy", "pyarrow")
    tags = {f"version.{name}": version for name, version in manifest.versions(*names).items()}
    commit = manifest.git_commit()
    return tags | ({"mlflow.source.git.commit": commit.rstrip("+"), "duplet.git": commit} if commit else {})

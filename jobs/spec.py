"""What a job is: a configuration and where, with how much of what, it runs; from options or a job file, checked."""

import json
import os
import re
import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, field_validator, model_validator

from jobs.target_options import SECTIONS, KubernetesOptions, SlurmOptions
from pipeline.config import Config, Settings, load_config, memory, safe_yaml, values, variables
from pipeline.core import naming
from pipeline.core.errors import InputError, guess
from pipeline.core.redaction import hide, holds_secret, is_secret, names_secret
from pipeline.distributed import machine

CONFIG, SPEC = "config.yaml", "spec.json"  # names in a job's folder
Count = Annotated[int, Field(ge=1, le=4096)]


class JobSettings(Settings):
    """What a person says of a job, in a job file or by option."""

    target: str = Field(default="local", description="Where the job runs: local, slurm or kubernetes.")
    workers_per_host: Count | None = Field(default=None, description="Workers on each host. null: all on one host.")
    # a worker trains on one GPU or on none
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = Field(
        default=0, description="GPUs of each worker. Default: as train.gpus says."
    )
    cpus_per_worker: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="CPU cores of each worker. null: an equal share on this machine, 1 elsewhere."
    )
    mem_gb: Annotated[float, Field(gt=0, le=65_536)] | None = Field(
        default=None, description="Memory of each host, in GiB. null: what the target gives.", examples=[64]
    )
    walltime_min: Annotated[int, Field(ge=1, le=525_600)] | None = Field(
        default=None,
        description="Minutes after which the job saves and stops. null: no such end.",
        examples=[720],
    )
    retries: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=12,
        description="Starts after the first one, if the job fails. With their pauses 12 outlast an hour's outage.",
    )
    pause_s: Annotated[float, Field(ge=0, le=600)] = Field(
        default=5.0,
        description="Seconds before the first restart; each pause is twice the one before, ten minutes at most.",
    )
    stages: Literal["all", "ingest", "ingest,tokenize", "ingest,tokenize,train"] = Field(
        default="all",
        description="The stages that the job does, from the first. ingest,tokenize needs no GPU; a later job trains.",
    )
    slurm: SlurmOptions = SlurmOptions()
    kubernetes: KubernetesOptions = KubernetesOptions()

    @property
    def verb(self) -> str:
        """The verb of `duplet` that does these stages."""
        return "run" if self.stages == "all" else self.stages.rpartition(",")[2]


class JobFile(JobSettings):
    """The keys of a job file; see docs/jobs.md."""

    config: str = Field(
        description="Path of the configuration, from the folder where `duplet submit` is called.",
        examples=["configs/demo.yaml"],
    )
    overrides: tuple[str, ...] = Field(
        default=(), description="Settings of the configuration, as key=value.", examples=[["train.epochs=3"]]
    )
    workers: int | str | None = Field(
        default=None,
        description="Training processes, or least:most, of which each start takes what there is room for. null: as "
        "train.workers says.",
        examples=[4, "2:8"],
    )


class JobSpec(JobSettings):
    """A job, whole: targets turn it into a script or manifest without looking anywhere else."""

    free_texts = frozenset({"config_text"})

    format: Literal[1] = Field(default=1, description="Version of this form.")
    id: str = Field(description="Name of the job's folder under ROOT/jobs.")
    name: str = Field(description="Name of the configuration.")
    config: str = Field(description="Path of the configuration, as the person named it.")
    config_text: str = Field(description="Content of the configuration at submission, with ${VARIABLES} as written.")
    overrides: tuple[str, ...] = Field(default=(), description="Settings of the configuration, as key=value.")
    root: str = Field(description="Root of the configuration, as an absolute path; of one at an address, its copy.")
    address: str = Field(default="", description="Address of the root, where it has one.")
    cwd: str = Field(description="Folder where relative paths of the configuration start.")
    python: str = Field(description="Python interpreter of the environment.")
    environment: dict[str, str] = Field(
        default={},
        description="What whoever submitted had set for NCCL, Horovod, MXNet, DUPLET_CACHE; only Kubernetes needs it.",
    )
    follows: tuple[str, ...] = Field(
        default=(), description="The target's names for jobs after whose end, good or bad, this one begins."
    )
    min_workers: Count = Field(default=1, description="Minimum number of workers that a start takes.")
    max_workers: Count = Field(default=1, description="Maximum number of workers that a start takes, as there is room.")

    @field_validator("id")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not ID.fullmatch(value):
            raise ValueError("must be lower-case letters, digits and hyphens")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "JobSpec":
        if self.min_workers > self.max_workers:
            raise ValueError(f"workers={self.min_workers}:{self.max_workers}: the minimum is larger than the maximum")
        if self.workers_per_host is not None and self.workers_per_host > self.max_workers:
            raise ValueError(
                f"workers_per_host={self.workers_per_host} is more than workers={self.max_workers} altogether"
            )
        return self

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return Path(self.root) / "jobs" / self.id

    def hosts(self, workers: int) -> int:
        """How many hosts so many workers take."""
        return -(-workers // (self.workers_per_host or workers))

    def settings(self, workers: int) -> list[str]:
        """The overrides with which a run of this job is started on so many workers."""
        name, root = (
            json.dumps(variables.escaped(value), ensure_ascii=False) for value in (self.name, self.address or self.root)
        )
        run = [f"name={name}", f"root={root}", f"train.workers={workers}"]
        run.append(f"train.gpus={'true' if self.gpus_per_worker else 'false'}")
        if self.cpus_per_worker:
            run.append(f"train.threads_per_worker={self.cpus_per_worker}")
        return [*self.overrides, *run]


FORWARDED = ("NCCL_", "HOROVOD_", "MXNET_", "DUPLET_CACHE")
ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
KEPT_SECRET = (
    "holds a password or token, which the job's folder would keep: set it in the environment and write ${NAME} in its "
    "place"
)
_ASSIGNED = re.compile(r"(\w+)=[\"']?[^\s$\"',;]")  # of a line of a shell, or of --export=NAME=value
# What a person sets in a job file or by option; the rest of a spec follows from the configuration and the place.
SETTABLE = tuple(name for name in JobFile.model_fields if name not in ("config", "overrides"))


def read(path: str, overrides: list[str], options: dict[str, str | None]) -> JobSpec:
    """The job that a configuration or a job file, `key=value` settings and command-line options give together.

    A job file is YAML with a key `config`, the configuration's path as seen from the working folder. Settings whose
    first name is a job's (`slurm.partition=gpu`) are the job's, all others the configuration's; options come last.

    Raises:
        InputError: either file, a value, or a combination of values is not valid.
    """
    job = _job_file(path)
    config_path = os.path.expanduser(str(job.pop("config", path)))
    listed = [str(item) for item in job.pop("overrides", [])]
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key.split(".")[0] in SETTABLE:
            _set(job, key, value)
        else:
            listed.append(override)
    for key, option in options.items():
        if option is not None:
            _set(job, key, option)
    job = values.typed(job, (JobSpec,))
    low, high = _range(job.pop("workers", None), config_path, listed)
    gpus = job.setdefault("gpus_per_worker", 1 if load_config(config_path, listed).train.gpus else 0)
    # the largest number of workers is the one that may not fit the configuration
    config = load_config(config_path, [*listed, f"train.workers={high}"])
    name = _identity(config)
    text = Path(config_path).read_text(encoding="utf-8")
    _check_secrets(listed, text, job)
    spec = check({
        **job, "id": name, "name": config.name, "config": config_path,
        "config_text": text, "overrides": listed,
        "root": str(config.local_root.resolve()), "address": config.root if "://" in config.root else "",
        "cwd": os.getcwd(), "python": sys.executable,
        "environment": _forwarded(job.get("target")), "min_workers": low, "max_workers": high, "gpus_per_worker": gpus,
    })  # fmt: skip
    _check_memory(spec, config)
    return spec


def _check_memory(spec: JobSpec, config: Config) -> None:
    """Raises InputError where an update as large as the settings allow cannot fit into what is known of the hosts."""
    if spec.stages not in ("all", "ingest,tokenize,train"):
        return
    gpus = spec.gpus_per_worker > 0
    config = config.model_copy(update={"train": config.train.model_copy(update={"gpus": gpus})})
    if gpus:
        kinds = (spec.slurm.gpu_type,) if spec.target == "slurm" else tuple(spec.kubernetes.node_selector.values())
        for kind in kinds if spec.target != "local" else ():
            if (card := memory.card_bytes(kind)) and (sentence := memory.refusal(config, card, f"a GPU of {kind}", 1)):
                raise InputError(sentence)
    elif spec.mem_gb or spec.target == "local":
        workers = spec.workers_per_host or spec.max_workers
        available, where = machine.memory_bytes(), "this host"
        if spec.mem_gb:
            available, where = int(spec.mem_gb * 2**30), f"a host with mem_gb={spec.mem_gb:g}"
        if sentence := memory.refusal(config, available, where, workers):
            raise InputError(sentence)


def _forwarded(target: Any) -> dict[str, str]:
    """Variables that go to the ranks, where they do not get there by themselves."""
    if target != "kubernetes":
        return {}
    environment = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    return {
        name: value for name, value in sorted(environment.items()) if not is_secret(name, value) and value.isprintable()
    }


def _check_secrets(overrides: list[str], text: str, job: dict[str, Any]) -> None:
    """Raises InputError for what a job's folder, and the command lines it leads to, would show to others."""
    slurm = job.get("slurm")
    listed = [slurm.get(name) for name in ("setup", "extra")] if isinstance(slurm, dict) else []
    shell_lines = [str(line) for lines in listed if isinstance(lines, list | tuple) for line in lines]
    if isinstance(slurm, dict) and isinstance(health := slurm.get("health"), dict) and health.get("command"):
        shell_lines.append(str(health["command"]))
    for piece in (*overrides, *text.splitlines(), *shell_lines):
        if holds_secret(piece):
            raise InputError(f"{hide(piece.strip())} {KEPT_SECRET}")
    for line in shell_lines:
        for name in _ASSIGNED.findall(line):
            if names_secret(name):
                raise InputError(f"slurm: a line that sets {name} {KEPT_SECRET}")


def check(data: dict[str, Any]) -> JobSpec:
    """A spec from a plain dictionary. Raises InputError with a sentence of what is wrong with the job."""
    try:
        return JobSpec.model_validate_json(json.dumps(data, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise InputError("job: " + "; ".join(_explain(e) for e in error.errors()[:3])) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"job: {error}") from None


def _identity(config: Config) -> str:
    """An identity that sorts by time: name, second, and eight random hex digits for jobs of the same second.

    Its 50 characters leave room for what a cluster adds to a name.
    """
    return f"{naming.slug(config.name, 25, 'job')}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _job_file(path: str) -> dict[str, Any]:
    """The mapping of a job file; an empty one for a configuration, and for what its own reader will refuse."""
    try:
        data = safe_yaml.load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict) or "config" not in data:
        return {}
    for key in data:
        if key not in (*SETTABLE, "config", "overrides"):
            meant = guess(str(key), (*SETTABLE, "config", "overrides"), before=", ")
            raise InputError(
                f"{path}: unknown key {key}{meant} (allowed: config, overrides, {', '.join(SETTABLE)}; "
                "settings of the configuration go into overrides)"
            )
    listed = data.get("overrides", [])
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise InputError(f"{path}: overrides must be a list such as [train.epochs=3]")
    return data


def _set(job: dict[str, Any], key: str, value: str) -> None:
    first, *rest = key.split(".")
    if first not in SETTABLE or (rest and first not in ("slurm", "kubernetes")):
        raise InputError(f"job: there is no setting {key} (allowed: {', '.join(SETTABLE)})")
    values.put(job, f"{key}={value}", (JobSpec,), "walltime_min=60")


def _range(workers: Any, config: str, overrides: list[str]) -> tuple[int, int]:
    """(least, most) workers of `4`, "4" or "2:8"; those of the configuration for None."""
    if workers is None:
        workers = load_config(config, overrides).train.workers
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", str(workers)) if not isinstance(workers, bool) else None
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= 4096:
        raise InputError(f"job: workers={workers} must be a number from 1 to 4096, or least:most such as 2:8")
    return low, high


def _explain(error: Any) -> str:
    where = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        names = list(SETTABLE)
        for step in error["loc"][:-1]:
            section = SECTIONS.get(str(step))
            names = list(section.model_fields) if section else names
        meant = guess(str(error["loc"][-1]), names, before=", ")
        return f"unknown key {where}{meant} (allowed: {', '.join(names)})"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}={error['input']!r} {message}" if where else message

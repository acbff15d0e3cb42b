"""What a job is: a configuration and where, with how much of what, it runs; from options or a job file, checked."""

import difflib
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

from pipeline import naming
from pipeline.config import Config, Settings, load_config, safe_yaml, values, variables
from pipeline.errors import InputError
from pipeline.hidden import hide, holds_secret, names_secret

CONFIG, SPEC = "config.yaml", "spec.json"  # names in a job's folder
Count = Annotated[int, Field(ge=1, le=4096)]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]


class SlurmOptions(Settings):
    """What only `sbatch` takes; None leaves it to the site."""

    free_texts = frozenset({"setup"})  # shell as it is

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    save_before_s: Annotated[int, Field(ge=10, le=3600)] = 120  # the signal comes so long before the wall time
    extra: tuple[str, ...] = ()  # more lines for the head of the script, without #SBATCH
    setup: tuple[str, ...] = ()  # shell lines before the work: module load cuda/11.7


class KubernetesOptions(Settings):
    """What only a cluster's job takes."""

    namespace: DnsName = "default"
    image: str = "duplet:latest"
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    claim: DnsName | None = None  # a PersistentVolumeClaim that all pods share, holding root
    mount: str = "/data"  # where it appears in the pods
    secrets: tuple[DnsName, ...] = ()  # Secrets whose keys become environment variables
    shared_memory_gb: Annotated[float, Field(gt=0, le=4096)] = 2.0
    ttl_s: Annotated[int, Field(ge=0)] = 86_400  # the finished job is removed after so long
    run_as_user: Annotated[int, Field(ge=1)] = 1000
    service_account: DnsName | None = None
    node_selector: dict[str, str] = {}


class JobSpec(Settings):
    """A job, whole: targets turn it into a script or manifest without looking anywhere else."""

    free_texts = frozenset({"config_text"})

    format: Literal[1] = 1
    id: str  # the folder's name under ROOT/jobs
    name: str  # the configuration's
    config: str  # as the person named it
    config_text: str  # its content when the job was submitted, with ${VARIABLES} as written
    overrides: tuple[str, ...] = ()  # key=value settings of the configuration
    root: str  # the configuration's, absolute
    cwd: str  # where relative paths of the configuration start
    python: str  # the interpreter of the environment
    target: str = "local"
    min_workers: Count = 1
    max_workers: Count = 1  # above min_workers: as many as there is room for
    workers_per_host: Count | None = None  # None: all on one host
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0  # a worker trains on one GPU or on none
    cpus_per_worker: Annotated[int, Field(ge=1, le=1024)] | None = None  # None: an equal share (local), 1 elsewhere
    mem_gb: Annotated[float, Field(gt=0, le=65_536)] | None = None  # of each host
    walltime_min: Annotated[int, Field(ge=1, le=525_600)] | None = None
    retries: Annotated[int, Field(ge=0, le=1000)] = 3  # starts after the first
    pause_s: Annotated[float, Field(ge=0, le=600)] = 5.0  # before the first restart; twice as long before each other
    slurm: SlurmOptions = SlurmOptions()
    kubernetes: KubernetesOptions = KubernetesOptions()

    @field_validator("id")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not ID.fullmatch(value):
            raise ValueError("must be lower-case letters, digits and hyphens")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "JobSpec":
        if self.min_workers > self.max_workers:
            raise ValueError(f"workers={self.min_workers}:{self.max_workers} has its ends the wrong way round")
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
        name, root = (json.dumps(variables.escaped(value), ensure_ascii=False) for value in (self.name, self.root))
        run = [f"name={name}", f"root={root}", f"train.workers={workers}"]
        run.append(f"train.gpus={'true' if self.gpus_per_worker else 'false'}")
        if self.cpus_per_worker:
            run.append(f"train.threads_per_worker={self.cpus_per_worker}")
        return [*self.overrides, *run]


ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
KEPT_SECRET = (
    "holds a password or token, which the job's folder would keep: set it in the environment and write ${NAME} in its "
    "place"
)
_ASSIGNED = re.compile(r"(\w+)=[\"']?[^\s$\"',;]")  # of a line of a shell, or of --export=NAME=value
# What a person sets in a job file or by option; the rest of a spec follows from the configuration and the place.
SETTABLE = (
    "target", "workers", "workers_per_host", "gpus_per_worker", "cpus_per_worker", "mem_gb", "walltime_min", "retries",
    "pause_s", "slurm", "kubernetes",
)  # fmt: skip
SECTIONS: dict[str, type[Settings]] = {"slurm": SlurmOptions, "kubernetes": KubernetesOptions}


def read(path: str, overrides: list[str], options: dict[str, str | None]) -> JobSpec:
    """The job that a configuration or a job file, `key=value` settings and command-line options give together.

    A job file is YAML with a key `config`, the configuration's path as seen from the working folder. Settings whose
    first name is a job's (`slurm.partition=gpu`) are the job's, all others the configuration's; options come last.

    Raises:
        InputError: either file, or a value, or a combination of values makes no sense.
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
    return check({
        **job, "id": name, "name": config.name, "config": config_path,
        "config_text": text, "overrides": listed,
        "root": str(Path(config.root).resolve()), "cwd": os.getcwd(), "python": sys.executable,
        "min_workers": low, "max_workers": high, "gpus_per_worker": gpus,
    })  # fmt: skip


def _check_secrets(overrides: list[str], text: str, job: dict[str, Any]) -> None:
    """Raises InputError for what a job's folder, and the command lines it leads to, would show to others."""
    slurm = job.get("slurm")
    listed = [slurm.get(name) for name in ("setup", "extra")] if isinstance(slurm, dict) else []
    shell_lines = [str(line) for lines in listed if isinstance(lines, list | tuple) for line in lines]
    for given in (*overrides, *text.splitlines(), *shell_lines):
        if holds_secret(given):
            raise InputError(f"{hide(given.strip())} {KEPT_SECRET}")
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
            near = difflib.get_close_matches(str(key), (*SETTABLE, "config", "overrides"), 1, 0.5)
            hint = f", did you mean {near[0]}?" if near else ""
            raise InputError(
                f"{path}: unknown key {key}{hint} (allowed: config, overrides, {', '.join(SETTABLE)}; "
                "settings of the configuration go into overrides)"
            )
    listed = data.get("overrides", [])
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise InputError(f"{path}: overrides must be a list such as [train.epochs=3]")
    return data


def _set(job: dict[str, Any], key: str, value: str) -> None:
    first, *rest = key.split(".")
    if first not in SETTABLE or (rest and first not in SECTIONS):
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
        section = SECTIONS.get(str(error["loc"][0]))
        names = list(section.model_fields) if section else list(SETTABLE)
        near = difflib.get_close_matches(str(error["loc"][-1]), names, 1, 0.5)
        hint = f", did you mean {near[0]}?" if near else ""
        return f"unknown key {where}{hint} (allowed: {', '.join(names)})"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}={error['input']!r} {message}" if where else message

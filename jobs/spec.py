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
from pydantic import Field, WithJsonSchema, field_validator, model_validator

from pipeline.config import Config, Settings, load_config, memory, safe_yaml, values, variables
from pipeline.core import naming
from pipeline.core.errors import InputError, guess
from pipeline.core.redaction import hide, holds_secret, is_secret, names_secret
from pipeline.distributed import machine

CONFIG, SPEC = "config.yaml", "spec.json"  # names in a job's folder
Count = Annotated[int, Field(ge=1, le=4096)]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]


class SlurmHealth(Settings):
    """Whether each node is sound, looked at before ranks start on it; a bad one is left out, and the job requeued."""

    command: str | None = Field(
        default=None,
        description="Line of shell that each node must do with exit code 0, besides Duplet's own checks. null: none.",
        examples=["/opt/site/node_check"],
    )
    exclude_at_most: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="Most nodes that the job leaves out. 0: nothing is checked."
    )


class SlurmContainer(Settings):
    """The container in which the ranks run; the job's folder, root and working folder are mounted by themselves."""

    kind: Literal["pyxis", "apptainer"] | None = Field(
        default=None, description="What runs it: SLURM's plugin pyxis, or apptainer. null: no container."
    )
    image: str | None = Field(
        default=None,
        description="Image with Duplet, made from docker/Dockerfile.gpu; a file, or an address that kind knows.",
        examples=["/shared/duplet.sqsh"],
    )
    mounts: tuple[str, ...] = Field(
        default=(), description="More folders of the host, as FOLDER, FOLDER:INSIDE or FOLDER:INSIDE:ro.",
        examples=[["/data:/data:ro"]],
    )  # fmt: skip
    python: str = Field(default="/opt/duplet/bin/python", description="Python interpreter of Duplet inside the image.")

    @model_validator(mode="after")
    def _whole(self) -> "SlurmContainer":
        if (self.kind is None) != (self.image is None):
            lacking = "image" if self.image is None else "kind (pyxis or apptainer)"
            raise ValueError(f"a container needs {lacking} too")
        if self.kind is None and self.mounts:
            raise ValueError("mounts are of a container: give kind and image too")
        if self.image is not None:
            _check_image(str(self.kind), self.image)
        for mount in self.mounts:
            if not re.fullmatch(r"/[^\s:,]*(:/[^\s:,]*(:r[ow])?)?", mount):
                raise ValueError(
                    f"mount {mount!r} must be FOLDER, FOLDER:INSIDE or FOLDER:INSIDE:ro, absolute and without spaces "
                    "and commas"
                )
        return self


def _check_image(kind: str, image: str) -> None:
    """Raises ValueError for an image that is the other kind's."""
    if re.search(r"\s", image) or not image:
        raise ValueError(f"image {image!r} must not hold spaces")
    if kind == "pyxis" and image.endswith(".sif"):
        raise ValueError(f"image {image} is a file of apptainer's: set kind to apptainer, or import it with enroot")
    if kind == "apptainer" and "#" in image:
        raise ValueError(f"image {image} is an address of pyxis's: write docker://REGISTRY/IMAGE, or set kind to pyxis")


class SlurmOptions(Settings):
    """What only `sbatch` takes."""

    free_texts = frozenset({"setup"})  # shell as it is

    partition: str | None = Field(default=None, description="Partition. null: the site's default.", examples=["gpu"])
    account: str | None = Field(default=None, description="Account that pays. null: the site's default.")
    qos: str | None = Field(default=None, description="Quality of service. null: the site's default.")
    constraint: str | None = Field(
        default=None, description="Features that the nodes must have. null: none.", examples=["a100"]
    )
    gpu_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = Field(
        default=None, description="Kind of GPU, as the site's gres names it. null: any.", examples=["a100"]
    )
    switches: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Most leaf switches that the nodes hang on. null: any number."
    )
    after: Annotated[str, Field(pattern=r"^\d+$")] | None = Field(
        default=None,
        description="SLURM's number of a job that must have ended well before; --after takes Duplet's ids. null: none.",
        examples=["4711"],
    )
    save_before_s: Annotated[int, Field(ge=10, le=3600)] = Field(
        default=120, description="Seconds before the wall time at which the job saves and stops."
    )
    extra: tuple[str, ...] = Field(
        default=(), description="More options of sbatch, as they are, without #SBATCH.", examples=[["--exclusive"]]
    )
    setup: tuple[str, ...] = Field(
        default=(), description="Lines of shell that run before the work.", examples=[["module load cuda/11.7"]]
    )
    health: SlurmHealth = SlurmHealth()
    container: SlurmContainer = SlurmContainer()


PodPatch = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {}}}),
]


class KubernetesPatch(Settings):
    """Strategic merge patches of the pods' templates: tolerations, affinity, volumes, resources and all else."""

    free_texts = frozenset({"*"})

    launcher: PodPatch = Field(
        default={},
        description="Of the launcher's pod, whose container is called launcher.",
        examples=[{"spec": {"priorityClassName": "high"}}],
    )
    worker: PodPatch = Field(
        default={},
        description="Of the workers' pods, whose container is called worker.",
        examples=[{"spec": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}}],
    )
    pod: PodPatch = Field(default={}, description="Of a schedule's pod, whose container is called duplet.")


class KubernetesLauncher(Settings):
    """The launcher's pod, which cuts the text and starts the ranks, and needs no GPU; a night's pod is as large."""

    cpus: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="CPU cores. null: cpus_per_worker."
    )
    mem_gb: Annotated[float, Field(gt=0, le=65_536)] = Field(
        default=16.0, description="Memory, in GiB, but no more than mem_gb; where that is null, what the target gives."
    )
    node_selector: dict[str, str] = Field(default={}, description="Labels that its node must have. Empty: any node.")


class KubernetesOptions(Settings):
    """What only a cluster's job takes."""

    namespace: DnsName = Field(default="default", description="Namespace of the job.")
    image: str = Field(
        default="duplet:latest",
        description="Container image with Duplet, made from docker/Dockerfile.",
        examples=["registry.example.com/duplet:latest"],
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When a node pulls the image."
    )
    claim: DnsName | None = Field(
        default=None,
        description="PersistentVolumeClaim (ReadWriteMany) that all pods share and that holds root. Target kubernetes "
        "needs one.",
        examples=["duplet-runs"],
    )
    mount: str = Field(default="/data", description="Folder of the pods in which the claim appears.")
    secrets: tuple[DnsName, ...] = Field(
        default=(),
        description="Secrets whose keys become environment variables of the pods.",
        examples=[["mlflow-credentials"]],
    )
    shared_memory_gb: Annotated[float, Field(gt=0, le=4096)] = Field(
        default=2.0, description="GiB of shared memory of each pod, through which its workers talk."
    )
    ttl_s: Annotated[int, Field(ge=0)] = Field(
        default=86_400, description="Seconds after its end at which the cluster removes the job."
    )
    run_as_user: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="User id of the pods' processes, which must be able to write to the claim."
    )
    service_account: DnsName | None = Field(
        default=None, description="Service account of the pods. null: the namespace's default."
    )
    queue: DnsName | None = Field(
        default=None,
        description="Queue of Kueue that the job waits in, suspended until there is room. null: none.",
        examples=["search"],
    )
    cluster_account: DnsName | None = Field(
        default=None,
        description="Service account with the rights of configs/jobs/kubernetes_account.yaml: with it an evicted "
        "worker's pod is made anew, and a schedule's nights may take several hosts. null: pods cannot ask the cluster.",
        examples=["duplet"],
    )
    start_within_s: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Seconds within which a scheduler of gangs must find room for all pods; else the job fails. null: "
        "it waits without end.",
    )
    environment: dict[str, str] = Field(
        default={},
        description="Variables of launcher and ranks, besides NCCL_, HOROVOD_ and MXNET_ ones of whoever submits.",
        examples=[{"NCCL_DEBUG": "INFO"}],
    )
    patch: KubernetesPatch = KubernetesPatch()
    launcher: KubernetesLauncher = KubernetesLauncher()
    node_selector: dict[str, str] = Field(
        default={},
        description="Labels that the node of a worker, or of a schedule's only pod, must have. Empty: any node.",
        examples=[{"gpu": "a100"}],
    )


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
    root: str = Field(description="Root of the configuration, as an absolute path.")
    cwd: str = Field(description="Folder where relative paths of the configuration start.")
    python: str = Field(description="Python interpreter of the environment.")
    environment: dict[str, str] = Field(
        default={}, description="What whoever submitted had set for NCCL, Horovod and MXNet; only Kubernetes needs it."
    )
    follows: tuple[str, ...] = Field(
        default=(), description="The target's names for jobs after whose end, good or bad, this one begins."
    )
    min_workers: Count = Field(default=1, description="Least workers that a start takes.")
    max_workers: Count = Field(default=1, description="Most workers that a start takes, as there is room.")

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
        name, root = (json.dumps(variables.escaped(value), ensure_ascii=False) for value in (self.name, self.root))
        run = [f"name={name}", f"root={root}", f"train.workers={workers}"]
        run.append(f"train.gpus={'true' if self.gpus_per_worker else 'false'}")
        if self.cpus_per_worker:
            run.append(f"train.threads_per_worker={self.cpus_per_worker}")
        return [*self.overrides, *run]


FORWARDED = ("NCCL_", "HOROVOD_", "MXNET_")
ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
KEPT_SECRET = (
    "holds a password or token, which the job's folder would keep: set it in the environment and write ${NAME} in its "
    "place"
)
_ASSIGNED = re.compile(r"(\w+)=[\"']?[^\s$\"',;]")  # of a line of a shell, or of --export=NAME=value
# What a person sets in a job file or by option; the rest of a spec follows from the configuration and the place.
SETTABLE = tuple(name for name in JobFile.model_fields if name not in ("config", "overrides"))
SECTIONS: dict[str, type[Settings]] = {
    "slurm": SlurmOptions, "kubernetes": KubernetesOptions, "health": SlurmHealth, "container": SlurmContainer,
    "patch": KubernetesPatch, "launcher": KubernetesLauncher,
}  # fmt: skip


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
        "root": str(Path(config.root).resolve()), "cwd": os.getcwd(), "python": sys.executable,
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

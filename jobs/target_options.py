"""What only one target takes of a job: SLURM's and a cluster's own settings of a job file."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from pipeline.config import Settings

DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]


class SlurmHealth(Settings):
    """Whether each node is sound, looked at before ranks start on it; a bad one is left out, and the job requeued."""

    command: str | None = Field(
        default=None,
        description="Line of shell that each node must do with exit code 0, besides Duplet's own checks. null: none.",
        examples=["/opt/site/node_check"],
    )
    exclude_at_most: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="Maximum number of nodes that the job leaves out. 0: nothing is checked."
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
        default=None, description="Maximum number of leaf switches that the nodes hang on. null: any number."
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


SECTIONS: dict[str, type[Settings]] = {
    "slurm": SlurmOptions, "kubernetes": KubernetesOptions, "health": SlurmHealth, "container": SlurmContainer,
    "patch": KubernetesPatch, "launcher": KubernetesLauncher,
}  # fmt: skip

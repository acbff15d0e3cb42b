"""The target kubernetes: an MPIJob (kubeflow.org/v2beta1) with a launcher and workers, its configuration a ConfigMap.

The launcher's pod does what `duplet run` does; for training it starts the ranks in the workers' pods through mpirun,
over the ssh that the MPI operator sets up between a job's pods. All pods share one volume claim, which holds the root.
Each pod runs as a user that is not root, and gets credentials only by reference to Secrets.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from jobs import spec as specs
from jobs import strategic_merge
from jobs.client import Client
from jobs.folder import Record, resumed
from jobs.spec import JobSpec
from jobs.target_options import KubernetesOptions, KubernetesPatch
from jobs.targets import JobState
from jobs.texts import shell
from pipeline.core import naming
from pipeline.core.errors import DupletError, InputError, TryAgain

MANIFEST = "job.yaml"
# Where the images (docker/) keep things
PYTHON, HOME = "/opt/duplet/bin/python", "/home/duplet"
SSHD = ["/usr/sbin/sshd", "-De", "-f", f"{HOME}/.sshd_config"]
GIVEN = "/etc/duplet"  # the ConfigMap in the launcher's pod
SMALL = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "512Mi"}}  # of what only looks
CANCELLED, QUEUE = "duplet/cancelled", "kueue.x-k8s.io/queue-name"  # an annotation of ours, a label of Kueue's
# variable -> label of the pods of a Job: its name and identity
OWNER = {"DUPLET_NIGHT": "batch.kubernetes.io/job-name", "DUPLET_NIGHT_UID": "batch.kubernetes.io/controller-uid"}
EVICTED = "MPIJobEvicted"  # the operator calls a job failed then, though its launcher is at work
ALONE = "duplet"  # the container that holds all workers of a schedule's night
SAVE_S = 120  # between the signal to end and the end, to save a checkpoint
CLIENT = Client(
    "the cluster",
    "kubectl and a cluster that it knows: install it, or choose another --target",
    busy=("connection refused", "no such host", "i/o timeout", "TLS handshake", "Too Many Requests", "timed out",
          "ServiceUnavailable", "etcdserver", "exceeded quota", "connect to the server"),
)  # fmt: skip


def manifests(spec: JobSpec) -> list[dict[str, Any]]:
    """ConfigMap and MPIJob.

    Raises:
        InputError: there is no claim that the pods could share, or a host would not be full.
    """
    name = resource_name(spec)
    inside = spec_inside(spec)
    labels = {"app.kubernetes.io/name": "duplet", "duplet/job": spec.id}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": spec.kubernetes.namespace, "labels": labels},
        "data": {specs.CONFIG: spec.config_text, specs.SPEC: inside.model_dump_json(indent=1)},
    }
    per_host = spec.workers_per_host or spec.max_workers
    if spec.max_workers % per_host:
        raise InputError(
            f"job: workers={spec.max_workers} on hosts of workers_per_host={per_host}: mpirun fills each host, so give "
            "a multiple of it"
        )
    queued = labels
    policy: dict[str, Any] = {
        "cleanPodPolicy": "Running",
        "ttlSecondsAfterFinished": spec.kubernetes.ttl_s,
        "backoffLimit": spec.retries,
        # for a scheduler of gangs: the launcher comes after the workers, and so must not be waited for
        "schedulingPolicy": {"minAvailable": spec.hosts(spec.max_workers)},
    }
    if spec.kubernetes.start_within_s is not None:
        policy["schedulingPolicy"]["scheduleTimeoutSeconds"] = spec.kubernetes.start_within_s
    if spec.kubernetes.queue is not None:
        policy["suspend"] = True  # Kueue takes it up when there is room
        queued = labels | {QUEUE: spec.kubernetes.queue}  # of the job, and not of its pods, which Kueue would queue too
    if spec.walltime_min is not None:
        policy["activeDeadlineSeconds"] = spec.walltime_min * 60
    job = {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": {"name": name, "namespace": spec.kubernetes.namespace, "labels": queued},
        "spec": {
            "slotsPerWorker": per_host,
            "mpiImplementation": "OpenMPI",
            "sshAuthMountPath": f"{HOME}/.ssh",
            "launcherCreationPolicy": "WaitForWorkersReady",
            "runPolicy": policy,
            "mpiReplicaSpecs": {
                "Launcher": {
                    "replicas": 1,
                    "restartPolicy": "OnFailure",
                    "template": _launcher(spec, name, labels),
                },
                "Worker": {
                    "replicas": spec.hosts(spec.max_workers),
                    "restartPolicy": "OnFailure",
                    "template": _worker(spec, labels, per_host),
                },
            },
        },
    }
    return [config, job]


def resource_name(spec: JobSpec) -> str:
    """A name that the operator may lengthen (-worker-4095) and still use for a host and a service: 63 characters."""
    return naming.within(spec.id if spec.id[0].isalpha() else f"d-{spec.id}", 63 - len("-worker-4095"))


def spec_inside(spec: JobSpec) -> JobSpec:
    """The job as its pods see it: the image's interpreter, and the root on the shared volume."""
    if spec.kubernetes.claim is None:
        raise InputError(
            "job: target kubernetes needs kubernetes.claim=NAME, a PersistentVolumeClaim (ReadWriteMany) that all pods "
            "share: stages and checkpoints are kept there"
        )
    mount = PurePosixPath(spec.kubernetes.mount)
    root = PurePosixPath(spec.root)
    inside = root if root.is_relative_to(mount) else mount / "runs"
    return spec.model_copy(update={"root": str(inside), "cwd": str(mount), "python": PYTHON})


def _launcher(spec: JobSpec, name: str, labels: dict[str, str]) -> dict[str, Any]:
    forwarded = "".join(f" -x {variable['name']}" for variable in _environment(spec))
    starter = (
        f"{PYTHON} -P -m pipeline.distributed.rendezvous serve mpirun -np {{workers}} --bind-to none --map-by slot "
        "--mca orte_abort_on_non_zero_status 0 -x OMP_NUM_THREADS -x PYTHONPATH -x DUPLET_RENDEZVOUS"
        f"{forwarded} {PYTHON} -P -m pipeline.distributed.rendezvous rank"
    )
    container = {
        "name": "launcher",
        **_image(spec),
        "command": [PYTHON, "-P", "-m", "jobs.on_cluster", GIVEN],
        "env": [
            {"name": "DUPLET_LAUNCHER", "value": starter},
            *_environment(spec),
        ],
        **_secrets(spec),
        "resources": _launcher_resources(spec),
        "volumeMounts": [_mount(spec), {"name": "given", "mountPath": GIVEN, "readOnly": True}],
    }
    volumes = [_claim(spec), {"name": "given", "configMap": {"name": name}}]
    template = _pod(spec, labels | {"duplet/role": "launcher"}, container, volumes)
    _as_launcher(spec, template)
    return _patched(template, spec.kubernetes.patch.launcher)


def _worker(spec: JobSpec, labels: dict[str, str], per_host: int) -> dict[str, Any]:
    wait = "while pgrep -x orted >/dev/null; do sleep 1; done"  # the ranks save before their pod goes
    container = {
        "name": "worker",
        **_image(spec),
        "command": SSHD,
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", wait]}}},
        "resources": _resources(spec, per_host * (spec.cpus_per_worker or 1), per_host * spec.gpus_per_worker),
        "volumeMounts": [_mount(spec), {"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    template = _pod(spec, labels | {"duplet/role": "worker"}, container, [_claim(spec), _shared_memory(spec)])
    return _patched(template, spec.kubernetes.patch.worker)


def single_pod(spec: JobSpec, config_map: str, labels: dict[str, str], command: list[str]) -> dict[str, Any]:
    """A pod template that holds all workers of a job itself."""
    container = {
        "name": ALONE,
        **_image(spec),
        "command": command,
        **({"env": variables} if (variables := _environment(spec)) else {}),
        **_secrets(spec),
        "resources": _resources(
            spec, spec.max_workers * (spec.cpus_per_worker or 1), spec.max_workers * spec.gpus_per_worker
        ),
        "volumeMounts": [
            _mount(spec),
            {"name": "given", "mountPath": GIVEN, "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    volumes = [_claim(spec), {"name": "given", "configMap": {"name": config_map}}, _shared_memory(spec)]
    return _patched(_pod(spec, labels, container, volumes), spec.kubernetes.patch.pod)


def night_pod(spec: JobSpec, config_map: str, labels: dict[str, str], command: list[str]) -> dict[str, Any]:
    """A pod template of a night whose ranks run elsewhere: as large as a launcher, and it may ask the cluster.

    The labels that a CronJob's Job gives its pods tell who owns what the night makes.
    """
    template = single_pod(spec.model_copy(update={"kubernetes": _unpatched(spec)}), config_map, labels, command)
    [container] = template["spec"]["containers"]
    container["resources"] = _launcher_resources(spec)
    container["env"] = [
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}}
            for name, label in OWNER.items()
        ),
        *container.get("env", []),
    ]
    _as_launcher(spec, template)
    return _patched(template, spec.kubernetes.patch.pod)


def _unpatched(spec: JobSpec) -> KubernetesOptions:
    return spec.kubernetes.model_copy(update={"patch": KubernetesPatch()})


def _as_launcher(spec: JobSpec, template: dict[str, Any]) -> None:
    """Gives a pod the account with which it asks the cluster, and the launcher's own nodes."""
    pod, options = template["spec"], spec.kubernetes
    pod.pop("nodeSelector", None)
    if options.launcher.node_selector:
        pod["nodeSelector"] = dict(options.launcher.node_selector)
    if options.cluster_account is not None:
        pod |= {"serviceAccountName": options.cluster_account, "automountServiceAccountToken": True}


def _patched(template: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    patched: dict[str, Any] = strategic_merge.merged(template, patch)
    return patched


def _image(spec: JobSpec) -> dict[str, Any]:
    return {
        "image": spec.kubernetes.image,
        "imagePullPolicy": spec.kubernetes.image_pull_policy,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _environment(spec: JobSpec) -> list[dict[str, str]]:
    """The variables of a job, as a container has them; those that the configuration names come last and win."""
    return [{"name": name, "value": value} for name, value in (spec.environment | spec.kubernetes.environment).items()]


def _secrets(spec: JobSpec) -> dict[str, Any]:
    references = [{"secretRef": {"name": name}} for name in spec.kubernetes.secrets]
    return {"envFrom": references} if references else {}


def _launcher_resources(spec: JobSpec) -> dict[str, Any]:
    """Small beside those of a worker's pod: it holds no rank."""
    own = spec.kubernetes.launcher
    small = None if spec.mem_gb is None else min(spec.mem_gb, own.mem_gb)
    return _resources(spec.model_copy(update={"mem_gb": small}), own.cpus or spec.cpus_per_worker or 1, 0)


def _resources(spec: JobSpec, cpus: int, gpus: int) -> dict[str, Any]:
    limits: dict[str, Any] = {"cpu": str(cpus)}
    if spec.mem_gb is not None:
        limits["memory"] = f"{math.ceil(spec.mem_gb * 1024)}Mi"
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    return {"limits": limits, "requests": dict(limits)}


def _claim(spec: JobSpec) -> dict[str, Any]:
    return {"name": "root", "persistentVolumeClaim": {"claimName": spec.kubernetes.claim}}


def _shared_memory(spec: JobSpec) -> dict[str, Any]:
    size = f"{math.ceil(spec.kubernetes.shared_memory_gb * 1024)}Mi"
    return {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}


def _mount(spec: JobSpec) -> dict[str, Any]:
    return {"name": "root", "mountPath": spec.kubernetes.mount}


def _pod(
    spec: JobSpec, labels: dict[str, str], container: dict[str, Any], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    user = spec.kubernetes.run_as_user
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": SAVE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if spec.kubernetes.service_account is not None:
        pod["serviceAccountName"] = spec.kubernetes.service_account
    if spec.kubernetes.node_selector:
        pod["nodeSelector"] = dict(spec.kubernetes.node_selector)
    return {"metadata": {"labels": labels}, "spec": pod}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a configuration stays readable; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# what kubectl's parser takes for a number and PyYAML's does not, such as 1e3: only quoted is it a text for both
_NUMBER = re.compile(r"[-+]?[0-9._]+([eE][-+]?[0-9]+)?|[-+]?0[xob][0-9a-fA-F_]+")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else "'" if _NUMBER.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(documents: list[dict[str, Any]]) -> str:
    """Several documents in one file, keys in the order given."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=True)


class Kubernetes:
    """See `jobs.targets.Target`; a handle is `namespace/name`."""

    ask_s = 15.0

    def look(self) -> None:
        """Does nothing: each job is asked for by itself."""

    def render(self, spec: JobSpec) -> dict[str, str]:
        """One file of both manifests."""
        return {MANIFEST: as_yaml(manifests(spec))}

    def check(self, spec: JobSpec) -> None:
        """Refuses where there is no kubectl."""
        CLIENT.need("kubectl")

    def submit(self, spec: JobSpec, folder: Path) -> str:
        """Makes both objects; what was made before a refusal is taken back, or the refusal says that it is left."""
        try:
            kubectl(spec, "create", "--filename", str(folder / MANIFEST))
        except DupletError as error:
            if "AlreadyExists" in str(error):  # somebody else's: not ours to take back
                raise
            taken_back(spec, error, "--filename", str(folder / MANIFEST))
            raise
        _own(spec)
        return f"{spec.kubernetes.namespace}/{resource_name(spec)}"

    def state(self, record: Record) -> JobState:
        """From the MPIJob's conditions, and the exit code of the launcher's container."""
        if record.handle is None:
            return JobState("lost", "was never handed over")
        spec = record.spec
        output = kubectl(spec, "get", "mpijob", name_of(record), "--output=json", allow="NotFound")
        if not output:
            return JobState("lost", f"the cluster has no MPIJob {record.handle}: removed, or its time to live is over")
        mpijob = json.loads(output)
        conditions = conditions_of(mpijob)
        if "Succeeded" in conditions:
            return JobState("finished", "", 0)
        if "Failed" in conditions:
            code, word = self._launcher_end(spec)
            why = conditions["Failed"]
            if code is None and "DeadlineExceeded" in why.get("reason", "") + why.get("message", ""):
                return JobState("failed", f"wall time reached: {resumed(spec)}", TryAgain.exit_code)
            return JobState("failed", word or why.get("message", ""), code)
        if mpijob["spec"].get("runPolicy", {}).get("suspend"):
            if CANCELLED not in mpijob["metadata"].get("annotations", {}):  # a queue such as Kueue holds it back
                return JobState("queued", f"as MPIJob {record.handle}, suspended by the cluster until there is room")
            return JobState("cancelled", f"suspended; {resumed(spec)}", TryAgain.exit_code)
        if "Running" in conditions:
            return JobState("running", f"as MPIJob {record.handle}")
        if "Evicted" in conditions:
            return JobState("running", f"as MPIJob {record.handle}; {conditions['Evicted'].get('message', '')}")
        return JobState("queued", f"as MPIJob {record.handle}, waiting for its pods")

    def _launcher_end(self, spec: JobSpec) -> tuple[int | None, str]:
        output = kubectl(spec, "get", "pods", f"--selector=duplet/job={spec.id},duplet/role=launcher", "--output=json")
        ends = [
            status["state"]["terminated"]
            for pod in json.loads(output)["items"]
            for status in pod.get("status", {}).get("containerStatuses", [])
            if "terminated" in status.get("state", {})
        ]
        last = max(ends, key=lambda end: end.get("finishedAt") or "", default=None)
        return (last["exitCode"], last.get("message", "").strip()) if last else (None, "")

    def logs(self, record: Record, follow: bool) -> Iterator[str]:
        """The launcher's output, through kubectl."""
        selector = f"--selector=duplet/job={record.spec.id},duplet/role=launcher"
        options = ["--follow"] if follow else []
        yield from CLIENT.stream(
            "kubectl", f"--namespace={record.spec.kubernetes.namespace}", "logs", selector, "--tail=-1", *options
        )

    def cancel(self, record: Record) -> None:
        """Suspends the job: its pods get SIGTERM and time to save."""
        _suspend(record, True)

    def resume(self, record: Record) -> str:
        """Takes a suspended job up again, or makes an ended one anew."""
        spec = record.spec
        if self.state(record).name == "cancelled":
            mpijob = json.loads(kubectl(spec, "get", "mpijob", name_of(record), "--output=json"))
            if QUEUE not in mpijob["metadata"].get("labels", {}):
                _suspend(record, False)
                return record.handle or ""
        kubectl(spec, "delete", "--ignore-not-found", "--filename", str(record.folder / MANIFEST))
        return self.submit(spec, record.folder)


def conditions_of(mpijob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions that hold, by type. Failed on account of an eviction, which is not the end, is called Evicted.

    The operator sets a time of completion only where the launcher's Job has ended (updateMPIJobStatus).
    """
    status = mpijob.get("status", {})
    found = {one["type"]: one for one in status.get("conditions", []) if one.get("status") == "True"}
    if found.get("Failed", {}).get("reason") == EVICTED and not status.get("completionTime"):
        found["Evicted"] = found.pop("Failed")
    return found


def _own(spec: JobSpec) -> None:
    """Makes the ConfigMap a part of the MPIJob, so that the cluster removes it with that."""
    name = resource_name(spec)
    with contextlib.suppress(DupletError):  # without the right to do it, `resume` and a person's delete name both
        uid = json.loads(kubectl(spec, "get", "mpijob", name, "--output=json"))["metadata"].get("uid")
        owner = {"apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob", "name": name, "uid": uid}
        patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
        if uid:
            kubectl(spec, "patch", "configmap", name, "--type=merge", f"--patch={patch}")


def _suspend(record: Record, suspend: bool) -> None:
    """Notes on the job that a person did it, as a queue does it too."""
    annotations = {CANCELLED: "true" if suspend else None}
    patch = json.dumps({"metadata": {"annotations": annotations}, "spec": {"runPolicy": {"suspend": suspend}}})
    kubectl(record.spec, "patch", "mpijob", name_of(record), "--type=merge", f"--patch={patch}")


def name_of(record: Record) -> str:
    """The MPIJob's name, as it was handed over."""
    return (record.handle or "").partition("/")[2] or resource_name(record.spec)


def taken_back(spec: JobSpec, because: DupletError, *what: str) -> None:
    """Deletes what was made before a refusal. Raises the refusal with a word more where that is not possible."""
    try:
        kubectl(spec, "delete", "--ignore-not-found", *what)
    except DupletError:
        raise type(because)(
            f"{because}; the cluster may have a part of it, which could not be taken back: "
            f"`{shell('kubectl', f'--namespace={spec.kubernetes.namespace}', 'delete', *what)}`"
        ) from None


def kubectl(spec: JobSpec, *arguments: str, allow: str | None = None) -> str:
    """Runs kubectl in the job's namespace; as `Client.run`."""
    return CLIENT.run("kubectl", f"--namespace={spec.kubernetes.namespace}", *arguments, allow=allow)


def target() -> Kubernetes:
    """For `jobs.targets`."""
    return Kubernetes()

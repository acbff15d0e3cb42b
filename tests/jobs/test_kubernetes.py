"""The MPIJob: golden file, published schemas, and the real kubectl against a stand-in for a cluster's API."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from jobs import folder, kubernetes, strategic_merge, targets
from jobs import spec as specs
from jobs.folder import Record
from jobs.spec import JobSpec
from jobs.target_options import KubernetesLauncher
from jobs.targets import JobState
from pipeline.core.errors import InputError, TryAgain
from tests.jobs.cluster import Cluster, mpijob_schema

Spec = Callable[..., JobSpec]
Golden = Callable[[str, str], None]
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")


def two_nodes_of_eight(job_spec: Spec) -> JobSpec:
    return job_spec(
        target="kubernetes", min_workers=16, max_workers=16, workers_per_host=8, gpus_per_worker=1, cpus_per_worker=4,
        mem_gb=240, walltime_min=1440,
        kubernetes={
            "namespace": "search", "image": "registry.example/duplet:1", "claim": "duplet", "secrets": ["tracking"],
            "shared_memory_gb": 16, "node_selector": {"gpu": "a100"},
        },
    )  # fmt: skip


def small(job_spec: Spec) -> JobSpec:
    return job_spec(target="kubernetes", min_workers=2, max_workers=2, kubernetes={"claim": "duplet"})


def test_two_nodes_of_eight_gpus(job_spec: Spec, golden: Golden) -> None:
    golden("mpijob_two_nodes_of_eight_gpus.yaml", kubernetes.target().render(two_nodes_of_eight(job_spec))["job.yaml"])


def test_one_node(job_spec: Spec, golden: Golden) -> None:
    golden("mpijob_one_node.yaml", kubernetes.target().render(small(job_spec))["job.yaml"])


def test_the_config_travels_unchanged_and_secrets_only_by_name(job_spec: Spec) -> None:
    text = "tracking: {uri: '${MLFLOW_URI}'}\n# 0123456789\n" + "name: 'ünï \"quoted\" \\n'\n"
    spec = job_spec(config_text=text, kubernetes={"claim": "c", "secrets": ["tracking"]})
    config, job = yaml.safe_load_all(kubernetes.target().render(spec)["job.yaml"])
    assert config["data"]["config.yaml"] == text
    launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    assert launcher["envFrom"] == [{"secretRef": {"name": "tracking"}}]
    assert [variable["name"] for variable in launcher["env"]] == ["DUPLET_LAUNCHER"]


def test_pods_without_a_shared_volume_are_refused(job_spec: Spec) -> None:
    with pytest.raises(InputError, match=r"kubernetes.claim=NAME"):
        kubernetes.target().render(job_spec(target="kubernetes"))


def test_the_root_is_on_the_shared_volume(job_spec: Spec) -> None:
    for root, inside in (("/data/runs", "/data/runs"), ("/home/ann/runs", "/data/runs")):
        spec = kubernetes.spec_inside(job_spec(root=root, kubernetes={"claim": "c"}))
        assert (spec.root, spec.python) == (inside, kubernetes.PYTHON)


def pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for role, replica in job["spec"]["mpiReplicaSpecs"].items():
        yield {"apiVersion": "v1", "kind": "Pod", **replica["template"],
               "metadata": {**replica["template"]["metadata"], "name": role.lower()}}  # fmt: skip


def test_manifests_fit_the_published_schemas_of_kubernetes(job_spec: Spec) -> None:
    for spec in every_kind_of_job(job_spec):
        config, job = yaml.safe_load_all(kubernetes.target().render(spec)["job.yaml"])
        for document in (config, *pods(job)):
            kubernetes_validate.validate(document, "1.33", strict=True)
            with pytest.raises(kubernetes_validate.ValidationError):
                kubernetes_validate.validate({**document, "unknown": 1}, "1.33", strict=True)


def test_no_pod_may_be_root_and_workers_have_shared_memory(job_spec: Spec) -> None:
    _, job = yaml.safe_load_all(kubernetes.target().render(two_nodes_of_eight(job_spec))["job.yaml"])
    for pod in pods(job):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] and pod["spec"]["securityContext"]["runAsUser"] > 0
        assert not pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"]
    worker = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in worker["containers"][0]["volumeMounts"]
    assert worker["containers"][0]["resources"]["limits"] == {"cpu": "32", "memory": "245760Mi", "nvidia.com/gpu": "8"}


def test_the_launcher_is_small_and_has_nodes_of_its_own(job_spec: Spec) -> None:
    """It holds no rank: beside the workers of a GPU's node there need not be room for another of them."""
    big = two_nodes_of_eight(job_spec)
    own = KubernetesLauncher(cpus=2, mem_gb=8, node_selector={"pool": "cpu"})
    for launcher, limits, nodes in (
        (big.kubernetes.launcher, {"cpu": "4", "memory": "16384Mi"}, None),
        (own, {"cpu": "2", "memory": "8192Mi"}, {"pool": "cpu"}),
    ):
        spec = big.model_copy(update={"kubernetes": big.kubernetes.model_copy(update={"launcher": launcher})})
        roles = kubernetes.manifests(spec)[1]["spec"]["mpiReplicaSpecs"]
        made = {role: roles[role]["template"]["spec"] for role in roles}
        assert made["Launcher"]["containers"][0]["resources"]["limits"] == limits
        assert made["Launcher"].get("nodeSelector") == nodes and made["Worker"]["nodeSelector"] == {"gpu": "a100"}


@pytest.fixture(scope="module")
def mpijob() -> jsonschema.Draft7Validator:
    """The MPI operator's schema, in which an unknown key is an error."""
    return mpijob_schema()


def every_kind_of_job(job_spec: Spec) -> Iterator[JobSpec]:
    """Jobs that between them use every setting that a manifest has."""
    yield small(job_spec)
    yield two_nodes_of_eight(job_spec)
    yield job_spec(id="2026-faq", target="kubernetes", kubernetes={"claim": "c", "namespace": "1e3"})
    yield job_spec(
        target="kubernetes", max_workers=4, workers_per_host=2, retries=0, mem_gb=0.5, config_text="x: 'é'\r\n\ty\n",
        kubernetes={"claim": "c", "service_account": "ann", "secrets": ["a", "b"], "ttl_s": 0, "run_as_user": 1001,
                    "image": "1e3", "image_pull_policy": "Always", "node_selector": {"zone": "1e3", "a/b": "yes"}},
    )  # fmt: skip
    yield job_spec(
        target="kubernetes", environment={"HOROVOD_CYCLE_TIME": "1"},
        kubernetes={"claim": "c", "queue": "search", "start_within_s": 600, "environment": {"NCCL_DEBUG": "INFO"},
                    "patch": PATCH},
    )  # fmt: skip


PATCH = {
    "worker": {
        "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "high",
            "containers": [{
                "name": "worker", "resources": {"limits": {"rdma/ib": "1"}},
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    },
    "launcher": {"spec": {"terminationGracePeriodSeconds": None}},
}  # fmt: skip


def test_a_patch_adds_and_takes_away_and_leaves_the_rest(job_spec: Spec) -> None:
    plain, patched = (
        kubernetes.manifests(job_spec(kubernetes={"claim": "c", **more}))[1]["spec"]["mpiReplicaSpecs"]
        for more in ({}, {"patch": PATCH})
    )
    worker, before = (found["Worker"]["template"]["spec"] for found in (patched, plain))
    assert worker["tolerations"][0]["key"] == "nvidia.com/gpu" and worker["priorityClassName"] == "high"
    [container], [was] = worker["containers"], before["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "rdma/ib": "1"}
    assert container["volumeMounts"] == [*was["volumeMounts"], {"name": "scratch", "mountPath": "/scratch"}]
    assert worker["volumes"] == [*before["volumes"], {"name": "scratch", "emptyDir": {}}]
    assert container["command"] == was["command"] and worker["securityContext"] == before["securityContext"]
    assert "terminationGracePeriodSeconds" not in patched["Launcher"]["template"]["spec"]
    assert patched["Launcher"]["template"]["spec"]["containers"] == plain["Launcher"]["template"]["spec"]["containers"]


@pytest.mark.parametrize(
    ("old", "patch", "new"),
    [  # those of Kubernetes' own page "Update API Objects in Place Using kubectl patch", and its API conventions
        ({"containers": [{"name": "a", "image": "n"}]}, {"containers": [{"name": "b", "image": "r"}]},
         {"containers": [{"name": "a", "image": "n"}, {"name": "b", "image": "r"}]}),
        ({"tolerations": [{"key": "dedicated"}]}, {"tolerations": [{"key": "disktype"}]},
         {"tolerations": [{"key": "disktype"}]}),
        ({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
         {"strategy": {"$patch": "replace", "type": "Recreate"}}, {"strategy": {"type": "Recreate"}}),
        ({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
         {"env": [{"name": "A", "$patch": "delete"}]}, {"env": [{"name": "B", "value": "2"}]}),
        ({"ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"ports": [{"containerPort": 80, "name": "web"}]},
         {"ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}),
    ],
)  # fmt: skip
def test_a_strategic_merge(old: dict[str, Any], patch: dict[str, Any], new: dict[str, Any]) -> None:
    kept = json.dumps([old, patch])
    assert strategic_merge.merged(old, patch) == new
    assert json.dumps([old, patch]) == kept


def test_variables_reach_the_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("NCCL_DEBUG", "WARN"), ("MXNET_X", "1"), ("HOROVOD_AUTH_TOKEN", "hidden"), ("OTHER", "1")):
        monkeypatch.setenv(name, value)
    path = tmp_path / "faq.yaml"
    path.write_text("ingest: {source: {format: tsv, path: x.tsv}}\n")
    settings = ["kubernetes.claim=c", "kubernetes.environment={NCCL_DEBUG: INFO, NCCL_IB_HCA: mlx5}"]
    spec = specs.read(str(path), settings, {"target": "kubernetes"})
    assert "NCCL_DEBUG" in spec.environment and "HOROVOD_AUTH_TOKEN" not in spec.environment
    launcher = kubernetes.manifests(spec)[1]["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    starter, *variables = launcher["env"]
    given = {one["name"]: one["value"] for one in variables}
    assert given.items() >= {"NCCL_DEBUG": "INFO", "NCCL_IB_HCA": "mlx5", "MXNET_X": "1"}.items()
    assert "OTHER" not in given and "hidden" not in json.dumps(launcher)
    assert all(f" -x {name} " in starter["value"] for name in given)
    assert specs.read(str(path), [], {"target": "local"}).environment == {}


def test_a_queue_takes_the_job_and_not_its_pods(job_spec: Spec) -> None:
    _, job = kubernetes.manifests(job_spec(kubernetes={"claim": "c", "queue": "search"}))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "search" and job["spec"]["runPolicy"]["suspend"]
    assert all("kueue.x-k8s.io/queue-name" not in pod["metadata"]["labels"] for pod in pods(job))


def test_mpijob_fits_its_published_schema(job_spec: Spec, mpijob: jsonschema.Draft7Validator) -> None:
    for spec in every_kind_of_job(job_spec):
        _, job = yaml.safe_load_all(kubernetes.target().render(spec)["job.yaml"])
        assert [error.message for error in mpijob.iter_errors(job)] == []
        job["spec"]["runPolicy"]["cleanPodPolice"] = "All"
        assert ["cleanPodPolice" in error.message for error in mpijob.iter_errors(job)] == [True]


def test_a_text_that_reads_like_a_number_is_quoted() -> None:
    """kubectl reads 1e3, 0o17 and 1_0 as numbers where PyYAML reads texts; a label must be a text."""
    texts = ["1e3", "1.5e-3", "0o17", "0x1F", "1_000", "1", "-.5", "yes", "2026-11-24", "null", "~", "", "a: b", "#x"]
    text = kubernetes.as_yaml([{"texts": texts}])
    assert yaml.safe_load(text) == {"texts": texts}
    for line in text.splitlines()[2:]:
        assert re.fullmatch(r"- (['\"]).*\1", line), line


def test_names_fit_what_the_operator_makes_of_them(job_spec: Spec) -> None:
    for identity in ("a" * 63, "2" * 63, "2" + "a" * 50, "faq-20261124-020000-1a2b"):
        name = kubernetes.resource_name(job_spec(id=identity))
        assert re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", name)
        assert len(f"{name}-worker-4095") <= 63
    assert kubernetes.resource_name(job_spec(id="a" * 62 + "b")) != kubernetes.resource_name(
        job_spec(id="a" * 62 + "c")
    )


def test_hosts_that_mpirun_would_not_fill_are_refused(job_spec: Spec) -> None:
    with pytest.raises(InputError, match=r"workers=12 on hosts of workers_per_host=8: mpirun fills each host"):
        kubernetes.manifests(job_spec(max_workers=12, workers_per_host=8, kubernetes={"claim": "c"}))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    found = Cluster()
    monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl's cache
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield found
    found.stop()


@pytest.fixture
def record(job_spec: Spec, tmp_path: Path) -> Record:
    """A job whose folder is made, not yet handed over."""
    spec = small(job_spec).model_copy(update={"root": str(tmp_path / "runs")})
    place = folder.create(spec, kubernetes.target().render(spec))
    return folder.load(place)


@needs_kubectl
def test_kubectl_reads_every_manifest(job_spec: Spec, cluster: Any, tmp_path: Path) -> None:
    for spec in (small(job_spec), two_nodes_of_eight(job_spec)):
        path = tmp_path / "job.yaml"
        path.write_text(kubernetes.target().render(spec)["job.yaml"])
        said = kubernetes.CLIENT.run("kubectl", "create", "--dry-run=client", "--output=name", f"--filename={path}")
        assert said.split() == [f"configmap/{spec.id}", f"mpijob.kubeflow.org/{spec.id}"]
    assert cluster.objects == {}


@needs_kubectl
def test_a_job_from_submission_to_its_end(cluster: Any, record: Record) -> None:
    target, name = kubernetes.target(), record.spec.id
    record = Record(record.spec, record.folder, target.submit(record.spec, record.folder))
    assert record.handle == f"default/{name}"
    assert {kind for kind, _ in cluster.objects} == {"configmaps", "mpijobs"}
    job = cluster.objects["mpijobs", name]
    [owner] = cluster.objects["configmaps", name]["metadata"]["ownerReferences"]  # it goes with its job
    assert (owner["kind"], owner["name"], owner["uid"]) == ("MPIJob", name, job["metadata"]["uid"])
    assert target.state(record).name == "queued"
    job["status"] = {"conditions": [{"type": "Created", "status": "True"}, {"type": "Running", "status": "True"}]}
    assert target.state(record).name == "running"
    cluster.objects["pods", "launcher"] = launcher = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "launcher", "namespace": "default",
                     "labels": {"duplet/job": name, "duplet/role": "launcher"}},
        "spec": {"containers": [{"name": "launcher"}]}, "status": {"phase": "Running"},
    }  # fmt: skip
    cluster.log = "update 1/2: loss 3\nupdate 2/2: loss 2\n"
    assert list(target.logs(record, follow=True)) == ["update 1/2: loss 3", "update 2/2: loss 2"]
    job["status"]["conditions"] = [{"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}]
    ended = {"exitCode": 3, "message": "not better than the champion\n", "finishedAt": "2026-11-24T02:00:00Z"}
    launcher["status"] = {"containerStatuses": [{"state": {"terminated": ended}}]}
    assert target.state(record) == JobState("failed", "not better than the champion", 3)
    job["status"]["conditions"] = [{"type": "Succeeded", "status": "True"}]
    assert target.state(record) == JobState("finished", "", 0)
    del cluster.objects["pods", "launcher"]
    late = {"reason": "DeadlineExceeded", "message": "Job was active longer than specified deadline"}
    job["status"]["conditions"] = [{"type": "Failed", "status": "True", **late}]
    assert (target.state(record).name, target.state(record).exit_code) == ("failed", 75)
    del cluster.objects["mpijobs", name]
    assert target.state(record).name == "lost"


@needs_kubectl
def test_cancel_suspends_and_resume_goes_on(cluster: Any, record: Record) -> None:
    target, name = kubernetes.target(), record.spec.id
    record = Record(record.spec, record.folder, target.submit(record.spec, record.folder))
    # a queue such as Kueue suspends too: nobody cancelled the job then
    cluster.objects["mpijobs", name]["spec"]["runPolicy"]["suspend"] = True
    assert target.state(record).name == "queued"
    cluster.objects["mpijobs", name]["spec"]["runPolicy"]["suspend"] = False
    target.cancel(record)
    assert cluster.objects["mpijobs", name]["spec"]["runPolicy"]["suspend"] is True
    assert (target.state(record).name, targets.exit_code(target.state(record))) == ("cancelled", 75)
    assert target.resume(record) == record.handle
    assert target.state(record).name == "queued"
    # an ended job is made anew
    cluster.objects["mpijobs", name]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    assert target.resume(record) == record.handle
    assert "status" not in cluster.objects["mpijobs", name]


@needs_kubectl
def test_a_refusal_leaves_nothing_behind(cluster: Any, record: Record) -> None:
    cluster.refusals["mpijobs"] = (403, 'mpijobs is forbidden: User "ann" cannot create resource')
    with pytest.raises(InputError, match=r"the cluster refuses \(.*forbidden.*cannot create"):
        kubernetes.target().submit(record.spec, record.folder)
    assert cluster.objects == {}
    cluster.refusals["mpijobs"] = (403, "mpijobs is forbidden: exceeded quota: gpus, requested: 8, used: 8, limited: 8")
    with pytest.raises(TryAgain, match=r"exceeded quota.*try again later"):
        kubernetes.target().submit(record.spec, record.folder)
    assert cluster.objects == {}


@needs_kubectl
def test_a_cluster_that_does_not_answer(cluster: Any, record: Record) -> None:
    cluster.stop()
    try:
        with pytest.raises(TryAgain, match=r"the cluster cannot take this now.*refused"):
            kubernetes.target().submit(record.spec, record.folder)
    finally:
        cluster.stop = lambda: None


def test_without_kubectl(record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"no kubectl found.*choose another --target"):
        kubernetes.target().check(record.spec)

"""A worker's pod that is evicted: made anew by the launcher's supervisor, and no failure of the job's."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import evictions, kubernetes, pod_api
from jobs import folder as folders
from jobs.folder import Record
from jobs.spec import JobSpec
from jobs.supervise import Supervisor
from pipeline.core.errors import InputError, TryAgain
from tests.jobs.cluster import Cluster, rights

Spec = Callable[..., JobSpec]


@pytest.fixture
def cluster() -> Iterator[Any]:
    found = Cluster()
    yield found
    assert found.asked <= rights(), "a pod asks for more than its account may do"
    found.stop()


@pytest.fixture
def launcher(cluster: Any, job_spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """The job of a launcher's pod whose account may ask for two workers' pods, which are there."""
    api = cluster.account(tmp_path / "account")
    monkeypatch.setattr(pod_api, "inside", lambda: api)
    monkeypatch.setattr(evictions, "LOOK_S", 0.05)
    monkeypatch.setenv("DUPLET_LAUNCHER", "mpirun")
    spec = job_spec(root=str(tmp_path / "runs"), max_workers=2, min_workers=2, workers_per_host=1, retries=2,
                    pause_s=0.0, kubernetes={"claim": "c"})  # fmt: skip
    for number in range(2):
        worker(cluster, spec, number, f"first-{number}")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield folders.load(folders.create(spec, {"job.sh": "#!/bin/sh\n"}))
    for number, handler in handlers.items():
        signal.signal(number, handler)


def worker(cluster: Any, spec: JobSpec, number: int, uid: str, ready: bool = True) -> None:
    """A worker's pod as the operator makes it."""
    name = f"{spec.id}-worker-{number}"
    cluster.objects["pods", name] = {
        "metadata": {"name": name, "uid": uid, "labels": {"duplet/job": spec.id, "duplet/role": "worker"}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }  # fmt: skip


def evict(cluster: Any, spec: JobSpec, number: int) -> None:
    """As the kubelet does it: the pod has failed, and stays."""
    pod = cluster.objects["pods", f"{spec.id}-worker-{number}"]
    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}


def supervised(record: Record, monkeypatch: pytest.MonkeyPatch, *ends: Callable[[], tuple[int, str]]) -> list[int]:
    """Supervises a job whose starts end so; the exit code, and how many starts there were."""
    left = list(ends)

    def attempt(supervisor: Supervisor, workers: int) -> tuple[int, str]:
        supervisor.attempts += 1
        return left.pop(0)()

    monkeypatch.setattr(Supervisor, "_attempt", attempt)
    return [Supervisor(record.folder, 2).run(), len(ends) - len(left)]


def test_an_evicted_worker_is_made_anew_and_is_no_failure(
    cluster: Any, launcher: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator makes a pod that is not there, and leaves one that has failed: so it does nothing until then."""
    name = f"{launcher.spec.id}-worker-1"
    ended = threading.Event()

    def operator() -> None:
        made = 0
        while not ended.is_set():
            if ("pods", name) not in cluster.objects:
                made += 1
                worker(cluster, launcher.spec, 1, f"anew-{made}", ready=False)
                time.sleep(0.2)
                worker(cluster, launcher.spec, 1, f"anew-{made}")
            time.sleep(0.01)

    threading.Thread(target=operator, daemon=True).start()

    def killed() -> tuple[int, str]:
        evict(cluster, launcher.spec, 1)
        return 1, "rank 1 is gone"

    try:  # as many evictions as there are retries, and one failure of its own
        ends = [killed, killed, lambda: (1, "rank 0 ended with code 1"), lambda: (0, "")]
        assert supervised(launcher, monkeypatch, *ends) == [0, 4]
    finally:
        ended.set()
    state = launcher.state()
    assert state["state"] == "finished"
    sentences = [restart["sentence"] for restart in state["restarts"]]
    assert len(sentences) == 3 and all("a worker's pod is gone" in sentence for sentence in sentences[:2])
    assert "rank 0 ended with code 1" in sentences[2] and "pod" not in sentences[2]
    log = (launcher.folder / folders.LOG).read_text()
    assert f"pod {name} is deleted, so that the MPI operator makes it anew (Evicted The node was low" in log
    assert cluster.asked == {("list", "pods"), ("delete", "pods")}


def test_a_pod_that_is_evicted_again_and_again_ends_the_job(
    cluster: Any, launcher: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one checkpoint more: it is the job that takes more memory than its pods have."""
    monkeypatch.setattr(evictions.Pods, "wait", lambda *_: worker(cluster, launcher.spec, 1, str(time.monotonic())))

    def killed() -> tuple[int, str]:
        evict(cluster, launcher.spec, 1)
        return 1, "rank 1 is gone"

    code, starts = supervised(launcher, monkeypatch, *[killed] * 20)
    assert code == 1 and starts == 2 * launcher.spec.retries + 1
    assert "gave up after 2 restarts: rank 1 is gone" in launcher.state()["reason"]


def test_a_signal_ends_the_waiting_for_a_pod(cluster: Any, launcher: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> tuple[int, str]:
        evict(cluster, launcher.spec, 0)
        threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
        return 1, "rank 0 is gone"

    assert supervised(launcher, monkeypatch, killed, lambda: (75, "stopped")) == [75, 2]


@pytest.mark.parametrize("code", [2, 3])
def test_wrong_input_asks_for_no_pods(
    cluster: Any, launcher: Record, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(evictions.Pods, "are_lost", lambda _: pytest.fail("looked"))
    assert supervised(launcher, monkeypatch, lambda: (code, "no such file")) == [code, 1]


def test_without_the_right_the_job_goes_on_as_without_an_account(
    cluster: Any, launcher: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.refusals["list pods"] = (403, 'pods is forbidden: User "system:serviceaccount:search:duplet" cannot list')
    assert supervised(launcher, monkeypatch, *[lambda: (1, "rank 1 is gone")] * 3) == [1, 3]
    log = (launcher.folder / folders.LOG).read_text()
    assert "warning: a worker's pod that is evicted from now on is not made anew: the cluster refuses" in log
    assert "configs/jobs/kubernetes_account.yaml" in log


def test_the_api_that_does_not_answer_is_told_from_one_that_refuses(cluster: Any, tmp_path: Path) -> None:
    api = cluster.account(tmp_path / "account")
    assert api.get("mpijobs/none") is None and api.create("configmaps", {"metadata": {"name": "a"}}) is not None
    assert api.create("configmaps", {"metadata": {"name": "a"}}) is None
    cluster.refusals["get mpijobs"] = (500, "etcdserver: request timed out")
    with pytest.raises(TryAgain, match=r"cannot do this now \(GET mpijobs/x: etcdserver"):
        api.get("mpijobs/x")
    cluster.refusals["get mpijobs"] = (403, "mpijobs is forbidden")
    with pytest.raises(InputError, match=r"refuses \(GET mpijobs/x: mpijobs is forbidden\).*kubernetes_account.yaml"):
        api.get("mpijobs/x")
    with pytest.raises(TryAgain, match="does not answer"):
        pod_api.Api("http://127.0.0.1:9", tmp_path / "account").get("mpijobs/x")


def test_only_a_pod_with_a_token_may_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert pod_api.inside(tmp_path) is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert pod_api.inside(tmp_path) is None
    (tmp_path / "token").write_text("t")
    api = pod_api.inside(tmp_path)
    assert api is not None and api.address == "https://[fd00::1]:6443"


def test_the_launcher_has_the_account_and_the_workers_have_none(job_spec: Spec) -> None:
    for account in (None, "duplet"):
        spec = job_spec(kubernetes={"claim": "c", "cluster_account": account})
        roles = kubernetes.manifests(spec)[1]["spec"]["mpiReplicaSpecs"]
        pods = {role: roles[role]["template"]["spec"] for role in roles}
        assert pods["Launcher"]["automountServiceAccountToken"] == (account is not None)
        assert pods["Launcher"].get("serviceAccountName") == account
        assert not pods["Worker"]["automountServiceAccountToken"] and "serviceAccountName" not in pods["Worker"]


def test_an_eviction_is_not_the_end_for_whoever_looks(job_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator writes Failed for it, and a time of completion only when the launcher has ended."""
    record = Record(job_spec(kubernetes={"claim": "c"}), Path("/x"), "default/x")
    evicted = {"type": "Failed", "status": "True", "reason": "MPIJobEvicted", "message": "1/2 workers are evicted"}
    mpijob: dict[str, Any] = {"metadata": {}, "spec": {}, "status": {"conditions": [evicted]}}

    def answer(_: JobSpec, what: str, kind: str, *rest: str, **__: Any) -> str:
        return json.dumps(mpijob if kind == "mpijob" else {"items": []})

    monkeypatch.setattr(kubernetes, "kubectl", answer)
    state = kubernetes.target().state(record)
    assert (state.name, state.reason) == ("running", "as MPIJob default/x; 1/2 workers are evicted")
    mpijob["status"]["completionTime"] = "2026-11-24T03:00:00Z"
    assert kubernetes.target().state(record).name == "failed"

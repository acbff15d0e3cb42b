"""A night on several hosts of a cluster: the CronJob's pod makes an MPIJob, waits for it, and judges the model."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from jobs import folder as folders
from jobs import kubernetes, kubernetes_night, kubernetes_schedule, nights, pod_api
from jobs import schedule as schedules
from jobs.schedule import Schedule
from jobs.spec import JobSpec
from pipeline.cli.main import main
from pipeline.core.errors import InputError, TryAgain
from tests.jobs.cluster import ACCOUNT, Cluster, mpijob_schema, rights

Spec = Callable[..., JobSpec]
Golden = Callable[[str, str], None]
SEVERAL = {"min_workers": 2, "max_workers": 2, "workers_per_host": 1}
SUCCEEDED = {"type": "Succeeded", "status": "True"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster in one of whose pods this is: of the Job that a CronJob has made."""
    found = Cluster()
    api = found.account(tmp_path / "account")
    monkeypatch.setattr(pod_api, "inside", lambda: api)
    monkeypatch.setattr(kubernetes_night, "LOOK_S", 0.05)
    for variable, value in zip(kubernetes.OWNER, ("duplet-faq-29700", "uid-of-the-night")):
        monkeypatch.setenv(variable, value)
    yield found
    assert found.asked <= rights(), "a pod asks for more than its account may do"
    found.stop()


@pytest.fixture
def job(job_spec: Spec, tmp_path: Path) -> JobSpec:
    """A date's job, whose folder is made."""
    spec = job_spec(id="faq-1a2b3c4d-20261124-0200", root=str(tmp_path / "runs"), **SEVERAL,
                    kubernetes={"claim": "c", "mount": str(tmp_path), "cluster_account": "duplet"})  # fmt: skip
    folders.create(spec, {"config.yaml": spec.config_text})
    return spec


class Operator(threading.Thread):
    """Stands in for the MPI operator: does something with each MPIJob that it finds, once."""

    def __init__(self, cluster: Any, work: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(daemon=True)
        self.cluster, self.work, self.ended, self.made = cluster, work, threading.Event(), list[dict[str, Any]]()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            for (kind, _), found in list(self.cluster.objects.items()):
                if kind == "mpijobs" and not any(found is one for one in self.made):
                    self.made.append(found)
                    self.work(found)

    def __enter__(self) -> "Operator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


def end(mpijob: dict[str, Any], *conditions: dict[str, Any]) -> None:
    mpijob["status"] = {"conditions": list(conditions), "completionTime": "2026-11-24T03:00:00Z"}


def leave(job: JobSpec, state: str, code: int | None, reason: str = "") -> None:
    """What the launcher's supervisor writes into the folder that all pods share."""
    folders.write_state(
        job.folder, folders.load(job.folder).state() | {"state": state, "exit_code": code, "reason": reason}
    )


# --- one MPIJob -------------------------------------------------------------------------------------------------------
def test_the_night_s_job_owns_the_mpijob_which_owns_its_config(cluster: Any, job: JobSpec) -> None:
    def work(mpijob: dict[str, Any]) -> None:
        assert folders.load(job.folder).state()["state"] == "queued"  # so that the launcher begins
        leave(job, "finished", 0)
        end(mpijob, SUCCEEDED)

    with Operator(cluster, work):
        assert kubernetes_night.train(job, lambda _: None) == 0
    name = kubernetes.resource_name(job)
    mpijob, config = cluster.objects["mpijobs", name], cluster.objects["configmaps", name]
    assert mpijob["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "duplet-faq-29700", "uid": "uid-of-the-night"}
    ]
    assert config["metadata"]["ownerReferences"] == [
        {"apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob", "name": name, "uid": mpijob["metadata"]["uid"]}
    ]
    assert json.loads(config["data"]["spec.json"])["id"] == job.id


def test_a_pod_that_is_started_again_waits_for_the_mpijob_that_is_there(cluster: Any, job: JobSpec) -> None:
    mpijob = cluster.objects["mpijobs", kubernetes.resource_name(job)] = {"metadata": {"uid": "7"}, "status": {}}
    leave(job, "running", None)
    said: list[str] = []

    def later() -> None:
        leave(job, "failed", 1, "gave up")
        end(mpijob, {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"})

    threading.Timer(0.2, later).start()
    assert kubernetes_night.train(job, said.append) == 1
    assert "is there already" in said[0] and ("create", "mpijobs") not in cluster.asked


def test_what_an_earlier_try_left_is_removed_first(cluster: Any, job: JobSpec) -> None:
    name, old = kubernetes.resource_name(job), {"metadata": {"uid": "old"}}
    end(old, {"type": "Failed", "status": "True"})
    cluster.objects["mpijobs", name], cluster.objects["configmaps", name] = old, {"metadata": {"uid": "old"}}

    def work(mpijob: dict[str, Any]) -> None:
        if mpijob is not old:
            leave(job, "finished", 0)
            end(mpijob, SUCCEEDED)

    with Operator(cluster, work):
        assert kubernetes_night.train(job, lambda _: None) == 0
    assert cluster.objects["mpijobs", name]["metadata"]["uid"] != "old"
    assert cluster.objects["configmaps", name]["metadata"]["uid"] != "old"


@pytest.mark.parametrize(
    ("conditions", "code", "reason"),
    [
        ([{"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}], 1,
         "reached the specified backoff limit"),
        ([{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}], 75, "wall time reached"),
        (None, 75, "was removed before its end"),
    ],
)  # fmt: skip
def test_a_launcher_that_could_not_say_how_it_ended(
    cluster: Any, job: JobSpec, conditions: list[dict[str, Any]] | None, code: int, reason: str
) -> None:
    def work(mpijob: dict[str, Any]) -> None:
        leave(job, "running", None)
        if conditions is None:
            del cluster.objects["mpijobs", kubernetes.resource_name(job)]
        else:
            end(mpijob, *conditions)

    with Operator(cluster, work):
        assert kubernetes_night.train(job, lambda _: None) == code
    state = folders.load(job.folder).state()
    assert state["state"] == "failed" and reason in state["reason"]


def test_an_eviction_is_not_the_end_of_the_night(cluster: Any, job: JobSpec) -> None:
    def work(mpijob: dict[str, Any]) -> None:
        mpijob["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "MPIJobEvicted"}]}
        time.sleep(0.3)
        leave(job, "finished", 0)
        end(mpijob, *mpijob["status"]["conditions"], SUCCEEDED)

    with Operator(cluster, work) as operator:
        assert kubernetes_night.train(job, lambda _: None) == 0
        assert len(operator.made) == 1


def test_an_api_that_is_away_for_an_hour_does_not_end_the_night(cluster: Any, job: JobSpec) -> None:
    cluster.refusals["get mpijobs"] = (500, "etcdserver: leader changed")
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 100:
            del cluster.refusals["get mpijobs"]
        time.sleep(0.001 if len(waited) < 100 else seconds)

    def work(mpijob: dict[str, Any]) -> None:
        leave(job, "finished", 0)
        end(mpijob, SUCCEEDED)

    with Operator(cluster, work):
        assert kubernetes_night.train(job, lambda _: None, pause) == 0
    cluster.refusals["get mpijobs"] = (500, "etcdserver: leader changed")
    kubernetes_night.LOOK_S = 4001.0  # put back by the fixture
    with pytest.raises(TryAgain, match="leader changed"):
        kubernetes_night.train(job, lambda _: None, lambda _: None)


def test_a_night_by_hand_outside_of_the_cluster_is_refused(job: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_api, "inside", lambda: None)
    with pytest.raises(InputError, match=r"takes 2 hosts of a cluster.*kubectl create job --from=cronjob/NAME again"):
        kubernetes_night.train(job, lambda _: None)


# --- the schedule -----------------------------------------------------------------------------------------------------
def test_a_night_s_pod_makes_an_mpijob_of_the_operator_s_schema(
    nightly: Callable[..., Schedule], golden: Golden
) -> None:
    options = {"claim": "duplet", "namespace": "search", "cluster_account": "duplet", "secrets": ["tracking"]}
    size = {**SEVERAL, "gpus_per_worker": 1, "cpus_per_worker": 4, "mem_gb": 16, "walltime_min": 120}
    made = nightly({**size, "kubernetes": options}, target="kubernetes", verdict_by="08:00")
    documents = kubernetes_schedule.manifests(made)
    golden("schedule_mpijob.yaml", kubernetes.as_yaml(documents))
    for document in documents:
        kubernetes_validate.validate(yaml.safe_load(yaml.safe_dump(document)), "1.33", strict=True)
    night, check = (one["spec"]["jobTemplate"]["spec"]["template"]["spec"] for one in documents[1:])
    assert night["serviceAccountName"] == "duplet" and night["automountServiceAccountToken"]
    assert "nvidia.com/gpu" not in night["containers"][0]["resources"]["limits"]
    assert not check["automountServiceAccountToken"]
    assert "activeDeadlineSeconds" not in documents[1]["spec"]["jobTemplate"]["spec"]  # the MPIJob may wait for room
    mpijob = kubernetes.manifests(made.job)[1]
    assert list(mpijob_schema().iter_errors(mpijob)) == []
    assert mpijob["spec"]["runPolicy"]["activeDeadlineSeconds"] == 7200


def test_the_account_fits_the_schemas_and_its_own_binding() -> None:
    account, role, binding = yaml.safe_load_all(ACCOUNT.read_text())
    for document in (account, role, binding):
        kubernetes_validate.validate(document, "1.33", strict=True)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]


def test_several_hosts_without_an_account_are_refused(nightly: Callable[..., Schedule]) -> None:
    made = nightly({**SEVERAL, "kubernetes": {"claim": "duplet"}}, target="kubernetes")
    with pytest.raises(InputError, match=r"makes 2 workers take 2 hosts.*needs kubernetes.cluster_account=NAME"):
        kubernetes_schedule.manifests(made)
    unfilled = nightly({"max_workers": 3, "workers_per_host": 2, "kubernetes": {"claim": "d", "cluster_account": "d"}},
                       target="kubernetes")  # fmt: skip
    with pytest.raises(InputError, match="mpirun fills each host"):
        kubernetes_schedule.manifests(unfilled)


def test_the_night_s_pod_cuts_text_for_the_data_check_without_a_gpu(
    tmp_path: Path, small_config: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config(train={"gpus": True, "workers": 2})))
    assert main(["tokenize", str(path)]) == 0, capsys.readouterr().err
    assert main(["train", str(path)]) == 2
    assert "needs 2 GPUs, this process may use 0" in capsys.readouterr().err


@pytest.mark.mlflow
def test_a_night_from_the_cron_job_s_pod_to_the_champion(
    cluster: Any, tmp_path: Path, small_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod's own command, the launcher's own command in a process of its own, two ranks, and `duplet promote`."""
    monkeypatch.setattr(kubernetes, "PYTHON", sys.executable)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    options = ["kubernetes.claim=c", f"kubernetes.mount={tmp_path}", "kubernetes.cluster_account=duplet"]
    made = schedules.make(str(path), options, {"workers": "2", "workers_per_host": "1"}, {
        "cron": "0 2 * * *", "target": "kubernetes", "zone": "UTC", "missed": "skip", "overlap": "leave",
        "start_from": "scratch", "promote": True,
    })  # fmt: skip
    given = tmp_path / "given"
    given.mkdir()
    for name, text in kubernetes_schedule.config_map(made)["data"].items():
        (given / name).write_text(text)
    launched: list[str] = []

    def work(mpijob: dict[str, Any]) -> None:
        name = mpijob["metadata"]["name"]
        while ("configmaps", name) not in cluster.objects:
            time.sleep(0.01)
        mounted = tmp_path / f"launcher-{len(launched)}"
        mounted.mkdir()
        for file, text in cluster.objects["configmaps", name]["data"].items():
            (mounted / file).write_text(text)
        command = mpijob["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["command"]
        done = subprocess.run([*command[:-1], str(mounted)], capture_output=True, text=True, env={**os.environ})
        launched.append(done.stderr)
        end(mpijob, SUCCEEDED if done.returncode == 0 else {"type": "Failed", "status": "True"})

    with Operator(cluster, work):
        assert main(["schedule", "run", str(given / "schedule.json"), "--date", "2026-11-24"]) == 0
    [verdict] = nights.verdicts(made.folder)
    assert verdict.exit_code == 0 and verdict.reason.startswith("promoted: "), verdict
    assert 0 <= verdict.metrics["mrr@10"] <= 1
    log = (made.folder.parent.parent / "jobs" / verdict.job / folders.LOG).read_text()
    assert "start 1 on 2 workers" in log and len(launched) == 1

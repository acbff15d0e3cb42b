"""What each target is handed of a schedule."""

import gzip
import json
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from jobs import airflow, argo, cron, kubernetes, kubernetes_schedule, slurm_schedule
from jobs import schedule as schedules
from jobs.schedule import Schedule
from jobs.spec import JobSpec
from pipeline.core.errors import InputError

Spec = Callable[..., JobSpec]
Golden = Callable[[str, str], None]


def test_crontab_line(nightly: Callable[..., Schedule], golden: Golden) -> None:
    golden("schedule.crontab", cron.block(nightly()))


def test_airflow_dag(nightly: Callable[..., Schedule], golden: Golden) -> None:
    text = airflow.dag(nightly(target="airflow", missed="catch_up"))
    compile(text, "dag", "exec")
    golden("schedule_airflow.py.txt", text)


def test_slurm_script_and_scrontab(nightly: Callable[..., Schedule], golden: Golden) -> None:
    made = nightly({"max_workers": 16, "min_workers": 16, "workers_per_host": 8, "gpus_per_worker": 1,
                    "walltime_min": 120}, target="slurm")  # fmt: skip
    golden("schedule_slurm.sh", slurm_schedule.script(made))
    golden("schedule.scrontab", slurm_schedule.scrontab_block(made))


def test_cron_job(nightly: Callable[..., Schedule], golden: Golden) -> None:
    made = nightly({"kubernetes": {"claim": "duplet", "secrets": ["tracking"]}, "walltime_min": 120},
                   target="kubernetes")  # fmt: skip
    config, job = kubernetes_schedule.manifests(made)
    golden("schedule_cron_job.yaml", kubernetes.as_yaml([config, job]))
    for document in (config, job):
        kubernetes_validate.validate(yaml.safe_load(yaml.safe_dump(document)), "1.33", strict=True)
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    inside = schedules.check(json.loads(config["data"]["schedule.json"]))
    assert (inside.job.root, inside.job.python) == ("/data/runs", kubernetes.PYTHON)


def test_cron_workflow(nightly: Callable[..., Schedule], golden: Golden) -> None:
    """Argo's own schema, in which an unknown key is an error; and a container per stage, of which the last judges."""
    made = nightly({"kubernetes": {"claim": "duplet", "secrets": ["tracking"], "service_account": "argo"},
                    "walltime_min": 120}, target="argo", zone="Asia/Shanghai")  # fmt: skip
    documents = argo.manifests(made)
    golden("schedule_argo.yaml", kubernetes.as_yaml(documents))
    config, cron = yaml.safe_load_all(kubernetes.as_yaml(documents))
    kubernetes_validate.validate(config, "1.33", strict=True)
    schema = argo_schema()
    assert [error.message for error in schema.iter_errors(cron)] == []
    assert cron["spec"]["timezone"] == "Asia/Shanghai" and cron["spec"]["concurrencyPolicy"] == "Forbid"
    night, *stages = cron["spec"]["workflowSpec"]["templates"]
    assert [step[0]["template"] for step in night["steps"]] == ["ingest", "tokenize", "train", "verdict"]
    asked = [one["container"]["command"][one["container"]["command"].index("--date") + 2 :] for one in stages]
    assert asked == [["--stages", "ingest"], ["--stages", "ingest,tokenize"], ["--stages", "ingest,tokenize,train"], []]
    cron["spec"]["workflowSpec"]["templates"][1]["container"]["comand"] = []
    assert ["comand" in error.message for error in schema.iter_errors(cron)] == [True]


PATCHED = {
    "claim": "duplet", "environment": {"NCCL_DEBUG": "INFO"}, "node_selector": {"gpu": "a100"},
    "patch": {"pod": {
        "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}, "labels": {"team": "search"}},
        "spec": {
            "priorityClassName": "high", "runtimeClassName": "nvidia", "terminationGracePeriodSeconds": 300,
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {}},
            "initContainers": [{"name": "wait", "image": "busybox"}],
            "containers": [
                {"name": "duplet", "resources": {"limits": {"rdma/ib": "1"}},
                 "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]},
                {"name": "proxy", "image": "proxy:1"},
            ],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }},
}  # fmt: skip


def valid_pod(template: dict[str, Any]) -> None:
    metadata = {**template["metadata"], "name": "night"}
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}
    kubernetes_validate.validate(json.loads(json.dumps(pod)), "1.33", strict=True)


def test_the_pods_of_a_cron_job_have_the_variables_and_the_patch(nightly: Callable[..., Schedule]) -> None:
    job = {"kubernetes": PATCHED, "environment": {"HOROVOD_CYCLE_TIME": "1"}}
    _, *jobs = kubernetes_schedule.manifests(nightly(job, target="kubernetes", verdict_by="08:30"))
    for one in jobs:
        template = one["spec"]["jobTemplate"]["spec"]["template"]
        container, proxy = template["spec"]["containers"]
        given = [{"name": "HOROVOD_CYCLE_TIME", "value": "1"}, {"name": "NCCL_DEBUG", "value": "INFO"}]
        assert container["env"] == given and proxy["name"] == "proxy"
        assert template["spec"]["terminationGracePeriodSeconds"] == 300
        valid_pod(template)


def test_the_pods_of_a_cron_workflow_have_all_of_what_a_cron_job_s_have(nightly: Callable[..., Schedule]) -> None:
    made = nightly({"kubernetes": PATCHED}, target="argo")
    plain = kubernetes_schedule.manifests(nightly({"kubernetes": PATCHED}, target="kubernetes"))[1]
    wanted = plain["spec"]["jobTemplate"]["spec"]["template"]
    _, cron = yaml.safe_load_all(kubernetes.as_yaml(argo.manifests(made)))
    workflow = cron["spec"]["workflowSpec"]
    rest = json.loads(workflow["podSpecPatch"])
    assert rest["terminationGracePeriodSeconds"] == 300 and rest["runtimeClassName"] == "nvidia"
    for one in workflow["templates"][1:]:
        main = {**one["container"], "name": "duplet", "command": wanted["spec"]["containers"][0]["command"]}
        spec = {
            **{name: value for name, value in workflow.items() if name in argo.WORKFLOWS}, **rest,
            "automountServiceAccountToken": False, "restartPolicy": "Never",
            "containers": [main, *one["sidecars"]], "initContainers": one["initContainers"],
        }  # fmt: skip
        assert {"metadata": one["metadata"], "spec": spec} == wanted
        valid_pod({"metadata": one["metadata"], "spec": spec})
    assert [error.message for error in argo_schema().iter_errors(cron)] == []


def test_argo_gives_a_night_without_a_patch_its_time_to_save(nightly: Callable[..., Schedule]) -> None:
    [_, cron] = argo.manifests(nightly({"kubernetes": {"claim": "c"}}, target="argo"))
    assert json.loads(cron["spec"]["workflowSpec"]["podSpecPatch"]) == {"terminationGracePeriodSeconds": 120}


def argo_schema() -> jsonschema.Draft7Validator:
    packed = Path(__file__).with_name("schemas").joinpath("cronworkflow_v1alpha1.json.gz").read_bytes()
    return jsonschema.Draft7Validator(closed(json.loads(gzip.decompress(packed))))


def closed(schema: Any) -> Any:
    """The schema with unknown keys refused: a cluster would drop them in silence."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and "type" in schema:
            schema.setdefault("additionalProperties", False)
            for kept in ("metadata", "status"):
                if kept in schema["properties"] and "kind" in schema["properties"]:
                    schema["properties"][kept] = {"type": "object"}
        for value in schema.values():
            closed(value)
    elif isinstance(schema, list):
        for value in schema:
            closed(value)
    return schema


def test_a_moment_of_argo_is_a_date_on_the_schedule_s_clock(nightly: Callable[..., Schedule]) -> None:
    from jobs.commands import schedule as verb

    shanghai = nightly(target="argo", zone="Asia/Shanghai")
    assert verb._named("2026-11-23T18:00:00Z", shanghai) == [datetime(2026, 11, 24, 2, 0)]
    assert verb._named("2026-11-24", shanghai) == [datetime(2026, 11, 24, 2, 0)]


def test_an_airflow_dag_with_late_data_and_a_switch(nightly: Callable[..., Schedule]) -> None:
    text = airflow.dag(nightly({"walltime_min": 60}, target="airflow", max_wait_min=30, verdict_by="08:00"))
    compile(text, "dag", "exec")
    assert "timeout=1800" in text and 'task_id="data"' in text and "schedule ready faq" in text
    assert '"execution_timeout": timedelta(minutes=70)' in text and "Asset('duplet://faq/champion')" in text
    assert "dag_id='duplet_faq_check'" in text and "schedule='0 8 * * *'" in text


def test_every_target_looks_for_a_verdict(nightly: Callable[..., Schedule]) -> None:
    made = nightly({"kubernetes": {"claim": "c"}, "slurm": {"partition": "gpu"}}, verdict_by="08:30")
    night, look = cron.block(made).splitlines()[1:3]
    assert night.startswith("0 2 * * * ") and look.startswith("30 8 * * * ") and " schedule check faq " in look
    _, first, second = kubernetes_schedule.manifests(made)
    assert (first["spec"]["schedule"], second["spec"]["schedule"]) == ("0 2 * * *", "30 8 * * *")
    assert first["metadata"]["name"] != second["metadata"]["name"]
    kubernetes_validate.validate(yaml.safe_load(yaml.safe_dump(second)), "1.33", strict=True)
    _, first, second = argo.manifests(made.model_copy(update={"target": "argo"}))
    assert (first["spec"]["schedules"], second["spec"]["schedules"]) == (["0 2 * * *"], ["30 8 * * *"])
    [look] = second["spec"]["workflowSpec"]["templates"]
    assert look["container"]["command"][-2:] == ["check", "/etc/duplet/schedule.json"]
    assert [error.message for error in argo_schema().iter_errors(second)] == []
    script = slurm_schedule.script(made)
    assert "--job-name=duplet-check-faq" in script and "--partition=gpu" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "\n30 8 * * * " in slurm_schedule.scrontab_block(made)


def test_a_cron_workflow_has_one_pod(nightly: Callable[..., Schedule]) -> None:
    job = {"max_workers": 4, "workers_per_host": 2, "kubernetes": {"claim": "duplet", "cluster_account": "duplet"}}
    with pytest.raises(InputError, match=r"argo has one pod.*schedule on kubernetes or slurm"):
        argo.manifests(nightly(job, target="argo"))

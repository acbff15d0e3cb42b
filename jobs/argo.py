"""Schedules of the target argo: a CronWorkflow (argoproj.io/v1alpha1) with a container per stage, one after the other.

The first containers do the stages that they name, and cost nothing where these are up to date; the last one does what
is left, promotes and writes the verdict. Configuration and schedule are a ConfigMap, as of the target kubernetes.
"""

import json
from typing import Any

from jobs import kubernetes as pods
from jobs import kubernetes_schedule
from jobs.kubernetes_schedule import ALONE, command, config_map, resource_name
from jobs.schedule import PARTS, Schedule
from pipeline.core import naming

# the date, as Argo's {{workflow.scheduledTime}} has it, on the clock of the schedule's zone
DATE = "{{workflow.scheduledTime}}"
# keys of a pod's spec that a workflow has too, for all of its pods
WORKFLOWS = (
    "volumes", "securityContext", "serviceAccountName", "nodeSelector", "tolerations", "affinity", "imagePullSecrets",
    "hostAliases", "hostNetwork", "dnsPolicy", "dnsConfig", "schedulerName",
)  # fmt: skip


def manifests(schedule: Schedule) -> list[dict[str, Any]]:
    """ConfigMap and CronWorkflow, and a second one for `verdict_by`.

    Raises:
        InputError: the job takes more than one host, or has no claim.
    """
    job = schedule.job
    name = resource_name(schedule)
    config = config_map(schedule)
    labels = config["metadata"]["labels"]
    pod = pods.single_pod(job, name, labels, [])
    container, beside, template, rest = _parts(pod["spec"])
    steps = [(part.rpartition(",")[2], ["--stages", part]) for part in PARTS] + [("verdict", [])]
    templates: list[dict[str, Any]] = [{
        "name": "night",
        "steps": [[{"name": step, "template": step}] for step, _ in steps],
    }]  # fmt: skip
    for step, stages in steps:
        templates.append({
            "name": step,
            "metadata": {kind: pod["metadata"][kind] for kind in ("labels", "annotations") if kind in pod["metadata"]},
            **beside,
            "container": {**container, "name": "main", "command": [*command("run"), "--date", DATE, *stages]},
            # what is wrong with the input, or refused, is so the next time too
            "retryStrategy": {
                "limit": job.retries, "retryPolicy": "Always",
                "expression": "asInt(lastRetry.exitCode) not in [2, 3]",
                "backoff": {"duration": f"{max(1, round(job.pause_s))}s", "factor": 2, "cap": "10m"},
            },
            **({"activeDeadlineSeconds": 60 * job.walltime_min} if job.walltime_min else {}),
        })  # fmt: skip
    whole = {**template, "podSpecPatch": json.dumps(rest)}
    documents = [config, _cron_workflow(schedule, config["metadata"], schedule.cron, "night", templates, whole)]
    if schedule.check_cron:
        container = {**container, "name": "main", "command": command("check"), "resources": pods.SMALL}
        look = {"name": "check", "metadata": templates[1]["metadata"], **beside, "container": container}
        named = config["metadata"] | {"name": naming.within(f"{name}-check", 52)}
        documents.append(_cron_workflow(schedule, named, schedule.check_cron, "check", [look], whole))
    return documents


def _cron_workflow(
    schedule: Schedule, metadata: dict[str, Any], cron: str, entry: str, templates: list[dict[str, Any]],
    whole: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """One of these templates; `whole`: what a workflow has for all of its pods."""
    workflow = {
        "entrypoint": entry,
        "templates": templates,
        **whole,
        "automountServiceAccountToken": True,  # Argo's own container tells the controller how a step ended
        "ttlStrategy": {"secondsAfterCompletion": schedule.job.kubernetes.ttl_s},
        "podGC": {"strategy": "OnPodSuccess"},
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "CronWorkflow",
        "metadata": metadata,
        "spec": {
            "schedules": [cron],
            **({"timezone": schedule.zone} if schedule.zone else {}),
            **ALONE,
            "workflowSpec": workflow,
        },
    }


def _parts(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a pod's spec becomes: the main container; keys of a template; keys of the workflow; and all else, which
    Argo merges into each pod (podSpecPatch), such as the time that a pod is given to save."""
    [main_container] = [container for container in spec["containers"] if container["name"] == pods.ALONE]
    # Argo ends those that it knows as sidecars
    others = [container for container in spec["containers"] if container is not main_container]
    beside = {"sidecars": others, "initContainers": spec.get("initContainers")}
    known = {name: spec[name] for name in WORKFLOWS if name in spec}
    rest = {
        name: value
        for name, value in spec.items()
        if name not in (*WORKFLOWS, "containers", "initContainers", "automountServiceAccountToken")
    }
    return main_container, {name: value for name, value in beside.items() if value}, known, rest


def need() -> None:
    """Raises InputError where there is no kubectl."""
    pods.CLIENT.need("kubectl")


def install(schedule: Schedule) -> str:
    """Makes both objects, or brings those of the same name up to date; a refusal leaves things as they were."""
    kubernetes_schedule.apply(schedule, manifests(schedule))
    return f"CronWorkflow {schedule.job.kubernetes.namespace}/{resource_name(schedule)}"


def remove(schedule: Schedule) -> None:
    """Removes both; a night at work goes on no longer than its pod is given to save."""
    kubernetes_schedule.remove(schedule)

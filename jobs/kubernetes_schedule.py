"""Schedules of the target kubernetes: a CronJob whose job runs what is due in one pod, with all its workers.

Where the workers take several hosts, that pod makes an MPIJob of each night (`jobs.kubernetes_night`). The
configuration and the schedule are a ConfigMap; `concurrencyPolicy: Forbid` keeps two from running at once.
"""

from typing import Any

from jobs import kubernetes as pods
from jobs.schedule import CONFIG, SCHEDULE, Schedule
from jobs.spec import JobSpec
from pipeline.core import atomic_files, naming
from pipeline.core.errors import DupletError, InputError

MANIFEST = "schedule.yaml"
ALONE = {  # of a CronJob and of a CronWorkflow
    "concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 3600,
    "successfulJobsHistoryLimit": 7, "failedJobsHistoryLimit": 7,
}  # fmt: skip


def resource_name(schedule: Schedule) -> str:
    """Short enough for the names that a CronJob's jobs get."""
    return naming.within(f"duplet-{schedule.name}", 52)


def config_map(schedule: Schedule) -> dict[str, Any]:
    """Configuration and schedule as the pods see them.

    Raises:
        InputError: the job takes more than one host and the target or its account has none for it; there is no claim.
    """
    job = schedule.job
    several = f"workers_per_host={job.workers_per_host} makes {job.max_workers} workers take"
    if on_hosts(job) and schedule.target != "kubernetes":
        raise InputError(
            f"a scheduled run on {schedule.target} has one pod, and {several} {job.hosts(job.max_workers)}: leave it "
            "out, or schedule on kubernetes or slurm"
        )
    if on_hosts(job) and job.kubernetes.cluster_account is None:
        raise InputError(
            f"{several} {job.hosts(job.max_workers)} hosts, for which each night's pod makes an MPIJob: it needs "
            "kubernetes.cluster_account=NAME, a service account with the rights of configs/jobs/kubernetes_account.yaml"
        )
    inside = schedule.model_copy(update={"job": pods.spec_inside(job)})
    labels = {"app.kubernetes.io/name": "duplet", "duplet/schedule": schedule.name}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": resource_name(schedule), "namespace": job.kubernetes.namespace, "labels": labels},
        "data": {CONFIG: job.config_text, SCHEDULE: inside.model_dump_json(indent=1)},
    }


def on_hosts(job: JobSpec) -> bool:
    """Whether a job's workers take more than one host."""
    return job.hosts(job.max_workers) > 1


def command(action: str) -> list[str]:
    """That of a pod for an action of `duplet schedule`."""
    return [pods.PYTHON, "-P", "-m", "pipeline.cli", "schedule", action, f"{pods.GIVEN}/{SCHEDULE}"]


def manifests(schedule: Schedule) -> list[dict[str, Any]]:
    """ConfigMap and CronJob, and a second one for `verdict_by`. Raises as `config_map`."""
    job, config = schedule.job, config_map(schedule)
    metadata = config["metadata"]
    name, labels = metadata["name"], metadata["labels"]
    if on_hosts(job):
        pods.manifests(schedule.job)  # refuses what no night could be made of
    template = (pods.night_pod if on_hosts(job) else pods.single_pod)(job, name, labels, command("run"))
    template["spec"]["restartPolicy"] = "Never"
    run: dict[str, Any] = {
        "backoffLimit": job.retries,
        "ttlSecondsAfterFinished": job.kubernetes.ttl_s,
        # what is wrong with the input, or not better than the champion, is so the next time too
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3]}}]},
        "template": template,
    }
    if job.walltime_min is not None and not on_hosts(job):  # else it is the MPIJob's, which may wait for room before
        run["activeDeadlineSeconds"] = job.walltime_min * 60
    documents = [config, _cron_job(schedule, metadata, schedule.cron, run)]
    if schedule.check_cron:
        check = pods.single_pod(job, name, labels, command("check"))
        check["spec"]["restartPolicy"] = "Never"
        check["spec"]["containers"][0]["resources"] = pods.SMALL
        named = metadata | {"name": naming.within(f"{name}-check", 52)}
        # it ends with 1 where there is no verdict, and has said so
        once = {"backoffLimit": 0, "ttlSecondsAfterFinished": job.kubernetes.ttl_s, "template": check}
        documents.append(_cron_job(schedule, named, schedule.check_cron, once))
    return documents


def _cron_job(schedule: Schedule, metadata: dict[str, Any], cron: str, run: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata,
        "spec": {
            "schedule": cron,
            **({"timeZone": schedule.zone} if schedule.zone else {}),
            **ALONE,
            "jobTemplate": {"metadata": {"labels": metadata["labels"]}, "spec": run},
        },
    }


def install(schedule: Schedule) -> str:
    """Makes the objects, or brings those of the same name up to date; a refusal leaves things as they were."""
    apply(schedule, manifests(schedule))
    return f"CronJob {schedule.job.kubernetes.namespace}/{resource_name(schedule)}"


def apply(schedule: Schedule, documents: list[dict[str, Any]]) -> None:
    """Hands objects over, and keeps them in the schedule's folder, by which `remove` knows them."""
    path = schedule.folder / MANIFEST
    before = path.read_text(encoding="utf-8") if path.exists() else None
    atomic_files.write_text(path, pods.as_yaml(documents))
    try:
        pods.kubectl(schedule.job, "apply", "--filename", str(path))
    except DupletError as error:
        if before is None:
            pods.taken_back(schedule.job, error, "--filename", str(path))
        else:
            atomic_files.write_text(path, before)
            pods.kubectl(schedule.job, "apply", "--filename", str(path))
        raise


def remove(schedule: Schedule) -> None:
    """Removes both; a run at work goes on no longer than its pod is given to save."""
    path = schedule.folder / MANIFEST
    pods.kubectl(schedule.job, "delete", "--ignore-not-found", "--filename", str(path))

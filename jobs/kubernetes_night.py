"""A night on several hosts of a cluster: its pod makes an MPIJob of the date's job, waits for it, and judges the model.

The night's pod waits for the data, checks it, promotes, tells people and tidies up, as on any target; the MPIJob's
launcher and workers do the stages, in the same folder on the shared volume, where the launcher's supervisor writes how
it stands. The CronJob's Job owns the MPIJob, which owns its ConfigMap: they go together. A night's pod that is started
again finds the MPIJob at work and goes on waiting.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from jobs import folder as folders
from jobs import kubernetes, pod_api
from jobs.pod_api import Api
from jobs.spec import JobSpec
from jobs.supervise import WAITING
from jobs.targets import ENDED, UNANSWERED_S
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.progress import Say

Answer = TypeVar("Answer")
LOOK_S = 15.0
STATE_LOOKS = 8  # at the state that a launcher left, which a shared file system may show late: two minutes
GONE_LOOKS = 40  # at an MPIJob of an earlier try that is being removed: ten minutes


def train(job: JobSpec, say: Say, pause: Callable[[float], None] = time.sleep) -> int:
    """Does a date's job as an MPIJob; returns its exit code, and leaves the reason in the state of the job's folder.

    Raises:
        InputError: this is no pod with an account, or the account may not do it.
        TryAgain: the API does not answer for more than an hour.
    """
    api = pod_api.inside()
    if api is None:
        raise InputError(
            f"{job.id} takes {job.hosts(job.max_workers)} hosts of a cluster, and only its CronJob's pod can ask for "
            f"them: `kubectl --namespace={job.kubernetes.namespace} get cronjobs` shows which, and "
            "`kubectl create job --from=cronjob/NAME again` starts it now"
        )
    name = kubernetes.resource_name(job)
    found = _patiently(lambda: api.get(f"mpijobs/{name}"), pause)
    if found is not None and _ended(found):
        _removed(api, name, pause)
        found = None
    if found is None:
        _note(job, WAITING, f"as MPIJob {name}")
        _patiently(lambda: _make(api, job), pause)
        say(f"MPIJob {name} takes {job.hosts(job.max_workers)} hosts")
    else:
        say(f"MPIJob {name} is there already: waiting for it")
    return _waited(api, job, name, pause)


def _make(api: Api, job: JobSpec) -> dict[str, Any]:
    """The MPIJob, owned by this night's Job, with its ConfigMap; one that is there already will do."""
    config, mpijob = kubernetes.manifests(job)
    owner, uid = (os.environ.get(variable) for variable in kubernetes.OWNER)
    if owner and uid:
        mpijob["metadata"]["ownerReferences"] = [
            {"apiVersion": "batch/v1", "kind": "Job", "name": owner, "uid": uid}
        ]  # fmt: skip
    name = mpijob["metadata"]["name"]
    made = api.create("mpijobs", mpijob) or api.get(f"mpijobs/{name}")
    if made is None:
        raise TryAgain(f"MPIJob {name} was removed while it was made")
    config["metadata"]["ownerReferences"] = [
        {"apiVersion": mpijob["apiVersion"], "kind": "MPIJob", "name": name, "uid": made["metadata"]["uid"]}
    ]  # fmt: skip
    api.create("configmaps", config)
    return made


def _removed(api: Api, name: str, pause: Callable[[float], None]) -> None:
    """Takes away what an earlier try of this date has left. Raises TryAgain where it does not go."""
    names = [f"mpijobs/{name}", f"configmaps/{name}"]
    for _ in range(GONE_LOOKS):
        names = [what for what in names if _patiently(partial(api.get, what), pause) is not None]
        if not names:
            return
        for what in names:
            _patiently(partial(api.delete, what), pause)
        pause(LOOK_S)
    raise TryAgain(f"{names[0]} of an earlier try is still there: try again later")


def _waited(api: Api, job: JobSpec, name: str, pause: Callable[[float], None]) -> int:
    """The exit code, when the MPIJob has ended or is gone."""
    while True:
        found = _patiently(lambda: api.get(f"mpijobs/{name}"), pause)
        if found is None or _ended(found):
            break
        pause(LOOK_S)
    for _ in range(STATE_LOOKS):
        state = folders.load(job.folder).state()
        if state.get("state") in ENDED:
            return int(state.get("exit_code") or 0)
        pause(LOOK_S)
    if found is None:
        return _note(job, "failed", f"MPIJob {name} was removed before its end", TryAgain.exit_code)
    failed = kubernetes.conditions_of(found).get("Failed", {})
    late = "DeadlineExceeded" in f"{failed.get('reason')} {failed.get('message')}"
    reason = "wall time reached" if late else failed.get("message") or "its launcher did not say how it ended"
    return _note(job, "failed", f"MPIJob {name}: {reason}", TryAgain.exit_code if late else DupletError.exit_code)


def _ended(mpijob: dict[str, Any]) -> bool:
    return bool({"Succeeded", "Failed"} & kubernetes.conditions_of(mpijob).keys())


def _note(job: JobSpec, state: str, reason: str, code: int | None = None) -> int:
    """Writes how the job stands where its own supervisor has not, or not yet; the exit code."""
    noted = folders.load(job.folder).state() | {"state": state, "reason": reason, "exit_code": code}
    folders.write_state(job.folder, noted)
    return code or 0


def _patiently(ask: Callable[[], Answer], pause: Callable[[float], None]) -> Answer:
    """Asks until there is an answer. Raises TryAgain after more than an hour without one."""
    left = UNANSWERED_S
    while True:
        try:
            return ask()
        except TryAgain:
            if left <= 0:
                raise
        pause(LOOK_S)
        left -= LOOK_S

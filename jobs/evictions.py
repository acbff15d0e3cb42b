"""A worker's pod of an MPIJob that is gone, evicted say: whether a start failed because of it, and its coming back.

The MPI operator makes a pod anew that is not there, and leaves one that has failed as it is: this deletes it. Where the
launcher's pod has no service account to ask with (`kubernetes.cluster_account`), nothing is known of other pods.
"""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jobs import pod_api
from jobs.pod_api import Api
from jobs.spec import JobSpec
from pipeline.core.errors import DupletError
from pipeline.core.progress import Say

LOOK_S, LOOKS = 5.0, 4  # between two looks; how often, before a failure was not a pod's: a node tells of it late
FAILED = "Failed"


class Pods(NamedTuple):
    """The workers' pods at a start: name -> identity. A pod that is made anew has the name and another identity."""

    api: Api
    job: str
    hosts: int
    before: dict[str, str]

    def are_lost(self) -> bool:
        """Whether one of these pods is gone, going, or not ready any more."""
        for look in range(LOOKS):
            with contextlib.suppress(DupletError):
                now = self._there()
                ready = {name: pod["metadata"]["uid"] for name, pod in now.items() if is_ready(pod)}
                if len(self.before) < self.hosts or any(ready.get(name) != uid for name, uid in self.before.items()):
                    return True
            if look < LOOKS - 1:
                time.sleep(LOOK_S)
        return False

    def wait(self, say: Say, stopped: Callable[[], bool]) -> None:
        """Deletes the pods that have failed and returns when all workers' pods are ready, or a signal came."""
        told: set[str] = set()
        while not stopped():
            with contextlib.suppress(DupletError):
                now = self._there()
                for name, pod in now.items():
                    if pod.get("status", {}).get("phase") == FAILED and "deletionTimestamp" not in pod["metadata"]:
                        status = pod["status"]
                        reason = " ".join(filter(None, [status.get("reason"), status.get("message")])) or FAILED
                        if name not in told:
                            say(f"pod {name} is deleted, so that the MPI operator makes it anew ({reason})")
                        told.add(name)
                        self.api.delete(f"pods/{name}")
                if sum(map(is_ready, now.values())) >= self.hosts:
                    say("all workers' pods are ready")
                    return
            time.sleep(LOOK_S)

    def _there(self) -> dict[str, dict[str, Any]]:
        return workers(self.api, self.job)


def seen(spec: JobSpec, say: Say) -> Pods | None:
    """The pods of a job's workers now; None outside of a launcher's pod, and where it may not ask."""
    api = pod_api.inside() if "DUPLET_LAUNCHER" in os.environ else None
    if api is None:
        return None
    try:
        before = {name: pod["metadata"]["uid"] for name, pod in workers(api, spec.id).items() if is_ready(pod)}
    except DupletError as error:
        say(f"warning: a worker's pod that is evicted from now on is not made anew: {error}")
        return None
    return Pods(api, spec.id, spec.hosts(spec.max_workers), before)


def workers(api: Api, job: str) -> dict[str, dict[str, Any]]:
    """A job's workers' pods by name. Raises InputError or TryAgain."""
    return {pod["metadata"]["name"]: pod for pod in api.labelled("pods", duplet_job=job, duplet_role="worker")}


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod's containers can be talked to, and will be for now."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]

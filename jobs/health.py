"""Bad nodes of SLURM: looked for before ranks start, left out, and SLURM told so when the job is requeued.

Every node of the allocation does the checks of `jobs.node_check` at once; `jobs.bad_nodes` says which of them is bad.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.bad_nodes import NODES, judged, keep, known
from jobs.node_check import MARK, PATIENCE_S
from jobs.spec import JobSpec
from pipeline.core.errors import one_line
from pipeline.core.progress import Say

ANSWER_S = PATIENCE_S + 60.0  # for all nodes: srun itself takes a while
TRIES, PAUSE_S = 5, 1.0  # of telling SLURM; a script that is requeued has some seconds left


def look(folder: Path, spec: JobSpec, say: Say) -> dict[str, str]:
    """Looks at the nodes of this allocation; those that are to be left out from now on, each with the reason.

    Outside of SLURM, and where the job wants no check, there are none. What it finds is kept in the job's folder.
    """
    if not spec.slurm.health.exclude_at_most or "SLURM_JOB_ID" not in os.environ or not shutil.which("srun"):
        return {}
    before, (found, problem) = known(folder), _asked(spec)
    if not found:
        say(f"warning: the nodes were not looked at ({problem})")
        return {}
    now, bad = judged(before, found)
    for check in sorted({*now.own} - {*before.own}):
        why = next(checks[check] for checks in found.values() if checks.get(check))
        say(f"warning: the check {check} fails wherever the job runs, so it is no node's fault ({why})")
    for node in sorted({*before.excluded} - {*now.excluded}):
        say(f"node {node} is no longer left out")
    new = _admitted(spec, {*now.excluded}, {node: why for node, why in bad.items() if node not in now.excluded}, say)
    given = before.given if (folder / NODES).exists() else _excluded_by_slurm()
    keep(folder, now._replace(given=given, excluded={**now.excluded, **new}))
    return new


def _admitted(spec: JobSpec, excluded: set[str], bad: dict[str, str], say: Say) -> dict[str, str]:
    """Those of the bad nodes that are to be left out, within what the job allows and its partition has."""
    most = spec.slurm.health.exclude_at_most
    new = dict(sorted(bad.items())[: max(0, most - len(excluded))])
    lack = _too_few(spec, {*excluded, *new}) if new else ""
    if lack:
        new = {}
    for node, why in sorted(bad.items()):
        if node in new:
            say(f"node {node} is left out from now on ({why})")
        else:
            because = lack or f"slurm.health.exclude_at_most={most} nodes are left out already"
            say(f"warning: node {node} is bad ({why}) and is not left out: {because}")
    return new


def _asked(spec: JobSpec) -> tuple[dict[str, dict[str, str]], str]:
    """What each node of the allocation finds; empty with the reason where none could be asked."""
    hosts = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    per_host = spec.workers_per_host or spec.max_workers
    command = slurm.checking(spec, hosts, per_host * spec.gpus_per_worker)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        return {}, str(error.strerror)
    try:
        said, errors = process.communicate(timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # srun ends its tasks; those of a node that hangs are SLURM's to end
        try:
            said, errors = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            said, errors = process.communicate()
    found: dict[str, dict[str, str]] = {}
    for line in said.splitlines():
        if line.startswith(MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
            found[answer["node"]] = {**answer["found"], "answer": ""}
    if found:  # a node that says nothing is bad where others answer
        for node in _names():
            found.setdefault(node, {"answer": f"none within {ANSWER_S:.0f} s"})
    return found, one_line(errors) or "no node answered"


def _names() -> list[str]:
    """The nodes of this allocation."""
    return _scontrol("show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")).split()


def _too_few(spec: JobSpec, without: set[str]) -> str:
    """Why the job could not run without these nodes; "" where it could, or nobody can tell."""
    partition = os.environ.get("SLURM_JOB_PARTITION")
    if not partition or not shutil.which("sinfo"):
        return ""
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N"], capture_output=True, text=True
    )
    there = {*done.stdout.split()}
    needed = -(-spec.min_workers // (spec.workers_per_host or spec.max_workers))
    if done.returncode or len(there - without) >= needed:
        return ""
    return f"the job needs {needed} nodes, and partition {partition} would have {len(there - without)}"


def _excluded_by_slurm() -> str:
    """The nodes that the job was submitted without."""
    said = _scontrol("--oneliner", "show", "job", os.environ["SLURM_JOB_ID"])
    fields = dict(word.split("=", 1) for word in said.split() if "=" in word)
    listed = fields.get("ExcNodeList", "(null)")
    return "" if listed == "(null)" else listed


def _scontrol(*arguments: str) -> str:
    if not shutil.which("scontrol"):
        return ""
    done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def requeued(folder: Path, job: str) -> str:
    """Puts a job back into SLURM's queue, without the nodes that are left out; what went wrong, "" where nothing did.

    SLURM changes the list of a job only while that waits, and ends this very process when it queues the job again. So
    the signal to end is ignored, which the commands inherit, and the list follows at once: a requeued job begins after
    a while, and SLURM kills what ignores its signal after KillWait (30 s by default).
    """
    nodes = known(folder)
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode or not (nodes.excluded or nodes.own):
            return f"not queued again ({done.stderr.strip()})" if done.returncode else ""
        for _ in range(TRIES):
            update = ["scontrol", "update", f"JobId={job}", f"ExcNodeList={nodes.nodes}"]
            done = subprocess.run(update, capture_output=True, text=True)
            if done.returncode == 0:
                return ""
            time.sleep(PAUSE_S)
        return f"the bad nodes are not left out: {done.stderr.strip()}"
    finally:
        signal.signal(signal.SIGTERM, handler)

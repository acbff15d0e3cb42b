"""What happens on a schedule's dates: which are due, one at a time, and what became of each.

On a date the configuration's `{date}` and `{time}` are filled in, the job runs under the supervisor, and `duplet
promote` decides whether its model replaces the champion. What is not new costs nothing: a stage whose inputs are the
same is up to date.
"""

import contextlib
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from jobs import data_checks, dates, kubernetes_night, messages, on_cluster, waiting
from jobs import folder as folders
from jobs import spec as specs
from jobs.schedule import CONFIG, LOCK, STAMP, VERDICTS, Schedule, with_spare
from jobs.spec import JobSpec
from jobs.supervise import Supervisor, holding
from pipeline.config import Config, load_config, variables
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, GateError, InputError, TryAgain
from pipeline.core.progress import Say
from pipeline.core.redaction import hide
from pipeline.distributed import job_folder, launcher
from pipeline.tracking import address

OWED = timedelta(days=7)  # how long a date is tried again that began and was not done
UNCHECKED = "DUPLET_UNCHECKED"  # set where a person takes the data as it is
BEGAN = "began, and was killed or is at work"  # the word on a date until there is another
BY_ITSELF = "it is looked for again on the next dates"
# Each date of these is a run of their own, which people do again there: no later night does it as well.
DO_AGAIN = {
    "airflow": "when it is there, clear the failed task in Airflow",
    "argo": "when it is there, submit the date again with `argo submit --scheduled-time`",
}


class Verdict(NamedTuple):
    """What became of a date; `due` in STAMP's form, `metrics` of the test split. With exit code 75 it stays due."""

    due: str
    job: str
    exit_code: int
    reason: str
    seconds: float
    metrics: dict[str, float]
    by_hand: bool = False  # of a date that was named: says nothing of the dates before it
    restarts: int = 0  # of the training

    @property
    def owed(self) -> bool:
        """Whether the date came by itself and is still to be done."""
        return self.exit_code == TryAgain.exit_code and not self.by_hand


def verdicts(folder: Path) -> list[Verdict]:
    """The last word on each date so far, in the order of writing; a line cut short by a full disk is left out."""
    by_due: dict[str, Verdict] = {}
    try:
        for line in (folder / VERDICTS).read_text(encoding="utf-8").splitlines():
            try:
                verdict = Verdict(**json.loads(line))
                before = by_due.pop(verdict.due, verdict)
                by_due[verdict.due] = verdict._replace(by_hand=verdict.by_hand and before.by_hand)
            except (ValueError, TypeError):
                continue
    except FileNotFoundError:
        pass
    return list(by_due.values())


def note(folder: Path, verdict: Verdict) -> None:
    """Adds a line to the verdicts; on a full disk in the room that was kept for it. Raises OSError."""
    line = json.dumps(verdict._asdict())
    with_spare(folder, lambda: atomic_files.add_line(folder / VERDICTS, line))


def pending(schedule: Schedule, done: list[Verdict], now: datetime) -> list[datetime]:
    """The dates to work on now, oldest first: all since the last one that came by itself, or only the newest.

    To these come the dates of a week that began and are still to be done. A date that was run by hand is not run
    again, and says nothing of others.
    """
    by_itself = [datetime.strptime(verdict.due, STAMP) for verdict in done if not verdict.by_hand]
    due_dates = dates.due(schedule.cron, max([schedule.start, *by_itself]), now)
    owed = {datetime.strptime(verdict.due, STAMP) for verdict in done if verdict.owed}
    ended = {verdict.due for verdict in done if verdict.exit_code != TryAgain.exit_code}
    newest = due_dates if schedule.missed == "catch_up" else due_dates[-1:]
    wanted = {*newest, *(when for when in owed if now - OWED <= when <= now)}
    return sorted(when for when in wanted if f"{when:{STAMP}}" not in ended)


@contextmanager
def alone(schedule: Schedule, say: Say) -> Iterator[None]:
    """Holds the schedule's lock.

    Raises:
        TryAgain: an earlier run is still at work, and the schedule says not to wait.
    """
    try:
        file = atomic_files.owned(schedule.folder / LOCK)
    except BlockingIOError:
        if schedule.overlap == "leave":
            raise TryAgain(
                f"schedule {schedule.name}: an earlier run is not finished, so this one is skipped (overlap: leave)"
            ) from None
        say(f"an earlier run of {schedule.name} is still at work: waiting for it")
        file = atomic_files.owned(schedule.folder / LOCK, math.inf)
    with file:
        yield


class Stopped(TryAgain):
    """A signal stopped the work on a date; another start goes on with it."""


def run(schedule: Schedule, by_hand: list[datetime] | None, say: Say) -> list[Verdict]:
    """Works on the dates given by hand, or on all that are due.

    Raises:
        TryAgain: another run is at work; a signal stopped this one: the date stays due.
        DupletError or a subclass: what became of the last date, where it did not end well. GateError: not promoted.
    """
    with alone(schedule, say):
        due_dates = by_hand if by_hand is not None else pending(schedule, verdicts(schedule.folder), schedule.now())
        if not due_dates:
            say(f"nothing is due before {dates.following(schedule.cron, schedule.now()):%Y-%m-%d %H:%M}")
        done = []
        for when in due_dates:
            began = Verdict(f"{when:{STAMP}}", dated_id(schedule, when), TryAgain.exit_code, BEGAN, 0.0, {})
            began = began._replace(by_hand=by_hand is not None)
            note(schedule.folder, began)
            done.append(_verdict(schedule, when, began, by_hand is None and when == due_dates[-1], say))
            note(schedule.folder, done[-1])
            say(f"{schedule.name} {done[-1].due}: {done[-1].reason} (exit {done[-1].exit_code})")
            _tell(schedule, when, done[-1], say)
    if done and done[-1].exit_code:
        raise launcher.ERRORS.get(done[-1].exit_code, DupletError)(f"{done[-1].due}: {done[-1].reason}")
    return done


def ready(schedule: Schedule, when: datetime, say: Say) -> None:
    """Looks whether a date's data is there. Raises Late where it is not."""
    job = dated(schedule, when, None)
    waiting.wait(checked(job).nights.wait_for, Path(job.cwd), False, say, time.sleep)


def part(schedule: Schedule, when: datetime, verb: str, say: Say) -> None:
    """Does the first stages of a date, up to a verb's; `run` does the rest and gives the verdict.

    Raises:
        DupletError: how they ended, where not well. GateError: the data is not like that of the nights before it.
    """
    with alone(schedule, say):
        job, config = _begun(schedule, when, True, True, say)
        if verb == "train":
            began = Verdict(f"{when:{STAMP}}", job.id, TryAgain.exit_code, BEGAN, 0.0, {}, by_hand=True)
            if refusal := _refused_data(schedule, began, job, config, say):
                refused = began._replace(exit_code=GateError.exit_code, reason=refusal)
                note(schedule.folder, refused)
                _tell(schedule, when, refused, say)
                raise GateError(refusal)
        _, code = _supervised(job, when, verb)
        if code:
            reason = str(folders.load(job.folder).state().get("reason", ""))
            raise launcher.ERRORS.get(code, DupletError)(f"{when:{STAMP}}: {reason}")


def _verdict(schedule: Schedule, when: datetime, began: Verdict, patient: bool, say: Say) -> Verdict:
    """What becomes of a date. Raises Stopped."""
    start = time.monotonic()
    try:
        verdict = _one(schedule, when, began, patient, say)
    except Stopped:
        raise
    except DupletError as error:
        verdict = began._replace(exit_code=error.exit_code, reason=hide(str(error)))
    return verdict._replace(seconds=round(time.monotonic() - start, 1))


def _tell(schedule: Schedule, when: datetime, verdict: Verdict, say: Say) -> None:
    """Puts a message into the spool where the night was not normal; it is sent when all dates are done."""
    job, config = dated(schedule, when, None), None
    with contextlib.suppress(DupletError):
        config = checked(job)
    normal = verdict.exit_code == 0 and not verdict.restarts
    if normal and not (config and config.nights.messages.normal_too):
        return
    restarts = f"; the training was started again {verdict.restarts} times" if verdict.restarts else ""
    try:
        messages.add(schedule, verdict.due, verdict.exit_code, verdict.reason + restarts, job, config)
    except OSError as error:
        say(f"warning: nobody is told of {verdict.due}, since the message could not be kept ({error.strerror})")


def words(folder: Path) -> dict[str, str]:
    """The dates that have a word: "" where it is a verdict, else why it is none."""
    return {
        verdict.due: BEGAN if verdict.exit_code == 75 and verdict.reason == BEGAN else ""
        for verdict in verdicts(folder)
    }


def dated_id(schedule: Schedule, when: datetime) -> str:
    """The id of a date's job."""
    return f"{schedule.name}-{when:%Y%m%d-%H%M}"


def dated(schedule: Schedule, when: datetime, start_from: str | None) -> JobSpec:
    """The job of one date."""
    overrides = [dates.fill(override, when) for override in schedule.job.overrides]
    if start_from is not None:
        overrides.append(f"train.start_from={json.dumps(variables.escaped(start_from))}")
    return schedule.job.model_copy(
        update={
            "id": dated_id(schedule, when),
            "target": "local",  # wherever it runs, its supervisor is there
            "config_text": dates.fill(schedule.job.config_text, when),
            "overrides": tuple(overrides),
        }
    )


def place(job: JobSpec) -> None:
    """Makes the folder of a date's job. One that was stopped goes on as it was; one that has ended is done anew."""
    if not (job.folder / specs.SPEC).exists():
        folders.create(job, {specs.CONFIG: job.config_text})
        return
    state = folders.load(job.folder).state()
    if state.get("state") in ("finished", "failed") and state.get("exit_code") != TryAgain.exit_code:
        atomic_files.write_text(job.folder / specs.CONFIG, job.config_text)
        atomic_files.write_text(job.folder / specs.SPEC, job.model_dump_json(indent=1))


def _begun(
    schedule: Schedule, when: datetime, by_hand: bool, patient: bool, say: Say
) -> tuple[JobSpec, Config]:  # fmt: skip
    """Waits for a date's data and makes its job's folder. Raises DupletError."""
    job = dated(schedule, when, None)
    config = checked(job)
    try:
        waiting.wait(config.nights.wait_for, Path(job.cwd), patient, say, time.sleep)
    except waiting.Late as error:
        again = DO_AGAIN.get(schedule.target, "run the date again when it is there") if by_hand else BY_ITSELF
        raise waiting.Late(f"{error}; {again}") from None
    if schedule.start_from == "champion":
        job = dated(schedule, when, _champion(schedule, say))
    place(job)
    return job, config


def _one(schedule: Schedule, when: datetime, began: Verdict, patient: bool, say: Say) -> Verdict:
    """Waits for the data, trains and promotes. Raises DupletError."""
    job, config = _begun(schedule, when, began.by_hand, patient, say)
    say(f"{schedule.name} {when:{STAMP}}: job {job.id} (log: {job.folder / folders.LOG})")
    if refusal := _refused_data(schedule, began, job, config, say):
        return began._replace(exit_code=GateError.exit_code, reason=refusal)
    code, restarts = _trained(schedule, job, when, say)
    reason = str(folders.load(job.folder).state().get("reason", ""))
    metrics: dict[str, float] = {}
    if code == 0:
        reason = "done"
        if schedule.promote:
            _catch_up_tracking(job)
            code, reason, metrics = _promote(job)
        if code in (0, GateError.exit_code):
            _keep_profile(schedule, began.due, job, config, say)
    return began._replace(exit_code=code, reason=reason, metrics=metrics, restarts=max(0, restarts))


def _trained(schedule: Schedule, job: JobSpec, when: datetime, say: Say) -> tuple[int, int]:
    """Does all stages of a date; the exit code, and how often the training was started again. Raises DupletError."""
    if schedule.target == "kubernetes" and job.hosts(job.max_workers) > 1:
        before = len(folders.load(job.folder).state().get("restarts", []))
        code = kubernetes_night.train(job, say)
        return code, len(folders.load(job.folder).state().get("restarts", [])) - before
    supervisor, code = _supervised(job, when)
    return code, len(supervisor.failures) - (code != 0)


def _supervised(job: JobSpec, when: datetime, verb: str | None = None) -> tuple[Supervisor, int]:
    """Runs a date's job, or the stages up to a verb's. Raises Stopped where a signal ended it."""
    workers = on_cluster.workers(job) if "DUPLET_LAUNCHER" in os.environ else None
    with holding(job.folder):
        supervisor = Supervisor(job.folder, workers, verb)
        code = supervisor.run()
    if code == TryAgain.exit_code and supervisor.signals:
        on_cluster.go_on(job.folder, os.environ.get("SLURM_JOB_ID"), supervisor.left_out)
        raise Stopped(f"{when:{STAMP}}: {folders.load(job.folder).state().get('reason', '')}")
    return supervisor, code


def _refused_data(schedule: Schedule, began: Verdict, job: JobSpec, config: Config, say: Say) -> str:
    """Why a night's data is refused, "" where it is not: before training, beside that of the good nights before it.

    Raises:
        DupletError: the data cannot be read.
    """
    settings = config.nights.checks
    if not settings.nights or UNCHECKED in os.environ:
        return ""
    before = data_checks.kept(schedule.folder, began.due, settings.nights)
    if len(before) < settings.least_nights:
        say(f"the data passes unchecked: {len(before)} good nights before it, and {settings.least_nights} are needed")
        return ""
    _, code = _supervised(job, datetime.strptime(began.due, STAMP), "tokenize")
    if code:
        reason = str(folders.load(job.folder).state().get("reason", ""))
        raise launcher.ERRORS.get(code, DupletError)(reason)
    rows = data_checks.compare(data_checks.profile(config, *_data(job)), before, settings)
    data_checks.show(rows, len(before), job.folder, address(config.tracking.uri, Path(job.root)), config, say)
    if not (outside := data_checks.sentence(rows)):
        return ""
    state = folders.load(job.folder).state() | {"state": "failed", "reason": outside, "exit_code": GateError.exit_code}
    folders.write_state(job.folder, state)
    return (
        f"the data is not like that of the last {len(before)} good nights: {outside}; not trained, the champion stays"
    )


def _data(job: JobSpec) -> tuple[Path, Path]:
    """The folders of a job's records and ids. Raises InputError."""
    keys = job_folder.read(job.folder, job_folder.STAGES)
    if not {"ingest", "tokenize"} <= keys.keys():
        raise InputError(f"{job.folder} does not say what its data is")
    return Path(job.root) / "ingest" / keys["ingest"], Path(job.root) / "tokenize" / keys["tokenize"]


def _keep_profile(schedule: Schedule, due: str, job: JobSpec, config: Config, say: Say) -> None:
    """Notes what the data of a good night was like; a night is not lost to that."""
    try:
        data_checks.keep(schedule.folder, due, data_checks.profile(config, *_data(job)))
    except (DupletError, OSError) as error:
        say(f"warning: the data of this night cannot be compared with that of later ones ({error})")


def checked(job: JobSpec) -> Config:
    """The configuration of a date's job. Raises InputError."""
    with tempfile.TemporaryDirectory(prefix="duplet-") as folder:
        path = Path(folder) / f"{job.name}.yaml"
        path.write_text(job.config_text, encoding="utf-8")
        return load_config(path, job.settings(job.max_workers))


def _catch_up_tracking(job: JobSpec) -> None:
    """Sends what MLflow did not take before: a training that it does not know cannot be promoted."""
    if any(Path(job.root).glob("tracking/*/journal.jsonl")):
        _cli(job, "sync", "--root", job.root)


def _cli(job: JobSpec, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Runs `duplet`, what it says in the job's log."""
    command = [job.python, "-P", "-m", "pipeline.cli", *words]
    with (job.folder / folders.LOG).open("ab") as log:
        done = subprocess.run(
            command, cwd=job.cwd, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **launcher.paths()}
        )
        log.write(done.stdout)
    return done


def _promote(job: JobSpec) -> tuple[int, str, dict[str, float]]:
    """Asks `duplet promote`; exit code, its sentence, and the new version's metrics."""
    settings = [s for s in job.settings(job.max_workers) if not s.startswith("train.workers=")]
    done = _cli(job, "promote", str(job.folder / specs.CONFIG), *settings, "--json")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        answer = json.loads(lines[-1])
    except (ValueError, IndexError):
        return done.returncode or 1, f"promote ended without a message: see {job.folder / folders.LOG}", {}
    rows = answer.get("metrics", {})
    metrics = {name: row["version"] for name, row in rows.items() if isinstance(row.get("version"), int | float)}
    before = "promoted" if done.returncode == 0 else "not promoted"
    return done.returncode, f"{before}: {answer.get('reason') or answer.get('error', '')}", metrics


def _champion(schedule: Schedule, say: Say) -> str | None:
    """The trained folder of the registered champion, where there is one."""
    from pipeline.registry import mlflow_registry

    job = schedule.job
    config = load_config(schedule.folder / CONFIG, job.settings(job.max_workers))
    known = mlflow_registry.Registry(address(config.tracking.uri, Path(job.root)), config.promote.name)
    try:
        champion = known.champion()
    except InputError:  # before the first run there is no database
        champion = None
    folder = Path(job.root) / "train" / (champion.tags.get(mlflow_registry.TRAINED, "") if champion else "")
    if champion is None:
        say("there is no champion yet: training from scratch")
    elif (folder / manifest.NAME).exists():
        say(f"training goes on from {champion} ({folder})")
        return str(folder)
    else:
        say(f"the folder of {champion} is gone ({folder}): training from scratch")
    return None

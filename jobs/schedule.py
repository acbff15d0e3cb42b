"""A schedule: a job's description with a cron expression, and what happens on each of its dates.

Its folder is ROOT/schedules/NAME: `schedule.json`, `verdicts.jsonl` with a line per date, `lock`, `log`. NAME is the
configuration's with a hash of root and path, so that no two share a crontab's part, a DAG or a CronJob. On a date the
configuration's `{date}` and `{time}` are filled in, the job runs under the supervisor, and `duplet promote` decides
whether its model replaces the champion. What is not new costs nothing: a stage whose inputs are the same is up to date.
"""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pydantic
from pydantic import Field

from jobs import dates, on_cluster, zones
from jobs import folder as folders
from jobs import spec as specs
from jobs.spec import JobSpec
from jobs.supervise import Supervisor, holding
from jobs.texts import shell
from pipeline.config import Settings, load_config, variables
from pipeline.core import atomic_files, manifest, naming
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.distributed import launcher

SCHEDULE, CONFIG, VERDICTS, LOCK, LOG = "schedule.json", "config.yaml", "verdicts.jsonl", "lock", "log"
ENVIRONMENT = "environment.json"
OWN = (SCHEDULE, CONFIG, ENVIRONMENT)
STAMP = "%Y-%m-%dT%H:%M"
LONGEST_NAME = 40  # with what the targets and a date add, within the 52 characters of a CronJob's name
Say = Callable[[str], None]


class Schedule(Settings):
    """A schedule, whole."""

    format: Literal[1] = 1
    name: str = Field(pattern=specs.ID.pattern.join("^$"))
    cron: str
    target: Literal["cron", "slurm", "kubernetes", "airflow"]
    missed: Literal["skip", "catch_up"] = "skip"  # dates on which the machine was off, or the run before still at work
    overlap: Literal["leave", "wait"] = "leave"  # when the run of an earlier date is still at work: exit 75, or wait
    start_from: Literal["scratch", "champion"] = "scratch"
    promote: bool = True  # through the gate of the configuration's section promote
    zone: str | None = None  # IANA name: its clock says when a date is; None: this machine's (before zones were kept)
    created: str  # ISO time with an offset: dates before it are not missed
    job: JobSpec

    @property
    def folder(self) -> Path:
        """Where it keeps what it is and what became of it."""
        return Path(self.job.root) / "schedules" / self.name

    @property
    def configuration(self) -> str:
        """The path of the configuration, absolute."""
        return str((Path(self.job.cwd) / self.job.config).resolve())

    @property
    def start(self) -> datetime:
        """When it was made, on the clock of its zone."""
        made = datetime.fromisoformat(self.created)
        return zones.clock(self.zone, made) if made.tzinfo else made

    def now(self) -> datetime:
        """What the clock of its zone shows."""
        return zones.clock(self.zone)


class Verdict(NamedTuple):
    """What became of a date; `due` in STAMP's form, `metrics` of the test split."""

    due: str
    job: str
    exit_code: int
    reason: str
    seconds: float
    metrics: dict[str, float]
    by_hand: bool = False  # of a date that was named: says nothing of the dates before it


def make(path: str, overrides: list[str], options: dict[str, str | None], settings: dict[str, Any]) -> Schedule:
    """A schedule of a configuration or job file.

    Args:
        options: of the job, as of `duplet submit`; settings: of the schedule: cron, target, zone (None: the local
            one), missed, ….

    Raises:
        InputError: a cron expression, a setting or the job makes no sense; the configuration has a schedule already
            under a name of an older version.
    """
    cron, target = dates.check(settings["cron"]), settings["target"]
    if target in ("kubernetes", "airflow") and dates.means_two_things(cron):
        raise InputError(
            f"cron expression {cron!r}: a step after * beside a weekday means one thing to cron and another to "
            f"{target}: write the step after a range, such as 1-31/2, for days of which one is true"
        )
    job = specs.read(path, overrides, {**options, "target": target if target in ("slurm", "kubernetes") else "local"})
    made = check({
        **settings, "cron": cron, "zone": _zone(settings.get("zone"), target), "name": "unnamed",
        "created": datetime.now(UTC).astimezone().isoformat(timespec="minutes"), "job": job.model_dump(mode="json"),
    })  # fmt: skip
    name = naming.unique(job.name, job.root, made.configuration, most=LONGEST_NAME, empty="schedule")
    for old in listed(Path(job.root)):
        if old.name != name and (old.configuration, old.job.name) == (made.configuration, job.name):
            raise InputError(
                f"{made.configuration} is scheduled already as {old.name}, a name of an older version: remove that "
                f"(`{shell('duplet', 'schedule', 'remove', old.name, '--root', job.root)}`) and schedule it again"
            )
    return made.model_copy(update={"name": name})


def _zone(given: str | None, target: str) -> str:
    """The zone of a new schedule. Raises InputError where it has no such name, or cron does not go by it."""
    if target != "cron":
        return zones.check(given) if given else zones.local()
    system = zones.system()
    if given and not zones.same(zones.check(given), system):
        raise InputError(
            f"--zone {given}: cron goes by this machine's zone, {system}: leave it out and write the expression for "
            "that, or choose --target slurm, kubernetes or airflow"
        )
    return given or system


def check(data: dict[str, Any]) -> Schedule:
    """A schedule from a plain dictionary. Raises InputError."""
    try:
        return Schedule.model_validate_json(json.dumps(data), strict=True)
    except (pydantic.ValidationError, TypeError, ValueError) as error:
        raise InputError(f"schedule: {' '.join(str(error).split())[:300]}") from None


def save(schedule: Schedule) -> Path:
    """Writes a schedule's folder, keeping the verdicts and the date of creation of one of the same name."""
    folder = schedule.folder
    try:
        atomic_files.owners_folder(folder)
        if (folder / SCHEDULE).exists():
            schedule = schedule.model_copy(update={"created": load(folder).created})
        atomic_files.write_text(folder / CONFIG, schedule.job.config_text)
        atomic_files.write_text(folder / SCHEDULE, schedule.model_dump_json(indent=1))
    except OSError as error:
        raise folders.refusal(folder, error) from None
    return folder


def kept(folder: Path) -> dict[str, bytes]:
    """The files that say what a schedule is, as they are now."""
    return {path.name: path.read_bytes() for name in OWN if (path := folder / name).exists()}


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    """Makes the files of `kept` what they were."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


def keep_environment(schedule: Schedule, environment: dict[str, str]) -> None:
    """Keeps, for its owner only, what the configuration takes from the environment: cron starts with none of it."""
    taken = variables.names("\n".join([schedule.job.config_text, *schedule.job.overrides]))
    names = [name for name in environment if name in taken or name.startswith(("MLFLOW_", "DUPLET_"))]
    path = schedule.folder / ENVIRONMENT
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps({name: environment[name] for name in sorted(names)}), encoding="utf-8")


def environment(schedule: Schedule) -> dict[str, str]:
    """What `keep_environment` kept."""
    try:
        found = json.loads((schedule.folder / ENVIRONMENT).read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def load(folder: Path) -> Schedule:
    """The schedule of a folder, or of a schedule.json itself. Raises InputError."""
    path = folder if folder.suffix == ".json" else folder / SCHEDULE
    try:
        return check(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None


def listed(root: Path) -> Iterator[Schedule]:
    """All schedules under a root, by name."""
    for path in sorted((root / "schedules").glob(f"*/{SCHEDULE}")):
        yield load(path.parent)


def find(root: Path, name: str) -> Schedule:
    """The schedule of a name, of a configuration's name, or of the beginning of a name.

    Raises:
        InputError: there is none, or there are several.
    """
    there = list(listed(root))
    found = (
        [one for one in there if one.name == name]
        or [one for one in there if one.job.name == name]
        or [one for one in there if naming.slug(one.job.name) == name]
        or [one for one in there if name and one.name.startswith(name)]
    )
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{one.name} of {one.configuration}" for one in found)
        raise InputError(f"{len(found)} schedules are named {name!r} ({several}): give the whole name of one")
    known = f"there are {', '.join(one.name for one in there)}" if there else "there is none"
    raise InputError(f"there is no schedule {name!r} under {root / 'schedules'} ({known})")


def verdicts(folder: Path) -> list[Verdict]:
    """What became of all dates so far, oldest first; a line cut short by a full disk is left out."""
    found = []
    try:
        for line in (folder / VERDICTS).read_text(encoding="utf-8").splitlines():
            try:
                found.append(Verdict(**json.loads(line)))
            except (ValueError, TypeError):
                continue
    except FileNotFoundError:
        pass
    return found


def pending(schedule: Schedule, done: list[Verdict], now: datetime) -> list[datetime]:
    """The dates to work on now, oldest first: all since the last one that came by itself, or only the newest.

    A date that was run by hand is not run again, and says nothing of others.
    """
    by_itself = [datetime.strptime(verdict.due, STAMP) for verdict in done if not verdict.by_hand]
    found = dates.due(schedule.cron, max([schedule.start, *by_itself]), now)
    known = {verdict.due for verdict in done}
    newest = found if schedule.missed == "catch_up" else found[-1:]
    return [when for when in newest if f"{when:{STAMP}}" not in known]


@contextmanager
def alone(schedule: Schedule, say: Say) -> Iterator[None]:
    """Holds the schedule's lock.

    Raises:
        TryAgain: an earlier run is still at work, and the schedule says not to wait.
    """
    with (schedule.folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if schedule.overlap == "leave":
                raise TryAgain(
                    f"schedule {schedule.name}: an earlier run is still at work, this one leaves (overlap: leave)"
                ) from None
            say(f"an earlier run of {schedule.name} is still at work: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(schedule: Schedule, by_hand: list[datetime] | None, say: Say) -> list[Verdict]:
    """Works on the dates given by hand, or on all that are due.

    Raises:
        TryAgain: another run is at work; a signal stopped this one: the date stays due.
        DupletError or a subclass: what became of the last date, where it did not end well. GateError: not promoted.
    """
    with alone(schedule, say):
        found = by_hand if by_hand is not None else pending(schedule, verdicts(schedule.folder), schedule.now())
        if not found:
            say(f"nothing is due before {dates.following(schedule.cron, schedule.now()):%Y-%m-%d %H:%M}")
        made = []
        for when in found:
            made.append(_one(schedule, when, say)._replace(by_hand=by_hand is not None))
            with (schedule.folder / VERDICTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(made[-1]._asdict()) + "\n")
            say(f"{schedule.name} {made[-1].due}: {made[-1].reason} (exit {made[-1].exit_code})")
    if made and made[-1].exit_code:
        raise launcher.ERRORS.get(made[-1].exit_code, DupletError)(f"{made[-1].due}: {made[-1].reason}")
    return made


def dated(schedule: Schedule, when: datetime, start_from: str | None) -> JobSpec:
    """The job of one date."""
    overrides = [dates.fill(override, when) for override in schedule.job.overrides]
    if start_from is not None:
        overrides.append(f"train.start_from={json.dumps(variables.escaped(start_from))}")
    return schedule.job.model_copy(
        update={
            "id": f"{schedule.name}-{when:%Y%m%d-%H%M}",
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


def _one(schedule: Schedule, when: datetime, say: Say) -> Verdict:
    began = time.monotonic()
    job = dated(schedule, when, _champion(schedule, say) if schedule.start_from == "champion" else None)
    place(job)
    say(f"{schedule.name} {when:{STAMP}}: job {job.id} (log: {job.folder / folders.LOG})")
    workers = on_cluster.workers(job) if "DUPLET_LAUNCHER" in os.environ else None
    with holding(job.folder):
        supervisor = Supervisor(job.folder, workers)
        code = supervisor.run()
    if code == TryAgain.exit_code:
        if supervisor.signals:
            on_cluster.go_on(job.folder, os.environ.get("SLURM_JOB_ID"))
        raise TryAgain(f"{when:{STAMP}}: {folders.load(job.folder).state().get('reason', 'stopped')}")
    reason = str(folders.load(job.folder).state().get("reason", ""))
    metrics: dict[str, float] = {}
    if code == 0:
        reason = "done"
        if schedule.promote:
            code, reason, metrics = _promote(job)
    return Verdict(f"{when:{STAMP}}", job.id, code, reason, round(time.monotonic() - began, 1), metrics)


def _promote(job: JobSpec) -> tuple[int, str, dict[str, float]]:
    """Asks `duplet promote`; exit code, its sentence, and the new version's metrics."""
    settings = [s for s in job.settings(job.max_workers) if not s.startswith("train.workers=")]
    command = [job.python, "-P", "-m", "pipeline.cli", "promote", str(job.folder / specs.CONFIG), *settings, "--json"]
    with (job.folder / folders.LOG).open("ab") as log:
        done = subprocess.run(
            command, cwd=job.cwd, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **launcher.paths()}
        )
        log.write(done.stdout)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        said = json.loads(lines[-1])
    except (ValueError, IndexError):
        return done.returncode or 1, f"promote ended without a word: see {job.folder / folders.LOG}", {}
    found = said.get("metrics", {})
    metrics = {name: row["version"] for name, row in found.items() if isinstance(row.get("version"), int | float)}
    before = "promoted" if done.returncode == 0 else "not promoted"
    return done.returncode, f"{before}: {said.get('reason') or said.get('error', '')}", metrics


def _champion(schedule: Schedule, say: Say) -> str | None:
    """The trained folder of the registered champion, where there is one."""
    from pipeline.registry import mlflow_registry
    from pipeline.tracking import address

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

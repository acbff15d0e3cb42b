"""A schedule: a job's description with a cron expression; what happens on its dates is in `jobs.nights`.

Its folder is ROOT/schedules/NAME: `schedule.json`, `verdicts.jsonl` with a line per date, `lock`, `log`. NAME is the
configuration's with a hash of root and path, so that no two share a crontab's part, a DAG or a CronJob.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from jobs import clock, dates, zones
from jobs import folder as folders
from jobs import spec as specs
from jobs.spec import JobSpec
from jobs.texts import shell
from pipeline.config import Settings, load_config, variables
from pipeline.core import atomic_files, naming
from pipeline.core.errors import InputError

SCHEDULE, CONFIG, VERDICTS, LOCK, LOG = "schedule.json", "config.yaml", "verdicts.jsonl", "lock", "log"
ENVIRONMENT, PRIVATE = "environment.json", 0o600  # which may hold passwords
OWN = (SCHEDULE, CONFIG, ENVIRONMENT)
STAMP = "%Y-%m-%dT%H:%M"
PARTS = ("ingest", "ingest,tokenize", "ingest,tokenize,train")  # what a night may be done in, before its verdict
CLUSTER = {"slurm": "slurm", "kubernetes": "kubernetes", "argo": "kubernetes"}  # whose settings a schedule's job has
SPARE, SPARE_BYTES = "spare", 1 << 16  # room for verdicts and messages on a full disk
LONGEST_NAME = 40  # with what the targets and a date add, within the 52 characters of a CronJob's name


class Schedule(Settings):
    """A schedule, whole."""

    format: Literal[1] = 1
    name: str = Field(pattern=specs.ID.pattern.join("^$"))
    cron: str
    target: Literal["cron", "slurm", "kubernetes", "airflow", "argo"]
    missed: Literal["skip", "catch_up"] = "skip"  # dates on which the machine was off, or the run before still at work
    overlap: Literal["leave", "wait"] = "leave"  # when the run of an earlier date is still at work: exit 75, or wait
    start_from: Literal["scratch", "champion"] = "scratch"
    promote: bool = True  # through the gate of the configuration's section promote
    zone: str | None = None  # IANA name: its clock says when a date is; None: this machine's (before zones were kept)
    verdict_by: str | None = None  # as 08:00: when `duplet schedule check` looks for a verdict
    max_wait_min: int | None = None  # for late data; None: waits for none
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
        created = datetime.fromisoformat(self.created)
        return zones.clock(self.zone, created) if created.tzinfo else created

    @property
    def check_cron(self) -> str | None:
        """When `duplet schedule check` is due, as a cron expression."""
        if self.verdict_by is None:
            return None
        hour, minute = self.verdict_by.split(":")
        return f"{int(minute)} {int(hour)} * * *"

    def now(self) -> datetime:
        """What the clock of its zone shows."""
        return zones.clock(self.zone)


def make(path: str, overrides: list[str], options: dict[str, str | None], settings: dict[str, Any]) -> Schedule:
    """A schedule of a configuration or job file.

    Args:
        options: of the job, as of `duplet submit`; settings: of the schedule: cron, target, zone (None: the local
            one), missed, ….

    Raises:
        InputError: a cron expression, a setting or the job is not valid; the configuration has a schedule already
            under a name of an older version.
    """
    cron, target = dates.check(settings["cron"]), settings["target"]
    if target in ("kubernetes", "airflow", "argo") and dates.means_two_things(cron):
        raise InputError(
            f"cron expression {cron!r}: a step after * beside a weekday means one thing to cron and another to "
            f"{target}: write the step after a range, such as 1-31/2, for days of which one is true"
        )
    job = specs.read(path, overrides, {**options, "target": CLUSTER.get(target, "local")})
    around = load_config(job.config, list(job.overrides)).nights
    schedule = check({
        **settings, "verdict_by": around.messages.verdict_by, "cron": cron,
        "max_wait_min": around.wait_for.max_wait_min if around.wait_for.path else None,
        "zone": _zone(settings.get("zone"), target), "name": "unnamed",
        "created": clock.now().astimezone().isoformat(timespec="minutes"), "job": job.model_dump(mode="json"),
    })  # fmt: skip
    name = naming.unique(job.name, job.root, schedule.configuration, most=LONGEST_NAME, empty="schedule")
    for old in listed(Path(job.root)):
        if old.name != name and (old.configuration, old.job.name) == (schedule.configuration, job.name):
            raise InputError(
                f"{schedule.configuration} is scheduled already as {old.name}, a name of an older version: remove that "
                f"(`{shell('duplet', 'schedule', 'remove', old.name, '--root', job.root)}`) and schedule it again"
            )
    return schedule.model_copy(update={"name": name})


def _zone(zone: str | None, target: str) -> str:
    """The zone of a new schedule. Raises InputError where it has no such name, or cron does not go by it."""
    if target != "cron":
        return zones.check(zone) if zone else zones.local()
    system = zones.system()
    if zone and not zones.same(zones.check(zone), system):
        raise InputError(
            f"--zone {zone}: cron goes by this machine's zone, {system}: leave it out and write the expression for "
            "that, or choose --target slurm, kubernetes or airflow"
        )
    return zone or system


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


def with_spare(folder: Path, write: Callable[[], None]) -> None:
    """Writes into a schedule's folder; on a full disk in the room that is kept there for it. Raises OSError."""
    spare = folder / SPARE
    try:
        write()
    except OSError:
        spare.unlink(missing_ok=True)
        write()
    with contextlib.suppress(OSError), spare.open("ab") as file:  # a disk that was full may have taken a part of it
        file.write(bytes(max(0, SPARE_BYTES - file.tell())))


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    """Makes the files of `kept` what they were."""
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:  # a disk that is full has left it as it was
            atomic_files.write_bytes(path, content, PRIVATE if name == ENVIRONMENT else None)


def keep_environment(schedule: Schedule, environment: dict[str, str]) -> None:
    """Keeps, for its owner only, what the configuration takes from the environment: cron starts with none of it."""
    taken = variables.names("\n".join([schedule.job.config_text, *schedule.job.overrides]))
    names = [name for name in environment if name in taken or name.startswith(("MLFLOW_", "DUPLET_"))]
    text = json.dumps({name: environment[name] for name in sorted(names)})
    atomic_files.write_text(schedule.folder / ENVIRONMENT, text, PRIVATE)


def environment(schedule: Schedule) -> dict[str, str]:
    """What `keep_environment` kept; empty where it kept nothing, as in a pod.

    Raises:
        InputError: the file is damaged, or cannot be read.
    """
    path = schedule.folder / ENVIRONMENT
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): no date is done without the variables that it holds: set them, and "
            f"schedule {schedule.configuration} again"
        ) from None
    return {str(name): str(value) for name, value in values.items()}


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
    schedules = list(listed(root))
    matches = (
        [schedule for schedule in schedules if schedule.name == name]
        or [schedule for schedule in schedules if schedule.job.name == name]
        or [schedule for schedule in schedules if naming.slug(schedule.job.name) == name]
        or [schedule for schedule in schedules if name and schedule.name.startswith(name)]
    )
    if len(matches) == 1:
        return matches[0]
    if matches:
        several = ", ".join(f"{schedule.name} of {schedule.configuration}" for schedule in matches)
        raise InputError(f"{len(matches)} schedules are named {name!r} ({several}): give the whole name of one")
    known = f"there are {', '.join(schedule.name for schedule in schedules)}" if schedules else "there is none"
    raise InputError(f"there is no schedule {name!r} under {root / 'schedules'} ({known})")

"""Thirty nights of a schedule, one after the other, with what goes wrong in practice: `make rehearsal`.

The commands are real ones: `duplet schedule`, cron's line of it in cron's environment, the supervisor with two ranks,
`duplet promote`, `gc` after each night, messages to an HTTP server, `mlflow server`. Only the clock is moved. Ends with
1 where a morning, a message or the disk is not as it must be, and writes a table and a picture.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import rehearsal_plan as plan
import rehearsal_report
import rehearsal_world as world
import yaml

from jobs import nights, zones
from jobs import schedule as schedules
from jobs.schedule import STAMP, Schedule
from pipeline.distributed import job_folder
from pipeline.registry import disk, mlflow_registry
from pipeline.tracking import Address, address

CRON, HOUR = "30 2 * * *", timedelta(hours=2, minutes=30)  # half past two does not exist on that night


class Rehearsal:
    """The schedule, the world around it, and what was seen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "runs"
        self.clock, self.cron = world.Clock(folder / "clock"), world.Cron(folder)
        self.webhook, self.server = world.Webhook(), world.mlflow_server(folder / "mlflow")
        self.disk = world.FullDisk(self.root)
        self.first = first_night()
        self.mornings: list[plan.Morning] = []
        self.trained: dict[str, int] = {}  # key of a training -> its night
        self.wrong: list[str] = []
        self.schedule: Schedule | None = None

    # --- dates --------------------------------------------------------------------------------------------------------
    def day(self, night: int) -> datetime:
        """Midnight of a night's date."""
        return datetime.combine(self.first + timedelta(days=night - 1), datetime.min.time())

    def due(self, night: int) -> str:
        """The date as verdicts and messages have it."""
        return f"{self.day(night) + HOUR:{STAMP}}"

    def at(self, night: int, hour: float, minute: int = 0) -> datetime:
        """An aware time of a night's date."""
        return zones.moment(self.day(night) + timedelta(hours=hour, minutes=minute), world.ZONE)

    def data(self, night: int) -> Path:
        """Where a night's data lies."""
        return self.folder / "logs" / f"{self.day(night):%Y-%m-%d}.jsonl"

    # --- what people do -----------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """MLflow's server, the data that never changes, and the schedule."""
        self.server.start()
        self.clock.show(self.at(0, 12))
        for split, count, seed in (("valid", 40, 1), ("test", 80, 2)):
            world.write_pairs(self.folder / "logs" / f"{split}.jsonl", self.at(0, 12), count, seed, world.USUAL)
        path = self.folder / "rehearsal.yaml"
        path.write_text(yaml.safe_dump(self.configuration()), encoding="utf-8")
        said = self.duplet("schedule", path, "pause_s=1", "--cron", CRON, "--workers", "1:2", "--retries", 2,
                           "--missed", "catch_up", "--json")  # fmt: skip
        self.schedule = schedules.load(Path(json.loads(said)["folder"]))

    def configuration(self) -> dict[str, Any]:
        """Two ranks, a few hundred updates of a tiny model, and all that the section nights has."""
        logs = self.folder / "logs"
        paths = {split: str(logs / f"{split}.jsonl") for split in ("valid", "test")}
        return {
            "name": "rehearsal", "root": str(self.root),
            "ingest": {"source": {"format": "jsonl", "paths": {"train": f"{logs}/{{date}}.jsonl", **paths},
                                  "columns": {"query_id": "qid"}}},
            "tokenize": {"max_tokens": {"query": 8, "document": 8}, "min_count": 1},
            "model": {"embedding": 16, "hidden": 16, "dropout": 0.0, "head": "cosine"},
            "train": {"threads_per_worker": 1, "max_pairs_per_update": 32, "epochs": 8, "patience_validations": None,
                      "checkpoint_every_updates": 20, "optimizer": {"learning_rate": 0.01},
                      "schedule": {"warmup_updates": 5}},
            "evaluate": {"bootstrap_samples": 20, "collection": "split"},
            "promote": {"judge_by": "mean", "min_difference": -0.15},
            "tracking": {"uri": self.server.uri, "system_metrics": False, "max_wait_s": 3},
            "nights": {
                "wait_for": {"path": f"{logs}/{{date}}.jsonl", "max_wait_min": 1},
                "messages": {"webhook": self.webhook.address, "verdict_by": "08:00"},
                "keep": {"nights": plan.KEPT, "champions": 3},
            },
        }  # fmt: skip

    def duplet(self, *arguments: object) -> str:
        """What a command says. Raises RuntimeError where it ends with anything but 0."""
        command = [sys.executable, "-P", "-m", "pipeline.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    # --- a night ------------------------------------------------------------------------------------------------------
    def night(self, night: int) -> None:
        """A date from one o'clock to noon."""
        began, cpu_s = time.monotonic(), used()
        if plan.fault(night) != plan.LATE:
            self.deliver(night, self.at(night, 1))
        with self.trouble(night):
            for moment in self.runs(night):
                self.clock.show(moment)
                self.cron.fire("run", None if plan.fault(night) == plan.KILLED else 1)
        self.note_trainings()
        self.clock.show(self.at(night, 8))
        self.cron.fire("check")
        self.mornings.append(self.look(night, time.monotonic() - began, used() - cpu_s))
        self.clock.show(self.at(night, 12))
        self.noon(night)

    def deliver(self, night: int, when: datetime) -> None:
        """A night's data, as it comes."""
        path = self.data(night)
        if plan.fault(night) == plan.BROKEN and when.astimezone().hour < 12:
            world.write_broken(path, when)
        elif plan.fault(night) == plan.DRIFTED:
            world.write_pairs(path, when, 300, 100 + night, world.OTHER)
        else:
            turned = 9 if plan.fault(night) == plan.WORSE else 0
            world.write_pairs(path, when, 300, 100 + night, world.USUAL, turned)

    @contextmanager
    def trouble(self, night: int) -> Iterator[None]:
        """What breaks while a night works."""
        if plan.fault(night) == plan.DEAD:
            self.server.kill()
        elif plan.fault(night) == plan.FULL:
            self.disk.fill()
        if plan.fault(night) != plan.KILLED:
            yield
            return
        with world.killing_a_rank(self.root) as killed:
            yield
        if not killed:
            self.wrong.append(f"night {night}: no rank was killed")

    def runs(self, night: int) -> Iterator[datetime]:
        """When cron runs the line: where clocks change at once after it, and here also an hour later."""
        if plan.fault(night) == plan.AWAY:
            return
        if plan.fault(night) == plan.CLOCKS:
            yield self.at(night, 3, 0) + timedelta(seconds=5)
            yield self.at(night, 3, 30) + timedelta(seconds=5)
            return
        yield self.at(night, 2, 30) + timedelta(seconds=5)

    def noon(self, night: int) -> None:
        """What people mend."""
        if plan.fault(night) == plan.LATE:
            self.deliver(night, self.at(night, 11))
        elif plan.fault(night) == plan.BROKEN:
            self.deliver(night, self.at(night, 12))
            assert self.schedule is not None
            self.duplet("schedule", "run", self.schedule.name, "--root", self.root,
                        "--date", f"{self.day(night):%Y-%m-%d}")  # fmt: skip
            self.note_trainings()
        elif plan.fault(night) == plan.DEAD and plan.fault(night + 1) != plan.DEAD:
            self.server.start()
        elif plan.fault(night) == plan.FULL:
            self.disk.make_room()

    def note_trainings(self) -> None:
        """Which night a training is of."""
        assert self.schedule is not None
        for night in range(1, plan.NIGHTS + 1):
            job = self.root / "jobs" / nights.dated_id(self.schedule, self.day(night) + HOUR)
            if key := job_folder.read(job, job_folder.STAGES).get("train"):
                self.trained[key] = night

    def write(self) -> None:
        """What was seen so far, for the table and the picture."""
        assert self.schedule is not None
        scores = {verdict.due: verdict.metrics.get("mrr@10") for verdict in nights.verdicts(self.schedule.folder)}
        rows = [{**morning._asdict(), "date": self.due(morning.night)[:10], "what": plan.fault(morning.night).what,
                 "score": scores.get(self.due(morning.night)), "last": self.verdicts().get(self.due(morning.night)),
                 "messages": [message["reason"] for message in self.webhook.messages
                              if message["due"] == self.due(morning.night)]}
                for morning in self.mornings]  # fmt: skip
        (self.folder / "rehearsal.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")

    def keep_words(self) -> None:
        """Copies what the schedule said: the disk of the root goes with the mounts."""
        if self.schedule is not None:
            shutil.copytree(self.schedule.folder, self.folder / "schedule", dirs_exist_ok=True)
            for path in self.root.glob("jobs/*/log"):
                shutil.copy(path, self.folder / "schedule" / f"{path.parent.name}.log")

    # --- what is seen -------------------------------------------------------------------------------------------------
    def verdicts(self) -> dict[str, int]:
        """Exit codes by date."""
        assert self.schedule is not None
        return {verdict.due: verdict.exit_code for verdict in nights.verdicts(self.schedule.folder)}

    def look(self, night: int, seconds: float, cpu_s: float) -> plan.Morning:
        """How it stands in the morning of a night."""
        told = sum(message["due"] == self.due(night) for message in self.webhook.messages)
        champion = mlflow_registry.Registry(self.registry(), "rehearsal").champion()
        live = self.trained.get(champion.tags[mlflow_registry.TRAINED], -1) if champion else 0
        others = self.disk.path.stat().st_size if self.disk.path.exists() else 0
        models = sum(path.is_dir() for path in (self.root / "train").glob("[!.]*"))
        own, mlflow = disk.taken(self.root) - others, disk.taken(self.server.folder / "artifacts")
        verdict = self.verdicts().get(self.due(night))
        return plan.Morning(night, verdict, live, told, models, own, mlflow, seconds, cpu_s)

    def registry(self) -> Address:
        """The server's own database, which can be read while the server is dead."""
        return address(f"sqlite:///{self.server.database}", self.server.folder)

    def judge(self) -> list[str]:
        """What is not as it must be, empty where all is."""
        by_due = {self.due(morning.night): morning.night for morning in self.mornings}
        told = Counter(by_due.get(message["due"], 0) for message in self.webhook.messages)
        last = {by_due[due]: code for due, code in self.verdicts().items() if due in by_due}
        return self.wrong + plan.judge(self.mornings, told, last)


def used() -> float:
    """Processor time of the processes that have ended, in seconds."""
    times = os.times()
    return times.children_user + times.children_system


def first_night() -> date:
    """The date of night 1, so that clocks change on night plan.SUMMER_TIME and no data lies in the future."""
    for year in (date.today().year, date.today().year + 1):
        last = date(year, 3, 31)
        change = last - timedelta(days=(last.weekday() + 1) % 7)  # the last Sunday of March
        first = change - timedelta(days=plan.SUMMER_TIME - 1)
        if first > date.today() + timedelta(days=2):
            return first
    raise AssertionError("no change to summer time within two years")


def main() -> int:
    """Plays the nights; 1 where something is not as it must be, 2 where it cannot be played here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--nights",
        type=int,
        default=plan.NIGHTS,
        help="the first so many, of which the last is ordinary",
    )
    parser.add_argument("--folder", type=Path, help="where all is put, and stays (default: a temporary one)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as temporary:
            return outside(args.folder or Path(temporary), args.nights)
    return inside(args.folder, args.nights)


def outside(folder: Path, count: int) -> int:
    """Starts itself with mounts of its own: nothing of them is seen outside, or left."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    own = ["--mount", "--propagation", "private"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    again = [sys.executable, __file__, "--inside", "--folder", str(folder), "--nights", str(count)]
    try:
        done = subprocess.run(["unshare", *own, "sh", "-c", world.MOUNTS, "sh", str(folder), *again])
    except FileNotFoundError:
        print("rehearsal: no unshare: apt-get install util-linux", file=sys.stderr)
        return 2
    return done.returncode


def inside(folder: Path, count: int) -> int:
    """The nights themselves."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    rehearsal, began = Rehearsal(folder), time.monotonic()
    try:
        rehearsal.prepare()
        print("night  date        verdict  champion  messages    MiB     s  cpu s")
        for night in range(1, count + 1):
            rehearsal.night(night)
            rehearsal.write()
            seen = rehearsal.mornings[-1]
            print(f"{night:5}  {rehearsal.day(night):%Y-%m-%d}  {seen.verdict!s:>7}  {seen.champion:8}  {seen.told:8}  "
                  f"{(seen.root_bytes + seen.mlflow_bytes) / 2**20:5.1f}  {seen.seconds:4.0f}  {seen.cpu_s:5.0f}  "
                  f"{plan.fault(night).what}", flush=True)  # fmt: skip
        wrong = rehearsal.judge()
        print(rehearsal_report.write(folder), end="")
    finally:
        rehearsal.server.kill()
        rehearsal.keep_words()
    for line in wrong:
        print(f"WRONG: {line}")
    told = len(rehearsal.webhook.messages)
    print(f"{count} nights, {told} messages, {len(wrong)} differences, {(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

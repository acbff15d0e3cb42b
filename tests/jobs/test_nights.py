"""What becomes of a schedule's dates: late data, nights that are made up, a full disk, and an hour's outage."""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs import data_checks, messages, nights, states, waiting
from jobs import folder as folders
from jobs import schedule as schedules
from jobs.nights import Verdict
from jobs.schedule import Schedule
from jobs.spec import JobSettings, JobSpec
from jobs.states import Failure
from pipeline.cli.main import main
from pipeline.config import WaitForConfig
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.event_log import Lines
from pipeline.core.manifest import KeyParts
from pipeline.distributed import job_folder

Spec = Callable[..., JobSpec]


@pytest.fixture
def nightly(job_spec: Spec, tmp_path: Path) -> Schedule:
    made = schedules.check({
        "name": "faq", "cron": "0 2 * * *", "target": "cron", "zone": "UTC", "created": "2026-11-20T12:00+00:00",
        "job": job_spec(root=str(tmp_path / "runs")).model_dump(mode="json"),
    })  # fmt: skip
    schedules.save(made)
    return made


# --- giving up --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("outage_s", [30, 3600])
def test_an_outage_before_the_first_update_ends_nothing(outage_s: int) -> None:
    """As the supervisor counts, each start failing at once: the pauses alone outlast it with the default settings."""
    settings, clock = JobSettings(), 0.0
    failures: list[Failure] = []
    while clock < outage_s:
        failures.append(Failure(1, "the host of the data is away", "train", None, 0))
        assert states.give_up(failures, settings.retries) is None, f"gave up after {clock:.0f} s"
        clock += states.pause_s(len(failures), settings.pause_s)


# --- waiting for data -------------------------------------------------------------------------------------------------
class Clock:
    """Pauses that take no time, and what happens after so many of them."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self.events, self.pauses = list(events), 0

    def pause(self, _: float) -> None:
        self.pauses += 1
        if self.events:
            self.events.pop(0)()


def wait(folder: Path, clock: Clock, said: list[str] | None = None, patient: bool = True, **settings: Any) -> None:
    said = [] if said is None else said
    waiting.wait(WaitForConfig(**{"path": "logs/x.jsonl", **settings}), folder, patient, said.append, clock.pause)


def test_late_data_is_waited_for_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "x.jsonl"

    def grow(size: int) -> Callable[[], object]:
        path.parent.mkdir(exist_ok=True)
        return lambda: path.write_bytes(bytes(size))

    clock, said = Clock(lambda: None, grow(1000), grow(2 << 20), grow(3 << 20), lambda: None), list[str]()
    wait(tmp_path, clock, said, min_mb=2)
    assert clock.pauses == 5  # absent, too small, large enough and growing, growing, the same twice
    assert said == [f"waiting for {path}, at most 240 min: nothing is at {path}"]


def test_what_lies_there_since_long_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "x.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"x")
    os.utime(path, (1, 1))
    for named in ("logs/x.jsonl", "logs", "logs/*.jsonl", str(path)):
        clock = Clock()
        wait(tmp_path, clock, path=named)
        assert clock.pauses == 0


def test_hidden_files_are_still_being_written(tmp_path: Path) -> None:
    (tmp_path / "logs" / ".tmp").mkdir(parents=True)
    for name in ("logs/.part.jsonl", "logs/.tmp/x.jsonl"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(waiting.Late, match="nothing is at"):
        wait(tmp_path, Clock(), path="logs", max_wait_min=0)


@pytest.mark.parametrize(("minutes", "patient", "pauses"), [(2, True, 4), (240, False, 1), (0, True, 0)])
def test_data_that_never_comes_is_a_sentence_and_try_again(
    tmp_path: Path, minutes: int, patient: bool, pauses: int
) -> None:
    clock = Clock()
    with pytest.raises(TryAgain, match=r"no data: nothing is at .*x\.jsonl$") as raised:
        wait(tmp_path, clock, max_wait_min=minutes, patient=patient)
    assert (raised.value.exit_code, clock.pauses) == (75, pauses)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "x.jsonl").write_bytes(bytes(1 << 19))
    with pytest.raises(TryAgain, match=r"has 0\.5 MiB, and nights\.wait_for\.min_mb asks for 1$"):
        wait(tmp_path, Clock(), max_wait_min=minutes, patient=patient, min_mb=1)


# --- nights that are made up ------------------------------------------------------------------------------------------
Night = Callable[[datetime], Verdict]


def play(
    schedule: Schedule,
    monkeypatch: pytest.MonkeyPatch,
    days: dict[int, int | BaseException],
    skip: tuple[int, ...] = (),
) -> list[list[int]]:
    """Plays the nights of a month's days and tells which dates each worked on; `days`: how those of a date end."""
    worked: list[int] = []

    def one(_: Schedule, when: datetime, began: Verdict, patient: bool, say: object) -> Verdict:
        worked.append(when.day if patient else -when.day)
        end = days.get(when.day, 0)
        if isinstance(end, BaseException):
            raise end
        return began._replace(exit_code=end, reason="so it was")

    monkeypatch.setattr(nights, "_one", one)
    rows = []
    for day in range(21, 29):
        if day in skip:
            continue
        worked.clear()
        monkeypatch.setattr(Schedule, "now", lambda _, day=day: datetime(2026, 11, day, 2, 0, 1))
        with contextlib.suppress(DupletError):
            nights.run(schedule, None, lambda _: None)
        rows.append(list(worked))
    return rows


def test_a_night_without_data_is_made_up_and_no_other_is_lost(
    nightly: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    days: dict[int, int | BaseException] = {23: waiting.Late("no data"), 25: 2}
    said = play(nightly, monkeypatch, days)
    # dates before the newest do not wait again
    assert said == [[21], [22], [23], [-23, 24], [-23, 25], [-23, 26], [-23, 27], [-23, 28]]
    days.pop(23)
    monkeypatch.setattr(Schedule, "now", lambda _: datetime(2026, 11, 29, 2, 0, 1))
    nights.run(nightly, None, lambda _: None)
    codes = {verdict.due[8:10]: verdict.exit_code for verdict in nights.verdicts(nightly.folder)}
    assert codes == {"21": 0, "22": 0, "23": 0, "24": 0, "25": 2, "26": 0, "27": 0, "28": 0, "29": 0}
    assert nights.pending(nightly, nights.verdicts(nightly.folder), datetime(2026, 11, 29, 3)) == []


@pytest.mark.parametrize(
    ("target", "named", "what_to_do"),
    [
        ("cron", False, "it is looked for again on the next dates"),
        ("cron", True, "run the date again when it is there"),
        ("airflow", True, "clear the failed task in Airflow"),
        ("argo", True, "submit the date again with `argo submit --scheduled-time`"),
    ],
)
def test_a_night_without_data_says_whether_a_later_one_looks_again(
    nightly: Schedule, monkeypatch: pytest.MonkeyPatch, target: str, named: bool, what_to_do: str
) -> None:
    job = nightly.job.model_copy(update={"overrides": ("nights.wait_for={path: late.jsonl, max_wait_min: 0}",)})
    schedule = nightly.model_copy(update={"target": target, "job": job})
    when, sentence = datetime(2026, 11, 24, 2), rf"no data: nothing is at .*late\.jsonl; .*{what_to_do}$"
    monkeypatch.setattr(Schedule, "now", lambda _: when)
    with pytest.raises(TryAgain, match=sentence):
        nights.run(schedule, [when] if named else None, lambda _: None)
    later = nights.pending(schedule, nights.verdicts(schedule.folder), datetime(2026, 11, 25, 2))
    assert [date.day for date in later] == ([25] if named else [24, 25])
    if named:
        with pytest.raises(TryAgain, match=sentence):
            nights.part(schedule, when, "ingest", lambda _: None)


def test_after_a_week_a_night_is_left(nightly: Schedule) -> None:
    owed = [Verdict("2026-11-21T02:00", "j", 75, "no data", 1.0, {}), Verdict("2026-11-29T02:00", "j", 0, "", 1.0, {})]
    due = lambda day, hour: nights.pending(nightly, owed, datetime(2026, 11, day, hour))
    assert due(28, 2) == [datetime(2026, 11, 21, 2)] and due(28, 3) == []


def test_machines_off_and_nights_owed_are_different_things(nightly: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """With missed=skip a date on which nothing began is left out; one that began and was not done is not."""
    said = play(nightly, monkeypatch, {22: TryAgain("MLflow does not answer")}, skip=(23, 24))
    assert said[:3] == [[21], [22], [-22, 25]]


def test_a_killed_night_is_made_up(nightly: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(nightly, monkeypatch, {22: KeyboardInterrupt()})
    assert [(v.due, v.exit_code, v.reason) for v in nights.verdicts(nightly.folder)][1:] == [
        ("2026-11-22T02:00", 75, nights.BEGAN)
    ]
    assert nights.pending(nightly, nights.verdicts(nightly.folder), datetime(2026, 11, 24, 3)) == [
        datetime(2026, 11, 22, 2), datetime(2026, 11, 24, 2),
    ]  # fmt: skip


def test_bad_input_of_one_night_is_its_verdict(nightly: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(nightly, monkeypatch, {22: InputError("a column is missing")})[1:3] == [[22], [23]]
    assert {v.due: v.reason for v in nights.verdicts(nightly.folder)}["2026-11-22T02:00"] == "a column is missing"


def test_a_full_disk_keeps_the_verdict_of_its_night(nightly: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has as much room as the spare file takes."""
    made = Verdict("2026-11-22T02:00", "j", 75, "no space is left", 1.0, {})
    nights.note(nightly.folder, made)
    spare, append = nightly.folder / schedules.SPARE, atomic_files.add_line
    assert spare.stat().st_size == schedules.SPARE_BYTES

    def full(path: Path, line: str) -> None:
        if spare.exists():
            with path.open("a") as file:
                file.write(line[:10])  # cut short
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, line)

    monkeypatch.setattr(atomic_files, "add_line", full)
    nights.note(nightly.folder, made._replace(due="2026-11-23T02:00"))
    assert [v.due[:10] for v in nights.verdicts(nightly.folder)] == ["2026-11-22", "2026-11-23"]


def test_room_that_a_full_disk_did_not_give_back_is_kept_again(nightly: Schedule) -> None:
    nightly.folder.mkdir(parents=True, exist_ok=True)
    spare = nightly.folder / schedules.SPARE
    for taken in (0, 100, schedules.SPARE_BYTES):
        spare.write_bytes(bytes(taken))
        nights.note(nightly.folder, Verdict("2026-11-22T02:00", "j", 0, "", 1.0, {}))
        assert spare.stat().st_size == schedules.SPARE_BYTES


def test_a_full_disk_keeps_the_message_of_its_night(nightly: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the spare file is gone there is room; a message in memory alone would be lost with the process."""
    nights.note(nightly.folder, Verdict("2026-11-22T02:00", "j", 0, "", 1.0, {}))
    spare, append = nightly.folder / schedules.SPARE, Lines.append
    monkeypatch.setattr(Lines, "append", lambda lines, entry: not spare.exists() and append(lines, entry))
    assert messages.add(nightly, "2026-11-23T02:00", 75, "no space is left", nightly.job, None)
    assert not messages.add(nightly, "2026-11-23T02:00", 75, "no space is left", nightly.job, None)
    entries = [entry for entry, _ in Lines(nightly.folder / messages.SPOOL).read()]
    assert [entry["reason"] for entry in entries] == ["no space is left"]
    assert spare.exists()  # for the next one
    monkeypatch.setattr(Lines, "append", lambda lines, entry: False)
    said: list[str] = []
    play_one = Verdict("2026-11-24T02:00", "j", 75, "no space is left", 1.0, {})
    nights._tell(nightly, datetime(2026, 11, 24, 2), play_one, said.append)
    assert "nobody is told of 2026-11-24T02:00" in said[0] and "No space" in said[0]


def test_a_full_disk_leaves_the_variables_that_were_kept(nightly: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules.keep_environment(nightly, {"DUPLET_DATA": "/before", "HOME": "/home/ann"})
    path = nightly.folder / schedules.ENVIRONMENT
    assert schedules.environment(nightly) == {"DUPLET_DATA": "/before"} and stat.S_IMODE(path.stat().st_mode) == 0o600

    def full(_: int) -> None:  # what is in the file by now would be cut
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("os.fsync", full)
        schedules.keep_environment(nightly, {"DUPLET_DATA": "/after"})
    assert schedules.environment(nightly) == {"DUPLET_DATA": "/before"}
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        schedules.put_back(nightly.folder, schedules.kept(nightly.folder))  # which needs no room
        with pytest.raises(OSError, match="No space left"):
            schedules.put_back(nightly.folder, {schedules.ENVIRONMENT: b"{}"})
    assert schedules.environment(nightly) == {"DUPLET_DATA": "/before"}
    schedules.put_back(nightly.folder, {schedules.ENVIRONMENT: b'{"DUPLET_DATA": "/long ago"}'})
    assert schedules.environment(nightly) == {"DUPLET_DATA": "/long ago"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b'{"DUPLET_DATA": "/be', b"[]", b"\xff"])
def test_damaged_variables_are_a_sentence_of_each_command(
    nightly: Schedule, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    assert schedules.environment(nightly) == {}  # a pod has them from its own environment
    (nightly.folder / schedules.ENVIRONMENT).write_bytes(content)
    for action in ("run", "check", "ready", "list"):
        code = main(["schedule", action, nightly.name, "--root", nightly.job.root])
        said = capsys.readouterr()
        assert "environment.json cannot be read (" in (said.out if action == "list" else said.err)
        assert code == (0 if action == "list" else 2)


def test_the_last_word_on_a_date_counts(tmp_path: Path) -> None:
    for code, by_hand in ((75, False), (75, True), (0, True)):
        nights.note(tmp_path, Verdict("2026-11-22T02:00", "j", code, "", 1.0, {}, by_hand))
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 3
    [found] = nights.verdicts(tmp_path)
    assert (found.exit_code, found.by_hand) == (0, False)  # it came by itself, and hides no earlier one
    (tmp_path / "verdicts.jsonl").write_text(json.dumps({k: v for k, v in found._asdict().items() if k != "restarts"}))
    assert nights.verdicts(tmp_path) == [found]  # of an older version


# --- data that is not like that of the nights before ------------------------------------------------------------------
@pytest.fixture
def worked(nightly: Schedule, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, int]], dict[int, list[str]]]:
    """Plays nights whose supervisor leaves small folders instead of training; day -> the verbs that were run."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows_of: dict[int, int] = {}
    verbs: dict[int, list[str]] = {}
    promoted: list[str] = []

    class Quick:
        """As `Supervisor`, without a process."""

        def __init__(self, folder: Path, workers: int | None, verb: str | None) -> None:
            self.folder, self.verb, self.signals, self.failures = folder, verb or "run", 0, list[Failure]()

        def run(self) -> int:
            day = int(self.folder.name.split("-")[-2][-2:])
            verbs.setdefault(day, []).append(self.verb)
            root = self.folder.parent.parent
            for stage, counts in (
                ("ingest", {"records": {"read": rows_of[day], "kept": rows_of[day], "quarantined": 0}}),
                ("tokenize", {s: {f: {"texts": 1, "tokens": 5, "unknown_tokens": 0} for f in ("query", "document")}
                              for s in ("train", "valid", "test")}),
            ):  # fmt: skip
                place = root / stage / f"{day}"
                place.mkdir(parents=True, exist_ok=True)
                if stage == "ingest":
                    table = pa.table({"query": ["a b"], "relevance": pa.array([1.0], pa.float32())})
                    parquet.write_table(table, place / "records-train.parquet")
                manifest.write(place, stage, KeyParts(1, {}, {}, {}), counts, 0.0)
            keys = {"ingest": f"{day}", "tokenize": f"{day}"}
            (self.folder / job_folder.STAGES).write_text(json.dumps(keys))
            folders.write_state(self.folder, {"state": "finished", "exit_code": 0})
            return 0

    def promote(job: JobSpec) -> tuple[int, str, dict[str, float]]:
        promoted.append(job.id)
        return 0, "promoted", {}

    def play_all(rows: dict[int, int]) -> dict[int, list[str]]:
        rows_of.update(rows)
        for day in rows:
            monkeypatch.setattr(Schedule, "now", lambda _, day=day: datetime(2026, 11, day, 2, 0, 1))
            with contextlib.suppress(DupletError):
                nights.run(nightly, None, lambda _: None)
        assert [int(name[-7:-5]) for name in promoted] == [day for day, found in verbs.items() if found[-1] == "run"]
        return verbs

    monkeypatch.setattr(nights, "Supervisor", Quick)
    monkeypatch.setattr(nights, "_promote", promote)
    monkeypatch.setattr(data_checks, "show", lambda *_: None)
    monkeypatch.delenv(nights.UNCHECKED, raising=False)
    return play_all


def test_a_night_of_other_data_is_not_trained_and_is_no_part_of_the_median(
    nightly: Schedule, worked: Callable[[dict[int, int]], dict[int, list[str]]]
) -> None:
    verbs = worked({21: 1000, 22: 1000, 23: 1000, 24: 1000, 25: 100, 26: 900, 27: 2100, 28: 1000})
    first, checked = ["run"], ["tokenize", "run"]
    assert verbs == {21: first, 22: first, 23: first, 24: checked, 25: ["tokenize"], 26: checked, 27: ["tokenize"],
                     28: checked}  # fmt: skip
    found = {verdict.due[8:10]: verdict for verdict in nights.verdicts(nightly.folder)}
    assert {day: one.exit_code for day, one in found.items() if one.exit_code} == {"25": 3, "27": 3}
    assert found["25"].reason == (
        "the data is not like that of the last 4 good nights: rows 100 is below 500 (median 1,000); not trained, the "
        "champion stays"
    )
    state = folders.load(nightly.folder.parent.parent / "jobs" / "faq-20261125-0200").state()
    assert (state["state"], state["exit_code"]) == ("failed", 3)


def test_a_person_may_take_a_night_s_data_as_it_is(
    nightly: Schedule, worked: Callable[[dict[int, int]], dict[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worked({21: 1000, 22: 1000, 23: 1000, 24: 10})
    monkeypatch.setenv(nights.UNCHECKED, "1")
    [made] = nights.run(nightly, [datetime(2026, 11, 24, 2)], lambda _: None)
    assert made.exit_code == 0 and data_checks.kept(nightly.folder, "2026-11-25T02:00", 7)[-1]["rows"] == 10

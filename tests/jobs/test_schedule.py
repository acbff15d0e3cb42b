"""Schedules: a person's crontab, what is due, two at once, and a night's run with its verdict."""

import fcntl
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import airflow, cron, kubernetes_schedule, nights, slurm_schedule, zones
from jobs import folder as folders
from jobs import schedule as schedules
from jobs.nights import Verdict
from jobs.schedule import Schedule
from jobs.spec import JobSpec
from pipeline.core.errors import InputError, TryAgain

Spec = Callable[..., JobSpec]
Golden = Callable[[str, str], None]


# --- the crontab of somebody who has one ------------------------------------------------------------------------------
lines = st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n\0"), max_size=20))


@settings(deadline=None)
@given(lines, lines, st.booleans())
def test_nothing_else_in_a_crontab_is_touched(before: list[str], after: list[str], ended: bool) -> None:
    own = "# >>> duplet schedule faq\n0 2 * * * work\n# <<< duplet schedule faq\n"
    first, last = "".join(f"{line}\n" for line in before), "\n".join(after) + ("\n" if ended else "")
    table = first + own + last
    assert cron.with_block(table, "faq", "") == first + last
    assert cron.with_block(table, "faq", own.replace("work", "more")) == first + own.replace("work", "more") + last
    assert cron.with_block(table, "other", "") == table
    added = cron.with_block(first + last, "faq", own)
    assert added.startswith(first + last) and added.endswith(own)
    assert cron.with_block(added, "faq", "").rstrip("\n") == (first + last).rstrip("\n")


@pytest.mark.parametrize("kept", ["# >>> duplet schedule faq\n", "# <<< duplet schedule faq\n"])
def test_a_marker_that_lost_the_other_is_not_guessed_about(kept: str) -> None:
    with pytest.raises(InputError, match="no single pair of lines"):
        cron.with_block(f"1 1 * * * mine\n{kept}2 2 * * * mine too\n", "faq", "")


def as_cron_runs_it(line: str) -> str:
    """The command of a crontab's line as Debian's do_command.c reads it: a backslash saves % and itself."""
    return re.sub(r"\\([\\%])|%.*", lambda found: found[1] or "", line.split(" ", 5)[5])


@pytest.mark.parametrize("odd", ["100%'s", r"back\slash\\two\%", "a b$(x)`x`", "{{ x }}{% y %}"])
def test_odd_paths_survive_cron_and_the_shell(nightly: Callable[..., Schedule], odd: str) -> None:
    made = nightly({"cwd": f"/a b/{odd}", "root": f"/r {odd}"})
    words = shlex.split(as_cron_runs_it(cron.block(made).splitlines()[1]))
    assert words[:3] == ["cd", f"/a b/{odd}", "&&"]
    assert words[words.index("--root") + 1] == f"/r {odd}"


def test_what_cron_would_cut_is_refused(nightly: Callable[..., Schedule]) -> None:
    cron.block(nightly({"root": f"/{'r' * 150}"}))
    with pytest.raises(InputError, match=r"one line of at most 998 bytes, this one has 1\d\d\d: .* a shorter path"):
        cron.block(nightly({"root": f"/{'r' * 500}"}))


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program crontab that keeps its table in a file, and refuses what `refusal` says."""
    folder, table = tmp_path / "bin", tmp_path / "table"
    folder.mkdir()
    program = folder / "crontab"
    program.write_text(f"""#!{sys.executable}
import pathlib, sys
table, refusal = pathlib.Path({str(table)!r}), pathlib.Path({str(tmp_path / "refusal")!r})
if sys.argv[1] == "-l":
    if not table.exists():
        sys.exit("no crontab for ann")
    sys.stdout.buffer.write(table.read_bytes())
elif refusal.exists():
    sys.exit(refusal.read_text())
else:
    table.write_bytes(sys.stdin.buffer.read())
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return table


def command(tmp_path: Path, config: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    done = [sys.executable, "-m", "pipeline.cli", "schedule", *arguments]
    return subprocess.run(
        [str(path) if a == "CONFIG" else a for a in done], capture_output=True, text=True, timeout=280
    )


def scheduled(done: subprocess.CompletedProcess[str]) -> str:
    """The name of a schedule that was just made, or removed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.partition(": ")[0]


def test_from_the_command_line(tmp_path: Path, small_config: Callable[..., Any], crontab: Path) -> None:
    before = b"MAILTO=ann\r\n5 5 * * * mine \xff"
    crontab.write_bytes(before)
    made = command(tmp_path, small_config(), "CONFIG", "--cron", "0 2 * * *")
    name = scheduled(made)
    assert re.fullmatch(r"small-[0-9a-f]{8}: crontab\n", made.stdout)
    assert crontab.read_bytes().startswith(before + f"\n# >>> duplet schedule {name}\n0 2 * * * cd ".encode())
    root = str(tmp_path / "runs")
    environment = Path(root) / "schedules" / name / "environment.json"
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    again = command(tmp_path, small_config(), "CONFIG", "--cron", "0 3 * * *")
    assert scheduled(again) == name  # the same configuration under the same root: the schedule as it is now
    for named in ([], ["small"], [name]):
        listed = command(tmp_path, small_config(), "list", *named, "--root", root)
        assert re.fullmatch(
            rf"{name}  0 3 \* \* \*  cron  next \d{{4}}-\d\d-\d\dT03:00 \S+  not run yet\n", listed.stdout
        )
    removed = command(tmp_path, small_config(), "remove", "small", "--root", root)
    assert removed.stdout == f"{name}: removed\n" and crontab.read_bytes() == before + b"\n"
    gone = command(tmp_path, small_config(), "remove", "small", "--root", root)
    assert gone.returncode == 2 and "there is no schedule 'small'" in gone.stderr


ALIKE = ("问答", "搜索", "customer-support-search-english-v1", "customer-support-search-english-v2")


def test_schedules_that_read_alike_stay_apart(
    tmp_path: Path, small_config: Callable[..., Any], crontab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names outside of ASCII, long names of one beginning, one file name in two folders: none replaces another."""
    dags = tmp_path / "dags"
    dags.mkdir()
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(dags))
    config = small_config()
    del config["name"]
    for at, (folder, name) in enumerate([(folder, name) for folder in ("p1", "p2") for name in ALIKE]):
        path = tmp_path / folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(config | {"root": str(tmp_path / folder / "runs")}))
        if folder == "p1":
            scheduled(command(tmp_path, config, str(path), "--cron", "9 9 * * *", "--target", "airflow"))
            assert len(list(dags.iterdir())) == 1
        scheduled(command(tmp_path, config, str(path), "--cron", f"{at} 2 * * *"))
        assert not list(dags.iterdir())  # it has gone over to cron, and does not run on both
    assert re.findall(r"^(\d) 2 \* \* \* cd", crontab.read_text(), re.M) == list("01234567")
    assert len(set(re.findall("# >>> (.*)", crontab.read_text()))) == 8
    root = str(tmp_path / "p1" / "runs")
    assert len(command(tmp_path, config, "list", "--root", root).stdout.splitlines()) == 4
    several = command(tmp_path, config, "remove", "customer-support", "--root", root)
    assert several.returncode == 2
    assert "2 schedules are named 'customer-support' (customer-support-search-english" in several.stderr
    assert scheduled(command(tmp_path, config, "remove", "问答", "--root", root)).startswith("schedule-")
    assert scheduled(command(tmp_path, config, "remove", ALIKE[2], "--root", root)).startswith("customer-support")
    assert re.findall(r"^(\d) 2 \* \* \* cd", crontab.read_text(), re.M) == list("134567")


def test_a_schedule_under_an_older_version_s_name_is_removed_first(
    tmp_path: Path, small_config: Callable[..., Any], crontab: Path
) -> None:
    root = tmp_path / "runs"
    name = scheduled(command(tmp_path, small_config(), "CONFIG", "--cron", "0 2 * * *"))
    (root / "schedules" / name).rename(root / "schedules" / "small")
    old = root / "schedules" / "small" / "schedule.json"
    data = json.loads(old.read_text()) | {"name": "small", "created": "2026-11-20T12:00"}
    del data["zone"]
    old.write_text(json.dumps(data))
    crontab.write_text(crontab.read_text().replace(name, "small"))
    refused = command(tmp_path, small_config(), "CONFIG", "--cron", "0 2 * * *")
    assert refused.returncode == 2
    remove = f"(`duplet schedule remove small --root {root}`)"
    assert f"is scheduled already as small, a name of an older version: remove that {remove}" in refused.stderr
    assert "small  0 2 * * *  cron  next " in command(tmp_path, small_config(), "list", "--root", str(root)).stdout
    assert scheduled(command(tmp_path, small_config(), "remove", "small", "--root", str(root))) == "small"
    assert crontab.read_text() == ""
    assert scheduled(command(tmp_path, small_config(), "CONFIG", "--cron", "0 2 * * *")) == name


def test_a_dry_run_does_nothing(tmp_path: Path, small_config: Callable[..., Any], crontab: Path) -> None:
    said = command(tmp_path, small_config(), "CONFIG", "--cron", "0 2 * * *", "--dry-run")
    assert said.returncode == 0
    assert re.search(r"# >>> duplet schedule small-[0-9a-f]{8}\n0 2 \* \* \* cd ", said.stdout)
    assert not crontab.exists() and not (tmp_path / "runs").exists()


def test_a_refusal_leaves_the_schedule_that_was_there(
    tmp_path: Path, nightly: Callable[..., Schedule], crontab: Path
) -> None:
    from jobs.commands import schedule as verb

    made = nightly({"root": str(tmp_path / "runs")})
    verb.install(made)
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}, crontab.read_bytes()
    (tmp_path / "refusal").write_text("You (ann) are not allowed to use this program (crontab)")
    with pytest.raises(InputError, match="crontab refuses"):
        verb.install(made.model_copy(update={"cron": "0 5 * * *"}))
    assert ({path.name: path.read_bytes() for path in made.folder.iterdir()}, crontab.read_bytes()) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cron", "0 25 * * *"], "hour '25' is not valid"),
        ([], "--cron is missing"),
        (["--cron", "0 2 * * *", "--target", "local"], "--target 'local' cannot be scheduled on (allowed: cron, slurm"),
        (["--cron", "0 2 * * *", "--target", "kubernetes"], "kubernetes.claim=NAME"),
        (["--cron", "0 2 * * *", "--walltime-min", "0"], "walltime_min=0"),
        (["--cron", "0 2 * * *", "--zone", "Europe/Berlyn"], "not a time zone, did you mean Europe/Berlin?"),
        (["--cron", "0 2 * * *", "--zone", "Asia/Kathmandu"], "cron goes by this machine's zone"),
        (["--cron", "0 2 */2 * mon", "--target", "airflow"], "means one thing to cron and another to airflow"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, small_config: Callable[..., Any], crontab: Path, arguments: list[str], sentence: str
) -> None:
    said = command(tmp_path, small_config(), "CONFIG", *arguments)
    assert said.returncode == 2
    assert sentence in said.stderr and len(said.stderr.splitlines()) == 1
    assert not crontab.exists() and not (tmp_path / "runs").exists()


def test_a_missing_client_and_a_refusal(
    tmp_path: Path, nightly: Callable[..., Schedule], crontab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.commands import schedule as verb

    made = nightly({"root": str(tmp_path / "runs")})
    (tmp_path / "refusal").write_text("You (ann) are not allowed to use this program (crontab)")
    with pytest.raises(InputError, match=r"crontab refuses \(You \(ann\) are not allowed"):
        verb.install(made)
    assert not made.folder.exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    for target, program in (("cron", "crontab"), ("slurm", "sbatch"), ("kubernetes", "kubectl")):
        with pytest.raises(InputError, match=f"no {program} found"):
            verb.install(made.model_copy(update={"target": target}))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "nowhere"))
    monkeypatch.delenv("AIRFLOW__CORE__DAGS_FOLDER", raising=False)
    with pytest.raises(InputError, match=r"no folder .*nowhere/dags for DAG files"):
        verb.install(made.model_copy(update={"target": "airflow"}))
    assert not made.folder.exists()


# --- what is due ------------------------------------------------------------------------------------------------------
def verdict(due: str, by_hand: bool = False) -> Verdict:
    return Verdict(due, "job", 0, "done", 1.0, {}, by_hand)


def days(found: list[datetime]) -> list[str]:
    return [f"{when:%d}" for when in found]


def test_missed_dates_are_caught_up_or_skipped(nightly: Callable[..., Schedule]) -> None:
    now, done = datetime(2026, 11, 24, 2, 0, 1), [verdict("2026-11-21T02:00")]
    assert days(nights.pending(nightly(missed="catch_up"), done, now)) == ["22", "23", "24"]
    assert days(nights.pending(nightly(missed="skip"), done, now)) == ["24"]
    # none before the schedule was made
    assert days(nights.pending(nightly(missed="catch_up"), [], now)) == ["21", "22", "23", "24"]
    assert nights.pending(nightly(), [verdict("2026-11-24T02:00")], now) == []


def test_a_date_by_hand_marks_itself_alone(nightly: Callable[..., Schedule]) -> None:
    now, last = datetime(2026, 11, 24, 2, 0, 1), verdict("2026-11-20T02:00")
    for by_hand, left in (
        ("2026-11-24T02:00", ["21", "22", "23"]),
        ("2026-11-22T02:00", ["21", "23", "24"]),
        ("2026-12-24T02:00", ["21", "22", "23", "24"]),  # a date to come hides no earlier one
        ("2026-11-22T03:00", ["21", "22", "23", "24"]),
    ):
        done = [last, verdict(by_hand, by_hand=True)]
        assert days(nights.pending(nightly(missed="catch_up"), done, now)) == left
    # one made on the 20th is not due for earlier dates because one of them was run by hand
    earlier = [verdict("2026-11-15T02:00", by_hand=True)]
    assert days(nights.pending(nightly(missed="catch_up"), earlier, now)) == ["21", "22", "23", "24"]
    # only the newest, and that was done by hand
    assert nights.pending(nightly(missed="skip"), [last, verdict("2026-11-24T02:00", by_hand=True)], now) == []


@pytest.mark.parametrize(
    ("zone", "hour"), [("Asia/Shanghai", 18), ("America/Los_Angeles", 10), ("Europe/Berlin", 1), ("UTC", 2)]
)
def test_what_is_due_goes_by_the_clock_of_the_zone(
    nightly: Callable[..., Schedule], monkeypatch: pytest.MonkeyPatch, zone: str, hour: int
) -> None:
    """Two o'clock there is `hour` in UTC, wherever the machine that asks stands; it was made at 15:00 UTC."""
    made = nightly(zone=zone, missed="catch_up", created="2026-11-20T15:00+00:00")
    for here in ("UTC", "Asia/Shanghai", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", here)
        time.tzset()
        at = zones.clock(zone, datetime(2026, 11, 21 if hour < 15 else 20, hour, 0, tzinfo=UTC))
        assert (at.hour, at.minute) == (2, 0)
        assert nights.pending(made, [], at - timedelta(seconds=1)) == []
        assert nights.pending(made, [], at) == [at]
    monkeypatch.undo()
    time.tzset()


def test_when_it_was_made_is_a_moment_and_not_a_clock_s_time(
    nightly: Callable[..., Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made at 10:30 in Shanghai, 02:30 in UTC, for a pod whose clock is UTC's; and at 21:00 in Los Angeles, 05:00."""
    hourly = nightly(cron="0 * * * *", zone="UTC", missed="catch_up", created="2026-11-29T10:30+08:00")
    assert nights.pending(hourly, [], datetime(2026, 11, 29, 4, 0)) == [
        datetime(2026, 11, 29, 3), datetime(2026, 11, 29, 4),
    ]  # fmt: skip
    later = nightly(zone="UTC", missed="catch_up", created="2026-11-29T21:00-08:00")
    assert nights.pending(later, [], datetime(2026, 11, 30, 5, 10)) == []  # 02:00 was before it was made
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    ahead = nightly(zone="Asia/Shanghai").now() - datetime.now(UTC).replace(tzinfo=None)
    assert timedelta(hours=7) < ahead < timedelta(hours=9)
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("made", "first", "due"),
    [
        ("2026-10-24T12:00+02:00", datetime(2026, 10, 24, 20, tzinfo=UTC), "2026-10-25T02:30"),  # the hour comes twice
        ("2027-03-27T12:00+01:00", datetime(2027, 3, 27, 20, tzinfo=UTC), "2027-03-28T02:30"),  # there is no such hour
    ],
)
def test_a_night_in_which_clocks_change_has_its_date_once(
    nightly: Callable[..., Schedule], made: str, first: datetime, due: str
) -> None:
    schedule = nightly(cron="30 2 * * *", missed="catch_up", created=made)
    done: list[Verdict] = []
    for minute in range(0, 24 * 60, 10):
        clock = zones.clock("Europe/Berlin", first + timedelta(minutes=minute))
        done += [verdict(f"{when:%Y-%m-%dT%H:%M}") for when in nights.pending(schedule, done, clock)]
    assert [found.due for found in done] == [due]


def test_every_target_is_told_the_zone(nightly: Callable[..., Schedule]) -> None:
    made = nightly({"kubernetes": {"claim": "c"}}, zone="Asia/Shanghai", created="2026-11-29T21:54+08:00")
    assert kubernetes_schedule.manifests(made)[1]["spec"]["timeZone"] == "Asia/Shanghai"
    assert "start_date=pendulum.datetime(2026, 11, 29, 21, 54, tz='Asia/Shanghai')" in airflow.dag(made)
    assert "data_interval_end.in_timezone('Asia/Shanghai').strftime" in airflow.dag(made)
    assert "-m jobs.dates '0 2 * * *' Asia/Shanghai)" in slurm_schedule.script(made)


def test_dates_fill_paths_and_settings(nightly: Callable[..., Schedule]) -> None:
    text = "ingest: {source: {format: jsonl, path: 'logs/{date}/{time}.jsonl'}}\n"
    made = nightly({"config_text": text, "overrides": ["tracking.experiment=nightly-{date}"]})
    job = nights.dated(made, datetime(2026, 11, 24, 2, 0), "/runs/train/abc")
    assert job.config_text == "ingest: {source: {format: jsonl, path: 'logs/2026-11-24/0200.jsonl'}}\n"
    assert job.overrides == ("tracking.experiment=nightly-2026-11-24", 'train.start_from="/runs/train/abc"')
    assert job.id == "faq-20261124-0200"


@pytest.mark.parametrize(
    ("state", "code", "anew"),
    [("finished", 0, True), ("failed", 2, True), ("failed", 75, False), ("running", None, False)],
)
def test_a_date_run_again_is_as_the_schedule_is_now(
    tmp_path: Path, nightly: Callable[..., Schedule], state: str, code: int | None, anew: bool
) -> None:
    """Unless it was only stopped: then the same training goes on."""
    when = datetime(2026, 11, 24, 2, 0)
    job = nights.dated(nightly({"root": str(tmp_path)}), when, None)
    nights.place(job)
    folders.write_state(job.folder, {"state": state, "exit_code": code})
    changed = nights.dated(nightly({"root": str(tmp_path), "config_text": "x: 1\n"}), when, None)
    assert changed.folder == job.folder
    nights.place(changed)
    assert folders.load(job.folder).spec == (changed if anew else job)
    assert (job.folder / "config.yaml").read_text() == (changed if anew else job).config_text
    assert folders.load(job.folder).state() == {"state": state, "exit_code": code}


def test_the_later_of_two_leaves_or_waits(tmp_path: Path, nightly: Callable[..., Schedule]) -> None:
    made = nightly({"root": str(tmp_path)})
    made.folder.mkdir(parents=True)
    said: list[str] = []
    with (made.folder / "lock").open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with (
            pytest.raises(TryAgain, match=r"an earlier run is not finished.*skipped"),
            nights.alone(made, said.append),
        ):
            raise AssertionError("two at once")
        waiting = subprocess.Popen(
            [sys.executable, "-c", WAITING, schedules.save(made.model_copy(update={"overlap": "wait"}))],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert waiting.stdout is not None
        assert "waiting for it" in waiting.stdout.readline()
        assert waiting.poll() is None
        fcntl.flock(first, fcntl.LOCK_UN)
        assert waiting.stdout.readline() == "mine\n"
        assert waiting.wait(60) == 0


WAITING = """
import sys
from pathlib import Path
from jobs import nights, schedule
with nights.alone(schedule.load(Path(sys.argv[1])), lambda line: print(line, flush=True)):
    print("mine", flush=True)
"""


def test_a_line_cut_short_spoils_no_verdicts(tmp_path: Path) -> None:
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(verdict("2026-11-24T02:00")._asdict()) + '\n{"due": "2026')
    assert [found.due for found in nights.verdicts(tmp_path)] == ["2026-11-24T02:00"]


# --- a night ----------------------------------------------------------------------------------------------------------
@pytest.mark.jobs
@pytest.mark.timeout(1800)
def test_two_nights_the_second_no_better(
    tmp_path: Path, small_config: Callable[..., dict[str, Any]], crontab: Path
) -> None:
    """The first night's model becomes the champion; the second one's starts from it, and is refused."""
    config = small_config(train={"epochs": 1})
    config["promote"] = {"min_difference": 0.9}
    for day in ("23", "24"):  # the same content under another date: nothing to ingest
        shutil.copy(tmp_path / "pairs.jsonl", tmp_path / f"2026-11-{day}.jsonl")
    config["ingest"]["source"]["path"] = str(tmp_path / "{date}.jsonl")
    options = ["--cron", "0 2 * * *", "--retries", "0", "--start-from", "champion"]
    made = command(tmp_path, config, "CONFIG", *options)
    assert made.returncode == 0, made.stderr
    root = str(tmp_path / "runs")
    name = scheduled(made)
    first = command(tmp_path, config, "run", "small", "--root", root, "--date", "2026-11-23", "--json")
    assert first.returncode == 0, first.stderr
    assert "there is no champion yet: training from scratch" in first.stderr
    found = json.loads(first.stdout.splitlines()[-1])["verdicts"][0]
    assert (found["exit_code"], found["due"]) == (0, "2026-11-23T02:00")
    assert found["reason"].startswith("promoted") and found["metrics"]
    second = command(tmp_path, config, "run", "small", "--root", root, "--date", "2026-11-24")
    assert second.returncode == 3
    assert "2026-11-24T02:00: not promoted" in second.stderr
    done = nights.verdicts(Path(root) / "schedules" / name)
    assert [(v.due, v.exit_code) for v in done] == [("2026-11-23T02:00", 0), ("2026-11-24T02:00", 3)]
    log = (Path(root) / "jobs" / f"{name}-20261124-0200" / "log").read_text()
    assert "ingest: up to date" in log and "tokenize: up to date" in log and "train: done" in log
    assert re.search(r"starting from .*, which knew (\d+) of \1 tokens", log)
    listed = command(tmp_path, config, "list", "--root", root)
    assert "last 2026-11-24T02:00 exit 3: not promoted" in listed.stdout


CRONTAB = """#!/bin/sh
if [ "$1" = -l ]; then
    cat table
    echo >> readers
    for i in 1 2 3 4 5 6 7 8 9 10; do [ "$(wc -l < readers)" -gt 1 ] && break; sleep 0.1; done
else cat > table; fi
"""


def test_two_commands_at_once_both_get_into_a_crontab(
    nightly: Callable[..., Schedule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads waits a while for another reader, so that without a lock both would write what they read."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "crontab"
    program.write_text(CRONTAB)
    program.chmod(0o755)
    (tmp_path / "table").write_text("# mine\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(cron.install, (nightly(name="one"), nightly(name="two")))) == ["crontab", "crontab"]
    table = (tmp_path / "table").read_text()
    assert table.startswith("# mine\n")
    assert [cron.markers(name)[0] in table for name in ("one", "two")] == [True, True]

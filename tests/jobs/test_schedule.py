"""Schedules: what each target is handed, what is due, two at once, and a night's run with its verdict."""

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import airflow, cron, kubernetes, kubernetes_schedule, slurm_schedule
from jobs import schedule as schedules
from jobs.schedule import Schedule, Verdict
from jobs.spec import JobSpec
from pipeline.errors import InputError, TryAgain

Spec = Callable[..., JobSpec]
Golden = Callable[[str, str], None]


@pytest.fixture
def nightly(job_spec: Spec) -> Callable[..., Schedule]:
    """A schedule of every night at two, made on a fixed day."""

    def make(job: dict[str, Any] | None = None, **settings: Any) -> Schedule:
        return schedules.check({
            "name": "faq", "cron": "0 2 * * *", "target": "cron", "created": "2026-11-20T12:00",
            "job": job_spec(**(job or {})).model_dump(mode="json"), **settings,
        })  # fmt: skip

    return make


# --- what targets are handed ------------------------------------------------------------------------------------------
def test_crontab_line(nightly: Callable[..., Schedule], golden: Golden) -> None:
    golden("schedule.crontab", cron.block(nightly()))


def test_airflow_dag(nightly: Callable[..., Schedule], golden: Golden) -> None:
    text = airflow.dag(nightly(target="airflow", missed="catch_up"))
    compile(text, "dag", "exec")
    golden("schedule_airflow.py.txt", text)


def test_slurm_script_and_scrontab(nightly: Callable[..., Schedule], golden: Golden) -> None:
    made = nightly({"max_workers": 16, "min_workers": 16, "workers_per_host": 8, "gpus_per_worker": 1,
                    "walltime_min": 120}, target="slurm")  # fmt: skip
    golden("schedule_slurm.sh", slurm_schedule.script(made))
    golden("schedule.scrontab", slurm_schedule.scrontab_block(made))


def test_cron_job(nightly: Callable[..., Schedule], golden: Golden) -> None:
    made = nightly({"kubernetes": {"claim": "duplet", "secrets": ["tracking"]}, "walltime_min": 120},
                   target="kubernetes")  # fmt: skip
    config, job = kubernetes_schedule.manifests(made)
    golden("schedule_cron_job.yaml", kubernetes.as_yaml([config, job]))
    for document in (config, job):
        kubernetes_validate.validate(yaml.safe_load(yaml.safe_dump(document)), "1.33", strict=True)
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    inside = schedules.check(json.loads(config["data"]["schedule.json"]))
    assert (inside.job.root, inside.job.python) == ("/data/runs", kubernetes.PYTHON)


def test_a_cron_job_has_one_pod(nightly: Callable[..., Schedule]) -> None:
    job = {"max_workers": 4, "workers_per_host": 2, "kubernetes": {"claim": "duplet"}}
    with pytest.raises(InputError, match=r"has one pod.*schedule on slurm"):
        kubernetes_schedule.manifests(nightly(job, target="kubernetes"))


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


def test_percent_signs_and_odd_paths_survive_cron_and_the_shell(nightly: Callable[..., Schedule]) -> None:
    made = nightly({"cwd": "/a b/100%'s", "root": "/r %d"})
    line = cron.block(made).splitlines()[1].removeprefix("0 2 * * * ")
    as_cron_runs_it = re.split(r"(?<!\\)%", line)[0].replace("\\%", "%")  # crontab(5)
    said = subprocess.run(["bash", "-nc", as_cron_runs_it], capture_output=True)
    assert said.returncode == 0, said.stderr
    assert as_cron_runs_it.startswith("""cd '/a b/100%'"'"'s' && """) and "--root '/r %d'" in as_cron_runs_it


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
    print(table.read_text(), end="")
elif refusal.exists():
    sys.exit(refusal.read_text())
else:
    table.write_text(sys.stdin.read())
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


def test_from_the_command_line(tmp_path: Path, small_config: Callable[..., Any], crontab: Path) -> None:
    crontab.write_text("MAILTO=ann\n5 5 * * * mine")
    made = command(tmp_path, small_config(), "CONFIG", "--cron", "0 2 * * *")
    assert (made.returncode, made.stdout) == (0, "small: crontab\n"), made.stderr
    assert crontab.read_text().startswith("MAILTO=ann\n5 5 * * * mine\n# >>> duplet schedule small\n0 2 * * * cd ")
    root = str(tmp_path / "runs")
    environment = Path(root) / "schedules" / "small" / "environment.json"
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    listed = command(tmp_path, small_config(), "list", "--root", root)
    assert re.fullmatch(r"small  0 2 \* \* \*  cron  next \d{4}-\d\d-\d\dT02:00  not run yet\n", listed.stdout)
    removed = command(tmp_path, small_config(), "remove", "small", "--root", root)
    assert removed.returncode == 0 and crontab.read_text() == "MAILTO=ann\n5 5 * * * mine\n"
    gone = command(tmp_path, small_config(), "remove", "small", "--root", root)
    assert gone.returncode == 2 and "there is no schedule 'small'" in gone.stderr


def test_a_dry_run_does_nothing(tmp_path: Path, small_config: Callable[..., Any], crontab: Path) -> None:
    said = command(tmp_path, small_config(), "CONFIG", "--cron", "0 2 * * *", "--dry-run")
    assert said.returncode == 0 and "# >>> duplet schedule small\n0 2 * * * cd " in said.stdout
    assert not crontab.exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cron", "0 25 * * *"], "hour '25' makes no sense"),
        ([], "--cron is missing"),
        (["--cron", "0 2 * * *", "--target", "local"], "--target 'local' cannot be scheduled on (allowed: cron, slurm"),
        (["--cron", "0 2 * * *", "--target", "kubernetes"], "kubernetes.claim=NAME"),
        (["--cron", "0 2 * * *", "--walltime-min", "0"], "walltime_min=0"),
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
def verdict(due: str) -> Verdict:
    return Verdict(due, "job", 0, "done", 1.0, {})


def test_missed_dates_are_caught_up_or_skipped(nightly: Callable[..., Schedule]) -> None:
    now, done = datetime(2026, 11, 24, 2, 0, 1), [verdict("2026-11-21T02:00")]
    days = lambda found: [f"{when:%d}" for when in found]
    assert days(schedules.pending(nightly(missed="catch_up"), done, now)) == ["22", "23", "24"]
    assert days(schedules.pending(nightly(missed="skip"), done, now)) == ["24"]
    # none before the schedule was made
    assert days(schedules.pending(nightly(missed="catch_up"), [], now)) == ["21", "22", "23", "24"]
    assert schedules.pending(nightly(), [verdict("2026-11-24T02:00")], now) == []


def test_dates_fill_paths_and_settings(nightly: Callable[..., Schedule]) -> None:
    text = "ingest: {source: {format: jsonl, path: 'logs/{date}/{time}.jsonl'}}\n"
    made = nightly({"config_text": text, "overrides": ["tracking.experiment=nightly-{date}"]})
    job = schedules.dated(made, datetime(2026, 11, 24, 2, 0), "/runs/train/abc")
    assert job.config_text == "ingest: {source: {format: jsonl, path: 'logs/2026-11-24/0200.jsonl'}}\n"
    assert job.overrides == ("tracking.experiment=nightly-2026-11-24", 'train.start_from="/runs/train/abc"')
    assert job.id == "faq-20261124-0200"


def test_the_later_of_two_leaves_or_waits(tmp_path: Path, nightly: Callable[..., Schedule]) -> None:
    made = nightly({"root": str(tmp_path)})
    made.folder.mkdir(parents=True)
    said: list[str] = []
    with (made.folder / "lock").open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with (
            pytest.raises(TryAgain, match=r"an earlier run is still at work.*leaves"),
            schedules.alone(made, said.append),
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
from jobs import schedule
with schedule.alone(schedule.load(Path(sys.argv[1])), lambda line: print(line, flush=True)):
    print("mine", flush=True)
"""


def test_a_line_cut_short_spoils_no_verdicts(tmp_path: Path) -> None:
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(verdict("2026-11-24T02:00")._asdict()) + '\n{"due": "2026')
    assert [found.due for found in schedules.verdicts(tmp_path)] == ["2026-11-24T02:00"]


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
    first = command(tmp_path, config, "run", "small", "--root", root, "--date", "2026-11-23", "--json")
    assert first.returncode == 0, first.stderr
    assert "there is no champion yet: training from scratch" in first.stderr
    found = json.loads(first.stdout.splitlines()[-1])["verdicts"][0]
    assert (found["exit_code"], found["due"]) == (0, "2026-11-23T00:00")
    assert found["reason"].startswith("promoted") and found["metrics"]
    second = command(tmp_path, config, "run", "small", "--root", root, "--date", "2026-11-24")
    assert second.returncode == 3
    assert "2026-11-24: not promoted" in second.stderr.replace("T00:00", "")
    done = schedules.verdicts(Path(root) / "schedules" / "small")
    assert [(v.due, v.exit_code) for v in done] == [("2026-11-23T00:00", 0), ("2026-11-24T00:00", 3)]
    log = (Path(root) / "jobs" / "small-20261124-0000" / "log").read_text()
    assert "ingest: up to date" in log and "tokenize: up to date" in log and "train: done" in log
    assert re.search(r"starting from .*, which knew (\d+) of \1 tokens", log)
    listed = command(tmp_path, config, "list", "--root", root)
    assert "last 2026-11-24T00:00 exit 3: not promoted" in listed.stdout

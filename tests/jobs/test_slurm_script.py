"""The batch script: golden files, odd names, and what makes no sense."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import folder, slurm, slurm_schedule
from jobs import schedule as schedules
from jobs.commands import submit
from jobs.spec import JobSpec, check
from pipeline.cli.main import main
from pipeline.core.errors import InputError, TryAgain

Spec = Callable[..., JobSpec]
Golden = Callable[[str, str], None]


def test_one_node(job_spec: Spec, golden: Golden) -> None:
    spec = job_spec(target="slurm", min_workers=2, max_workers=2, cpus_per_worker=4, mem_gb=16, walltime_min=90)
    golden("slurm_one_node.sh", slurm.script(spec))


def test_two_nodes_of_eight_gpus(job_spec: Spec, golden: Golden) -> None:
    spec = job_spec(
        target="slurm", min_workers=16, max_workers=16, workers_per_host=8, gpus_per_worker=1, cpus_per_worker=4,
        mem_gb=240, walltime_min=1440,
        slurm={"partition": "a100", "account": "search", "save_before_s": 300, "setup": ["module load cuda/11.7"]},
    )  # fmt: skip
    golden("slurm_two_nodes_of_eight_gpus.sh", slurm.script(spec))


def test_as_many_nodes_as_there_are(job_spec: Spec, golden: Golden) -> None:
    spec = job_spec(target="slurm", min_workers=2, max_workers=8, workers_per_host=2, slurm={"extra": ["--exclusive"]})
    golden("slurm_one_to_four_nodes.sh", slurm.script(spec))


def test_a_wall_time_shorter_than_saving_is_refused(job_spec: Spec) -> None:
    with pytest.raises(InputError, match=r"walltime_min=2 is over before.*save_before_s=120"):
        slurm.script(job_spec(target="slurm", walltime_min=2))
    assert "--time=3\n" in slurm.script(job_spec(target="slurm", walltime_min=3))


@settings(deadline=None)
@given(text=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30))
def test_no_name_breaks_out_of_its_place(text: str) -> None:
    """Names that a person or a site chose stay one word of one line; those with control characters are refused."""
    made = {
        "id": "a", "name": text, "config": text, "config_text": "", "overrides": [text], "root": f"/r/{text}",
        "cwd": f"/c/{text}", "python": f"/p/{text}/python", "target": "slurm",
    }  # fmt: skip
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text):
        with pytest.raises(InputError, match="must not hold a line end"):
            check(made)
        return
    spec = check(made)
    script = slurm.script(spec)
    head, _, body = script.partition("set -eu\n")
    assert all(line.startswith("#") for line in head.splitlines() if line)
    # bash itself says how it reads the body, with its commands replaced
    stand_ins = 'cd() { printf "%s\\0" "$@"; }\nexec() { printf "%s\\0" "$@"; }\n'
    said = subprocess.run(["bash", "-c", stand_ins + body + '\nprintf "%s" "$DUPLET_LAUNCHER"'],
                          capture_output=True, timeout=30)  # fmt: skip
    words = said.stdout.decode().split("\0")
    assert said.stderr == b""
    assert words[0] == spec.cwd
    assert words[1:6] == [spec.python, "-P", "-m", "jobs.on_cluster", str(spec.folder)]
    assert shlex.split(words[6])[0] == spec.python


def client(folder: Path, program: str, code: int, stderr: str = "", stdout: str = "") -> None:
    path = folder / program
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stderr.write({stderr!r})\nprint({stdout!r})\nsys.exit({code})\n"
    )
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the only place of programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_missing_client_is_one_sentence(job_spec: Spec, programs: Path) -> None:
    with pytest.raises(InputError, match="no sbatch found: the target needs the commands sbatch, squeue"):
        slurm.target().check(job_spec(target="slurm"))


def test_a_refusal_and_a_bad_moment_are_told_apart(job_spec: Spec, programs: Path, tmp_path: Path) -> None:
    spec = job_spec(target="slurm")
    refusal = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"
    client(programs, "sbatch", 1, refusal)
    with pytest.raises(InputError, match=r"SLURM refuses \(sbatch: error.*Invalid account"):
        slurm.target().submit(spec, tmp_path)
    client(programs, "sbatch", 1, "sbatch: error: Batch job submission failed: Unable to contact slurm controller\n")
    with pytest.raises(TryAgain, match=r"SLURM cannot take this now.*try again later"):
        slurm.target().submit(spec, tmp_path)
    client(programs, "sbatch", 0, stdout="4711;cluster")
    assert slurm.target().submit(spec, tmp_path) == "4711"
    assert os.listdir(programs) == ["sbatch"]


def test_a_job_whose_name_cannot_be_noted_does_not_run(
    programs: Path, tmp_path: Path, small_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked = tmp_path / "asked"
    client(programs, "sbatch", 0, stdout="4711")
    client(programs, "squeue", 0)
    client(programs, "scontrol", 0, stdout="JobId=4711 JobState=PENDING Reason=Priority")
    (programs / "scancel").write_text(f"#!/bin/sh\necho \"$@\" >>'{asked}'\n")
    (programs / "scancel").chmod(0o755)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jobs.folder.write_handle", full)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    assert main(["submit", str(path), "--target", "slurm"]) == 75
    [sentence] = capsys.readouterr().err.splitlines()
    assert "was handed over as 4711 and is cancelled again" in sentence
    assert asked.read_text() == "4711\n"


def test_a_job_after_another_of_a_kind_of_gpu(job_spec: Spec, tmp_path: Path) -> None:
    first = job_spec(target="slurm", root=str(tmp_path), id="faq-1", stages="ingest,tokenize")
    place = folder.create(first, {"job.sh": "#!/bin/sh\n"})
    second = job_spec(target="slurm", root=str(tmp_path), gpus_per_worker=1, max_workers=8, workers_per_host=8,
                      slurm={"gpu_type": "a100", "switches": 1})  # fmt: skip
    with pytest.raises(InputError, match="is not a job of SLURM's, but of slurm"):
        submit._after(second, "faq-1")  # not handed over
    folder.write_handle(place, "4711")
    for named in ("faq-1", "4711"):
        asked = slurm.options(submit._after(second, named))
        assert {"--dependency=afterok:4711", "--kill-on-invalid-dep=yes"} <= {*asked}
        assert {"--gres=gpu:a100:8", "--switches=1"} <= {*asked}
    assert not any("dependency" in option for option in slurm.options(second))
    with pytest.raises(InputError, match="--after is for target slurm, this job's target is local"):
        submit._after(job_spec(), "4711")
    assert (first.verb, second.verb) == ("tokenize", "run")


def test_ranks_end_with_the_first_that_fails(job_spec: Spec) -> None:
    assert "--kill-on-bad-exit=1" in slurm.script(job_spec(target="slurm"))


def test_a_list_asks_once_for_all_jobs(
    job_spec: Spec, programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three that SLURM knows, one that has ended long ago, one that ended badly: the last alone is asked for."""
    asked = tmp_path / "asked"
    ends = {"faq-4": {"state": "finished", "exit_code": 0, "reason": ""}}
    for number in range(1, 6):
        spec = job_spec(target="slurm", root=str(tmp_path), id=f"faq-{number}")
        place = folder.create(spec, {"job.sh": "#!/bin/sh\n"})
        folder.write_handle(place, f"470{number}")
        if spec.id in ends:
            folder.write_state(place, ends[spec.id])
    (programs / "squeue").write_text(
        f"#!/bin/sh\necho squeue >>{asked}\nprintf '4701|RUNNING|None|n1\\n4702|PENDING|Priority|\\n"
        "4703|RUNNING|None|n[2-3]\\n4705|FAILED|NonZeroExitCode|n1\\n'\n"
    )
    (programs / "scontrol").write_text(f"#!/bin/sh\necho scontrol $4 >>{asked}\necho JobState=FAILED ExitCode=2:0\n")
    for program in ("squeue", "scontrol"):
        (programs / program).chmod(0o755)
    assert main(["jobs", "list", "--root", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["jobs"]
    assert [(row["id"], row["state"], row["exit_code"]) for row in rows] == [
        ("faq-1", "running", None), ("faq-2", "queued", None), ("faq-3", "running", None), ("faq-4", "finished", 0),
        ("faq-5", "failed", 2),
    ]  # fmt: skip
    assert rows[2]["reason"] == "as SLURM job 4703 on n[2-3]" and "(Priority)" in rows[1]["reason"]
    assert asked.read_text() == "squeue\nscontrol 4705\n"


# --- how jobs end -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "code", "noted", "expected"),
    [
        ("COMPLETED", "0:0", {"state": "finished", "exit_code": 0}, 0),
        ("FAILED", "2:0", {"state": "failed", "reason": "no source", "exit_code": 2}, 2),
        ("FAILED", "3:0", {"state": "failed", "exit_code": 3}, 3),
        ("FAILED", "2:0", {}, 2),
        ("FAILED", "0:9", {}, 1),  # ended by a signal: its own code is 0
        ("FAILED", "137:0", {}, 1),
        ("OUT_OF_MEMORY", "0:125", {}, 1),
        ("TIMEOUT", "0:15", {}, 75),
        ("NODE_FAIL", "1:0", {}, 75),
        ("PREEMPTED", "0:15", {}, 75),
        ("CANCELLED", "0:0", {}, 75),
    ],
)
def test_wait_ends_with_the_code_that_the_docs_have(
    job_spec: Spec, programs: Path, tmp_path: Path, word: str, code: str, noted: dict[str, Any], expected: int
) -> None:
    place = folder.create(job_spec(target="slurm", root=str(tmp_path)), {"job.sh": "#!/bin/sh\n"})
    folder.write_handle(place, "4711")
    if noted:
        folder.write_state(place, noted)
    client(programs, "scontrol", 0, stdout=f"JobId=4711 JobState={word} ExitCode={code}")
    assert main(["jobs", "wait", str(place)]) == expected


def test_wait_outlasts_a_controller_that_is_busy(
    job_spec: Spec, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.commands import jobs as verb

    place = folder.create(job_spec(target="slurm", root=str(tmp_path)), {"job.sh": "#!/bin/sh\n"})
    folder.write_handle(place, "4711")
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            client(programs, "scontrol", 0, stdout="JobId=4711 JobState=COMPLETED ExitCode=0:0")

    monkeypatch.setattr(verb, "time", SimpleNamespace(sleep=sleep))
    client(programs, "scontrol", 1, "slurm_load_jobs error: Socket timed out on send/recv operation\n")
    assert main(["jobs", "wait", str(place)]) == 0
    assert pauses == sorted(pauses) and pauses[0] == 0.5 and pauses[-1] == 30.0  # ever more rarely, up to 30 s
    client(programs, "scontrol", 1, "slurm_load_jobs error: Socket timed out on send/recv operation\n")
    assert main(["jobs", "wait", str(place)]) == 75


# --- schedules --------------------------------------------------------------------------------------------------------
@pytest.fixture
def nightly(job_spec: Spec, tmp_path: Path) -> schedules.Schedule:
    job = job_spec(root=str(tmp_path), cwd=str(tmp_path)).model_dump(mode="json")
    made = schedules.check({
        "name": "faq-1a2b3c4d", "cron": "0 2 * * *", "target": "slurm", "zone": "UTC",
        "created": "2026-11-20T12:00+00:00", "job": job,
    })  # fmt: skip
    schedules.save(made)
    return made


def test_a_busy_controller_ends_neither_the_night_nor_the_chain(nightly: schedules.Schedule, tmp_path: Path) -> None:
    """The link's script with stand-ins: sbatch fails a few times, and for ever."""
    stubs = """
tries=0
sbatch() { tries=$((tries + 1)); echo "sbatch $*"; [ "$tries" -gt "$FAILS" ]; }
sleep() { echo "sleep $1"; }
run() { echo "broken: ${DUPLET_CHAIN_BROKEN:-no}"; echo "works"; }
"""
    body = slurm_schedule.script(nightly).replace("\nexec ", "\nrun ").replace(nightly.job.python, "true")
    for fails, sleeps in ((0, [0]), (3, [0, 15, 30, 60]), (99, [0, 15, 30, 60, 120, 240])):
        done = subprocess.run(["bash", "-c", stubs + body], env={"FAILS": str(fails), "PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True)  # fmt: skip
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and lines[-1] == "works"
        assert [line for line in lines if "sleep" in line] == [f"sleep {seconds}" for seconds in sleeps]
        assert ("broken: 1" in lines) == (fails == 99)


def test_a_date_by_hand_is_no_link_of_the_chain(nightly: schedules.Schedule) -> None:
    body = slurm_schedule.script(nightly).replace("\nexec ", "\nrun ").replace(nightly.job.python, "true")
    stubs = 'sbatch() { echo "sbatch $*"; }\nrun() { shift 7; echo "run $*"; }\n'
    for options, wanted in (([], ["sbatch", "run"]), (["--date", "2026-11-24"], ["run"])):
        done = subprocess.run(["bash", "-c", stubs + body, "schedule.sh", *options], capture_output=True, text=True)
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == wanted, done.stderr
        assert lines[-1].endswith(" ".join(options))


def test_a_chain_is_mended_after_the_work(nightly: schedules.Schedule, programs: Path) -> None:
    """The controller is away for an hour; and for good; and does not want the link at all."""
    client(programs, "squeue", 1, "slurm_load_jobs error: Unable to contact slurm controller\n")
    client(programs, "sbatch", 0, stdout="8")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if sum(pauses) > 3600:
            client(programs, "squeue", 0)

    said: list[str] = []
    assert slurm_schedule.mend(nightly, said.append, pause) is None
    assert said[-1] == "the next link is SLURM job 8" and pauses[:3] == [30, 60, 120] and max(pauses) == 600
    client(programs, "squeue", 0, stdout="7")
    client(programs, "sbatch", 1, "sbatch: error: would be a second link\n")
    assert slurm_schedule.mend(nightly, said.append, pause) is None  # one waits already
    client(programs, "squeue", 1, "slurm_load_jobs error: Unable to contact slurm controller\n")
    problem = slurm_schedule.mend(nightly, said.append, lambda _: None)
    assert problem is not None and problem.startswith("SLURM takes no next link, so nothing comes any more until")
    client(programs, "squeue", 0)
    client(programs, "sbatch", 1, "sbatch: error: Invalid account\n")
    assert "Invalid account" in (slurm_schedule.mend(nightly, said.append, pytest.fail) or "")


def test_a_busy_controller_costs_nobody_a_scrontab(nightly: schedules.Schedule, programs: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    (programs / "scrontab").write_text(f"""#!{sys.executable}
import pathlib, sys
table, busy = pathlib.Path({str(table)!r}), pathlib.Path({str(tmp_path / "busy")!r})
if sys.argv[1] == "-l" and busy.exists():
    sys.exit("scrontab: error: Socket timed out on send/recv operation")
if sys.argv[1] == "-l":
    print(table.read_text(), end="")
else:
    table.write_text(sys.stdin.read())
""")
    (programs / "scrontab").chmod(0o755)
    client(programs, "squeue", 0)
    client(programs, "scancel", 0)
    table.write_text("5 5 * * * mine\n")
    assert slurm_schedule.install(nightly.model_copy(update={"zone": None})) == "scrontab"
    with_ours = table.read_text()
    assert with_ours.startswith("5 5 * * * mine\n# >>> duplet schedule faq-1a2b3c4d\n")
    (tmp_path / "busy").touch()
    with pytest.raises(TryAgain, match=r"SLURM cannot take this now.*Socket timed out"):
        slurm_schedule._scrontab(nightly, "")
    assert table.read_text() == with_ours
    (tmp_path / "busy").unlink()
    slurm_schedule.remove(nightly)
    assert table.read_text() == "5 5 * * * mine\n"


def test_only_its_own_links_are_cancelled_and_not_before_the_new_one_is_sure(
    nightly: schedules.Schedule, programs: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    for program, said in (("sbatch", "8"), ("squeue", "7"), ("scancel", "")):
        (programs / program).write_text(f"#!/bin/sh\necho {program} \"$@\" >>'{asked}'\necho {said}\n")
        (programs / program).chmod(0o755)
    assert slurm_schedule.install(nightly) == "SLURM job 8"
    queue, submit, cancel = asked.read_text().splitlines()
    assert "--me --name=duplet-schedule-faq-1a2b3c4d --states=PENDING" in queue
    assert submit.startswith("sbatch ") and cancel == "scancel --state=PENDING 7"
    asked.unlink()
    client(programs, "sbatch", 1, "sbatch: error: Unable to contact slurm controller\n")
    with pytest.raises(TryAgain):
        slurm_schedule.install(nightly)
    assert "scancel" not in asked.read_text()  # the link that waits goes on waiting


def test_no_job_has_the_name_of_a_schedule(job_spec: Spec, nightly: schedules.Schedule) -> None:
    """`singleton` and the chain's own links go by name; a configuration may be called as a schedule is."""
    one, other = (job_spec(id=f"schedule-faq-2026112{n}-020000-1a2b3c4d", name="schedule-faq-1a2b3c4d") for n in (4, 5))
    names = [re.findall("--job-name=(.*)", "\n".join(slurm.options(spec)))[0] for spec in (one, other)]
    assert len({*names, slurm_schedule.job_name(nightly)}) == 3
    assert not any("," in name for name in names)  # scancel would take it for two

"""The pages of docs/targets: each shows a team's whole set-up, and each of its commands is done or tried as written."""

import json
import os
import re
import shlex
import shutil
import stat
import sys
from pathlib import Path

import pytest

from jobs import nights
from jobs import schedule as schedules
from pipeline.cli.main import _arguments, main
from tests.flow.pages import PROJECT, blocks_of, commands_of, files_of, run, write_clicks
from tests.jobs.cluster import ACCOUNT, Cluster

PAGES = PROJECT / "docs" / "targets"
TARGETS = ("cron", "slurm", "kubernetes", "airflow", "argo")
# so small that a page's commands train within seconds; the page's own settings stay as they are
SMALL = """
model: {embedding: 8, hidden: 6, layers: 1}
train: {epochs: 1, threads_per_worker: 1, max_pairs_per_update: 32}
evaluate: {bootstrap_samples: 20}
"""
CRONTAB = """#!/bin/sh
case "$1" in
    -l) cat "$HOME/table" ;;
    -) cat >"$HOME/table" ;;
esac
"""


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def commands(name: str) -> list[str]:
    """Those of the blocks, then those within sentences that have all their arguments."""
    text = page(name)
    inline = commands_of([" ".join(found.split()) for found in re.findall(r"(?<!`)`(duplet [^`…]+)`", text)])
    found = dict.fromkeys([*commands_of(blocks_of(text)), *inline])
    whole = [command for command in found if not re.search(r" JOB|^duplet (\w+|jobs (?!list)\w+)$", command)]
    return [re.sub(r"\bDATE\b", "2026-11-24", command) for command in whole]


@pytest.fixture
def team(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder and the environment that a page asks for, before its first command."""
    for file, content in files_of(page(request.getfixturevalue("name"))).items():
        (tmp_path / file).write_text(content, encoding="utf-8")
    write_clicks(tmp_path)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLACK_WEBHOOK", "https://hooks.slack.com/services/T0/B0/x")
    monkeypatch.setenv("DUPLET_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", TARGETS)
def test_a_page_goes_from_nothing_to_the_morning(name: str) -> None:
    text = page(name)
    for heading in ("Once", "Every night", "In the morning"):
        assert re.search(rf"^## \d\. {heading}$", text, re.M), heading
    assert "shop.yaml" in files_of(text)
    for asked in (f"--target {name}" if name != "cron" else "--cron", "exit 75", "exit 3", "promote --back", "keep:"):
        assert asked in text, asked
    for place in (PROJECT / ".mkdocs.yml", PROJECT / "docs" / "jobs.md"):
        assert f"targets/{name}.md" in place.read_text(encoding="utf-8"), place


@pytest.mark.parametrize("name", TARGETS)
def test_each_command_of_a_page_is_tried(
    name: str, team: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []
    for command in commands(name):
        _, verb, *rest = shlex.split(command)
        if verb in ("submit", "schedule") and rest[0].endswith(".yaml"):
            rest = [*(word for word in rest if word != "--dry-run"), "--dry-run"]
            if "--after" in rest:  # a number of SLURM's stands for itself
                assert rest[rest.index("--after") + 1].isdigit()
        elif verb != "config":  # what needs a job, a schedule or a model is done for real below
            assert _arguments([verb, *rest]).verb == verb
            continue
        assert main([verb, *rest]) == 0, (command, capsys.readouterr().err)
        tried.append(capsys.readouterr().out)
    assert len(tried) >= 1
    shown = "\n".join(tried)
    wanted = {
        "cron": "0 2 * * * cd ", "slurm": "--container-image=/shared/duplet.sqsh", "kubernetes": "kind: CronJob",
        "airflow": "dag_id='duplet_shop-", "argo": "kind: CronWorkflow",
    }  # fmt: skip
    assert wanted[name] in shown
    if name == "kubernetes":
        assert "serviceAccountName: duplet" in shown and "kind: MPIJob" in shown


@pytest.mark.mlflow
@pytest.mark.parametrize("name", ["cron"])
def test_the_commands_of_one_machine_run_as_written(name: str, team: Path) -> None:
    """From the first to the last: a job, the champion, the crontab (a stand-in), a night, the morning and the disk."""
    config = team / "shop.yaml"
    config.write_text(config.read_text(encoding="utf-8") + SMALL, encoding="utf-8")
    (team / "home").mkdir()
    (team / "home" / "table").write_text("")
    (team / "bin").mkdir()
    (team / "bin" / "crontab").write_text(CRONTAB)
    (team / "bin" / "crontab").chmod(0o755)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(team / "bin"), os.environ["PATH"]])
    block_commands = [command for command in commands_of(blocks_of(page(name))) if not command.startswith("duplet gc")]
    ran = [run(team, shlex.split(command), PATH=path).stdout for command in block_commands]
    verbs = [command.split()[1] for command in block_commands]
    assert verbs == ["config", "submit", "jobs", "jobs", "promote", *["schedule"] * 4, "schedule", "jobs", "status"]
    table = (team / "home" / "table").read_text().splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [["0", "2"], ["0", "8"]]
    [schedule] = schedules.listed(team / "runs")
    [verdict] = nights.verdicts(schedule.folder)
    assert verdict.due == "2026-11-24T02:00" and verdict.exit_code in (0, 3)  # nothing is new since the first champion
    assert verdict.due in ran[-3] and schedule.name in ran[-2]
    environment = schedule.folder / "environment.json"
    assert json.loads(environment.read_text())["SLACK_WEBHOOK"] and stat.S_IMODE(environment.stat().st_mode) == 0o600
    run(team, ["duplet", "gc", "--dry-run"], PATH=path)
    run(team, shlex.split("duplet schedule remove shop"), PATH=path)
    assert (team / "home" / "table").read_text() == ""


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("name", ["kubernetes"])
def test_a_date_is_done_again_in_a_pod_of_the_cron_job_s(
    name: str, team: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's kubectl, against a stand-in for the cluster's API."""
    cluster = Cluster()
    try:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(team / "kubeconfig")))
        assert main(["schedule", "remove", "shop"]) == 2  # nothing is scheduled yet
        [scheduled] = [c for c in commands(name) if c.startswith("duplet schedule nightly") and "--dry-run" not in c]
        capsys.readouterr()
        assert main(shlex.split(scheduled)[1:]) == 0, capsys.readouterr().err
        made = capsys.readouterr().out.partition(":")[0]
        lines = [line for block in blocks_of(page(name)) for line in block.splitlines() if line.startswith("kubectl")]
        done = [line for line in lines if not re.search(" (get|logs|create secret) ", line)]
        applied, *_ = asked = [line.replace("duplet-shop-1a2b3c4d", f"duplet-{made}") for line in done]
        assert ACCOUNT.relative_to(PROJECT).as_posix() in applied and len(asked) == 4
        for line in asked:
            run(team, ["sh", "-c", line])
        again = cluster.objects["jobs", "again"]["spec"]["template"]["spec"]["containers"][0]
        assert again["command"][-3:] == ["run", "/etc/duplet/schedule.json", "--date=2026-11-24"]
        assert cluster.objects["roles", "duplet"]["rules"]
    finally:
        cluster.stop()

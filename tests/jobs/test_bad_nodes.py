"""Bad nodes of SLURM, told from a bad job: what one node finds, what is judged of it, and what SLURM is asked."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from jobs import bad_nodes, health, node_check, on_cluster, slurm
from jobs import folder as folders
from jobs.bad_nodes import Known, judged
from jobs.spec import JobSpec
from jobs.target_options import SlurmOptions
from pipeline.cli.main import main

Spec = Callable[..., JobSpec]
GOOD = {"disk": "", "root": "", "python": ""}


def found(**nodes: dict[str, str]) -> dict[str, dict[str, str]]:
    """What nodes have found: all is well, but for what is given."""
    return {node: GOOD | bad for node, bad in nodes.items()}


# --- judging ----------------------------------------------------------------------------------------------------------
def starts(*allocations: dict[str, dict[str, str]]) -> tuple[Known, list[set[str]]]:
    """What is known after some starts, each of which leaves out what it has found; and what each has found."""
    known, bad = Known(), []
    for allocation in allocations:
        known, new = judged(known, allocation)
        known = known._replace(excluded=known.excluded | new)
        bad.append(set(new))
    return known, bad


def test_what_fails_on_one_node_alone_is_its_fault() -> None:
    known, [bad] = starts(found(a={}, b={"root": "takes no file"}, c={}))
    assert bad == {"b"} and known.excluded == {"b": "root: takes no file"} and known.own == ()


def test_what_fails_everywhere_is_the_job_s_fault() -> None:
    known, bad = starts(*[found(a={"python": "no mxnet"}, b={"python": "no mxnet"})] * 3)
    assert bad == [set(), set(), set()] and known.excluded == {} and known.own == ("python",)


def test_a_bad_node_is_found_beside_a_fault_of_the_job() -> None:
    fault = {"command": "exit 127"}
    known, [bad] = starts(found(a=fault, b=fault | {"disk": "full"}))
    assert bad == {"b"} and known.own == ("command",)


def test_a_single_node_is_left_out_until_the_next_one_fails_alike() -> None:
    fault = {"command": "exit 1"}
    known, bad = starts(found(a=fault), found(b=fault), found(c=fault), found(a=fault))
    assert bad == [{"a"}, set(), set(), set()]  # one start was in vain; then it was clear whose fault it is
    assert known.excluded == {} and known.own == ("command",)


def test_a_single_node_stays_left_out_where_the_next_one_is_sound() -> None:
    known, bad = starts(found(a={"gpus": "no answer"}), found(b={"gpus": ""}), found(c={"gpus": "no answer"}))
    assert bad == [{"a"}, set(), {"c"}] and set(known.excluded) == {"a", "c"} and known.own == ()


# --- looking, with stand-ins for SLURM's commands ---------------------------------------------------------------------
class Site:
    """A folder of programs: srun answers for nodes, all others note what they are asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked_of = folder, folder / "asked"
        folder.mkdir()

    def program(self, name: str, body: str) -> None:
        note = f"import os, sys\nopen({str(self.asked_of)!r}, 'a').write(' '.join([{name!r}, *sys.argv[1:]]) + '\\n')\n"
        (self.folder / name).write_text(f"#!{sys.executable}\n{note}{body}\n")
        (self.folder / name).chmod(0o755)

    def nodes(self, answers: dict[str, dict[str, str]], names: Iterable[str] = (), given: str = "(null)") -> None:
        """What srun prints, which nodes the allocation and the partition have, and ExcNodeList as SLURM has it."""
        lines = [node_check.MARK + json.dumps({"node": node, "found": what}) for node, what in answers.items()]
        self.program("srun", f"print({chr(10).join(['noise', *lines])!r})")
        there = [*answers, *names]
        show = f"print('JobId=7 ExcNodeList={given} NodeList=x' if 'job' in sys.argv else ' '.join({there!r}))"
        self.program("scontrol", f"if 'show' in sys.argv:\n    {show}")
        self.program("sinfo", f"print(*{[*there, 'u', 'v', 'w']!r}, sep='\\n')")

    def asked(self, program: str) -> list[str]:
        lines = self.asked_of.read_text().splitlines() if self.asked_of.exists() else []
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The inside of an allocation of two nodes."""
    made = Site(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(made.folder))
    for name, value in {"ID": "7", "NUM_NODES": "2", "NODELIST": "[a-b]", "PARTITION": "all"}.items():
        monkeypatch.setenv(f"SLURM_JOB_{name}", value)
    return made


@pytest.fixture
def job(job_spec: Spec, tmp_path: Path) -> Callable[..., folders.Record]:
    """A job of one to two nodes whose folder is made."""

    def make(**health: Any) -> folders.Record:
        spec = job_spec(target="slurm", root=str(tmp_path / "runs"), min_workers=1, max_workers=2, workers_per_host=1,
                        slurm={"health": health})  # fmt: skip
        place = folders.create(spec, {"job.sh": "#!/bin/sh\n"})
        folders.write_handle(place, "7")
        folders.write_state(place, {"state": "running", "reason": "", "exit_code": None})
        return folders.load(place)

    return make


def test_a_bad_node_is_left_out_and_the_job_goes_on_without_it(
    site: Site, job: Callable[..., folders.Record], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, said = job(), list[str]()
    site.nodes(found(a={}, b={"disk": "/tmp takes no file"}), given="x[1-2]")
    new = health.look(record.folder, record.spec, said.append)
    assert new == {"b": "disk: /tmp takes no file"} and "node b is left out from now on (disk: /tmp" in said[0]
    for _ in range(4):  # a start without a chance is none of those that make no progress
        assert on_cluster.go_on(record.folder, "7", new) == 75
    assert site.asked("scontrol")[-2:] == ["requeue 7", "update JobId=7 ExcNodeList=x[1-2],b"]
    state = record.state()
    assert (state["state"], state["reason"]) == ("requeued", "goes on without b")
    site.program("squeue", "print('7|PENDING|BeginTime|')")
    assert main(["jobs", "list", "--root", record.spec.root]) == 0
    assert "left out: b (disk: /tmp takes no file)" in capsys.readouterr().out
    site.program("scontrol", "print('JobId=7 JobState=PENDING Reason=BeginTime')")
    assert main(["jobs", "status", str(record.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {"b": "disk: /tmp takes no file"}
    site.program("sbatch", "print(8)")
    assert slurm.target().submit(record.spec, record.folder) == "8"  # as `duplet jobs resume` does
    assert site.asked("sbatch") == [f"--parsable --exclude=x[1-2],b {record.folder / 'job.sh'}"]


def test_a_fault_of_the_job_excludes_nobody_and_is_said(site: Site, job: Callable[..., folders.Record]) -> None:
    record, said = job(command="/opt/node_chekc"), list[str]()
    site.nodes(found(a={"command": "exit 127"}, b={"command": "exit 127"}))
    assert health.look(record.folder, record.spec, said.append) == {}
    assert said == [
        "warning: the check command fails wherever the job runs, so it is no node's fault (exit 127)"
    ]  # fmt: skip
    assert "/opt/node_chekc" in site.asked("srun")[0]
    assert health.look(record.folder, record.spec, said.append) == {} and len(said) == 1


def test_no_more_nodes_are_left_out_than_the_job_allows(site: Site, job: Callable[..., folders.Record]) -> None:
    record, said = job(exclude_at_most=1), list[str]()
    full = {"disk": "full"}
    site.nodes(found(a={}, b=full, c=full))
    assert health.look(record.folder, record.spec, said.append) == {"b": "disk: full"}
    assert "node c is bad (disk: full) and is not left out: slurm.health.exclude_at_most=1" in said[1]
    assert bad_nodes.known(record.folder).excluded == {"b": "disk: full"}
    assert health.look(record.folder, record.spec, said.append) == {}


def test_a_partition_that_is_too_small_keeps_its_bad_node(
    site: Site, job: Callable[..., folders.Record]
) -> None:  # fmt: skip
    record, said = job(), list[str]()
    spec = record.spec.model_copy(update={"min_workers": 2})
    site.nodes(found(a={}, b={"disk": "full"}))
    site.program("sinfo", "print('a\\nb')")
    assert health.look(record.folder, spec, said.append) == {}
    assert "the job needs 2 nodes, and partition all would have 1" in said[0]


def test_a_node_that_does_not_answer_is_bad(site: Site, job: Callable[..., folders.Record]) -> None:
    record = job()
    site.nodes(found(a={}), names=["b"])
    assert set(health.look(record.folder, record.spec, lambda _: None)) == {"b"}


def test_where_nobody_answers_the_job_goes_on(site: Site, job: Callable[..., folders.Record]) -> None:
    record, said = job(), list[str]()
    site.nodes({})
    site.program("srun", "sys.exit('srun: error: Unable to create step')")
    assert health.look(record.folder, record.spec, said.append) == {}
    assert said == ["warning: the nodes were not looked at (srun: error: Unable to create step)"]


def test_nothing_is_looked_at_where_it_is_not_wanted_or_not_slurm(
    site: Site, job: Callable[..., folders.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.nodes(found(a={}, b={"disk": "full"}))
    record = job(exclude_at_most=0)
    assert health.look(record.folder, record.spec, pytest.fail) == {}
    monkeypatch.delenv("SLURM_JOB_ID")
    spec = record.spec.model_copy(update={"slurm": SlurmOptions()})
    assert health.look(record.folder, spec, pytest.fail) == {} and site.asked("srun") == []


# --- one node ---------------------------------------------------------------------------------------------------------
def look(*arguments: str, **environment: str) -> dict[str, str]:
    """What a node finds; the check of the ranks' modules is that of the tests' own environment."""
    command = [sys.executable, "-P", "-m", "jobs.node_check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=200)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    answer = json.loads(line.removeprefix(node_check.MARK))
    assert answer["node"] == environment.get("SLURMD_NODENAME", answer["node"])
    checks: dict[str, str] = answer["found"]
    return checks


def test_a_sound_node(tmp_path: Path) -> None:
    assert look(str(tmp_path), "0", "true", SLURMD_NODENAME="two") == {
        "disk": "", "root": "", "python": "", "command": ""
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_node_without_its_file_systems_and_with_a_card_that_is_gone(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0\\n7\\n'\n")
    smi.chmod(0o755)
    (tmp_path / "mxnet.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')\n")
    checks = look(str(tmp_path / "gone"), "2", "echo spare >&2; exit 4", TMPDIR=str(tmp_path),
                  PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHONPATH=str(tmp_path))  # fmt: skip
    assert checks["root"] == f"{tmp_path / 'gone'} takes no file (No such file or directory)"
    assert checks["gpus"] == "a GPU has 7 memory errors that could not be corrected"
    assert checks["python"] == "exit 1, ImportError: libcuda.so.1: cannot open shared object file"
    assert checks["command"] == "exit 4, spare" and checks["disk"] == ""
    smi.write_text("#!/bin/sh\necho 0\n")
    few = look(str(tmp_path), "2", PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHONPATH=str(tmp_path))
    assert few["gpus"] == "nvidia-smi shows 1 GPUs, and the job has 2 on each node"


def test_a_check_that_hangs_holds_up_no_other() -> None:
    def hangs() -> str:
        threading.Event().wait()
        return ""

    def breaks() -> str:
        raise ZeroDivisionError("division by zero")

    checks = node_check.look({"a": hangs, "b": lambda: "", "c": breaks}, 0.5)
    assert "no answer" in checks["a"] and checks["b"] == "" and checks["c"] == "ZeroDivisionError: division by zero"

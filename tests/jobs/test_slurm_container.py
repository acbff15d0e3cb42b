"""Ranks in a container on SLURM: what srun is told, how a rank becomes the image's own, and what is refused."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import slurm
from jobs.spec import JobSpec
from pipeline.cli.main import main
from pipeline.core.errors import InputError
from pipeline.distributed import rendezvous

Spec = Callable[..., JobSpec]
PYXIS = {"kind": "pyxis", "image": "registry.example/duplet-gpu:1", "mounts": ["/data", "/a:/b:ro"]}
APPTAINER = {"kind": "apptainer", "image": "/shared/duplet.sif", "mounts": ["/data"]}


def starter(spec: JobSpec) -> list[str]:
    """The words of DUPLET_LAUNCHER as a shell and then the training read them."""
    body = "\n".join(slurm.surroundings(spec)).replace(f"cd {spec.cwd}", "")
    said = subprocess.run(
        ["bash", "-c", f'{body}\nprintf "%s" "$DUPLET_LAUNCHER"'], capture_output=True, text=True, check=True
    )
    return shlex.split(said.stdout)


def test_pyxis_is_told_by_options_of_srun(job_spec: Spec) -> None:
    words = starter(job_spec(max_workers=2, slurm={"container": PYXIS}))
    at = words.index("--kill-on-bad-exit=1")
    assert words[at + 1 :] == [
        "--container-image=registry.example/duplet-gpu:1",
        "--container-mounts=/data/runs:/data/runs,/home/ann/duplet:/home/ann/duplet,/data:/data,/a:/b:ro",
        "--container-workdir=/home/ann/duplet",
        "env", "-u", "PYTHONPATH", "/opt/duplet/bin/python", "-P", "-m", "pipeline.distributed.rendezvous", "inside",
    ]  # fmt: skip


@pytest.mark.parametrize("gpus", [0, 1])
def test_apptainer_stands_before_the_rank_s_command(job_spec: Spec, gpus: int) -> None:
    words = starter(job_spec(max_workers=2, gpus_per_worker=gpus, slurm={"container": APPTAINER}))
    at = words.index("apptainer")
    assert words[at - 1] == "--kill-on-bad-exit=1"
    assert words[at:] == [
        "apptainer", "exec", *["--nv"] * gpus, "--bind", "/data/runs:/data/runs", "--bind",
        "/home/ann/duplet:/home/ann/duplet", "--bind", "/data:/data", "--pwd", "/home/ann/duplet",
        "/shared/duplet.sif", "env", "-u", "PYTHONPATH", "/opt/duplet/bin/python", "-P", "-m",
        "pipeline.distributed.rendezvous", "inside",
    ]  # fmt: skip


@pytest.mark.parametrize("container", [PYXIS, APPTAINER, {}])
def test_nodes_are_looked_at_as_the_ranks_will_find_them(job_spec: Spec, container: dict[str, Any]) -> None:
    spec = job_spec(max_workers=2, slurm={"container": container, "health": {"command": "x  y"}})
    words = slurm.checking(spec, 2, 8)
    python = spec.slurm.container.python if container else spec.python
    assert words[-7:] == [python, "-P", "-m", "jobs.node_check", spec.root, "8", "x  y"]
    assert ("--container-image=registry.example/duplet-gpu:1" in words) == (container == PYXIS)
    assert ("apptainer" in words) == (container == APPTAINER)


def test_a_rank_in_a_container_runs_the_container_s_python(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(rendezvous, "rank", lambda command: ran.append(command) or 0)
    worker = ["/home/ann/duplet/.venv/bin/python", "-P", "-m", "pipeline.training.worker", "/work"]
    assert rendezvous.main(["inside", *worker]) == rendezvous.main(["rank", *worker]) == 0
    assert ran == [[sys.executable, *worker[1:]], worker]


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        ({"kind": "pyxis"}, "a container needs image too"),
        ({"image": "x.sif"}, r"a container needs kind \(pyxis or apptainer\) too"),
        ({"mounts": ["/data"]}, "mounts are of a container: give kind and image too"),
        ({"kind": "docker", "image": "x"}, "slurm.container.kind='docker' should be 'pyxis' or 'apptainer'"),
        ({"kind": "pyxis", "image": "/shared/x.sif"}, "a file of apptainer's: set kind to apptainer"),
        ({"kind": "apptainer", "image": "nvcr.io#x:1"}, "an address of pyxis's: write docker://"),
        ({"kind": "pyxis", "image": "a b"}, "must not hold spaces"),
        (PYXIS | {"mounts": ["data"]}, "mount 'data' must be FOLDER, FOLDER:INSIDE"),
        (PYXIS | {"mounts": ["/a,/b:/c"]}, "without spaces and commas"),
        (PYXIS | {"mounts": ["/a:/b:x"]}, "must be FOLDER, FOLDER:INSIDE"),
        (PYXIS | {"imag": "x"}, r"unknown key slurm.container.imag, .*image.*\(allowed: kind, image, mounts, python\)"),
        (PYXIS | {"mounts": ["/scratch:/data/runs"]}, "/scratch:/data/runs would take the place of /data/runs"),
        (PYXIS | {"mounts": ["/data/runs:/data/runs:ro"]}, "which the ranks must see as it is, and write"),
    ],
)
def test_what_does_not_fit_is_one_sentence(job_spec: Spec, container: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        slurm.script(job_spec(target="slurm", slurm={"container": container}))


def test_two_containers_and_paths_that_cannot_be_mounted_are_refused(job_spec: Spec) -> None:
    extra = {"container": PYXIS, "extra": ["--container-image=other"]}
    with pytest.raises(InputError, match=r"slurm.extra has --container-image=other.*leave one of them out"):
        slurm.script(job_spec(target="slurm", slurm=extra))
    with pytest.raises(InputError, match=r"/data/my runs cannot be mounted"):
        slurm.script(job_spec(target="slurm", root="/data/my runs", slurm={"container": PYXIS}))


def test_a_container_is_set_by_options_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("faq.yaml").write_text("ingest: {source: {format: tsv, path: x.tsv}}\n")
    options = ["slurm.container.kind=apptainer", "slurm.container.image=/x.sif", "slurm.container.mounts=[/data]"]
    assert main(["submit", "faq.yaml", "--target", "slurm", *options, "--dry-run"]) == 0
    assert f"--bind /data:/data --pwd {tmp_path} /x.sif env -u PYTHONPATH" in capsys.readouterr().out

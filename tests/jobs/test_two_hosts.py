"""Two hosts, as far as the network goes: a namespace each, joined by a cable, without ssh; the cable is pulled."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

PATIENCE_S = 900  # for a machine with other things to do
CUT_S = 30


class Hosts(NamedTuple):
    """Names of the two namespaces, and of the first one's end of the cable."""

    first: str
    second: str
    cable: str


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        pytest.skip("two network namespaces: no ip (apt-get install iproute2)")
    number = os.getpid() % 100_000
    found = Hosts(f"duplet{number}a", f"duplet{number}b", f"dup{number}a")
    try:
        for name in found[:2]:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"two network namespaces: {error.stderr.strip()}")
    try:
        ends = found.cable, f"dup{number}b"
        ip("link", "add", ends[0], "netns", found.first, "type", "veth", "peer", "name", ends[1], "netns", found.second)
        for name, end, address in zip(found[:2], ends, ("10.77.0.1/24", "10.77.0.2/24")):
            ip("-n", name, "address", "add", address, "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield found
    finally:
        for name in found[:2]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


STARTER = """
import os, signal, subprocess, sys
hosts, command = sys.argv[1].split(","), sys.argv[2:]
processes = []
for rank, host in enumerate(hosts):
    place = {"SLURM_STEP_TASKS_PER_NODE": f"1(x{len(hosts)})", "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0",
             "SLURM_PROCID": str(rank)}
    processes.append(subprocess.Popen(["ip", "netns", "exec", host, *command], env={**os.environ, **place}))
signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
sys.exit(max(process.wait() for process in processes))
"""


@pytest.fixture
def launcher(hosts: Hosts, tmp_path: Path) -> str:
    """What starts a rank on each host."""
    (tmp_path / "starter.py").write_text(STARTER)
    serve = f"ip netns exec {hosts.first} {sys.executable} -m pipeline.distributed.rendezvous serve"
    starter = f"{sys.executable} {tmp_path}/starter.py {hosts.first},{hosts.second}"
    return f"{serve} {starter} {sys.executable} -m pipeline.distributed.rendezvous rank"


def configuration(tmp_path: Path, small_config: Callable[..., dict[str, Any]], min_stall_s: float) -> Path:
    config = small_config(train={
        "epochs": 400, "patience_validations": None, "workers": 2, "validate_every_updates": 10_000_000,
        "log_every_updates": 10, "min_stall_s": min_stall_s,
    })  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.jobs
@pytest.mark.timeout(1800)
def test_a_training_that_may_wait_outlives_a_pulled_cable(
    tmp_path: Path, hosts: Hosts, launcher: str, small_config: Callable[..., dict[str, Any]]
) -> None:
    """The same start goes on: TCP sends again what was lost, and Gloo waits for two minutes."""
    command = ["train", str(configuration(tmp_path, small_config, min_stall_s=600))]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *command],
            env={**os.environ, "DUPLET_LAUNCHER": launcher}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        before = wait_for_update(tmp_path, 20, run)
        places = {os.readlink(f"/proc/{beat[1]}/ns/net") for beat in beats(tmp_path)}
        assert len(places) == 2, "the two ranks are on one host"
        ip("-n", hosts.first, "link", "set", hosts.cable, "down")
        stood = wait_until_still(tmp_path)
        time.sleep(CUT_S)
        assert run.poll() is None, said(tmp_path)
        assert newest_update(tmp_path) == stood >= before, "the ranks talk by another way"
        ip("-n", hosts.first, "link", "set", hosts.cable, "up")
        wait_for_update(tmp_path, stood + 20, run)
        assert "going on from" not in said(tmp_path)
    finally:
        run.terminate()
        run.wait(PATIENCE_S)
    assert run.returncode == 75  # stopped by us, at an update, with a checkpoint
    assert "stopped at update" in said(tmp_path)


@pytest.mark.jobs
@pytest.mark.timeout(1800)
def test_a_job_starts_again_when_the_cable_is_back(
    tmp_path: Path, hosts: Hosts, launcher: str, small_config: Callable[..., dict[str, Any]]
) -> None:
    """Under a supervisor, a stall longer than the bound ends the ranks; they meet again when they can."""
    path = configuration(tmp_path, small_config, min_stall_s=10)
    environment = {**os.environ, "DUPLET_LAUNCHER": launcher}
    duplet = [sys.executable, "-m", "pipeline.cli"]
    submitted = subprocess.run(
        [*duplet, "submit", str(path), "pause_s=1", "--json"], env=environment, capture_output=True, text=True
    )
    assert submitted.returncode == 0, submitted.stderr
    folder = Path(json.loads(submitted.stdout.splitlines()[-1])["folder"])
    (tmp_path / "log").symlink_to(folder / "log")
    try:
        wait_for_update(tmp_path, 20)
        ip("-n", hosts.first, "link", "set", hosts.cable, "down")
        wait_for(lambda: "restart 1: failed in train" in said(tmp_path), tmp_path)
        time.sleep(CUT_S)
        assert "going on from" not in said(tmp_path)
        ip("-n", hosts.first, "link", "set", hosts.cable, "up")
        wait_for(lambda: "going on from update-" in said(tmp_path), tmp_path)
        after = newest_update(tmp_path)
        wait_for_update(tmp_path, after + 20)
    finally:
        subprocess.run([*duplet, "jobs", "cancel", str(folder)], capture_output=True)
        ended = subprocess.run([*duplet, "jobs", "wait", str(folder)], capture_output=True, text=True)
    assert ended.stdout.startswith("cancelled"), said(tmp_path)


def said(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def wait_for(happened: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, said(folder)
        time.sleep(0.2)


def wait_for_update(folder: Path, update: int, run: "subprocess.Popen[bytes] | None" = None) -> int:
    def there() -> bool:
        assert run is None or run.poll() is None, said(folder)
        return newest_update(folder) >= update

    wait_for(there, folder)
    return newest_update(folder)


def beats(folder: Path) -> list[Any]:
    return [json.loads(path.read_bytes()) for path in folder.glob("runs/work/train-*/beat-*.json")]


def newest_update(folder: Path) -> int:
    return max((beat[6] for beat in beats(folder)), default=-1)


def wait_until_still(folder: Path) -> int:
    """The update at which nothing moves any more while both ranks beat."""
    end, last, since = time.monotonic() + PATIENCE_S, newest_update(folder), [beat[4] for beat in beats(folder)]
    while time.monotonic() < end:
        time.sleep(0.5)
        found, now = newest_update(folder), [beat[4] for beat in beats(folder)]
        if found == last and all(new >= old + 4 for new, old in zip(now, since)):
            return found
        if found != last:
            last, since = found, now
    raise AssertionError("the training goes on without the cable")

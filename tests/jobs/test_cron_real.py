"""Debian's cron daemon fires a schedule once, with a spool and a crontab of its own in a mount namespace."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import nights

PATIENCE_S = 900  # for a machine with other things to do
SPOOL = "/var/spool/cron/crontabs"
FIRES_WITHIN_S = 180  # the daemon looks once a minute


@pytest.fixture
def cron(tmp_path: Path) -> Iterator[list[str]]:
    """A running daemon; the words before a command that make it see the daemon's crontabs."""
    for program in ("cron", "crontab", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"the cron daemon: no {program} (apt-get install cron util-linux)")
    if os.geteuid() != 0:
        pytest.skip("the cron daemon: only root may start one")
    for name in ("spool", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "spool").chmod(0o1730)
    shutil.chown(tmp_path / "spool", group="crontab")
    fired, plain = tmp_path / "fired", tmp_path / "spool" / "root"
    plain.write_text(f"* * * * * touch {fired}\n")  # before the daemon starts: it overlooks changes of its first second
    plain.chmod(0o600)
    mounts = f"mount --bind {tmp_path}/spool {SPOOL} && mount --bind {tmp_path}/run /run && exec cron -f"
    with (tmp_path / "cron.log").open("w") as log:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts], stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + PATIENCE_S
        while not (tmp_path / "run" / "crond.pid").exists():
            if daemon.poll() is not None or time.monotonic() > end:
                pytest.skip(f"the cron daemon: {(tmp_path / 'cron.log').read_text().strip()}")
            time.sleep(0.2)
        inside = ["nsenter", "--mount", f"--target={daemon.pid}", f"--wd={os.getcwd()}"]
        end = time.monotonic() + FIRES_WITHIN_S
        while not fired.exists():  # where PAM may not write to the audit log, the daemon runs no line of anybody's
            if time.monotonic() > end:
                pytest.skip("the cron daemon: it does not run a plain line here (no CAP_AUDIT_WRITE?)")
            time.sleep(0.5)
        yield inside
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE_S)


@pytest.mark.jobs
@pytest.mark.timeout(1800)
def test_cron_fires_a_schedule_and_its_model_becomes_the_champion(
    tmp_path: Path, cron: list[str], small_config: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_config(train={"epochs": 1})))
    root, duplet = tmp_path / "runs", [*cron, sys.executable, "-m", "pipeline.cli", "schedule"]

    def call(*arguments: str) -> str:
        done = subprocess.run([*duplet, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    subprocess.run([*cron, "crontab", "-"], input="# mine\n", text=True, check=True)
    name = call(str(tmp_path / "small.yaml"), "--cron", "* * * * *", "--retries", "0").partition(":")[0]
    assert (tmp_path / "spool" / "root").read_text().count("# mine\n") == 1
    folder, end = root / "schedules" / name, time.monotonic() + PATIENCE_S
    while "" not in nights.words(folder).values():
        log = folder / "log"
        assert time.monotonic() < end, log.read_text() if log.exists() else "cron has not fired"
        time.sleep(0.5)
    assert call("remove", "small", "--root", str(root)) == f"{name}: removed\n"
    first = next(verdict for verdict in nights.verdicts(folder) if verdict.reason != nights.BEGAN)
    assert (first.exit_code, first.reason) == (0, "promoted: it is the first champion")
    left = subprocess.run([*cron, "crontab", "-l"], capture_output=True, text=True).stdout
    assert "# mine\n" in left and "duplet" not in left

"""A training on one host opens no port to the network."""

import re
import subprocess
import sys
from pathlib import Path

import psutil

from pipeline.distributed.launcher import _command
from pipeline.distributed.loopback_horovodrun import LOOPBACK

# Rank 0 tells of every listening port of its own, of its siblings and of their launcher, once all have joined.
RANK = """
import psutil
from pipeline.distributed.world import World

world = World(False)
launcher = psutil.Process().parent()
while "pipeline.distributed.loopback_horovodrun" not in launcher.cmdline():
    launcher = launcher.parent()
if world.rank == 0:
    for process in (launcher, *launcher.children(recursive=True)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                print("listens", connection.laddr.ip)
world.agree(None, "end")
"""


def test_the_ports_of_two_workers_are_on_the_loopback(tmp_path: Path) -> None:
    command = _command(tmp_path, 2)
    assert command[1:4] == ["-P", "-m", "pipeline.distributed.loopback_horovodrun"]
    starts = command.index(sys.executable, 1)
    done = subprocess.run(
        [*command[:starts], sys.executable, "-c", RANK], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"listens (\S+)", done.stdout)
    assert found and {*found} == {LOOPBACK}
    assert LOOPBACK in {a.address for addresses in psutil.net_if_addrs().values() for a in addresses}

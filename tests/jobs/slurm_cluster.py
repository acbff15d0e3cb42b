"""A real SLURM of three nodes on this machine's loopback, from Debian's packages (slurm-wlm, munge), for the tests."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MpiDefault=none
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
NodeName=three NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=2
PartitionName=all Nodes=one,two,three Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")


def lacking() -> str | None:
    """Why it cannot run here; None where it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "only root may start slurmd and munged here"
    if not Path("/var/lib/munge").exists():
        return "there is no user munge"
    return None


class SlurmCluster:
    """Starts the daemons in a folder and stops them by their process ids."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Raises AssertionError with the logs when the nodes are not idle after a minute."""
        munge = self.folder / "munge"
        for path in (munge, self.folder / "state"):
            path.mkdir(parents=True)
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o600)
        shutil.chown(munge, "munge", "munge")
        shutil.chown(munge / "key", "munge", "munge")
        for path in (self.folder, *self.folder.parents):  # the way to the socket is open to all
            with contextlib.suppress(PermissionError):
                path.chmod(path.stat().st_mode | 0o111)
        ports = [_free_port() for _ in range(4)]
        conf = CONF.format(host=socket.gethostname(), folder=self.folder, ports=ports)
        (self.folder / "slurm.conf").write_text(conf)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
        self._daemon(*as_munge, "munged", "--foreground", "--num-threads=2", *options)
        self._wait(lambda: (munge / "socket").exists())
        self._daemon("slurmctld", "-D")
        for node in ("one", "two", "three"):
            self._daemon("slurmd", "-D", "-N", node)
        self._wait(lambda: self.run("sinfo", "--noheader", "--format=%T").split() == ["idle"])

    def run(self, *command: str) -> str:
        """What one of SLURM's commands says."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        return done.stdout

    def stop(self) -> None:
        """Ends the jobs that are left, then the daemons."""
        self.run("scancel", "--user=root", "--full")
        with contextlib.suppress(AssertionError):
            self._wait(lambda: not self.run("squeue", "--noheader"))
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[-1]}.out".replace("/", "_")[-40:]).open("ab") as out:
            self.processes.append(
                subprocess.Popen(
                    command, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
            )

    def _wait(self, ready: Callable[[], bool], patience_s: float = 60) -> None:
        end = time.monotonic() + patience_s
        while not ready():
            assert time.monotonic() < end, "\n".join(p.read_text()[-500:] for p in self.folder.glob("*.log"))
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port

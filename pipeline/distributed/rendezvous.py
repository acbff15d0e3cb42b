"""Ranks on several hosts, without ssh and without MPI's exchange: somebody else's starter, Horovod's Gloo rendezvous.

Horovod's own launcher reaches other hosts over ssh. Inside an allocation the site's starter does without, so there

    M='python -P -m pipeline.distributed.rendezvous'
    DUPLET_LAUNCHER="$M serve srun --ntasks={workers} $M rank"

takes its place (see `pipeline.distributed.launcher`). `serve` runs the rendezvous server while the starter's command
runs; `rank`, which the starter runs once per rank, finds its place in what its starter tells it (SLURM_*, OMPI_*),
gives it to Horovod in Horovod's own variables (horovod/runner/gloo_run.py), and runs the worker. When a worker is
killed, the ranks
on all hosts are ended at once.
"""

import contextlib
import ctypes
import http.client
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import psutil

from pipeline.core.errors import DupletError, InputError
from pipeline.distributed.launcher import end_with_parent

SERVERS = "DUPLET_RENDEZVOUS"  # token@address:port,address:port,… for the ranks
INTERFACE = "DUPLET_INTERFACE"  # the network to use where a host has several that reach the others
POLL_S = 0.5
ANSWER_S, PATIENCE_S = 5.0, 120.0  # for one address, and for any of them
# Gloo gives up an exchange after so long without a byte; its own 30 s end a training that a cable's change only delays.
GLOO_TIMEOUT_S = 120


class Place(NamedTuple):
    """A process's global, local and cross rank and size, as Horovod defines them."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int


def serve(command: list[str]) -> int:
    """Runs a starter's command with the rendezvous server's addresses in its environment; returns its exit code.

    The server listens on all of this host's addresses, on a free port. A SIGTERM ends the starter, and with it the
    ranks on all hosts.

    Raises:
        InputError: DUPLET_INTERFACE is not an interface; there is no such starter.
    """
    from pipeline.distributed.relay import Rendezvous  # Horovod's server takes time to import

    hosts = own_addresses(os.environ.get(INTERFACE))
    server, token = Rendezvous(), secrets.token_hex(8)
    port = server.start()
    servers = f"{token}@{','.join(f'{host}:{port}' for host in hosts)}"
    try:
        try:
            process = subprocess.Popen(command, env={**os.environ, SERVERS: servers}, preexec_fn=end_with_parent)
        except OSError as error:
            raise InputError(f"{command[0]} cannot be run ({error.strerror}): is this inside an allocation?") from None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.terminate())
        ended = False
        while (code := process.poll()) is None:
            if not ended and (died := server.left("duplet", "died")):
                print(died.decode("utf-8", "replace"), file=sys.stderr, flush=True)
                process.terminate()
                ended = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
        return code if code >= 0 else 128 - code
    finally:
        server.stop()


def own_addresses(interface: str | None = None) -> list[str]:
    """IPv4 addresses at which others may reach this host; the loopback's only where there is no other."""
    by_interface = {
        name: [a.address for a in addresses if a.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
        if psutil.net_if_stats()[name].isup
    }
    if interface is not None:
        if not by_interface.get(interface):
            raise InputError(
                f"{INTERFACE}={interface}: no such network here, or without an address "
                f"(there are {', '.join(name for name in by_interface if by_interface[name])})"
            )
        return by_interface[interface]
    outer = [a for addresses in by_interface.values() for a in addresses if not a.startswith("127.")]
    return outer or [a for addresses in by_interface.values() for a in addresses]


def place(environment: Mapping[str, str]) -> Place:
    """This process's place, as its starter tells it; hosts are filled in order, host by host.

    Raises:
        InputError: no starter that is known here said anything, or it deals ranks out in turn over the hosts.
    """
    if "HOROVOD_RANK" in environment:
        return Place(*(int(environment[f"HOROVOD_{name.upper()}"]) for name in Place._fields))
    if "SLURM_PROCID" in environment:
        per_host = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        rank, host, local = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "NODEID", "LOCALID"))
    elif "OMPI_COMM_WORLD_RANK" in environment:
        names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
        rank, size, local, local_size = (int(environment[f"OMPI_COMM_WORLD_{name}"]) for name in names)
        if size % local_size:
            raise InputError(f"mpirun put {local_size} of {size} ranks on this host: it must be as many on each")
        per_host, host = [local_size] * (size // local_size), rank // local_size
    else:
        raise InputError("this process was told no place among the others: start it by srun or mpirun")
    if rank != sum(per_host[:host]) + local:
        raise InputError(f"rank {rank} is not on host {host} by blocks: give the starter --distribution=block")
    return Place(
        rank, sum(per_host), local, per_host[host],
        sum(n > local for n in per_host[:host]), sum(n > local for n in per_host),
    )  # fmt: skip


def tasks_per_node(text: str) -> list[int]:
    """SLURM's short form written out.

    >>> tasks_per_node("8(x2),3")
    [8, 8, 3]
    """
    matches = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    return [int(m[1]) for m in matches if m for _ in range(int(m[2] or 1))]


def rank(command: list[str]) -> int:
    """Runs the worker's command as the rank that this process is to be; returns its exit code.

    Raises:
        DupletError: the launcher cannot be reached, or not be talked to under this host's name.
    """
    from pipeline.distributed.relay import Relay, Within

    own, servers = place(os.environ), os.environ[SERVERS]
    host, port, own_address = reach(servers)
    if own.cross_size > 1:
        use_address(own_address)
    relay = Relay(host, port, {
        "global": Within(own.rank, own.size),
        "local": Within(own.local_rank, own.local_size),
        "cross": Within(own.cross_rank, own.cross_size),
    })  # fmt: skip
    given = variables(own, "127.0.0.1", relay.port, own_address)
    process = subprocess.Popen(command, env={**os.environ, **given}, preexec_fn=end_with_parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        message = f"rank {own.rank} on {socket.gethostname()} was killed by {signal.Signals(-code).name}"
        with contextlib.suppress(OSError, http.client.HTTPException):  # the exit code says it too
            _write(host, port, "died", message)
    return code if code >= 0 else 128 - code


def variables(own: Place, host: str, port: int, own_address: str) -> dict[str, str]:
    """What Horovod wants to know of a rank: its place, the server, and by this host's address the network."""
    interface = next(
        name for name, addresses in psutil.net_if_addrs().items() if own_address in [a.address for a in addresses]
    )
    return {
        **{f"HOROVOD_{name.upper()}": str(value) for name, value in own._asdict().items()},
        "HOROVOD_HOSTNAME": f"{socket.gethostname()}-{own.rank - own.local_rank}",  # node names may share one machine
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": host,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": interface,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": os.environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS", str(GLOO_TIMEOUT_S)),
        "NCCL_SOCKET_IFNAME": interface,
    }


def use_address(own_address: str) -> None:
    """Sees to it that this host's name means the address at which the other hosts reach it.

    Horovod 0.28.1 forgets HOROVOD_GLOO_IFACE in all connections but the first (InitializeForProcessSet in
    horovod/common/gloo/gloo_context.cc reads the new context's, which is empty); Gloo then takes the address of the
    host's name, which is a loopback one wherever /etc/hosts says 127.0.1.1. In a name space of its own this process can
    bear its address for a name.

    Raises:
        DupletError: the name means another address, and it cannot be changed.
    """
    name = socket.gethostname()
    try:
        named_address = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        named_address = "nothing"
    if named_address == own_address:
        return
    library, flags = ctypes.CDLL(None, use_errno=True), 0x04000000  # CLONE_NEWUTS
    if os.geteuid() != 0:
        flags |= 0x10000000  # CLONE_NEWUSER, in which anybody may
    try:
        if library.unshare(flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        socket.sethostname(own_address)
    except OSError as error:
        raise DupletError(
            f"the name {name} means {named_address} on this host, while the others reach it at {own_address}, and "
            f"Horovod takes the name's: let it mean {own_address} in /etc/hosts (a name space of its own was "
            f"refused: {error.strerror})"
        ) from None


def reach(servers: str, patience_s: float = PATIENCE_S) -> tuple[str, int, str]:
    """Address and port of the server that answers to its token, and this host's address towards it.

    Raises:
        DupletError: none answers in time.
    """
    token, _, listed = servers.partition("@")
    deadline = time.monotonic() + patience_s
    while True:
        for address in listed.split(","):
            host, _, port = address.rpartition(":")
            own_address = _knock(host, int(port), token)
            if own_address is not None:
                return host, int(port), own_address
        if time.monotonic() > deadline:
            raise DupletError(
                f"{socket.gethostname()} reaches none of the launcher's addresses ({listed}): open the network "
                f"between the hosts, or name another with {INTERFACE}"
            )
        time.sleep(1)


def _knock(host: str, port: int, token: str) -> str | None:
    """This host's address towards the server, or None; some other service may be listening there."""
    try:
        own_address = _write(host, port, token, token)
        return own_address if _read(host, port, token) == token else None
    except (OSError, http.client.HTTPException):
        return None


def _write(host: str, port: int, key: str, value: str) -> str:
    """Leaves a value with the server; this host's address towards it."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)  # knows nothing of proxies
    try:
        connection.connect()
        own_address: str = connection.sock.getsockname()[0]
        connection.request("PUT", f"/duplet/{key}", body=value.encode())
        connection.getresponse().read()
        return own_address
    finally:
        connection.close()


def _read(host: str, port: int, key: str) -> str | None:
    """A value left with the server."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", f"/duplet/{key}")
        answer = connection.getresponse()
        return answer.read().decode("utf-8", "replace") if answer.status == 200 else None
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """`serve STARTER …`, `rank COMMAND …`, or `inside COMMAND …`: a rank with its container's Python."""
    role, *command = arguments
    try:
        if role == "serve":
            return serve(command)
        if role == "inside":
            command = [sys.executable, *command[1:]]
        return rank(command)
    except DupletError as error:
        print(f"{socket.gethostname()}: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Ranks that a starter puts on hosts: their places, how they meet, and what a missing network says."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DupletError, InputError
from pipeline.distributed import rendezvous
from pipeline.distributed.rendezvous import Place


def slurm(tasks: str, host: int, local: int, rank: int) -> dict[str, str]:
    return {
        "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(host), "SLURM_LOCALID": str(local),
        "SLURM_PROCID": str(rank),
    }  # fmt: skip


def test_a_rank_of_srun_knows_its_place() -> None:
    # 8 + 8 + 3 ranks: the second host's third rank is the eleventh, and all three hosts have a third rank
    assert rendezvous.place(slurm("8(x2),3", 1, 2, 10)) == Place(10, 19, 2, 8, 1, 3)
    assert rendezvous.place(slurm("8(x2),3", 1, 5, 13)) == Place(13, 19, 5, 8, 1, 2)


def test_a_rank_of_mpirun_knows_its_place() -> None:
    names = {"RANK": 5, "SIZE": 8, "LOCAL_RANK": 1, "LOCAL_SIZE": 4}
    environment = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in names.items()}
    assert rendezvous.place(environment) == Place(5, 8, 1, 4, 1, 2)
    with pytest.raises(InputError, match="as many on each"):
        rendezvous.place(environment | {"OMPI_COMM_WORLD_SIZE": "7"})


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_places_number_ranks_and_hosts_without_gap(per_host: list[int]) -> None:
    text = ",".join(map(str, per_host))
    places, rank = [], 0
    for host, count in enumerate(per_host):
        for local in range(count):
            places.append(rendezvous.place(slurm(text, host, local, rank)))
            rank += 1
    assert [p.rank for p in places] == list(range(sum(per_host)))
    assert {p.size for p in places} == {sum(per_host)}
    for local in range(max(per_host)):
        crossing = [p for p in places if p.local_rank == local]
        assert [p.cross_rank for p in crossing] == list(range(len(crossing)))
        assert {p.cross_size for p in crossing} == {len(crossing)}


def test_ranks_dealt_out_in_turn_and_processes_without_a_place_are_refused() -> None:
    with pytest.raises(InputError, match="--distribution=block"):
        rendezvous.place(slurm("2(x2)", 1, 0, 1))
    with pytest.raises(InputError, match="srun or mpirun"):
        rendezvous.place({})


def test_short_form_of_tasks() -> None:
    assert rendezvous.tasks_per_node("8(x2),3") == [8, 8, 3]
    assert rendezvous.tasks_per_node("1") == [1]


def test_an_unknown_network_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"DUPLET_INTERFACE=ib9: no such network here.*\blo\b"):
        rendezvous.own_addresses("ib9")
    assert rendezvous.own_addresses("lo") == ["127.0.0.1"]


def test_another_service_at_the_address_is_not_taken_for_the_server() -> None:
    from horovod.runner.http.http_server import RendezvousServer

    with socket.create_server(("127.0.0.1", 0)) as stranger:
        threading.Thread(target=_answer_as_web_server, args=(stranger,), daemon=True).start()
        strange = f"127.0.0.1:{stranger.getsockname()[1]}"
        with pytest.raises(DupletError, match="reaches none of the launcher's addresses"):
            rendezvous.reach(f"token@{strange}", patience_s=0)
        server = RendezvousServer()
        port = server.start()
        try:
            assert rendezvous.reach(f"token@{strange},127.0.0.1:{port}") == ("127.0.0.1", port, "127.0.0.1")
        finally:
            server.stop()


def _answer_as_web_server(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")


STARTER = """
import os, signal, subprocess, sys
tasks, command = sys.argv[1], sys.argv[2:]
per_host, rank, processes = [int(n) for n in tasks.split(",")], 0, []
for host, count in enumerate(per_host):
    for local in range(count):
        place = dict(SLURM_STEP_TASKS_PER_NODE=tasks, SLURM_NODEID=host, SLURM_LOCALID=local, SLURM_PROCID=rank)
        processes.append(subprocess.Popen(command, env={**os.environ, **{k: str(v) for k, v in place.items()}}))
        rank += 1
signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
sys.exit(max(process.wait() for process in processes))
"""
RANK = """
import os
import horovod.mxnet as hvd
from mxnet import nd
hvd.init()
total = hvd.allreduce(nd.array([2.0 ** hvd.rank()]), op=hvd.Sum, name="x").asscalar()
said = (hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size(), total)
os.write(1, (" ".join(map(str, said)) + "\\n").encode())  # at once: three processes write to one pipe
"""


@pytest.mark.workers
def test_three_ranks_of_two_hosts_meet_and_add_up(tmp_path: Path) -> None:
    (tmp_path / "starter.py").write_text(STARTER)
    (tmp_path / "rank.py").write_text(RANK)
    python = sys.executable
    module = [python, "-m", "pipeline.distributed.rendezvous"]
    command = [*module, "serve", python, str(tmp_path / "starter.py"), "2,1", *module, "rank", python]
    done = subprocess.run(
        [*command, str(tmp_path / "rank.py")],
        env={**os.environ, "DUPLET_INTERFACE": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 3 0 2 0 2 7.0", "1 3 1 2 0 1 7.0", "2 3 0 1 1 2 7.0"]


def test_the_starters_exit_code_is_the_servers() -> None:
    module = [sys.executable, "-m", "pipeline.distributed.rendezvous", "serve"]
    environment = {**os.environ, "DUPLET_INTERFACE": "lo"}
    ended = subprocess.run([*module, sys.executable, "-c", "raise SystemExit(75)"], env=environment)
    assert ended.returncode == 75
    missing = subprocess.run([*module, "no-such-starter"], env=environment, capture_output=True, text=True)
    assert missing.returncode == 2
    assert "no-such-starter cannot be run" in missing.stderr and "Traceback" not in missing.stderr


def test_a_server_too_busy_to_answer_ends_no_training() -> None:
    """As it was, beside 32 ranks that ask it on two cores."""
    code = (
        "import sys, time; from pipeline.distributed import relay, rendezvous; rendezvous.ANSWER_S = 0.1; "
        "relay.ServerHandler.do_GET = lambda self: time.sleep(9); "
        "command = [sys.executable, '-c', 'import time; time.sleep(2); raise SystemExit(75)']; "
        "sys.exit(rendezvous.serve(command))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "DUPLET_INTERFACE": "lo"}, timeout=200)
    assert done.returncode == 75


@pytest.mark.workers
def test_when_one_rank_is_killed_the_others_are_ended(tmp_path: Path) -> None:
    """Rank 0 kills itself; rank 1 would sleep for longer than any test."""
    (tmp_path / "starter.py").write_text(STARTER)
    (tmp_path / "rank.py").write_text(
        "import os, signal, time\n"
        "if os.environ['HOROVOD_RANK'] == '0': os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(100_000)\n"
    )
    python = sys.executable
    module = [python, "-m", "pipeline.distributed.rendezvous"]
    done = subprocess.run(
        [*module, "serve", python, str(tmp_path / "starter.py"), "1,1", *module, "rank", python, tmp_path / "rank.py"],
        env={**os.environ, "DUPLET_INTERFACE": "lo"}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode != 0
    assert "rank 0 on" in done.stderr and "was killed by SIGKILL" in done.stderr


def test_a_host_whose_name_means_another_address_takes_its_address_for_a_name() -> None:
    """Where 127.0.0.2 reaches the others and the name means something else; in a process of its own."""
    code = (
        "import socket; from pipeline.distributed.rendezvous import use_address; "
        "use_address('127.0.0.2'); print(socket.gethostname())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "a name space of its own was refused" in done.stderr:
        assert "let it mean 127.0.0.2 in /etc/hosts" in done.stderr
    else:
        assert (done.stdout, done.stderr) == ("127.0.0.2\n", "")
    assert socket.gethostname() != "127.0.0.2"

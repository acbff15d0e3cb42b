"""How long the rendezvous server takes to answer many ranks: real requests from as many processes of this machine.

Each process does what a rank's relay does (`pipeline.distributed.relay`): it knocks, leaves its host's name and its
addresses (136 bytes for each other rank, as Gloo's) for all ranks, those of its host and those of its local rank, and
asks until it has all that are for it. Then one rank's relay is asked for all addresses as Gloo asks, twice each; each
rank's own process does that on its own host.

    python benchmarks/rendezvous_many.py [--ranks 512] [--per-host 8] [--old 64]

With --old N ranks first meet as they did before: Gloo's own requests, all to the server.
"""

import argparse
import http.client
import os
import sys
import time
from collections.abc import Callable

from horovod.runner.http.http_server import RendezvousServer

from pipeline.distributed import rendezvous
from pipeline.distributed.relay import Relay, Rendezvous, Within

ADDRESS, HOST = 136, b"node-17"
PAUSE_S = 0.01  # Gloo's, between two questions for what is not there


def places(rank: int, ranks: int, per_host: int) -> dict[str, Within]:
    hosts = -(-ranks // per_host)
    return {
        "global": Within(rank, ranks),
        f"local_{rank // per_host}": Within(rank % per_host, per_host),
        f"cross_{rank % per_host}": Within(rank // per_host, hosts),
    }


def meet(rank: int, servers: str, ranks: int, per_host: int) -> Relay:
    """What a rank's relay asks of the server."""
    host, port, _ = rendezvous.reach(servers)
    mine = places(rank, ranks, per_host)
    relay = Relay(host, port, mine)
    for scope, within in mine.items():
        for key, value in ((f"rank_{within.rank}", HOST), (f"{within.rank}", os.urandom(ADDRESS * (within.size - 1)))):
            while relay.ask("PUT", f"/{scope}/{key}", value) is None:
                pass
            while relay.get(scope, key) is None:
                pass
    return relay


def meet_as_before(rank: int, servers: str, ranks: int, per_host: int) -> None:
    """What Gloo asks, without a relay."""
    host, port, _ = rendezvous.reach(servers)

    def ask(verb: str, path: str, body: bytes | None = None) -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            connection.request(verb, path, body)
            answer = connection.getresponse()
            answer.read()
            return answer.status == 200
        except OSError:
            return False
        finally:
            connection.close()

    for scope, within in places(rank, ranks, per_host).items():
        addresses = os.urandom(ADDRESS * (within.size - 1))
        for kind, value, others in (("rank_", HOST, within.rank), ("", addresses, within.size)):
            while not ask("PUT", f"/{scope}/{kind}{within.rank}", value):
                pass
            for other in range(others):
                path = f"/{scope}/{kind}{other}"
                while other != within.rank and not (ask("GET", path) and ask("GET", path)):
                    time.sleep(PAUSE_S)


def timed(server: RendezvousServer, client: Callable[..., object], ranks: int, per_host: int) -> float:
    """Seconds until all have met; each client is a process of its own."""
    port = server.start()
    began, children = time.perf_counter(), []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            try:
                client(rank, f"token@127.0.0.1:{port}", ranks, per_host)
                os._exit(0)
            except BaseException as error:
                print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    took = time.perf_counter() - began
    server.stop()
    if failed:
        raise SystemExit(f"{failed} of {ranks} ranks did not meet the others")
    return took


def relay_s(ranks: int) -> float:
    """Seconds that one rank's relay takes to answer Gloo's questions for all others."""
    server = Rendezvous()
    port = server.start()
    relay = Relay("127.0.0.1", port, {"global": Within(0, ranks)})
    for rank in range(ranks):
        relay.ask("PUT", f"/global/{rank}", bytes(ADDRESS * (ranks - 1)))
    began = time.perf_counter()
    for rank in range(1, ranks):
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)
            connection.request("GET", f"/global/{rank}")
            assert len(connection.getresponse().read()) == ADDRESS * (ranks - 1)
            connection.close()
    took = time.perf_counter() - began
    relay.close()
    server.stop()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--per-host", type=int, default=8)
    parser.add_argument("--old", type=int, default=0)
    given = parser.parse_args()
    if given.old:
        took = timed(RendezvousServer(), meet_as_before, given.old, given.per_host)
        print(f"{given.old} ranks, as before: {took:.1f} s", flush=True)
        print(f"{given.old} ranks, now: {timed(Rendezvous(), meet, given.old, given.per_host):.1f} s", flush=True)
    began = time.process_time()
    took = timed(Rendezvous(), meet, given.ranks, given.per_host)
    print(f"{given.ranks} ranks: {took:.1f} s, the server's processor {time.process_time() - began:.1f} s", flush=True)
    print(f"one rank's relay, {2 * (given.ranks - 1)} of Gloo's questions: {relay_s(given.ranks):.1f} s")


if __name__ == "__main__":
    main()

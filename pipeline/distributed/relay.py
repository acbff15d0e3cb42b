"""How many ranks meet in few requests: each rank's own process answers Horovod in the rendezvous server's place.

Gloo asks for the addresses of each other rank twice, and again each 10 ms until they are there, and reads one address
out of the many of each answer. At 512 ranks that is half a million requests for 36 GB. Here a rank's relay asks the
server once for those addresses that are this rank's own, and gives Gloo answers of the size that it expects.
"""

import http.client
import json
import threading
import time
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from typing import Any, NamedTuple

from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer, RendezvousServer
from horovod.runner.util.network import find_port
from horovod.runner.util.threads import in_thread

MESH = "duplet-mesh"  # the path of the addresses of one rank
AGAIN_S = 0.25  # between two questions for what is not there yet
ANSWER_S = 30.0
WAITING = 4096  # connections that are not yet accepted


class Within(NamedTuple):
    """A rank's place among those of one scope of Horovod's."""

    rank: int
    size: int


class ServerHandler(RendezvousHandler):
    """Horovod's store of keys and values, which also gives all that one rank needs of a scope at once."""

    timeout = ANSWER_S  # of a request's bytes: many ranks send theirs at the same time

    def do_GET(self) -> None:
        """`/duplet-mesh/SCOPE/RANK/SIZE`: once all ranks have told their addresses; else as Horovod's."""
        path = self.path.split("/")
        if path[1] != MESH:
            super().do_GET()
            return
        with self.server.cache_lock:
            values = dict(self.server.cache.get(path[2], {}))
        within = Within(int(path[3]), int(path[4]))
        answer = b"" if len(values) < within.size else packed(values, within)
        self.send_response(200 if answer else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class Server(RendezvousHTTPServer):
    """Horovod's, which lets more than five ranks knock at once."""

    request_queue_size = WAITING


class Rendezvous(RendezvousServer):
    """Horovod's, of the two above."""

    def start(self, handler_cls: type[RendezvousHandler] = ServerHandler) -> int:
        """Listens on all addresses; returns the port."""
        self._httpd, port = find_port(lambda address: Server(address, handler_cls, 0))
        self._listen_thread = in_thread(target=self._httpd.serve_forever)
        return int(port)


def packed(values: Mapping[str, bytes], within: Within) -> bytes:
    """What one rank needs of all ranks' values, each the addresses for all others in the order of their ranks."""
    header, parts = [], []
    for key, value in values.items():
        begin, end = _place(int(key), len(value), within)
        header.append([key, len(value), end - begin])
        parts.append(value[begin:end])
    return json.dumps(header).encode() + b"\n" + b"".join(parts)


def unpacked(answer: bytes, within: Within) -> dict[str, bytes]:
    """What `packed` was given, with zeros for what this rank does not need."""
    header, _, parts = answer.partition(b"\n")
    found, at = {}, 0
    for key, length, size in json.loads(header):
        begin, end = _place(int(key), length, within)
        found[key] = bytes(begin) + parts[at : at + size] + bytes(length - end)
        at += size
    return found


def _place(other: int, length: int, within: Within) -> tuple[int, int]:
    """Where in another rank's value the address for this rank stands; all of it where it is no list of addresses."""
    if other == within.rank or length % (within.size - 1):
        return 0, length
    each, at = length // (within.size - 1), within.rank - (within.rank > other)
    return each * at, each * (at + 1)


class Relay:
    """A server on the loopback for one rank, in front of the rendezvous server at host:port.

    Args:
        places: the rank's place in each of Horovod's scopes, by what the scope's name begins with.
    """

    def __init__(self, host: str, port: int, places: Mapping[str, Within]) -> None:
        self.host, self.upstream, self.places = host, port, places
        self.known: dict[str, dict[str, bytes]] = {}
        self.asked: dict[str, float] = {}
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="relay", daemon=True).start()

    def get(self, scope: str, key: str) -> bytes | None:
        """A value of the server's; None where it is not there yet."""
        within = next((w for name, w in self.places.items() if scope.startswith(name)), None)
        if within is None or within.size < 3 or not key.isdigit():
            return self.ask("GET", f"/{scope}/{key}")
        with self.lock:
            if scope not in self.known and time.monotonic() >= self.asked.get(scope, 0.0) + AGAIN_S:
                answer = self.ask("GET", f"/{MESH}/{scope}/{within.rank}/{within.size}")
                self.asked[scope] = time.monotonic()
                if answer:
                    self.known[scope] = unpacked(answer, within)
            return self.known.get(scope, {}).get(key)

    def ask(self, verb: str, path: str, body: bytes | None = None) -> bytes | None:
        """The server's answer; None where it has none."""
        connection = http.client.HTTPConnection(self.host, self.upstream, timeout=ANSWER_S)
        try:
            connection.request(verb, path, body)
            answer = connection.getresponse()
            content = answer.read()
            return content if answer.status == 200 else None
        except OSError:  # Gloo asks again, until its own patience ends
            return None
        finally:
            connection.close()

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()


def _handler(relay: Relay) -> type[RendezvousHandler]:
    class Handler(RendezvousHandler):
        server: Any

        def _get_value(self, scope: str, key: str) -> bytes | None:
            return relay.get(scope, key)

        def _put_value(self, scope: str, key: str, value: bytes) -> None:
            if relay.ask("PUT", f"/{scope}/{key}", value) is None:
                raise ConnectionError("the rendezvous server does not answer")

        def do_DELETE(self) -> None:
            relay.ask("DELETE", self.path)
            self.send_status_code(200)

    return Handler

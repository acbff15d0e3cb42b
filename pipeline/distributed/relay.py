"""How many ranks meet in few requests: each rank's own process answers Horovod in the rendezvous server's place.

Gloo asks for the addresses of each other rank twice, and again each 10 ms until they are there, and reads one address
out of the many of each answer. At 512 ranks that is half a million requests for 36 GB. Here a rank's relay asks the
server once for those addresses that are this rank's own, and gives Gloo answers of the size that it expects.
"""

import http.client
import json
import re
import threading
import time
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from typing import Any, NamedTuple

from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer, RendezvousServer
from horovod.runner.util.network import find_port
from horovod.runner.util.threads import in_thread

MESH = "duplet-mesh"  # the path of what one rank needs
ADDRESSES = "addresses"  # the kind of keys that are a rank's number alone
HOLD_S, ANSWER_S = 10.0, 30.0  # the server lets a rank wait so long; a rank waits so long for the server
AGAIN_S = 1.0  # between two questions, where the server does not answer
GLOO_S = 0.5  # Gloo waits so long for a relay
WAITING = 4096  # connections that are not yet accepted


class Within(NamedTuple):
    """A rank's place among those of one scope of Horovod's."""

    rank: int
    size: int


class Server(RendezvousHTTPServer):
    """Horovod's, which lets more than five ranks knock at once, and lets them wait until all have come."""

    request_queue_size = WAITING

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.whole = threading.Condition()
        self.sizes: dict[tuple[str, str], int] = {}  # scope and kind of key -> how many ranks are waited for
        self.left: dict[tuple[str, str], dict[str, bytes]] = {}  # likewise -> what ranks have left

    def values(self, scope: str, kind: str, size: int) -> dict[str, bytes] | None:
        """What all ranks of a scope have left under keys of one kind; None where some have not come within HOLD_S."""
        with self.whole:
            self.sizes[scope, kind] = size
            values = self.left.setdefault((scope, kind), {})
            return values if self.whole.wait_for(lambda: len(values) >= size, HOLD_S) else None

    def came(self, scope: str, key: str, value: bytes) -> None:
        """To be called when a value was left: wakes those that wait, if it was the last one."""
        kind = kind_of(key)
        if kind is None:
            return
        with self.whole:
            values = self.left.setdefault((scope, kind), {})
            values[key] = value
            if len(values) >= self.sizes.get((scope, kind), WAITING):
                self.whole.notify_all()

    def handle_error(self, *_: Any) -> None:
        """A rank that no longer listens asks again."""


class ServerHandler(RendezvousHandler):
    """Horovod's store of keys and values, which also gives all that one rank needs of a scope at once."""

    timeout = ANSWER_S  # of a request's bytes: many ranks send theirs at the same time
    server: Server

    def do_GET(self) -> None:
        """`/duplet-mesh/SCOPE/KIND/RANK/SIZE`: once all ranks have left a value of a kind; else as Horovod's."""
        path = self.path.split("/")
        if path[1] != MESH:
            super().do_GET()
            return
        within = Within(int(path[4]), int(path[5]))
        values = self.server.values(path[2], path[3], within.size)
        answer = b"" if values is None else packed(values, within)
        self.send_response(404 if values is None else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _put_value(self, scope: str, key: str, value: bytes) -> None:
        super()._put_value(scope, key, value)
        self.server.came(scope, key, value)


class Rendezvous(RendezvousServer):
    """Horovod's, of the two above."""

    def start(self, handler_cls: type[RendezvousHandler] = ServerHandler) -> int:
        """Listens on all addresses; returns the port."""
        self._httpd, port = find_port(lambda address: Server(address, handler_cls, 0))
        self._listen_thread = in_thread(target=self._httpd.serve_forever)
        return int(port)

    def left(self, scope: str, key: str) -> bytes | None:
        """A value that a rank has left, without asking by the network: a busy server may not answer in time."""
        with self._httpd.cache_lock:
            value: bytes | None = self._httpd.cache.get(scope, {}).get(key)
        return value


def kind_of(key: str) -> str | None:
    """What a key is of: Gloo leaves a rank's addresses under its number and its host's name under rank_NUMBER.

    >>> kind_of("17"), kind_of("rank_17"), kind_of("token")
    ('addresses', 'rank_', None)
    """
    match = re.fullmatch(r"(\D*)\d+", key)
    return None if match is None else match[1] or ADDRESSES


def packed(values: Mapping[str, bytes], within: Within) -> bytes:
    """What one rank needs of all ranks' values, each the addresses for all others in the order of their ranks."""
    header, parts = [], []
    for key, value in values.items():
        begin, end = _place(key, len(value), within)
        header.append([key, len(value), end - begin])
        parts.append(value[begin:end])
    return json.dumps(header).encode() + b"\n" + b"".join(parts)


def unpacked(answer: bytes, within: Within) -> dict[str, bytes]:
    """What `packed` was given, with zeros for what this rank does not need."""
    header, _, parts = answer.partition(b"\n")
    found, at = {}, 0
    for key, length, size in json.loads(header):
        begin, end = _place(key, length, within)
        found[key] = bytes(begin) + parts[at : at + size] + bytes(length - end)
        at += size
    return found


def _place(key: str, length: int, within: Within) -> tuple[int, int]:
    """Where in another rank's value the address for this rank stands; all of it where it is not a list of addresses."""
    if kind_of(key) != ADDRESSES or int(key) == within.rank or length % (within.size - 1):
        return 0, length
    each, at = length // (within.size - 1), within.rank - (within.rank > int(key))
    return each * at, each * (at + 1)


class Relay:
    """A server on the loopback for one rank, in front of the rendezvous server at host:port.

    Args:
        places: the rank's place in each of Horovod's scopes, by what the scope's name begins with.
    """

    def __init__(self, host: str, port: int, places: Mapping[str, Within]) -> None:
        self.host, self.upstream, self.places = host, port, places
        self.known: dict[tuple[str, str], dict[str, bytes]] = {}
        self.asked: dict[tuple[str, str], threading.Event] = {}
        self.lock, self.closed = threading.Lock(), False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="relay", daemon=True).start()

    def get(self, scope: str, key: str) -> bytes | None:
        """A value of the server's; None where it is not there yet."""
        within = next((w for name, w in self.places.items() if scope.startswith(name)), None)
        kind = kind_of(key)
        if within is None or within.size < 3 or kind is None:
            return self.ask("GET", f"/{scope}/{key}")
        with self.lock:
            if (scope, kind) not in self.asked:
                self.asked[scope, kind] = threading.Event()
                threading.Thread(target=self._fetch, args=(scope, kind, within), name="mesh", daemon=True).start()
        self.asked[scope, kind].wait(GLOO_S)
        return self.known.get((scope, kind), {}).get(key)

    def _fetch(self, scope: str, kind: str, within: Within) -> None:
        """Waits for a scope's values of a kind."""
        while not self.closed:
            if answer := self.ask("GET", f"/{MESH}/{scope}/{kind}/{within.rank}/{within.size}"):
                self.known[scope, kind] = unpacked(answer, within)
                self.asked[scope, kind].set()
                return
            time.sleep(AGAIN_S)

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
        self.closed = True
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

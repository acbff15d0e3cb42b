"""Many ranks meet: each is given the addresses that are for it, in one request, and in the form that Gloo expects."""

import http.client
import socket
from collections.abc import Iterator

import pytest

from pipeline.distributed import relay
from pipeline.distributed.relay import Relay, Rendezvous, Within

SIZE, EACH = 5, 8  # ranks, and bytes of an address


def value(rank: int) -> bytes:
    """What a rank leaves: an address for each other rank, in their order."""
    return b"".join(f"{rank}to{other}".ljust(EACH).encode() for other in range(SIZE) if other != rank)


@pytest.fixture
def server() -> Iterator[tuple[Rendezvous, int, list[str]]]:
    """A server, its port and the paths that it was asked for."""
    asked: list[str] = []

    class Noting(relay.ServerHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    found = Rendezvous()
    yield found, found.start(Noting), asked
    found.stop()


def request(port: int, verb: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(verb, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_each_rank_reads_the_addresses_that_are_for_it(server: tuple[Rendezvous, int, list[str]]) -> None:
    _, port, asked = server
    relays = [Relay("127.0.0.1", port, {"global": Within(rank, SIZE)}) for rank in range(SIZE)]
    try:
        for rank in range(SIZE):
            assert request(relays[rank].port, "GET", "/global_x/0")[0] == 404  # not all are there yet
            assert request(relays[rank].port, "PUT", f"/global_x/{rank}", value(rank))[0] == 200
        for rank in range(SIZE):
            for other in (i for i in range(SIZE) if i != rank):
                for _ in range(2):  # as Gloo does
                    status, got = request(relays[rank].port, "GET", f"/global_x/{other}")
                    assert status == 200 and len(got) == len(value(other))
                    at = EACH * (rank - (rank > other))  # where Gloo looks
                    assert got[at : at + EACH] == f"{other}to{rank}".ljust(EACH).encode()
        assert len(asked) == SIZE and all(path.startswith(f"/{relay.MESH}/global_x/") for path in asked)
    finally:
        for one in relays:
            one.close()


def test_other_values_go_through_as_they_are(server: tuple[Rendezvous, int, list[str]]) -> None:
    _, port, _ = server
    one = Relay("127.0.0.1", port, {"global": Within(0, SIZE)})
    try:
        assert request(one.port, "PUT", "/other/key", b"value")[0] == 200
        assert request(one.port, "GET", "/other/key") == (200, b"value")
        assert request(port, "GET", "/other/key") == (200, b"value")
        assert request(one.port, "DELETE", "/other/key")[0] == 200
        assert request(one.port, "GET", "/other/key")[0] == 404
    finally:
        one.close()


def test_values_that_are_no_list_of_addresses_are_kept_whole() -> None:
    values = {"0": b"abc", "1": b"", "2": b"12345", "rank_0": b"ab", "rank_2": b"abcd"}
    assert relay.unpacked(relay.packed(values, Within(1, 3)), Within(1, 3)) == values


def test_a_rank_is_sent_no_address_that_is_for_another() -> None:
    sent = relay.packed({str(rank): value(rank) for rank in range(SIZE)}, Within(2, SIZE))
    others = [
        f"{rank}to{other}".encode() for rank in range(SIZE) if rank != 2 for other in range(SIZE) if other != rank
    ]
    assert [address for address in others if address in sent] == [b"0to2", b"1to2", b"3to2", b"4to2"]


def test_a_relay_asks_again_where_some_have_not_come_or_nobody_answers(
    server: tuple[Rendezvous, int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some ranks come later than the server lets the others wait; and its connections may break."""
    monkeypatch.setattr(relay, "HOLD_S", 0.05)
    monkeypatch.setattr(relay, "AGAIN_S", 0.05)
    _, port, asked = server
    one = Relay("127.0.0.1", port, {"global": Within(0, 3)})
    try:
        assert request(one.port, "PUT", "/global/0", b"ab")[0] == 200
        broken = iter([True, False] + [False] * 999)
        connect = http.client.HTTPConnection.connect

        def breaking(self: http.client.HTTPConnection) -> None:
            if self.port == port and next(broken):
                raise ConnectionResetError
            connect(self)

        monkeypatch.setattr(http.client.HTTPConnection, "connect", breaking)
        for _ in range(40):
            if len(asked) > 2:  # two came to nothing
                break
            assert request(one.port, "GET", "/global/1")[0] == 404
        assert len(asked) > 2
        for rank in (1, 2):
            assert request(port, "PUT", f"/global/{rank}", b"cd")[0] == 200
        got = (request(one.port, "GET", "/global/1") for _ in range(40))
        assert next(answer for answer in got if answer[0] == 200) == (200, b"c\0")
    finally:
        one.close()


def test_a_value_that_the_server_did_not_take_is_not_called_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        one = Relay("127.0.0.1", nobody.getsockname()[1], {"global": Within(0, SIZE)})
    try:
        with pytest.raises(http.client.RemoteDisconnected):
            request(one.port, "PUT", "/global/0", value(0))
    finally:
        one.close()


def test_the_names_of_hosts_come_in_one_request_too(server: tuple[Rendezvous, int, list[str]]) -> None:
    _, port, asked = server
    one = Relay("127.0.0.1", port, {"global": Within(4, SIZE)})
    try:
        for rank in range(SIZE):  # their names come before their addresses
            assert request(one.port, "PUT", f"/global/rank_{rank}", b"host" * rank)[0] == 200
        assert [request(one.port, "GET", f"/global/rank_{rank}") for rank in range(SIZE)] == [
            (200, b"host" * rank) for rank in range(SIZE)
        ]
        assert asked == [f"/{relay.MESH}/global/rank_/4/{SIZE}"]
    finally:
        one.close()

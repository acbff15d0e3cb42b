"""An S3 server of moto's on the loopback, and what may go wrong on the way to it."""

import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.ingest import s3

server = pytest.importorskip("moto.moto_server.werkzeug_app")
serving = pytest.importorskip("werkzeug.serving")


class Server:
    """Answers as S3 does, but for what `fault` makes of a request for a file's content."""

    def __init__(self) -> None:
        self._s3 = server.DomainDispatcherApplication(server.create_backend_app)
        self.fault: Callable[[Server, int, dict[str, Any], Any], Iterable[bytes] | None] | None = None
        self.asked: list[str] = []  # requests for content
        self.refuse: Callable[[str], bool] = lambda path: False  # whether an upload of a path gets a 500
        self._server = serving.make_server("127.0.0.1", 0, self, True, request_handler=server.MotoRequestHandler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = "http://{}:{}".format(*self._server.server_address[:2])

    def __call__(self, request: dict[str, Any], start: Any) -> Iterable[bytes]:
        if request["REQUEST_METHOD"] in ("GET", "HEAD") and request["PATH_INFO"].count("/") > 1:
            self.asked.append(request["PATH_INFO"])
            if self.fault is not None and (answer := self.fault(self, len(self.asked), request, start)) is not None:
                return answer
        if request["REQUEST_METHOD"] in ("PUT", "POST") and self.refuse(request["PATH_INFO"]):
            start("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>of a test</Message></Error>"]
        answer_of_s3: Iterable[bytes] = self._s3(request, start)
        return answer_of_s3

    def whole(self, request: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        """The right answer."""
        told: list[Any] = []
        content = b"".join(self._s3(request, lambda *given: told.extend(given[:2])))
        return told[0], told[1], content

    def put(self, name: str, content: bytes = b"") -> None:
        kind = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.address}/{name}", content, kind, method="PUT")
        urllib.request.urlopen(request).close()

    def close(self) -> None:
        self._server.shutdown()


def failing(status: str, code: str, times: int) -> Any:
    """Answers so to the first requests for content."""

    def fault(served: Server, number: int, request: dict[str, Any], start: Any) -> Iterable[bytes] | None:
        if number > times:
            return None
        start(status, [("Content-Type", "application/xml")])
        head = request["REQUEST_METHOD"] == "HEAD"
        return [] if head else [f"<Error><Code>{code}</Code><Message>of a test</Message></Error>".encode()]

    return fault


def cut(served: Server, number: int, request: dict[str, Any], start: Any) -> Iterable[bytes] | None:
    """Ends each second answer in its midst."""
    if request["REQUEST_METHOD"] == "HEAD" or number % 2:
        return None
    status, headers, content = served.whole(request)
    start(status, headers)
    return [content[: len(content) // 2]]


def slow(served: Server, number: int, request: dict[str, Any], start: Any) -> Iterable[bytes] | None:
    """Sends an answer a few bytes at a time."""
    if request["REQUEST_METHOD"] == "HEAD":
        return None
    status, headers, content = served.whole(request)
    start(status, headers)
    step = len(content) // 5 + 1

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(content), step):
            time.sleep(0.05)
            yield content[at : at + step]

    return pieces()


def late(served: Server, number: int, request: dict[str, Any], start: Any) -> Iterable[bytes] | None:
    """Does not answer the second request in time."""
    if number == 2:
        time.sleep(3)
    return None


@contextmanager
def reached(served: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """While entered, s3:// means this server, which does no wrong yet."""
    for name in s3.CREDENTIALS:
        monkeypatch.setenv(name, "of-a-test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", served.address)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3._made.cache_clear()
    served.fault, served.asked, served.refuse = None, [], lambda path: False
    yield served
    served.fault, served.refuse = None, lambda path: False
    s3._made.cache_clear()

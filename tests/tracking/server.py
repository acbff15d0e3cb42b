"""A real MLflow server on the loopback, and a proxy before it that fails as servers and networks do."""

import contextlib
import http.client
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

START_S = 120.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """`mlflow server` over a SQLite database in a folder; can be killed and started again on the same port."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.empty, self.port = folder, database, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.forget()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.folder / "server.db"

    def forget(self) -> None:
        """Puts an empty database in the place of the server's; not while it runs."""
        for path in self.folder.glob("server.db*"):
            path.unlink()
        shutil.copy(self.empty, self.database)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                    "--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}",
                    "--artifacts-destination", str(self.folder / "artifacts"),
                ],
                stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eight processes that run nothing
            )  # fmt: skip
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """SIGKILL to it and the processes that it started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy:
    """Passes requests on to a server, as `mode` says:

    pass: and the answers back; refuse: none, 500 instead; lose: passes them on, then 500 instead of the answer;
    cut: passes them on, then closes the connection; hang: neither, until the mode changes; slow: each a second later;
    drip: an answer of some bytes a second that never ends, until the mode changes.
    `only`: the mode is for requests whose path holds this, others pass.
    """

    def __init__(self, port: int) -> None:
        self.mode, self.only, self.calls, self.failed, self.behind = "pass", "", 0, 0, port
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.mode = "refuse"
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.calls += 1
        body = _body(request)
        mode = self.mode if self.only in request.path else "pass"
        self.failed += mode != "pass"
        while mode == "hang" and self.mode == "hang":
            time.sleep(0.05)
        if mode == "slow":
            time.sleep(1.0)
        if mode == "drip":
            self._drip(request)
            return
        if mode in ("refuse", "hang"):
            self._answer(request, 500, b"no", [])
            return
        onward = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name != "Transfer-Encoding"}
            onward.request(request.command, request.path, body, headers)
            got = onward.getresponse()
            answer, status = got.read(), got.status
        except OSError:
            self._answer(request, 502, b"nobody there", [])
            return
        finally:
            onward.close()
        if mode == "cut":
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
        elif mode == "lose":
            self._answer(request, 500, b"lost", [])
        else:
            kept = [(name, value) for name, value in got.getheaders() if name.lower().startswith(("content-t", "x-"))]
            self._answer(request, status, answer, kept)

    def _drip(self, request: http.server.BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.send_response(200)
        request.send_header("Content-Length", str(1 << 20))
        with contextlib.suppress(OSError):
            request.end_headers()
            while self.mode == "drip":
                request.wfile.write(b" ")
                time.sleep(0.2)

    @staticmethod
    def _answer(
        request: http.server.BaseHTTPRequestHandler, status: int, body: bytes, headers: list[tuple[str, str]]
    ) -> None:
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(OSError):  # whoever asked may be gone
            request.end_headers()
            request.wfile.write(body)


def _body(request: http.server.BaseHTTPRequestHandler) -> bytes:
    """A request's body; that of an empty file comes in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    parts = []
    while size := int(request.rfile.readline(), 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)

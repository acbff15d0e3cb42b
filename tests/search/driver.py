"""A headless Chromium driven through chromedriver's own HTTP interface (WebDriver), for tests that look at a page."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Down": "\ue015", "Up": "\ue013"}
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
WAIT_S = 30


def missing() -> str | None:
    """Why no browser can be started, or None."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed (Debian: chromium, chromium-driver)" if absent else None


class Browser:
    """One window; closed on leaving.

    Args:
        profile: an empty folder for the browser's own files.
    """

    def __init__(self, profile: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={self._port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        flags = [*FLAGS, f"--user-data-dir={profile}"]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": flags},
                  "goog:loggingPrefs": {"browser": "ALL"}}  # fmt: skip
        self._session = self._until_up({"capabilities": {"alwaysMatch": wanted}})

    def view(self, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        """The page's size, and what prefers-color-scheme says."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(WAIT_S)

    def open(self, address: str) -> None:
        """Goes there from an empty page, so that an address with another fragment is loaded too."""
        self._ask("POST", "/url", {"url": "about:blank"})
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a function body in JavaScript."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, condition: str) -> Any:
        """Waits for a JavaScript expression to be true; returns it."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if found := self.run(f"return {condition}"):
                return found
        raise AssertionError(f"never true: {condition}; the page: {self.run('return document.body.innerText')[:500]}")

    def press(self, *keys: str) -> None:
        """Types text, or keys by the names of KEYS, into whatever has the focus."""
        text = "".join(KEYS.get(key, key) for key in keys)
        actions = [{"type": kind, "value": letter} for letter in text for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))
        return path

    def complaints(self) -> list[str]:
        """What the browser's console holds: script errors, what the content policy blocked, failed requests."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _until_up(self, body: dict[str, Any]) -> str:
        end = time.monotonic() + WAIT_S
        while True:
            try:
                return str(_request(self._port, "POST", "/session", body)["sessionId"])
            except urllib.error.URLError as error:
                if isinstance(error, urllib.error.HTTPError) or time.monotonic() > end:
                    self._driver.terminate()
                    raise

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _request(self._port, method, f"/session/{self._session}{path}", body)


def _request(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", None if body is None else json.dumps(body).encode(), method=method
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return json.loads(answer.read())["value"]

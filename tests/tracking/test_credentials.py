"""The environment's credentials go to the servers that the person has named, and to none that a configuration names."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config import load_config, secrets_sent
from pipeline.core import credentials
from pipeline.core.errors import InputError
from pipeline.tracking.client import Address, connect


class Listener:
    """A web server that takes whatever comes, and keeps the Authorization header of each request."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.heard.append(self.headers.get("Authorization"))
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without credentials, whose changes end with the test."""
    for name in (*credentials.MLFLOW_SENDS, credentials.NAMED, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def heard(listener: Listener, root: Path) -> set[str | None]:
    """What MLflow's client sends the listener."""
    listener.heard.clear()
    _, client = connect(Address(listener.uri, None, root))
    with pytest.raises(Exception, match=r"404"):
        client.search_experiments()
    assert listener.heard
    return set(listener.heard)


def give(where: str, nobody: pytest.MonkeyPatch, home: Path) -> str:
    """Credentials in the environment or in MLflow's file; the header that they make."""
    if where == "token":
        nobody.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
        return "Bearer t0ken"
    if where == "password":
        nobody.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        nobody.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    else:
        (home / ".mlflow").mkdir()
        text = "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = pw\n"
        (home / ".mlflow" / "credentials").write_text(text)
    return "Basic YW5uOnB3"  # base64 of ann:pw


@pytest.mark.parametrize("where", ["token", "password", "file"])
def test_credentials_go_where_the_person_says(
    where: str, listener: Listener, nobody: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    header = give(where, nobody, tmp_path)
    assert heard(listener, tmp_path) == {None}
    nobody.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # another server
    assert heard(listener, tmp_path) == {None}
    nobody.setenv("MLFLOW_TRACKING_URI", f"{listener.uri}/")
    assert heard(listener, tmp_path) == {header}
    nobody.delenv("MLFLOW_TRACKING_URI")
    assert heard(listener, tmp_path) == {None}
    credentials.trust(listener.uri)
    assert heard(listener, tmp_path) == {header}


def test_uri_of_the_command_line_is_trusted(listener: Listener, nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody.chdir(tmp_path)
    nobody.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    assert main.main(["report", "0" * 32, "--uri", listener.uri]) in (2, 75)
    assert set(listener.heard) == {"Bearer t0ken"}


@pytest.mark.parametrize(("named", "header"), [(False, None), (True, "Bearer t0ken")])
def test_the_process_that_sends_a_run_keeps_to_it(
    named: bool, header: str | None, small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any],
    listener: Listener, nobody: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    nobody.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    if named:
        nobody.setenv("MLFLOW_TRACKING_URI", listener.uri)
    config = small_config(tracking={"uri": listener.uri, "max_wait_s": 60})
    done = duplet("ingest", config)
    assert done.returncode == 0, done.stderr
    assert listener.heard
    assert set(listener.heard) == {header}
    said = f"MLFLOW_TRACKING_TOKEN not sent to {listener.uri}, which only the configuration names"
    assert (said in done.stderr) is not named
    assert "t0ken" not in done.stderr


# --- variables in a configuration -------------------------------------------------------------------------------------
def read(tmp_path: Path, path: str, **settings: str) -> Any:
    config = tmp_path / "faq.yaml"
    config.write_text("ingest: {source: {format: tsv}}\n")
    overrides = [f"ingest.source.path={path}", *(f"{name}={value}" for name, value in settings.items())]
    return load_config(config, overrides)


@pytest.mark.parametrize(
    "address",
    ["https://host/a.tsv?token=${DATA_TOKEN}", "https://ann:${DATA_TOKEN}@host/a.tsv", "http://127.0.0.1:9/?t=${DATA_TOKEN}",
     "http://localhost/${DATA_TOKEN}", "http://[::1]:8/${DATA_TOKEN}", "s3://${DATA_TOKEN}@bucket/a"],
)  # fmt: skip
def test_a_secret_goes_to_the_address_that_it_is_meant_for(address: str, tmp_path: Path, nobody: Any) -> None:
    nobody.setenv("DATA_TOKEN", "s3cret-s3cret")
    assert "s3cret-s3cret" in read(tmp_path, address).ingest.source.path


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://host/?t=${DATA_TOKEN}", "would send DATA_TOKEN to host without encryption"),
        ("http://127.0.0.1.evil.example/?t=${DATA_TOKEN}", "without encryption"),
        ("http://127.0.0.1@evil.example/?t=${DATA_TOKEN}", "would send DATA_TOKEN to evil.example"),
        ("filecache::http://host/?t=${DATA_TOKEN}", "would send DATA_TOKEN to host without encryption"),
        ("HTTP://host/?t=${DATA_TOKEN}", "without encryption"),
        ("https://host/?k=${AWS_SECRET_ACCESS_KEY}", "would send AWS_SECRET_ACCESS_KEY to host: that is a secret of"),
        ("http://127.0.0.1:9/?k=${AWS_SECRET_ACCESS_KEY}", "would send AWS_SECRET_ACCESS_KEY to 127.0.0.1"),
        ("https://h/${MLFLOW_TRACKING_PASSWORD}", "would send MLFLOW_TRACKING_PASSWORD to h"),
        ("data/${DATA_TOKEN}/a.tsv", "holds the secret DATA_TOKEN, and is not an address"),
    ],
)
def test_a_secret_goes_nowhere_else(address: str, said: str, tmp_path: Path, nobody: pytest.MonkeyPatch) -> None:
    for name in ("DATA_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"):
        nobody.setenv(name, "s3cret-s3cret")
    for settings in ({"path": address}, {"path": "a.tsv", "tracking.uri": address}, {"path": "a.tsv", "name": address}):
        with pytest.raises(InputError) as caught:
            read(tmp_path, **settings)
        assert said in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_it_is_said_which_secrets_are_sent_where(tmp_path: Path, nobody: pytest.MonkeyPatch) -> None:
    nobody.setenv("DATA_TOKEN", "s3cret-s3cret")
    nobody.setenv("DUPLET_DATA", "s3cret-s3cret")
    config = tmp_path / "faq.yaml"
    config.write_text("ingest: {source: {format: tsv, path: 'https://a/${DUPLET_DATA}/?token=${DATA_TOKEN}'}}\n")
    assert secrets_sent(config) == ["the value of DATA_TOKEN goes to a"]
    overrides = ["tracking.uri=https://u:${DATA_TOKEN}@b:8000/"]
    assert secrets_sent(config, overrides) == ["the value of DATA_TOKEN goes to a", "the value of DATA_TOKEN goes to b"]


def test_what_is_no_secret_goes_anywhere(tmp_path: Path, nobody: pytest.MonkeyPatch) -> None:
    """A path, also of a key's file; a short value; a name that says nothing of a secret."""
    for name, value in (("DATA_KEY", "/data"), ("SHORT_KEY", "a"), ("DUPLET_DATA", "s3cret-s3cret")):
        nobody.setenv(name, value)
    found = read(tmp_path, "${DATA_KEY}/${SHORT_KEY}/${DUPLET_DATA}.tsv")
    assert found.ingest.source.path == "/data/a/s3cret-s3cret.tsv"

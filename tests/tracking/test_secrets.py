"""Passwords and tokens planted wherever they are given, and looked for in everything that a run leaves."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core import redaction
from tests.conftest import duplet_command, last_json, reversed_pairs
from tests.tracking.server import Proxy, Server

PASSWORD, TOKEN, KEY = "Pl4nted-p4ss", "Pl4ntedT0ken", "Pl4nted/K3y+x"


@pytest.fixture
def source() -> Iterator[str]:
    """The address of pairs on a web server that wants a token."""
    rows = "".join(json.dumps(row) + "\n" for row in reversed_pairs(240)).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = f"token={TOKEN}" in self.path and "pairs.jsonl" in self.path
            self.send_response(200 if found else 403)
            self.send_header("Content-Length", str(len(rows) if found else 0))
            self.send_header("ETag", '"1"')
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(rows)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/pairs.jsonl?token={TOKEN}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return {
        **os.environ, "AWS_SECRET_ACCESS_KEY": KEY, "MLFLOW_TRACKING_PASSWORD": PASSWORD, "DUPLET_TEST_TOKEN": TOKEN,
        "TMPDIR": str(tmp_path / "tmp"),
    }  # fmt: skip


def planted_in(folder: Path) -> list[str]:
    """Files under a folder that hold one of the secrets, in their bytes or their names."""
    secrets = [secret.encode() for secret in (PASSWORD, TOKEN, KEY)]
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(secret in content or secret in str(path).encode() for secret in secrets):
            found.append(str(path.relative_to(folder)))
    return found


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00" + KEY.encode())
    (tmp_path / f"b-{TOKEN}").touch()
    (tmp_path / "c").touch()
    assert sorted(planted_in(tmp_path)) == ["a", f"b-{TOKEN}"]


@pytest.mark.timeout(600)
def test_no_secret_is_left_anywhere_by_a_run(
    small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any], source: str, server: Server, proxy: Proxy,
    environment: dict[str, str], tmp_path: Path,
) -> None:  # fmt: skip
    address = proxy.uri.replace("http://", f"http://ann:{PASSWORD}@")
    config = small_config(train={**small_config()["train"], "epochs": 1})
    config["ingest"]["source"]["path"] = source.replace(TOKEN, "${DUPLET_TEST_TOKEN}")
    config["tracking"]["uri"] = address
    given = tmp_path / "given"  # holds them, as the person wrote them
    given.mkdir()
    (given / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "pairs.jsonl").unlink()
    done = duplet("run", given / "config.yaml", f"tracking.uri={address}", "--json", env=environment)
    assert last_json(done)["run_id"], done.stderr
    shown = duplet("config", given / "config.yaml", env=environment)
    assert "***@127.0.0.1" in shown.stdout
    wrong = duplet("ingest", given / "config.yaml", f"ingest.source.paht={source}", env=environment)
    assert wrong.returncode == 2
    away = duplet(
        "ingest", given / "config.yaml", f"ingest.source.path={source.replace('pairs', 'no')}", env=environment
    )
    assert away.returncode == 2
    proxy.mode = "refuse"
    untracked = duplet(
        "ingest", given / "config.yaml", "ingest.max_row_kb=99", "tracking.max_wait_s=60", env=environment
    )
    assert "warning: MLflow at http://***@127.0.0.1" in untracked.stderr
    for finished in (done, shown, wrong, away, untracked):
        for secret in (PASSWORD, TOKEN, KEY):
            assert secret not in finished.stdout + finished.stderr
    for folder in (tmp_path / "runs", tmp_path / "tmp", server.folder):
        assert planted_in(folder) == []
    # the rest can still be sent, by whoever knows the password
    proxy.mode = "pass"
    sync = [sys.executable, "-m", "pipeline.cli", "sync", "--root", str(tmp_path / "runs")]
    assert "password" in subprocess.run(sync, capture_output=True, text=True, env=environment).stdout
    again = subprocess.run(sync, capture_output=True, text=True, env={**environment, "MLFLOW_TRACKING_URI": address})
    assert again.returncode == 0, again.stderr
    check_owners(tmp_path / "runs")


def check_owners(root: Path) -> None:
    """Nobody else can look into the root, nor into the folders of settings and logs in it."""
    assert root.stat().st_mode & 0o077 == 0
    for name in ("work", "train", "evaluate", "tracking"):
        assert (root / name).stat().st_mode & 0o077 == 0, name


def test_folders_of_settings_and_logs_are_the_owners_under_a_root_that_is_shared(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir(mode=0o755)
    command = duplet_command(tmp_path, "tokenize", small_config())
    subprocess.run(command, check=True, capture_output=True, preexec_fn=lambda: os.umask(0o022) and None)
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o755
    for name in ("ingest", "tokenize", "tracking"):
        assert (tmp_path / "runs" / name).stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "runs" / "mlflow.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
        ("see https://ann:p@w@host/x, and http://host", "see https://***@host/x, and http://host"),
        ("filecache::s3://KEY:SECRET@bucket/a", "filecache::s3://***@bucket/a"),
        ("https://h/a?sv=1&sig=a%2Fb&page=2", "https://h/a?sv=1&sig=***&page=2"),
        ("/api?X-Amz-Security-Token=abc#x", "/api?X-Amz-Security-Token=***#x"),
        ("url: /x?access_token=abc (Caused by", "url: /x?access_token=*** (Caused by"),
        ("train.epochs=3 model.layers=2", "train.epochs=3 model.layers=2"),
        ("ann@example.org wrote to http://host/ann@example", "ann@example.org wrote to http://host/ann@example"),
    ],
)
def test_addresses_lose_their_secrets_and_nothing_else(text: str, expected: str) -> None:
    assert redaction.hide(text, {}) == expected


def test_values_of_the_environment_that_are_named_as_secrets_are_hidden() -> None:
    environment = {
        "DB_PASSWORD": "hunter22", "HF_TOKEN": "tok/en+1", "TOKENIZERS_PARALLELISM": "enabled", "API_KEY": "short",
        "GOOGLE_APPLICATION_CREDENTIALS": "/home/ann/key.json", "HOME": "/home/ann",
    }  # fmt: skip
    said = "hunter22 tok/en+1 tok%2Fen%2B1 enabled short /home/ann/key.json"
    assert redaction.hide(said, environment) == "*** *** *** enabled short /home/ann/key.json"


def test_a_job_whose_folder_would_keep_a_secret_is_refused(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli import main

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    given = f"tracking.uri=http://ann:{PASSWORD}@127.0.0.1:9"
    assert main.main(["submit", str(path), given, "--target", "local"]) == 2
    said = capsys.readouterr().err
    assert PASSWORD not in said
    assert "write ${NAME} in its place" in said
    assert not (tmp_path / "runs" / "jobs").exists()

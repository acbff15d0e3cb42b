"""One MLflow server for all, behind a proxy that each test sets as it needs."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tracking.server import Proxy, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"), empty_database)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    one = Proxy(server.port)
    yield one
    one.close()


@pytest.fixture
def said() -> list[str]:
    """What the commands of a test say."""
    return []


@pytest.fixture
def say(said: list[str]) -> Callable[[str], None]:
    return said.append


@pytest.fixture(autouse=True)
def own_address() -> Iterator[None]:
    """What MLflow remembers of a test's server must not reach tests elsewhere."""
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)


@pytest.fixture(autouse=True)
def short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging call ends after twenty seconds, unless a test says otherwise."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

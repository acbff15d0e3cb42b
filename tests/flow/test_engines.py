"""Ingest and tokenization give the same bytes whatever runs them, and whichever worker is killed when."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import search_logs
from pipeline.config import Config, check_config
from pipeline.ingest import pages
from pipeline.ingest import stage as ingest
from pipeline.tokenization import parallel
from pipeline.tokenization import stage as tokenize
from tests.killing import killing


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    search_logs.PAGES_PER_FILE, before = 7, search_logs.PAGES_PER_FILE
    search_logs.make(folder, 30)
    search_logs.PAGES_PER_FILE = before
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces of a little data; pieces are cut by the command, so that workers need not know."""
    monkeypatch.setattr(pages, "_PIECE_PAGES", 3)
    monkeypatch.setattr(parallel, "PIECE_TEXTS", 20)
    monkeypatch.setattr(tokenize, "PIECE_TEXTS", 20)


def configuration(data: Path, **execution: Any) -> Config:
    source = {"format": "clicks", "path": f"{data}/logs", "pages": f"{data}/crawl", "marker": "_SUCCESS"}
    settings = {"name": "t", "ingest": {"source": source}, "tokenize": {"min_count": 1}, "execution": execution}
    return check_config(settings, "test")


def made(data: Path, folder: Path, **execution: Any) -> dict[str, str]:
    """The digests of both stages' files."""
    config = configuration(data, **execution)
    for name in ("ingest", "tokenize"):
        (folder / name).mkdir(parents=True)
    ingest.run(config, folder / "ingest", ingest.parts(config).inputs)
    tokenize.run(config, folder / "ingest", folder / "tokenize")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As the command itself makes it, with no worker."""
    found = made(data, tmp_path_factory.mktemp("alone"), workers=1)
    assert {"ingest/records-train.parquet", "ingest/collection.parquet", "tokenize/vocabulary.json"} <= set(found)
    return found


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_give_what_one_gives(workers: int, data: Path, expected: dict[str, str], tmp_path: Path) -> None:
    assert made(data, tmp_path / "made", workers=workers) == expected


@pytest.mark.parametrize("after_s", [0.0, 1.5, 3.0])
def test_a_process_that_is_killed_changes_nothing(
    after_s: float, data: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    with killing(after_s) as killed:
        assert made(data, tmp_path / "made", workers=2) == expected
    assert killed or after_s


def test_a_dask_cluster_gives_what_one_process_gives(data: Path, expected: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    assert made(data, tmp_path / "made", engine="dask", workers=2) == expected


def test_a_dask_cluster_of_its_own_whose_worker_is_killed(data: Path, expected: dict[str, str], tmp_path: Path) -> None:
    """The cluster is started by others, as on SLURM or Kubernetes; a worker dies and is started anew by its nanny."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        killing(2.0),
    ):
        found = made(data, tmp_path / "made", engine="dask", address=cluster.scheduler_address)
    assert found == expected


@pytest.mark.parametrize("pieces", [1, 5, 64])
def test_the_size_of_pieces_changes_nothing(
    pieces: int, data: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_PIECE_PAGES", pieces)
    monkeypatch.setattr(tokenize, "PIECE_TEXTS", 7 * pieces)
    assert made(data, tmp_path / "made", workers=1) == expected

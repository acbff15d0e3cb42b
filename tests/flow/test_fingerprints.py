"""Checksums are counted once: by size, time and inode. Whoever lies about these is found by --verify."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from pipeline.core import atomic_files, fingerprints
from pipeline.core.errors import InputError
from pipeline.orchestration import flow
from pipeline.registry import promotion
from pipeline.registry.resolve_run import EvaluatedRun
from pipeline.tracking import address


def aged(path: Path, seconds: float = 3600) -> Path:
    """The file as if it was written a while ago."""
    time_ns = path.stat().st_mtime_ns - int(seconds * 1e9)
    os.utime(path, ns=(time_ns, time_ns))
    return path


def swapped(path: Path) -> None:
    """Other content in the same inode, of the same size and time: what no stamp tells."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[20] ^= 1  # of a Parquet file: within the ids, which no check of splits reads
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) == (
        before.st_size, before.st_mtime_ns, before.st_ino,
    )  # fmt: skip


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read whole."""
    read: list[Path] = []
    whole = atomic_files.sha256
    monkeypatch.setattr(atomic_files, "sha256", lambda path: read.append(path) or whole(path))
    return read


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, counted: list[Path]) -> None:
    file = tmp_path / "data"
    file.write_text("one")
    aged(file)
    for _ in range(2):
        with fingerprints.kept_under(tmp_path):
            assert fingerprints.sha256(file) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert counted == [file]
    file.write_text("two")  # the same size, another time
    with fingerprints.kept_under(tmp_path):
        assert fingerprints.sha256(file) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    aged(file)
    with fingerprints.kept_under(tmp_path):
        fingerprints.sha256(file)
    other = tmp_path / "other"
    other.write_text("six")
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(file)  # the same size and time, another inode
    counted.clear()
    with fingerprints.kept_under(tmp_path):
        fingerprints.sha256(file)
    assert counted == [file]


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path, counted: list[Path]) -> None:
    file = tmp_path / "data"
    file.write_text("one")
    for _ in range(2):
        with fingerprints.kept_under(tmp_path):
            fingerprints.sha256(file)
    assert counted == [file, file]  # within the file system's clock it may change without a new time
    assert not (tmp_path / fingerprints.NAME).exists()


def test_without_a_cache_in_use_every_file_is_read(tmp_path: Path, counted: list[Path]) -> None:
    file = tmp_path / "data"
    file.write_text("one")
    aged(file)
    with fingerprints.kept_under(tmp_path):
        fingerprints.sha256(file)
    assert [fingerprints.sha256(file) for _ in range(2)] == [atomic_files.sha256(file)] * 2
    assert len(counted) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 9, "files": {}}', '{"format": 1, "files": 3}', "\x00"])
def test_a_damaged_cache_is_counted_anew(content: str, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("one")
    aged(file)
    (tmp_path / fingerprints.NAME).write_text(content)
    with fingerprints.kept_under(tmp_path):
        assert fingerprints.sha256(file) == atomic_files.sha256(file)
    assert str(file) in json.loads((tmp_path / fingerprints.NAME).read_text())["files"]


def test_a_root_that_takes_no_file_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("one")
    aged(file)
    with fingerprints.kept_under(tmp_path / "absent"):
        assert fingerprints.sha256(file) == atomic_files.sha256(file)


@pytest.mark.mlflow
def test_what_lies_is_found_by_verify(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path, counted: list[Path]
) -> None:
    config = check_config(small_config(root=str(tmp_path / "runs"), tracking={"max_wait_s": 0}), "small")
    say = lambda line: None
    ingested = Path(flow.run(config, "small.yaml", "ingest", say).stages["ingest"]["folder"])
    for path in [*ingested.iterdir(), tmp_path / "pairs.jsonl"]:
        aged(path)
    flow.run(config, "small.yaml", "ingest", say)
    counted.clear()
    flow.run(config, "small.yaml", "ingest", say)
    assert flow.status(config)[0]["state"] == "up to date"
    assert counted == []  # nothing is read whole
    records = ingested / "records-train.parquet"
    swapped(records)
    assert flow.run(config, "small.yaml", "ingest", say).stages["ingest"]["state"] == "up to date"
    assert flow.status(config)[0]["state"] == "up to date"
    with pytest.raises(InputError, match=r"records-train.parquet has changed since it was written"):
        flow.run(config, "small.yaml", "ingest", say, verify=True)
    assert flow.status(config, verify=True)[0]["state"] == "damaged"
    with pytest.raises(InputError, match=r"records-train.parquet has changed"):
        flow.run(config, "small.yaml", "ingest", say)  # what was found out stays known
    swapped(records)
    source = tmp_path / "pairs.jsonl"
    swapped(source)
    assert flow.status(config, verify=True)[0]["state"] == "changed"  # the source's own content


@pytest.mark.mlflow
def test_a_promotion_reads_everything_whole(small_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    config = check_config(small_config(root=str(root), tracking={"max_wait_s": 0}), "small")
    stages = flow.run(config, "small.yaml", "ingest", lambda line: None).stages
    ingested = Path(stages["ingest"]["folder"])
    record = {"stages": {"ingest": {"key": ingested.name}}, "command": "duplet run small.yaml"}
    found = EvaluatedRun(tmp_path / "evaluation", record, root, address(None, root))
    promotion._check_whole(found)
    swapped(aged(ingested / "records-test.parquet"))
    with pytest.raises(InputError, match=r"records-test.parquet has changed since it was written.*duplet run small"):
        promotion._check_whole(found)

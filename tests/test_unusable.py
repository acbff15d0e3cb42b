"""A path that cannot be used ends a command with 2 and a sentence that names it."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.core.errors import DupletError, InputError, room_on


def written(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR])
def test_what_the_system_says_of_a_path_is_the_persons(number: int) -> None:
    with pytest.raises(InputError, match="/data/runs/x cannot be used") as raised, room_on("/data"):
        raise OSError(number, os.strerror(number), "/data/runs/x")
    assert os.strerror(number) in str(raised.value)


def test_an_absent_folder_is_the_persons_and_an_absent_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"), room_on(tmp_path):
        (tmp_path / "no" / "file").write_text("x")
    with pytest.raises(FileNotFoundError), room_on(tmp_path):
        (tmp_path / "file").read_text()


def test_what_names_no_path_is_left_as_it_is() -> None:
    with pytest.raises(PermissionError), room_on("/data"):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # of a process or a port
    with pytest.raises(DupletError, match="as said"), room_on("/data"):
        raise DupletError("as said")


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unable to open database file"), room_on(tmp_path):
        sqlite3.connect(tmp_path / "no" / "file.db").execute("SELECT 1")


@pytest.mark.mlflow
def test_roots_that_cannot_be_used(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ingest").write_text("a file in the place of the stages' folder")
    config = small_config(tracking={"max_wait_s": 0})
    assert main.main(["ingest", written(tmp_path, config)]) == 2
    assert f"{tmp_path / 'runs' / 'ingest'} cannot be used" in capsys.readouterr().err
    config["root"] = str(tmp_path.joinpath(*["a" * 100] * 4))
    assert main.main(["ingest", written(tmp_path, config)]) == 2
    assert "SQLite takes 384: set root to a shorter one" in capsys.readouterr().err

"""The processes of a training with two workers: what their command lines show, and what they import."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import duplet_command

PLANTED = {"AWS_SECRET_ACCESS_KEY": "planted-secret-key", "MY_SETTING": "planted-plain-value"}
# Modules that the command or its children import; each of these ends whoever imports it from the working directory.
MODULES = (
    "json", "random", "socket", "logging", "multiprocessing", "sqlite3", "pickle", "numpy", "mxnet", "horovod",
    "mlflow", "psutil", "pyarrow", "yaml", "sqlalchemy",
)  # fmt: skip


def command_lines(process: subprocess.Popen[str], seen: set[str]) -> None:
    """Collects those of a process and all below it until it ends."""
    while process.poll() is None:
        try:
            below = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for one in below:
            try:
                seen.add(Path(f"/proc/{one.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue


@pytest.mark.mlflow
@pytest.mark.workers
def test_children_show_no_variable_and_import_nothing_from_the_working_directory(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    (here / "pipeline").mkdir(parents=True)
    (here / "pipeline" / "__init__.py").touch()
    for name in MODULES:
        (here / f"{name}.py").write_text(f"raise SystemExit('{name} of the working directory was imported')\n")
    before = sorted(here.rglob("*"))
    config = small_config()
    config["train"] |= {"max_updates": 6, "workers": 2, "max_pairs_per_update": 64}
    command = duplet_command(tmp_path, "run", config)
    process = subprocess.Popen(
        command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **PLANTED},
    )  # fmt: skip
    seen: set[str] = set()
    watcher = threading.Thread(target=command_lines, args=(process, seen))
    watcher.start()
    _, said = process.communicate(timeout=280)
    watcher.join()
    assert process.returncode == 0, said
    for part in (
        "pipeline.training.worker",
        "pipeline.distributed.loopback_horovodrun",
        "pipeline.tracking",
        "HOROVOD_RANK=1",
    ):
        assert any(part in line for line in seen), part
    assert [line for line in seen for value in PLANTED.values() if value in line] == []
    assert sorted(here.rglob("*")) == before
    assert "warning" not in said

"""A disk that is too small, for real, on tmpfs of many sizes: one sentence and exit 75, never SIGBUS or a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.search.conftest import topical, write_lines
from tests.search.models import model_folder
from tests.training.test_full_disk import OWN_MOUNTS

SCRIPT = Path(__file__).with_name("full_disk.py")


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[int, str]]]:
    """What tests/search/full_disk.py printed."""
    folder = tmp_path_factory.mktemp("full")
    disk = folder / "disk"
    disk.mkdir()
    refused = subprocess.run(
        [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True, text=True
    ).stderr.strip()
    if refused:
        pytest.skip(f"no tmpfs can be mounted here, neither as root nor in a namespace: {refused}")
    model = model_folder(folder / "model", [f"own{i}" for i in range(200)])
    documents = write_lines(folder / "docs.jsonl", (d._asdict() for d in topical(200)))
    config: dict[str, Any] = {
        "name": "captions", "root": str(disk / "runs"), "task": "captioning",
        "ingest": {"source": {"format": "scenes", "count": 300}},
        "tracking": {"uri": "http://127.0.0.1:9", "max_wait_s": 0.1},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    paths = os.pathsep.join([str(SCRIPT.parents[2]), *filter(None, sys.path)])
    command = [sys.executable, str(SCRIPT), str(disk), str(model), str(documents), str(folder / "config.yaml")]
    done = subprocess.run(
        [*OWN_MOUNTS, *command], capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)  # -7: SIGBUS
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", ["index", "captions", "export"])
def test_a_disk_that_lacks_a_little_or_much_gives_one_sentence(
    came: dict[str, dict[str, tuple[int, str]]], command: str
) -> None:
    found = came[command]
    assert found["None"][0] == 0, found["None"]
    codes = {lacking: code for lacking, (code, _) in found.items()}
    assert {*codes.values()} == {0, 75}, found
    assert codes["136"] == 75
    for code, said in found.values():
        assert "Traceback" not in said
        assert code == 0 or "no space is left on the disk of " in said.splitlines()[-1]

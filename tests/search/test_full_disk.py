"""A disk that is too small, for real, on tmpfs of many sizes: one sentence and exit 75, never SIGBUS or a traceback."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import small_disk
from tests.search.conftest import topical, write_lines
from tests.search.models import model_folder


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[int, str]]]:
    """What tests/search/full_disk.py printed."""
    folder = tmp_path_factory.mktemp("full")
    disk = folder / "disk"
    small_disk.need_mounts(disk)
    model = model_folder(folder / "model", [f"own{i}" for i in range(200)])
    documents = write_lines(folder / "docs.jsonl", (d._asdict() for d in topical(200)))
    config: dict[str, Any] = {
        "name": "captions", "root": str(disk / "runs"), "task": "captioning",
        "ingest": {"source": {"format": "scenes", "count": 300}},
        "tracking": {"uri": "http://127.0.0.1:9", "max_wait_s": 0.1},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    program = Path(__file__).with_name("full_disk.py")
    return small_disk.printed(program, disk, model, documents, folder / "config.yaml")


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

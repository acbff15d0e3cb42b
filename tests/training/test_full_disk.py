"""A disk that runs full, for real, on a small tmpfs: one sentence, nothing half, and the same command goes on later."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import small_disk
from tests.conftest import small_configuration

pytestmark = pytest.mark.workers


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/training/full_disk.py printed."""
    folder = tmp_path_factory.mktemp("full")
    disk = folder / "disk"
    small_disk.need_mounts(disk)
    # a server that is not there: MLflow's own database would lie on the full disk too
    config = small_configuration(folder, root=str(disk / "runs"), tracking={"uri": "http://127.0.0.1:9"})
    config["train"] |= {"checkpoint_every_updates": 1, "epochs": 4, "patience_validations": None}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return small_disk.printed(Path(__file__).with_name("full_disk.py"), disk, path)


def one_sentence(code: int, said: str) -> None:
    assert code == 75, said
    last = said.splitlines()[-1]
    assert "no space is left on the disk of " in last
    assert "make room there, then the same command goes on" in last
    assert "Traceback" not in said


@pytest.mark.parametrize("stage", ["ingest", "tokenize"])
def test_a_stage_leaves_nothing_and_is_made_later(stage: str, came: dict[str, Any]) -> None:
    one_sentence(*came[stage]["filled"])
    assert came[stage]["left"] == []
    assert came[stage]["again"][0] == 0, came[stage]["again"]


def test_points_that_do_not_fit_stop_the_training(came: dict[str, Any]) -> None:
    one_sentence(*came["points"]["filled"])


def test_checkpoints_stay_and_the_training_goes_on_from_them(came: dict[str, Any]) -> None:
    found = came["checkpoints"]
    one_sentence(*found["filled"])
    assert found["newest"] >= 2
    assert (found["warnings"], found["left"]) == ([], [])
    code, said = found["again"]
    assert code == 0, said
    assert f"going on from update-{found['newest']:08d}" in said
    assert came["disturbed"] == came["undisturbed"]
    assert len(came["disturbed"]["history"]) == 1

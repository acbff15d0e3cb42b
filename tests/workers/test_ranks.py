"""Several ranks: one with other parameters is found and named, all skip together, and fewer go on where they were."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.core.event_log import Spool
from pipeline.distributed.world import World
from pipeline.orchestration import flow
from pipeline.tasks.base import task_of
from pipeline.training import checkpoint, loop
from tests.conftest import small_configuration
from tests.workers.by_workers import run_by

pytestmark = pytest.mark.workers
RANKS = 3
PARAMETER = "document_tower.encoder.layers.0.f_h2h_weight"
CASES: dict[str, dict[str, Any]] = {
    "rank 1": {"rank": 1, "after": 4, "parameter": PARAMETER, "add": 0.01},
    "rank 0, outvoted": {"rank": 0, "after": 4, "parameter": "embedding", "add": 0.01},
    "float noise": {"rank": 2, "after": 4, "parameter": PARAMETER, "add": 1e-8},
    "gradient not finite on one": {"rank": 2, "objective at": 5},
    "undisturbed": {"rank": -1},
    "half": {"rank": -1, "train": {"compression": "fp16"}},
    "half, overflow": {"rank": -1, "train": {"compression": "fp16", "max_skipped_updates": 0}, "scale": 2.0**17},
    "half, not finite on one": {"rank": 2, "objective at": 5, "train": {"compression": "fp16"}},
}


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder, and what came of each case on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    data = small_configuration(folder, model={"dropout": 0.0})  # masks are drawn by rank
    data["train"] |= {
        "compare_ranks_every_updates": 3,
        "checkpoint_every_updates": 7,
        "keep_checkpoints": 9,
        "log_every_updates": 1,
        "max_updates": 9,
        "max_skipped_updates": 1,
    }
    stages: dict[str, Any] = flow.run(check_config(data, "test"), "test", "tokenize", lambda line: None).stages
    given = {"config": data, "tokenized": stages["tokenize"]["folder"], "cases": CASES}
    (folder / "cases.json").write_text(json.dumps(given))
    done = run_by(RANKS, Path(__file__).with_name("spoiled_ranks.py"), str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize(
    ("case", "rank", "other", "parameter"),
    [("rank 1", 1, 0, PARAMETER), ("rank 0, outvoted", 0, 1, "embedding")],
)
def test_a_rank_that_differs_is_named_by_all(
    case: str, rank: int, other: int, parameter: str, came: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, found = came
    assert len({ranks[case]["error"] for ranks in found}) == 1
    said = found[0][case]["error"]
    assert said.startswith(f"parameter {parameter} of rank {rank} differs from rank {other}'s by up to ")
    assert "at update 6, more than float noise, and did not at update 3" in said
    assert checkpoint.names(folder / case / "work/checkpoints") == []  # nothing spoiled was saved


def test_float_noise_is_no_accident(came: tuple[Path, list[dict[str, Any]]]) -> None:
    _, found = came
    assert [ranks["float noise"]["error"] for ranks in found] == [None] * RANKS


def test_all_ranks_skip_together_where_one_gradient_is_not_finite(came: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = came
    (answer,) = {json.dumps(ranks["gradient not finite on one"]) for ranks in found}
    assert json.loads(answer)["skipped"] == 1
    assert (folder / "gradient not finite on one" / "work-not-finite-00000005" / "update.json").exists()


def test_gradients_as_float16_give_nearly_the_same(came: tuple[Path, list[dict[str, Any]]]) -> None:
    _, found = came
    half, whole = found[0]["half"], found[0]["undisturbed"]
    assert half["overflows"] == half["skipped"] == 0
    assert half["losses"] == pytest.approx(whole["losses"], rel=1e-3)
    assert half["losses"] != whole["losses"]
    assert half["norms"] == pytest.approx(whole["norms"], rel=0.01)  # which Adam does not look at
    assert len({ranks["half"]["sum"] for ranks in found}) == 1


def test_what_overflows_float16_is_left_out_and_the_scale_falls(came: tuple[Path, list[dict[str, Any]]]) -> None:
    """Though no update may be skipped: the gradients themselves are finite."""
    folder, found = came
    (answer,) = {json.dumps(ranks["half, overflow"]) for ranks in found}
    half = json.loads(answer)
    assert (half["error"], half["skipped"]) == (None, 0)
    assert 0 < half["overflows"] < 8
    assert half["scale"] == 2.0**17 / 2 ** half["overflows"]
    assert len(half["losses"]) == 9 - half["overflows"]
    saved = checkpoint.load(folder / "half, overflow" / "work/checkpoints/update-00000009").state
    assert (saved.overflows, saved.half_scale) == (half["overflows"], half["scale"])
    assert max(point.get("overflowed_updates", 0) for point in saved.history) == half["overflows"]
    assert not list((folder / "half, overflow").glob("work-not-finite-*"))


def test_a_gradient_that_is_not_finite_is_no_overflow(came: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = came
    (answer,) = {json.dumps(ranks["half, not finite on one"]) for ranks in found}
    assert (json.loads(answer)["skipped"], json.loads(answer)["overflows"]) == (1, 0)
    assert (folder / "half, not finite on one" / "work-not-finite-00000005" / "update.json").exists()


def test_sums_have_the_same_bits_whatever_is_sent_together(tmp_path: Path) -> None:
    """Else no training by three workers or more, killed or not, could be repeated to the bit."""
    done = run_by(RANKS, Path(__file__).with_name("exchanged_bits.py"), str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(RANKS):
        whole, half = np.split(np.load(tmp_path / f"bits-{rank}.npy"), 2)
        for found in (whole, half):
            assert {row.tobytes() for row in found[1:]} == {found[0].tobytes()}
        assert (whole[0] != half[0]).any()


def test_another_number_of_ranks_goes_on_in_the_same_order(
    came: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Three began, one goes on from update 7: the same examples in the same order, and the loss but for float noise."""
    folder, _ = came
    given, source = json.loads((folder / "cases.json").read_text()), folder / "undisturbed/work/checkpoints"
    config = check_config(given["config"], "test")
    expected = checkpoint.load(source / "update-00000009").state
    shutil.copytree(source / "update-00000007", tmp_path / "work/checkpoints/update-00000007")
    task = task_of(config, Path(given["tokenized"]))
    network = task.network()
    network.initialize()
    said: list[str] = []
    spool = Spool(tmp_path / "work/points.jsonl")
    state = loop.fit(task, network, config, World(), tmp_path / "work/checkpoints", spool, said.append)
    assert said[0] == "going on from update-00000007"
    assert (state.update, state.position, state.order) == (9, expected.position, expected.order)
    for got, want in zip(state.history, expected.history, strict=True):
        assert got == pytest.approx(want, rel=1e-4)

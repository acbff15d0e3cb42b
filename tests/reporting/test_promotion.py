"""Versions, the alias and its tags, in a registry of each test's own; trainings are logged, not run."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking
from pipeline.cli import main
from pipeline.config import PromoteConfig
from pipeline.core import manifest
from pipeline.core.errors import InputError, TryAgain
from pipeline.registry import mlflow_registry as registries
from pipeline.registry import promotion, resolve_run
from pipeline.registry.mlflow_registry import BEFORE, MOVE, Registry
from pipeline.registry.promotion import Outcome
from tests.reporting.conftest import ranking

Promote = Callable[..., Outcome]


@pytest.fixture
def root(tmp_path: Path, empty_database: Path) -> Path:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(tracking.address(None, root), "small")


def finish(folder: Path, key: str) -> None:
    """A manifest of an evaluation's files, with a key that the tests choose."""
    written = manifest.write(folder, "evaluate", manifest.KeyParts(1, {}, {}, {}), {}, time.time())
    (folder / manifest.NAME).write_text(json.dumps(asdict(written) | {"key": key}))


@pytest.fixture
def trained(evaluation: Callable[..., Path], root: Path, tmp_path: Path) -> Callable[..., Path]:
    """An evaluation of a model of some quality, its training and itself in MLflow, as `duplet run` leaves them."""

    def make(name: str, quality: float, **record: Any) -> Path:
        folder = evaluation(name, {"ranking": ranking(60, quality)}, **record)
        finish(folder, name)
        model = tmp_path / "trained" / name
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        where = tracking.address(None, root)
        run = tracking.Tracking(where, "small", "small", lambda line: pytest.fail(line), False, apart=False)
        run.tags({"duplet.key.train": f"{name}-train", "duplet.key.evaluate": name})
        for stage, key, files in (("train", f"{name}-train", model), ("evaluate", name, folder)):
            with run.stage(stage):
                run.params({"key": key})
                run.artifact(files, "model" if stage == "train" else "evaluation")
        run.close("FINISHED")
        (folder / "run_id").write_text(str(run.run_id))
        return folder

    return make


@pytest.fixture
def promote(root: Path, tmp_path: Path) -> Promote:
    def run(given: Path | str, why: str | None = None, **settings: Any) -> Outcome:
        found = resolve_run.find(str(given), [], root, None, tmp_path / "store")
        return promotion.promote(found, PromoteConfig(metric="mrr@10", **settings), "small", why, lambda line: None)

    return run


def champion(registry: Registry) -> int | None:
    found = registry.champion()
    return found and found.number


def moves(registry: Registry, number: int) -> list[dict[str, Any]]:
    tags = registry.version(number).tags
    return [json.loads(tags[name]) for name in sorted(tags) if name.startswith(MOVE)]


def test_the_alias_moves_on_a_pass_alone_and_back(
    trained: Any, promote: Promote, registry: Registry, root: Path
) -> None:
    first = promote(trained("a", 0.4))
    assert first.passed
    assert champion(registry) == first.version.number == 1

    worse = promote(trained("b", 0.3))
    assert not worse.passed
    assert worse.version.number == 2
    assert champion(registry) == 1
    (refused,) = moves(registry, 2)
    assert refused["action"] == "refused"
    assert refused["from"] == 1
    assert "the interval must lie above 0" in refused["reason"]
    assert refused["difference"]["mean"] == pytest.approx(-0.1)
    assert BEFORE not in registry.version(2).tags

    better = promote(trained("c", 0.6), why="new data")
    assert better.passed
    assert champion(registry) == 3
    (move,) = moves(registry, 3)
    assert move["action"] == "promoted"
    assert move["reason"].startswith("new data; mrr@10 differs by +0.2000")
    assert move["queries"] == 60
    assert move["who"]
    assert move["when"].endswith("Z")
    assert registry.version(3).tags[BEFORE] == "1"

    back = promotion.back(registry, "users complained", root)
    assert champion(registry) == back.version.number == 1
    assert moves(registry, 1)[-1]["action"] == "back"
    assert moves(registry, 1)[-1]["reason"] == "users complained"
    with pytest.raises(InputError, match="is the first champion"):
        promotion.back(registry, "again", root)
    assert [move["action"] for move in registry.history()] == ["promoted", "refused", "promoted", "back"]


def test_a_second_stage_makes_a_version_of_its_own(trained: Any, promote: Promote, registry: Registry) -> None:
    """Of one training, evaluated without and with one; that it is the same training, the gate does not mind."""
    folder = trained("a", 0.4)
    mix = {"weight": 0.0, "scale": 1.0, "first_scale": 1.0}
    for number, weight in ((1, 0.0), (2, 0.4), (2, 0.4)):  # a stage without a weight is none
        made = {"rerank": {**mix, "alone": mix | {"weight": weight}}}
        (folder / "fusion.json").write_text(json.dumps(made))
        finish(folder, "a")
        assert promote(folder).version.number == number
    assert registry.version(2).tags[registries.WITH_SECOND] == "a"
    assert registries.WITH_SECOND not in registry.version(1).tags


def test_a_training_is_registered_once(trained: Any, promote: Promote, registry: Registry) -> None:
    folder = trained("a", 0.4)
    promote(folder)
    again = promote(folder)
    assert again.version.number == 1
    assert again.reason == "it has the alias already"
    other = trained("b", 0.3)
    assert promote(other).version.number == promote(other).version.number == 2
    assert len(moves(registry, 2)) == 2


def test_a_first_version_below_its_floor_gets_no_alias(trained: Any, promote: Promote, registry: Registry) -> None:
    assert not promote(trained("a", 0.4), floors={"mrr@10": 0.9}).passed
    assert champion(registry) is None


def test_the_same_run_by_other_names(trained: Any, promote: Promote, root: Path, tmp_path: Path) -> None:
    folder = trained("a", 0.4)
    promote(folder)
    run_id = (folder / "run_id").read_text()
    store = tmp_path / "store"
    for name in (run_id, "models:/small@champion", "models:/small/1"):
        assert resolve_run.find(name, [], root, None, store).evaluation == root / "evaluate" / "a"
    folder.rename(tmp_path / "elsewhere")  # only in MLflow now
    for name in (run_id, "models:/small@champion"):
        copied = resolve_run.find(name, [], root, None, store)
        assert copied.evaluation.is_relative_to(store)
        assert copied.trained == "a-train"
    assert promote(trained("b", 0.6)).passed  # compared with the copy


def test_what_is_not_there(trained: Any, root: Path, tmp_path: Path) -> None:
    trained("a", 0.4)
    for name, sentence in (
        ("models:/small@champion", "no model small with the alias champion"),
        ("models:/small/7", "no small version 7"),
        ("models:/small@other", "the alias is champion"),
        ("0" * 32, "no run 0000"),
        ("nothing.yaml", "no configuration at nothing.yaml"),
        ("nothing", "no run 'nothing': give a configuration"),
        (str(tmp_path), "is not a folder of a finished stage"),
    ):
        with pytest.raises(InputError, match=sentence):
            resolve_run.find(name, [], root, None, tmp_path / "store")


def test_a_run_whose_settings_this_version_does_not_know(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained("a", 0.4)
    record = json.loads((folder / "run.json").read_text())
    record["configuration"]["model"]["zoneout"] = 0.1
    (folder / "run.json").write_text(json.dumps(record))
    assert main.main(["promote", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "was written by" in said
    assert "model.zoneout=0.1" in said


def test_a_training_that_mlflow_does_not_know(evaluation: Any, trained: Any, promote: Promote) -> None:
    trained("a", 0.4)
    folder = evaluation("untracked")
    finish(folder, "untracked")
    with pytest.raises(InputError, match="has no finished training untracked-train"):
        promote(folder)


def test_a_training_that_mlflow_has_not_got_yet_is_to_be_sent_first(
    evaluation: Any, trained: Any, promote: Promote, root: Path
) -> None:
    trained("a", 0.4)
    folder = evaluation("kept")
    finish(folder, "kept")
    run = tracking.Tracking(tracking.address(None, root), "small", "small", lambda _: None, False, later=True)
    run.tags({"duplet.key.train": "kept-train"})
    run.close("FINISHED")
    with pytest.raises(TryAgain, match=rf"does not have the training kept-train yet: run `duplet sync --root {root}`"):
        promote(folder)


def test_an_alias_moved_meanwhile_is_left_alone(trained: Any, promote: Promote, registry: Registry) -> None:
    first = promote(trained("a", 0.4)).version
    promote(trained("b", 0.6))
    third = registry.version(1)
    with pytest.raises(TryAgain, match="was moved meanwhile, to small version 2"):
        registry.move(third, first, {})
    assert champion(registry) == 2


def test_names_that_cannot_be_registered(root: Path) -> None:
    for name in ("", "a/b", "models:x", "a@b"):
        with pytest.raises(InputError, match="cannot be a registered model's name"):
            Registry(tracking.address(None, root), name)


def test_tags_that_are_too_long_are_cut(trained: Any, promote: Promote, registry: Registry) -> None:
    promote(trained("a", 0.4))
    registry.tag(registry.version(1), {"note": "x" * 10_000})
    assert len(registry.version(1).tags["note"]) == registries._TAG_CHARACTERS


def test_the_history_is_read_whatever_the_tags_hold(trained: Any, promote: Promote, registry: Registry) -> None:
    """A person's reason may be long, and tags can be changed in MLflow."""
    promote(trained("a", 0.4), why="a long reason " * 1000)
    [first] = registry.history()
    assert first["action"] == "promoted" and first["reason"].startswith("a long reason a") and first["to"] == 1
    version = registry.version(1)
    for number, value in enumerate(
        ("no JSON", '{"action": "promo', "[1]", '{"action": "promoted"}', '{"to": "1"}', "1")
    ):
        registry.tag(version, {f"{registries.MOVE}.2{number}": value})
    assert registry.history() == [first]
    assert registries.all_versions(registry.where, 3).kept == [registry.version(1)]


def test_the_command_and_its_exit_codes(
    trained: Any, root: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = trained("a", 0.5), trained("b", 0.3)
    assert main.main(["promote", str(good)]) == 0
    assert "models:/small@champion is version 1" in capsys.readouterr().out
    assert main.main(["promote", str(bad), "--json"]) == 3
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert found["exit_code"] == 3
    assert found["champion"] == 1
    assert found["metrics"]["mrr@10"]["difference"]["mean"] == pytest.approx(-0.2)
    assert "> mrr@10" in said.out
    assert "version 2 of small is refused" in said.err
    assert main.main(["promote", str(bad), "--gate", "min_difference=-0.9"]) == 0
    assert champion(registry) == 2
    capsys.readouterr()
    assert main.main(["promote", "--back", "--name", "small", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["champion"] == 1
    for arguments, code, sentence in (
        (["promote", str(bad), "--gate", "min_diference=1"], 2, "did you mean min_difference"),
        (["promote", str(bad), "--gate", "more"], 2, "not of the form key=value"),
        (["promote"], 2, "what to promote"),
        (["promote", "--back"], 2, "--back of which model"),
        (["promote", str(bad), "--uri", "http://127.0.0.1:9"], 75, "does not answer"),
        (
            ["promote", "--back", "--name", "small", "--uri", "http://127.0.0.1:9", "--root", str(root)],
            75,
            "not answer",
        ),
    ):
        assert main.main(arguments) == code, arguments
        err = capsys.readouterr().err
        assert sentence in err
        assert "Traceback" not in err
    assert champion(registry) == 1

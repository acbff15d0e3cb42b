"""`duplet sweep`: what is varied, every trial once also after a kill, children of one MLflow run, the best first."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from pipeline.config.axes import axes_of
from pipeline.core.errors import DupletError, InputError
from pipeline.orchestration import flow, sweep
from pipeline.orchestration.sweep import Sweep
from tests.conftest import last_json


def silent(line: str) -> None:
    pass


def written(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_axes_lists_ranges_and_single_values() -> None:
    axes, fixed = axes_of(
        ["model.cell=lstm,gru", "model.dropout=0..0.5", "train.optimizer.learning_rate=1e-4..1e-2:log",
         "model.layers=1..3", "evaluate.kinds=[ranking,graded]", "name=x"]
    )  # fmt: skip
    assert fixed == ["evaluate.kinds=[ranking,graded]", "name=x"]
    assert axes[0].values == ("lstm", "gru")
    assert (axes[1].low, axes[1].high, axes[1].whole) == (0.0, 0.5, False)
    assert (axes[2].low, axes[2].high, axes[2].log) == (1e-4, 1e-2, True)
    assert (axes[3].low, axes[3].high, axes[3].whole) == (1.0, 3.0, True)


@pytest.mark.mlflow
@pytest.mark.parametrize(
    ("overrides", "search", "trials", "words"),
    [
        (["train.epochs=2"], "grid", None, "nothing is varied"),
        (["model.dropout=0..0.5"], "grid", None, "a grid cannot cover"),
        (["model.dropout=0.5..0.1"], "random", 3, "is not a range"),
        (["model.dropout=0..0.5:log"], "random", 3, "is not a range"),
        (["model.layers=1,2"], "random", None, "needs --trials"),
        (["model.layers=1,two"], "grid", None, "model.layers='two'"),
        (["model.layer=1,2"], "grid", None, "did you mean layers"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_run(
    overrides: list[str], search: str, trials: int | None, words: str,
    small_config: Callable[..., dict[str, Any]], tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(InputError, match=words):
        Sweep(written(tmp_path, small_config()), overrides, search, trials, silent)


class Runs:
    """Stands in for flow.run: a trial's value is a function of its settings, and one call can end like a kill."""

    def __init__(self, folder: Path, killed_at: int | None = None) -> None:
        self.folder, self.killed_at = folder, killed_at
        self.done: list[tuple[int, int]] = []

    def __call__(self, config: Any, command: str, until: str, say: Any) -> flow.Result:
        key = (config.model.layers, config.model.directions)
        if len(self.done) == self.killed_at:
            self.killed_at = None
            raise KeyboardInterrupt
        self.done.append(key)
        trained = self.folder / f"{key[0]}-{key[1]}"
        trained.mkdir()
        (trained / "result.json").write_text(json.dumps({"valid/mrr@10": 0.1 * key[0] + 0.3 * key[1]}))
        stages = {"train": {"state": "ran", "seconds": 1.0, "folder": str(trained)}}
        return flow.Result(f"run{key[0]}{key[1]}", stages, {"test/mrr@10": 0.5}, "")


@pytest.mark.mlflow
def test_a_sweep_that_was_killed_goes_on_and_does_each_trial_once(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(tmp_path, killed_at=2)
    monkeypatch.setattr(sweep.flow, "run", runs)
    path = written(tmp_path, small_config())
    start = lambda: Sweep(path, ["model.layers=1,2,3", "model.directions=1,2"], "grid", None, silent).run()
    with pytest.raises(KeyboardInterrupt):
        start()
    found = start()
    assert sorted(runs.done) == [(a, b) for a in (1, 2, 3) for b in (1, 2)]
    assert found["best"] == {"model.layers": 3, "model.directions": 2}
    assert [trial["value"] for trial in found["trials"]] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert (Path(found["folder"]) / "plot.png").stat().st_size > 1000
    again = start()
    assert len(runs.done) == 6
    assert again["run_id"] == found["run_id"]


class Diverging(Runs):
    """Trials of two layers end with an error that is not the person's."""

    def __call__(self, config: Any, command: str, until: str, say: Any) -> flow.Result:
        if config.model.layers == 2:
            self.done.append((2, config.model.directions))
            raise DupletError("the loss is not finite")
        return super().__call__(config, command, until, say)


@pytest.mark.mlflow
def test_a_trial_that_fails_is_noted_once_and_the_others_go_on(
    small_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Diverging(tmp_path)
    monkeypatch.setattr(sweep.flow, "run", runs)
    config = small_config(root=str(tmp_path / "50% {x}?"), name="what?")
    path = written(tmp_path, config)
    start = lambda: Sweep(path, ["model.layers=1,2,3"], "grid", None, silent).run()
    found = start()
    assert [trial["settings"]["model.layers"] for trial in found["trials"]] == [3, 1]
    (row,) = [line for line in found["table"].splitlines() if "not finite" in line]
    assert row.split()[0] == "2"
    assert sorted(runs.done) == [(1, 2), (2, 2), (3, 2)]
    start()
    assert len(runs.done) == 3
    database = Path(found["folder"]) / "study.db"
    assert database.is_relative_to(tmp_path / "50% {x}?") and database.stat().st_size > 0
    results = database.with_name("results.json")
    assert results.stat().st_mtime >= database.stat().st_mtime  # by which `duplet clean` knows that a sweep has ended


@pytest.mark.mlflow
def test_trials_are_children_of_one_run(
    small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any], tmp_path: Path
) -> None:
    config = small_config(model={"layers": 1, "dropout": 0.0})
    config["train"]["max_updates"] = 4
    found = last_json(duplet("sweep", config, "model.hidden=4,6", "--json"))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment])
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    trials = [trial["run_id"] for trial in found["trials"]]
    assert len(set(trials)) == 2
    assert {parents[run_id] for run_id in trials} == {found["run_id"]}
    assert {"plot.png", "table.txt", "results.json"} <= {file.path for file in client.list_artifacts(found["run_id"])}
    told = client.get_run(found["run_id"]).data.tags["mlflow.note.content"]
    assert (Path(found["folder"]) / "table.txt").read_text().strip("\n") in told
    assert {trial["settings"]["model.hidden"] for trial in found["trials"]} == {4, 6}

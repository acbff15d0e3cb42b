"""A task and a source of another package, from its installation to a sweep; and packages that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import yaml

from pipeline.config import Config
from pipeline.config.tasks import SECTIONS
from tests.plugins.conftest import DUPLET, Run, install, names_of, sentences, stopped_and_resumed

CONFIG: dict[str, Any] = {
    "name": "rating",
    "root": "runs",
    "task": "rating",
    "ingest": {"source": {"format": "made_ratings", "count": 240}, "split": {"valid": 0.2, "test": 0.2}},
    "tokenize": {"min_count": 1},
    "model": {"embedding": 8, "hidden": 8, "dropout": 0.0},
    "train": {
        "threads_per_worker": 1, "workers": 2, "max_pairs_per_update": 16, "epochs": 60, "patience_validations": None,
        "log_every_updates": 2,
        "checkpoint_every_updates": 3, "schedule": {"warmup_updates": 2}, "optimizer": {"learning_rate": 0.02},
    },
    "evaluate": {"bootstrap_samples": 20},
    "rating": {"scale": 2.0},
    "tracking": {"system_metrics": False, "send": "later"},
}  # fmt: skip


def written(folder: Path, **sections: Any) -> str:
    (folder / "rating.yaml").write_text(yaml.safe_dump(CONFIG | sections))
    return "rating.yaml"


@pytest.mark.workers
@pytest.mark.timeout(900)  # some twenty commands, one after the other
def test_a_task_of_another_package_from_installation_to_sweep(
    rating_site: Path, with_site: Callable[[Path], Run], tmp_path: Path
) -> None:
    run, config = with_site(rating_site), written(tmp_path)

    # the schema and the list of settings know its section, its source and its columns
    schema = json.loads(run(*DUPLET, "config", "schema").stdout)
    assert "rating" in schema["properties"]["task"]["enum"]
    assert {"RatingOptions", "MadeRatings"} <= schema["$defs"].keys()
    assert "stars" in schema["$defs"]["Columns"]["properties"]
    assert "squared error of a text" in run(*DUPLET, "config", "explain", "rating").stdout
    assert "did you mean scale" in run(*DUPLET, "config", config, "rating.scales=1").stderr

    # a table is one of its own
    table = "".join(f"the view of room {i} was superb,{i % 5}\n" for i in range(40))
    (tmp_path / "own.csv").write_text("Comment,Rating\n" + table)
    begun = run(*DUPLET, "init", "own.csv", "--task", "rating", "--output", "own.yaml", "--json")
    assert json.loads(begun.stdout)["columns"] == {"text": "Comment", "stars": "Rating"}, begun.stderr

    # training with two workers is stopped and goes on
    done = stopped_and_resumed(run, rating_site, tmp_path, config)
    metrics = done["metrics"]
    assert metrics["test/squared_error"] < 0.5 * metrics["test/mean/squared_error"]

    # the folder says which package it needs, the page has the task's own section
    [evaluation] = tmp_path.glob("runs/evaluate/*/manifest.json")
    assert json.loads(evaluation.read_text())["extra"]["package"] == "duplet-rating"
    assert json.loads(evaluation.read_text())["key_parts"]["libraries"]["duplet-rating"] == "0.3"
    page = (evaluation.parent / "report.html").read_text()
    assert "Squared error by stars" in page

    # both ways of predicting say the same, and the exported graph too
    rows = [{"text": "superb superb view superb"}, {"text": "awful awful meal awful"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stars = {}
    for backend in ("onnx", "mxnet"):
        files = ("--input", "rows.jsonl", "--output", f"{backend}.jsonl")
        said = run(*DUPLET, "predict", config, "--backend", backend, *files)
        assert said.returncode == 0, said.stderr
        lines = (tmp_path / f"{backend}.jsonl").read_text().splitlines()
        stars[backend] = [json.loads(line)["stars"] for line in lines]
    assert stars["onnx"] == pytest.approx(stars["mxnet"], abs=1e-4)
    assert stars["onnx"][0] > stars["onnx"][1] + 1
    exported = run(*DUPLET, "export", config, "--output", "exported")
    assert exported.returncode == 0, exported.stderr
    assert "rating.onnx" in (tmp_path / "exported" / "README.md").read_text()
    onnxruntime.InferenceSession(str(tmp_path / "exported" / "rating.onnx"))

    # a sweep takes the smallest error as the best
    swept = run(*DUPLET, "sweep", config, "train.epochs=1,4", "train.workers=1", "--json")
    assert swept.returncode == 0, swept.stderr

    # without the package its model is refused by name, and everything else works
    without = with_site(tmp_path / "nothing")
    trained = done["stages"]["train"]["folder"]
    refused = without(*DUPLET, "predict", trained, "--input", "rows.jsonl", "--output", "refused.jsonl")
    assert refused.returncode == 2
    assert "is of the task rating, which no installed package brings: install duplet-rating" in refused.stderr
    shown = without(*DUPLET, "report", str(evaluation.parent))
    assert shown.returncode == 0, shown.stderr
    assert "Squared error by stars" in (evaluation.parent / "report.html").read_text()


# --- packages that cannot be used -------------------------------------------------------------------------------------
SPEC = """
from pipeline.config.task_spec import Metric, TaskSpec
from pipeline.core.record_schema import Field
TASK = TaskSpec(name={name!r}, fields={{"text": Field(9)}}, task="nowhere:Nothing", metrics=(Metric({metric!r}),){more})
"""
UNUSABLE = {
    "broken": ("import a_module_that_is_not_there", "broken", "ModuleNotFoundError"),
    "quits": ("raise SystemExit(3)", "quits", "SystemExit"),
    "older": (SPEC.format(name="older", metric="x", more=", interface=0"), "older", "version 0 of the interface"),
    "newer": (SPEC.format(name="newer", metric="x", more=", attention=True"), "newer", "attention"),
    "twin": (SPEC.format(name="tagging", metric="x", more=""), "tagging", "has the name of one of Duplet"),
    "liar": (SPEC.format(name="cloze", metric="x", more=""), "liar", "calls itself cloze"),
    "section": (SPEC.format(name="train", metric="x", more=""), "section", "not a name for a task"),
    "turned": (SPEC.format(name="turned", metric="nats", more=""), "turned", "nats the other way round"),
    "thing": ("TASK = 3", "thing", "is a int"),
}


def test_packages_that_cannot_be_used_cost_a_sentence_each(with_site: Callable[[Path], Run], tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name, (code, task, _) in UNUSABLE.items():
        install(site, f"duplet-{name}", "1.0", {"duplet.tasks": {task: f"plugin_{name}:TASK"}})
        (site / f"plugin_{name}.py").write_text(code)
    install(site, "duplet-nosource", "1.0", {"duplet.sources": {"tsv": "plugin_thing:TASK"}})
    shown, lines = sentences(with_site(site), tmp_path)
    assert shown["task"] == "matching"
    assert len(lines) == len(UNUSABLE) + 1
    for name, (_, _, sentence) in UNUSABLE.items():
        [line] = [line for line in lines if f"package duplet-{name}:" in line]
        assert sentence in line
    assert any("package duplet-nosource" in line and "tsv" in line for line in lines)
    refused = with_site(site)(*DUPLET, "config", "t.yaml", "task=broken")
    assert refused.returncode == 2
    assert "task='broken'" in refused.stderr


def test_no_task_may_be_called_as_a_section() -> None:
    assert set(SECTIONS) == names_of(Config)


def test_two_packages_with_one_name(with_site: Callable[[Path], Run], tmp_path: Path) -> None:
    site, code = tmp_path / "site", SPEC.format(name="one", metric="x", more="")
    for name in ("duplet-first", "duplet-second"):
        install(site, name, "1.0", {"duplet.tasks": {"one": "plugin_one:TASK"}})
    (site / "plugin_one.py").write_text(code)
    said = with_site(site)("-c", "from pipeline.config.schema import problems; print(*problems(), sep='\\n')")
    assert said.stdout.splitlines() == [
        "package duplet-second: its task one has the name of one of duplet-first, which stays: rename it"
    ]


def test_two_entry_points_whose_tasks_call_themselves_alike(with_site: Callable[[Path], Run], tmp_path: Path) -> None:
    site = tmp_path / "site"
    for package, point in (("duplet-first", "one"), ("duplet-second", "another")):
        install(site, package, "1.0", {"duplet.tasks": {point: f"plugin_{point}:TASK"}})
        (site / f"plugin_{point}.py").write_text(SPEC.format(name="one", metric=point, more=""))
    code = "from pipeline.config.tasks import TASKS as t\n"
    code += "print(t.named('one').metrics[0].name, t.package_of('one'), *t.plugins.problems, sep='\\n')"
    assert with_site(site)("-c", code).stdout.splitlines() == [
        "one",
        "duplet-first",
        "package duplet-second: its task another has the name of one of duplet-first, which stays: rename it",
    ]

"""The tutorials of docs/tutorials and the notebooks of docs/notebooks.

The FAQ's commands run as they are written; the others' configurations are read and ingested and their jobs dry-run. The
run that the FAQ leaves is what the notebooks' code is run on, without Jupyter. `make notebooks` runs them with it.
"""

import csv
import importlib
import json
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import mxnet
import numpy as np
import pytest

from pipeline.cli import main as cli
from tests.flow.pages import PROJECT, THINGS, blocks_of, commands_of, files_of, run, served, write_clicks
from tests.plugins.conftest import install

pytestmark = pytest.mark.timeout(900)
TUTORIALS, NOTEBOOKS = PROJECT / "docs" / "tutorials", PROJECT / "docs" / "notebooks"
FAQ = (
    ("Where do I buy a {}?", "The shop at the corner sells a {} today."),
    ("May I send a {} back when I do not like it?", "You may return every {} within two weeks, with the bill."),
)


def page(name: str) -> str:
    return (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")


def commands(name: str) -> list[str]:
    """Those of the blocks, then those within sentences that have all their arguments."""
    text = page(name)
    listed = commands_of(blocks_of(text))
    inline = dict.fromkeys(commands_of(re.findall(r"(?<!`)`(duplet [^`…]+)`", text)))
    found = [*listed, *(command for command in inline if command not in listed)]
    return [command for command in found if len(shlex.split(command)) > 2]


def table(path: Path, *rows: tuple[str, ...]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


# --- the FAQ, and the notebooks on its run ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def faq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a FAQ, in which every command of the tutorial was run in order."""
    folder = tmp_path_factory.mktemp("a FAQ")
    rows = [(question.format(thing), answer.format(thing)) for thing in THINGS for question, answer in FAQ]
    table(folder / "faq.csv", ("question", "answer"), *rows)
    for command in commands("faq"):
        words = shlex.split(command)
        if "--serve" in words:
            assert served(folder, words)["results"]
        else:
            printed = run(folder, words).stdout
            if words[1] == "search":
                (folder / "answers.txt").open("a", encoding="utf-8").write(printed + "\f")
    return folder


def test_the_faq_runs_as_written(faq: Path) -> None:
    verbs = [shlex.split(command)[1] for command in commands("faq")]
    assert verbs == ["index", "search", "search", "init", "ingest", "run", "index", "search", "index", "export"]
    by_words, by_model, _ = (faq / "answers.txt").read_text(encoding="utf-8").split("\f")
    assert "Where do I buy a red apple?" in by_words.splitlines()[0]
    assert len(re.findall(r"^ +\d ", by_model, re.MULTILINE)) == 3
    assert json.loads((faq / "faq.index" / "index.json").read_text(encoding="utf-8"))
    assert (faq / "faq-onnx" / "matcher.onnx").exists()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_as_a_script_and_is_kept_without_outputs(path: Path, faq: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    code = "\n\n".join("".join(cell["source"]) for cell in cells)
    run(faq, [sys.executable, "-P", "-c", code], CONFIG="faq.yaml", MPLBACKEND="Agg")


# --- the others -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["clicks", "gpus"])
def test_the_commands_of_a_tutorial_are_read_and_tried(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, content in files_of(page(name)).items():
        (tmp_path / file).write_text(content, encoding="utf-8")
    write_clicks(tmp_path)
    table(tmp_path / "pairs.tsv", ("question\tanswer",), *((f"{thing}\ta {thing}",) for thing in THINGS))
    source = "{format: tsv, path: pairs.tsv, columns: {query: question, document: answer}}"
    (tmp_path / "my.yaml").write_text(f"ingest: {{source: {source}}}\n", encoding="utf-8")
    tried = []
    for command in commands(name):
        _, verb, *rest = shlex.split(command)
        if verb in ("submit", "schedule") and rest[0].endswith(".yaml"):
            rest = [word for word in rest if word != "--dry-run"] + ["--dry-run"]
        elif verb not in ("config", "ingest", "status", "jobs", "schedule"):  # trains, or needs what was trained
            assert cli._arguments([verb, *rest]).verb == verb
            continue
        assert cli.main([verb, *rest]) == 0, (command, capsys.readouterr().err)
        tried.append((verb, capsys.readouterr().out))
    shown = "\n".join(out for _, out in tried)
    if name == "clicks":
        assert {verb for verb, _ in tried} == {"config", "ingest", "schedule"}
        assert "0 2 * * *" in shown and len(list((tmp_path / "runs" / "ingest").glob("*/examination.png"))) == 1
    else:
        assert "--ntasks-per-node=8" in shown and "#SBATCH --gres=gpu:8" in shown and "kind: MPIJob" in shown
        assert "train.max_pairs_per_update=1024" in shown and "afterok:4711" in shown


@pytest.fixture
def urgency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the task's tutorial, with its package installed as the tutorial's pip does."""
    for file, content in files_of(page("task")).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content, encoding="utf-8")
    points = {"duplet.tasks": {"urgency": "urgency:TASK"}}
    install(tmp_path / "site", "urgency", "0.1", points, *(tmp_path / "urgency").glob("*.py"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def test_the_task_of_the_tutorial_is_known_with_its_setting(urgency: Path) -> None:
    assert [shlex.split(command)[1] for command in commands("task")] == ["config", "run", "predict", "sweep"]
    find = {"PYTHONPATH": os.pathsep.join([str(urgency / "site"), str(PROJECT)])}
    (command, *_) = commands("task")
    shown = run(urgency, shlex.split(command), **find).stdout
    assert "task: urgency" in shown and "smoothing: 0.2" in shown


def test_the_loss_of_the_tutorial_is_cross_entropy_with_smoothed_labels(urgency: Path) -> None:
    """Against the definition: cross entropy with (1 - s) of a label and s shared by all."""
    network_module = importlib.import_module("urgency_network")
    logits, classes, share = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), np.array([0, 1]), 0.2
    chunk = SimpleNamespace(ids=np.zeros((1, 2), np.int32), lengths=np.ones(2, np.int32))
    batch = SimpleNamespace(texts=SimpleNamespace(chunks=[chunk]), classes=classes, total=4)  # two of four texts
    network = lambda *_: mxnet.nd.array(logits)
    network.packed = lambda context: None
    options = importlib.import_module("urgency").UrgencyOptions(smoothing=share)
    task = SimpleNamespace(config=SimpleNamespace(options=lambda kind: options))
    table = SimpleNamespace(context=mxnet.cpu())
    found = network_module.Urgency.loss(task, network, table, batch, SimpleNamespace(size=2))
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = np.full((2, 3), share / 3) + (1 - share) * np.eye(3)[classes]
    assert float(found.value.asscalar()) == pytest.approx(-(wanted * logs).sum() * 2 / 4, rel=1e-6)


def test_every_tutorial_and_notebook_is_in_the_menu() -> None:
    menu = (PROJECT / ".mkdocs.yml").read_text(encoding="utf-8")
    index = (PROJECT / "docs" / "index.md").read_text(encoding="utf-8")
    for path in sorted([*TUTORIALS.glob("*.md"), *NOTEBOOKS.glob("*.ipynb")]):
        place = str(path.relative_to(PROJECT / "docs"))
        assert place in index, place
        assert place in menu or path.suffix == ".ipynb", place

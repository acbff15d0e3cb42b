"""The wheel: it works from any folder, and a model is served without what training needs."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.serving import networks
from tests.serving.conftest import write_trained
from tests.serving.task_models import config_of, rows_of, write_task

REPOSITORY = Path(__file__).parents[1]
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# What only the extra `train` brings, by the name that is imported.
TRAINING = (
    "mxnet", "gluonnlp", "horovod", "pandas", "sklearn", "ir_measures", "matplotlib", "optuna", "sacrebleu", "seqeval",
    "pycocoevalcap", "croniter",
)  # fmt: skip
SEARCH = ("faiss", "bm25s", "Stemmer", "scipy", "fastapi", "uvicorn", "lxml")
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "pipeline",
         "jobs", "pyproject.toml", "README.md", "LICENSE"],
        check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, files):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("duplet-*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, folder: Path, code: str, names: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Python in a folder of its own, with the wheel's files in front of this checkout's."""
    whole = BLOCKED.format(names=set(names)) + f"sys.path.insert(0, {str(unpacked)!r})\n" + code
    return subprocess.run([sys.executable, "-P", "-c", whole], capture_output=True, text=True, cwd=folder, timeout=200)


def test_the_wheel_holds_what_is_not_code_too(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"pipeline/py.typed", "pipeline/reporting/templates/report.html.j2"} <= set(names)
    assert any(name.startswith("pipeline/search/") and name.endswith(".html") for name in names)
    assert "pipeline/config/tasks/matching.py" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "Provides-Extra: serve" in metadata
    plain = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert not [line for line in plain if "mxnet" in line or "horovod" in line]


def test_commands_work_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    code = "import pipeline.cli.main as cli; print(cli.__file__); sys.exit(cli.main({arguments!r}))"
    shown = run(unpacked, tmp_path, code.format(arguments=["config", "explain", "train.loss"]), TRAINING + SEARCH)
    assert shown.returncode == 0, shown.stderr
    assert str(unpacked) in shown.stdout and "in_batch_softmax" in shown.stdout


@pytest.mark.parametrize("task", ["matching", "classification", "translation", "captioning", "visual_question"])
def test_a_model_is_served_without_what_training_needs(task: str, unpacked: Path, tmp_path: Path) -> None:
    if task == "matching":
        write_trained(tmp_path / "model", networks.config_of())
        rows: list[dict[str, str]] = [{"query": "a b", "document": "c d"}]
    else:
        write_task(tmp_path / "model", config_of(task))
        rows = rows_of(task, ["a sort b"])
    code = (
        "from pipeline import load_model\n"
        "import json, pipeline\n"
        f"model = load_model({str(tmp_path / 'model')!r})\n"
        f"print(json.dumps([pipeline.__file__, model.predict({rows!r})]))\n"
        f"assert not {set(TRAINING) | set(SEARCH)!r} & {{name.partition('.')[0] for name in sys.modules}}\n"
    )
    done = run(unpacked, tmp_path, code, TRAINING + SEARCH)
    assert done.returncode == 0, done.stderr
    file, [answer] = json.loads(done.stdout)
    assert file.startswith(str(unpacked))
    assert {"score", "label", "answer"} & answer.keys()


def test_a_package_that_is_not_there_is_one_sentence(unpacked: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "model", config_of("classification"))
    (tmp_path / "rows.jsonl").write_text('{"review": "a"}\n')
    arguments = ["predict", "model", "--input", "rows.jsonl", "--output", "-", "--backend", "mxnet"]
    done = run(unpacked, tmp_path, f"import pipeline.cli.main as cli; sys.exit(cli.main({arguments!r}))", TRAINING)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "duplet predict: the package mxnet is not installed: pip install 'duplet[train]' brings it"
    )


def test_the_sentence_knows_every_package_of_the_extras() -> None:
    imported = {"scikit-learn": "sklearn", "pystemmer": "Stemmer", "pillow": "PIL", "faiss-cpu": "faiss"}
    for extra in ("serve", "search", "train"):
        names = [re.match(r"[\w-]+", line)[0] for line in EXTRAS[extra] if not line.startswith("duplet[")]  # type: ignore[index]
        for name in names:
            assert main.EXTRAS[imported.get(name, name.replace("-", "_"))] == extra

"""Commands that read no data load nothing heavy: they answer at once. What is loaded is looked at, no time is taken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.cli.main import VERBS

READS_DATA = {"numpy", "pyarrow", "fsspec", "pandas", "scipy", "sklearn", "PIL", "zstandard", "sentencepiece", "jieba"}
WORKS = {
    "mlflow", "mxnet", "gluonnlp", "horovod", "matplotlib", "jinja2", "onnx", "onnxruntime", "faiss", "fastapi",
    "optuna", "pandas", "scipy", "sklearn", "bm25s", "ir_measures",
}  # fmt: skip
CODE = """
import contextlib, io, json, sys
from pipeline.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    with contextlib.suppress(SystemExit):
        main.main({arguments!r})
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def loaded(folder: Path, *arguments: str) -> set[str]:
    """The packages that a command has loaded at its end."""
    code = CODE.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = {"format": "tsv", "path": "pairs.tsv"}
    config = {"name": "t", "ingest": {"source": source}, "tracking": {"max_wait_s": 0, "system_metrics": False}}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(config))
    rows = "".join(f"what is {i}\tthe number {i}\n" for i in range(40))
    (tmp_path / "pairs.tsv").write_text(f"query\tdocument\n{rows}")
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("config", "explain"), ("config", "schema"), ("config", "t.yaml")]
)
def test_commands_about_settings_load_no_reader_of_data(arguments: tuple[str, ...], folder: Path) -> None:
    assert not loaded(folder, *arguments) & (READS_DATA | WORKS)


ALL = """
import contextlib, io, json, sys
from pipeline.cli import main
found, before = [], set()
for given in {given!r}:
    said = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            code = main.main(given)
        except SystemExit as error:
            code = error.code
    now = {{name.partition(".")[0] for name in sys.modules}}
    found.append([code, sorted(now - before), said.getvalue()])
    before = now
print(json.dumps(found))
"""


def each(folder: Path, commands: list[list[str]]) -> list[tuple[int, set[str], str]]:
    """Commands of one process: what each ends with, which packages it loads that none before it had, what it says."""
    code = ALL.format(given=commands)
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [(code, set(names), said) for code, names, said in json.loads(done.stdout.splitlines()[-1])]


def test_no_verb_s_help_loads_more_than_the_command_line(folder: Path) -> None:
    for verb, (code, names, said) in zip(VERBS, each(folder, [[verb, "--help"] for verb in VERBS])):
        assert code == 0, said
        assert not names & (READS_DATA | WORKS | {"pydantic", "yaml", "rich"}), verb


# What is wrong with the words alone is told before anything is loaded that reads data.
MISTAKES = [
    ["nonsense"], ["index", "--output", "x"], ["index", "--output", "x", "--sync"],
    ["index", "--output", "x", "--bits", "7"], ["train-on", "x", "--pairs", "1"], ["init"], ["search"],
    ["search", "x", "--k", "0"], ["train", "t.yaml", "--seeds", "2"], ["schedule", "run"], ["schedule", "t.yaml"],
    ["jobs", "nonsense"], ["sweep", "t.yaml"], ["demo", "nonsense"], ["completion", "tcsh"],
    ["by-hand", "--updates", "0"], ["sync"], ["runs"], ["run", "none.yaml"],
    ["run", "t.yaml", "train.epoch=3"], ["status", "none.yaml"],
    ["submit", "none.yaml"], ["submit", "t.yaml", "--target", "moon"], ["schedule", "t.yaml", "--cron", "x"],
    ["jobs", "status", "x"], ["config", "explain", "nonsense"], ["doctor", "none.yaml"], ["gc"],
    ["gc", "--keep-nights", "0"],
    ["clean"], ["clean", "--keep-runs", "0"], ["replay", "none"],
]  # fmt: skip
# A name that is none of a model's, a run's or an index's is known once its reader is loaded; what works with it is not
# (but for the words that an index leaves out, which are those of bm25s).
UNKNOWN = [
    ["init", "none.txt"], ["sweep", "none.yaml", "a=1,2"], ["generate", "none"], ["export", "none", "--output", "m"],
    ["compare", "none", "none"], ["report", "none"], ["promote", "none"], ["train-on", "none"],
    ["index", "--documents", "none", "--output", "x"],
]  # fmt: skip


@pytest.mark.parametrize(
    ("commands", "never"), [(MISTAKES, READS_DATA | WORKS), (UNKNOWN, WORKS - {"bm25s", "scipy", "ir_measures"})]
)
def test_a_mistake_is_told_before_anything_heavy_is_loaded(
    commands: list[list[str]], never: set[str], folder: Path
) -> None:
    for given, (code, names, said) in zip(commands, each(folder, commands)):
        assert code == 2 and said, given
        assert not names & never, (given, names & never, said)


def test_status_and_a_run_with_everything_up_to_date_load_nothing_that_works(folder: Path) -> None:
    assert not loaded(folder, "status", "t.yaml") & WORKS
    done = [sys.executable, "-P", "-m", "pipeline.cli", "ingest", "t.yaml", "--json"]
    first = json.loads(subprocess.run(done, capture_output=True, text=True, cwd=folder).stdout.splitlines()[-1])
    assert first["stages"]["ingest"]["state"] == "ran"
    assert not loaded(folder, "ingest", "t.yaml") & WORKS
    assert not loaded(folder, "status", "t.yaml") & WORKS

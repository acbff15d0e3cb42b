"""Commands that read no data load nothing heavy: they answer at once. What is loaded is looked at, no time is taken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def test_status_and_a_run_with_everything_up_to_date_load_nothing_that_works(folder: Path) -> None:
    assert not loaded(folder, "status", "t.yaml") & WORKS
    done = [sys.executable, "-P", "-m", "pipeline.cli", "ingest", "t.yaml", "--json"]
    first = json.loads(subprocess.run(done, capture_output=True, text=True, cwd=folder).stdout.splitlines()[-1])
    assert first["stages"]["ingest"]["state"] == "ran"
    assert not loaded(folder, "ingest", "t.yaml") & WORKS
    assert not loaded(folder, "status", "t.yaml") & WORKS

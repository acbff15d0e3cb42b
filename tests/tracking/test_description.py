"""What MLflow shows of a run that a person opens: how it ended, its table, and what to open."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.tracking import Tracking
from pipeline.tracking.client import at, local
from pipeline.tracking.sync import sync

DESCRIPTION = "mlflow.note.content"


@pytest.fixture
def described(empty_database: Path, tmp_path: Path, said: list[str]) -> Callable[[Callable[[Tracking], None]], Any]:
    """The run that MLflow has after something was told of it."""

    def run(tell: Callable[[Tracking], None]) -> Any:
        from mlflow import MlflowClient

        root = tmp_path / "runs"
        root.mkdir()
        shutil.copy(empty_database, root / "mlflow.db")
        tracking = Tracking(local(root), "e", "small", said.append, False, apart=False)
        tell(tracking)
        tracking.close("FINISHED")
        assert said == []
        client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
        return client, client.get_run(tracking.run_id)

    return run


def test_the_table_stands_as_it_is_and_the_files_are_there(described: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<p>")
    client, run = described(lambda tracking: tracking.describe("Done:", "a | b\n-----\n1   2\n", [page]))
    assert run.data.tags[DESCRIPTION] == f"Done:\n\n```\na | b\n-----\n1   2\n```\n\n`report.html`: {page}"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.html"]
    kind = client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development", "MLflow's pages of trainings, not those of language models"


def test_a_long_table_loses_whole_lines_and_nothing_else(described: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<p>")
    rows = [f"row {i:03} " + "x" * 90 for i in range(200)]
    _, run = described(lambda tracking: tracking.describe("Done:", "\n".join(rows), [page]))
    head, table, link = run.data.tags[DESCRIPTION].split("\n\n")
    kept = table.split("\n")[1:-1]
    assert (head, link) == ("Done:", f"`report.html`: {page}") and kept == rows[: len(kept)] and len(kept) >= 45
    assert table.startswith("```\n") and table.endswith("\n```") and len(run.data.tags[DESCRIPTION]) <= 5000


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("htp://host:5000", "no MLflow is reached by htp: (did you mean http?)"),
        ("redis://host", "no MLflow is reached by redis:"),
        ("http:///path", "names no host"),
        ("https://:5000", "names no host"),
    ],
)
def test_an_address_of_no_mlflow_is_refused_at_once(uri: str, sentence: str, tmp_path: Path) -> None:
    from pipeline.config import check_config

    settings = {"name": "t", "ingest": {"source": {"format": "jsonl", "path": "a.jsonl"}}}
    with pytest.raises(InputError) as refused:
        check_config(settings | {"tracking": {"uri": uri}}, "t.yaml")
    assert sentence in str(refused.value) and "tracking.uri" in str(refused.value)
    with pytest.raises(InputError) as refused:  # of the environment, or --uri
        at(uri, tmp_path)
    assert sentence in str(refused.value)
    with pytest.raises(InputError) as refused:
        list(sync(tmp_path, uri, str))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000", "https://***@host/x", "sqlite:////a/b.db", "sqlite+pysqlite:///a.db", "postgresql://u@h/d",
     "mysql+pymysql://h/d", "mssql+pyodbc://h/d", "file:///a/b", "databricks", "databricks://profile", "folder/mlruns",
     "/a folder/mlruns"],
)  # fmt: skip
def test_every_address_that_mlflow_knows_is_taken(uri: str, tmp_path: Path) -> None:
    from pipeline.config import check_config

    settings = {"name": "t", "ingest": {"source": {"format": "jsonl", "path": "a.jsonl"}}, "tracking": {"uri": uri}}
    assert check_config(settings, "t.yaml").tracking.uri == uri
    at(uri, tmp_path)

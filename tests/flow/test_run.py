"""The command from a source to a judged model, and what bad input gets."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conftest import last_json, reversed_pairs
from tests.tasks import teachers

Config = Callable[..., dict[str, Any]]
Run = Callable[..., Any]


def stage_folder(root: Path, stage: str) -> Path:
    (folder,) = (root / stage).glob("[0-9a-f]*")
    return folder


@pytest.mark.mlflow
@pytest.mark.timeout(600)
def test_run_ends_with_the_promised_line_and_again_does_nothing(
    small_config: Config, duplet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(train={**small_config()["train"], "epochs": 1})
    first = duplet("run", config, "--json")
    found = last_json(first)
    assert list(found["stages"]) == ["ingest", "tokenize", "train", "evaluate"]
    assert {row["state"] for row in found["stages"].values()} == {"ran"}
    for name in ("test/mrr@10", "test/bm25/mrr@10", "test/fused/mrr@10", "test/random/mrr@10", "test/recall@100"):
        assert 0 <= found["metrics"][name] <= 1
    assert "model − bm25" in first.stdout

    root = tmp_path / "runs"
    wins = [json.loads(line) for line in (stage_folder(root, "evaluate") / "wins.jsonl").read_text().splitlines()]
    assert wins
    assert {"query", "model_top", "bm25_top", "difference"} <= wins[0].keys()
    check_tracked(root, found["run_id"], found["metrics"], monkeypatch)

    again = last_json(duplet("run", config, "--json"))
    assert {row["state"] for row in again["stages"].values()} == {"up to date"}
    assert again["metrics"] == found["metrics"]
    assert again["run_id"] != found["run_id"]

    status = last_json(duplet("status", config, "model.layers=1", "--json"))["stages"]
    assert [row["state"] for row in status] == ["up to date", "up to date", "changed", "changed"]
    assert status[2]["changed"] == ["config.model.layers"]

    shard = stage_folder(root, "tokenize") / "train" / "query-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    refused = duplet("run", config)
    assert refused.returncode == 2
    assert str(shard) in refused.stderr
    assert "run `duplet tokenize" in refused.stderr
    assert not Path("mlruns").exists()


def check_tracked(root: Path, run_id: str, metrics: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """One parent run with a child per stage, in the database under root, with figures by step and files."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    parent = client.get_run(run_id)
    assert parent.info.status == "FINISHED"
    evaluated, told = stage_folder(root, "evaluate"), parent.data.tags["mlflow.note.content"]
    for line in (evaluated / "table.txt").read_text().splitlines():
        assert line in told
    assert told.endswith(f"`report.html`: {(evaluated / 'report.html').resolve()}")
    assert {"table.txt", "report.html"} <= {file.path for file in client.list_artifacts(run_id)}
    assert parent.data.metrics["test/mrr_at_10"] == metrics["test/mrr@10"]
    assert parent.data.params["model.layers"] == "2"
    assert parent.data.tags["version.mxnet"] == "1.9.1"
    assert parent.data.tags["duplet.recurrent"].startswith(("Duplet's own (AVX", "MXNet's ("))
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    by_name = {run.info.run_name: run for run in children}
    assert set(by_name) == {"ingest", "tokenize", "train", "evaluate"}
    train = by_name["train"]
    losses = client.get_metric_history(train.info.run_id, "loss")
    assert [m.step for m in losses] == sorted({m.step for m in losses})
    assert len(losses) >= 2
    assert {"learning_rate", "gradient_norm", "tokens_per_s", "padding_share", "data_wait_share"} <= set(
        train.data.metrics
    )
    with monkeypatch.context() as patch:  # MLflow looks up a run's logged models where the process's own address says
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        files = {file.path for file in client.list_artifacts(train.info.run_id, "model")}
    assert {"model/parameters.npz", "model/vocabulary.json", "model/config.json", "model/curves.png"} <= files
    inputs = by_name["ingest"].inputs.dataset_inputs
    assert {entry.dataset.name for entry in inputs} == {"small-train", "small-valid", "small-test"}
    assert all(entry.dataset.digest for entry in inputs)


@pytest.mark.mlflow
def test_a_dead_tracking_server_stops_nothing(small_config: Config, duplet: Run) -> None:
    config = small_config(tracking={"uri": "http://127.0.0.1:9"})
    done = duplet("tokenize", config, "--json")
    found = last_json(done)
    assert found["run_id"] is None
    assert found["stages"]["tokenize"]["state"] == "ran"
    assert done.stderr.count("warning: MLflow") == 1


@pytest.mark.parametrize(("taught", "parts"), [(False, 1), (True, 1), (False, 2)])
def test_a_loss_that_is_not_finite_stops_and_is_replayed(
    taught: bool, parts: int, small_config: Config, duplet: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # relu states have no bound: once the weights have left float32's range, every CPU computes inf - inf
    config = small_config(model={"cell": "rnn_relu", "head": "dot"})
    config["train"]["optimizer"] = {"learning_rate": 1e30, "clip_norm": None, "kind": "sgd"}
    config["train"] |= {"schedule": {"kind": "constant", "warmup_updates": 0}, "workers": 2, "accumulate": parts}
    if taught:
        texts = list(dict.fromkeys(text for row in reversed_pairs(240) for text in (row["query"], row["document"])))
        config["teach"] = {"vectors": [teachers.written(tmp_path / "v.npz", texts, teachers.vectors_of(texts))]}
    done = duplet("train", config)
    assert done.returncode == 1
    assert "not finite at update" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    (kept,) = (tmp_path / "runs").glob("work/train-*-not-finite-*")
    assert f"`duplet replay {kept.resolve()}` shows it again" in done.stderr.splitlines()[-1]
    again = duplet("replay", kept)
    assert again.returncode == 0, again.stderr
    lines = again.stdout.splitlines()
    assert lines[0].endswith("2 workers")
    for line in lines[1:3]:  # the same again
        got, seen = line.removesuffix(")").split(" (seen: ")
        assert got.split()[-1] == seen
    assert "gradients with values that are not finite:" in lines
    shutil.rmtree(tmp_path / "runs" / ("teach" if taught else "tokenize"))
    assert main.main(["replay", str(kept)]) == 2
    assert "is missing: put it back" in capsys.readouterr().err.splitlines()[-1]


BAD = {
    "unknown key": (["modle.layers=2"], ["modle", "did you mean model"]),
    "wrong type": (["model.layers=two"], ["model.layers='two'", "integer"]),
    "wrong choice": (["model.cell=lsmt"], ["model.cell='lsmt'", "did you mean lstm"]),
    "contradiction": (["train.max_updates=1"], ["warmup_updates=2", "max_updates=1"]),
    "no equals sign": (["model.layers"], ["key=value"]),
    "metric not measured": (["train.metric=mrr@1"], ["mrr@1", "did you mean mrr@10"]),
    "missing source": (["ingest.source.path=/nowhere/x.jsonl"], ["/nowhere/x.jsonl"]),
    "more GPUs than there are": (["train.gpus=true"], ["GPUs", "train.gpus=false"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_2(name: str, small_config: Config, duplet: Run, tmp_path: Path) -> None:
    overrides, expected = BAD[name]
    if name == "more GPUs than there are" and Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    done = duplet("run", small_config(), *overrides)
    assert done.returncode == 2, done.stderr
    for text in expected:
        assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("tokenize/*"))


def test_a_configuration_alone_is_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["run"])
    assert capsys.readouterr().err.splitlines()[-1].endswith("the following arguments are required: config")


def test_a_run_with_other_settings_can_be_named(
    small_config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config, rows = tmp_path / "small.yaml", tmp_path / "x.csv"
    config.write_text(json.dumps(small_config()))
    rows.write_text("query,document\n")
    cases = [
        (["predict", config, "--input", rows, "--output", "-"], "name a training with other settings by its folder"),
        (["report", config], "with its present settings"),
        (["report", config, "train.epochs=9"], f"with these settings: run `duplet run {config} train.epochs=9` first"),
    ]
    for arguments, part in cases:
        assert main.main([str(word) for word in arguments]) == 2
        assert part in capsys.readouterr().err.splitlines()[-1]


def test_empty_and_wrong_columns_name_what_was_found(small_config: Config, duplet: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty.tsv"
    empty.write_text("")
    other = tmp_path / "other.tsv"
    other.write_text("question\tanswer\nwhat\tthat\n")
    for path, text in ((empty, "empty"), (other, "question")):
        config = small_config(ingest={"source": {"format": "tsv", "path": str(path)}})
        done = duplet("ingest", config)
        assert done.returncode == 2
        assert str(path) in done.stderr.splitlines()[-1]
        assert text in done.stderr.splitlines()[-1]


def test_too_many_bad_rows_show_the_first_five(small_config: Config, duplet: Run, tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"qid": "a", "query": "q", "document": "d"}\n' * 10 + '{"qid": "b", "query": ""}\n' * 7)
    done = duplet("ingest", small_config())
    assert done.returncode == 2
    assert "pairs.jsonl:11" in done.stderr
    assert not list((tmp_path / "runs" / "ingest").glob("[0-9a-f]*"))


def test_two_runs_at_once_do_the_work_once(small_config: Config, tmp_path: Path) -> None:
    import subprocess

    from tests.conftest import duplet_command

    command = duplet_command(tmp_path, "tokenize", small_config(), "--json")
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    states = [json.loads(out.splitlines()[-1])["stages"]["tokenize"]["state"] for out, _ in said]
    assert sorted(states) == ["ran", "up to date"]


def test_a_damaged_newest_checkpoint_falls_back(small_config: Config, duplet: Run, tmp_path: Path) -> None:
    """Train, then put the checkpoints of the work folder back with the newest cut short, and train again."""
    config = small_config()
    config["train"] |= {
        "epochs": 30,
        "patience_validations": None,
        "checkpoint_every_updates": 1,
        "keep_checkpoints": 3,
    }
    import signal
    import subprocess

    from tests.conftest import duplet_command
    from tests.workers.test_resume import wait_for_checkpoint

    process = subprocess.Popen(duplet_command(tmp_path, "train", config), text=True, stderr=subprocess.PIPE)
    wait_for_checkpoint(process, tmp_path / "runs", 5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 75
    newest = sorted((tmp_path / "runs").glob("work/train-*/checkpoints/update-*"))[-1]
    path = newest / "parameters.npz"
    path.write_bytes(path.read_bytes()[:-50])
    config_again = tmp_path / "config.yaml"
    done = duplet("train", config_again)
    assert done.returncode == 0, done.stderr
    assert f"warning: checkpoint {newest.name} is left out" in done.stderr
    assert "going on from update-" in done.stderr
    shutil.rmtree(tmp_path / "runs")

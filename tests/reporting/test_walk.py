"""The whole way with real trainings: register, be refused on other test data, be promoted, go back; report, compare."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.evaluation import judged
from tests.conftest import last_json, reversed_pairs


def test_walk(small_config: Any, duplet: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    config = small_config(model={"head": "late_interaction", "layers": 1, "dropout": 0.0})
    config["train"] |= {"epochs": 1}
    config["evaluate"] = {"bootstrap_samples": 60}
    first = last_json(duplet("run", config, "--json"))
    one = Path(first["stages"]["evaluate"]["folder"])
    assert (one / "report.html").stat().st_size > 20_000
    assert json.loads((one / "run.json").read_text())["command"].startswith("duplet run ")
    rows = judged.read(one / "judged-ranking.parquet")
    assert rows.values["model", "mrr@10"].mean() == pytest.approx(first["metrics"]["test/mrr@10"])
    check_alignment(one)
    predict = lambda model: main.main(
        ["predict", model, "--input", str(asked), "--output", str(tmp_path / "out.jsonl"), "--root", config["root"]]
    )
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"query": "w1 w2", "document": "w2 w1"}) + "\n")
    assert predict("models:/small@champion") == 2
    assert main.main(["promote", str(tmp_path / "config.yaml")]) == 0
    answers = set()
    for model in ("models:/small@champion", "models:/small/1", first["run_id"], str(tmp_path / "config.yaml")):
        assert predict(model) == 0
        answers.add((tmp_path / "out.jsonl").read_text())
    assert len(answers) == 1
    (tmp_path / "other.yaml").write_text((tmp_path / "config.yaml").read_text() + "seed: 7\n")
    capsys.readouterr()
    assert predict(str(tmp_path / "other.yaml")) == 2
    assert "is not trained with its present settings: run `duplet run " in capsys.readouterr().err

    # another model on other data: the champion is judged on the new test data, with its own vocabulary
    source = tmp_path / "other.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in reversed_pairs(200, seed=5, letters=16)))
    config["ingest"]["source"]["path"] = str(source)
    config["model"] = {"embedding": 2, "hidden": 2}
    second = last_json(duplet("run", config, "--json"))
    two = Path(second["stages"]["evaluate"]["folder"])
    capsys.readouterr()
    code = main.main(["promote", second["run_id"], "--root", config["root"], "--json", "--gate", "min_difference=0.5"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 3
    assert (found["version"], found["champion"]) == (2, 1)
    (again,) = (tmp_path / "runs" / "rejudged").glob("[0-9a-f]*")
    new, old = (judged.read(folder / "judged-ranking.parquet") for folder in (two, again))
    assert new.ids == old.ids != rows.ids
    assert found["metrics"]["mrr@10"]["champion"] == pytest.approx(old.values["model", "mrr@10"].mean())
    np.testing.assert_array_equal(new.values["bm25", "recall@1"], old.values["bm25", "recall@1"])

    assert main.main(["promote", str(two), "--gate", "judge_by=mean", "--gate", "min_difference=-1"]) == 0
    assert main.main(["promote", "--back", str(tmp_path / "config.yaml")]) == 0
    assert "is version 1 instead of version 2" in capsys.readouterr().out

    assert main.main(["report", second["run_id"], "--root", config["root"]]) == 0
    assert capsys.readouterr().out.strip() == str(Path(config["root"]) / "evaluate" / two.name / "report.html")
    assert main.main(["report", str(one), "--output", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").read_text() == (one / "report.html").read_text()
    capsys.readouterr()
    assert main.main(["compare", str(again), str(two), "--html", str(tmp_path / "c.html")]) == 0
    assert "mrr@10 against bm25" in capsys.readouterr().out


def check_alignment(folder: Path) -> None:
    """Late interaction's score is made of the alignment: the weighted mean of each query token's best similarity."""
    tops = [json.loads(line) for line in (folder / "wins.jsonl").read_text().splitlines()]
    scores = {(line["query"], d["text"]): d["score"] for line in tops for d in line["model_top"]}
    for entry in json.loads((folder / "alignments.json").read_text()):
        weights, documents = (part["values"] for part in entry["weights"])
        assert abs(sum(weights) - 1) < 1e-3
        assert abs(sum(documents) - 1) < 1e-3
        score = float(np.max(entry["values"], axis=1) @ weights)
        known = scores.get((" ".join(entry["rows"]), " ".join(entry["columns"])))
        assert -1 <= score <= 1
        if known is not None:
            assert abs(score - known) < 2e-3
    assert tops

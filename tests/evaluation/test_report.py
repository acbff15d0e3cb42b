"""The comparison, its table and flat names, the file of wins and losses, and graded pairs."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation.bootstrap import mean_interval, paired_difference
from pipeline.evaluation.metrics import graded_metrics, weighted_metrics
from pipeline.evaluation.ranking import Judgements, Ranking, evaluate, measures, rank_collection
from pipeline.reporting.tables import comparison, flat_metrics, graded_comparison, table_text, write_wins


@pytest.fixture(scope="module")
def judgements() -> Judgements:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(60), 3)
    return Judgements(rows, rng.integers(0, 80, 180), np.where(rows < 58, rng.integers(0, 3, 180), 0), 60, 80)


@pytest.fixture(scope="module")
def systems(judgements: Judgements) -> dict[str, Ranking]:
    rng = np.random.default_rng(1)
    rows, columns = np.indices((60, 80))
    truth = judgements.lookup(rows.ravel(), columns.ravel()).reshape(60, 80)
    return {
        name: rank_collection([(np.arange(60), truth + noise * rng.normal(size=(60, 80)))], judgements, 50)
        for name, noise in (("model", 0.6), ("bm25", 1.0), ("fused", 0.5), ("random", 1000.0))
    }


def test_comparison_is_the_bootstrap_of_each_column(judgements: Judgements, systems: dict[str, Ranking]) -> None:
    found = comparison(systems, judgements, samples=200, seed=4, depth=50)
    assert found["counted"] == len(judgements.answerable)
    assert found["without_relevant"] == 60 - found["counted"] >= 2
    json.dumps(found, allow_nan=False)
    assert [*found["systems"]["model"]["metrics"]] == ["mrr@10", "map@50", "ndcg@10", "recall@1", "recall@10"]
    for metric in measures(50):
        ours, theirs = (evaluate(systems[name], judgements, depth=50)[metric] for name in ("model", "bm25"))
        assert found["systems"]["model"]["metrics"][metric] == pytest.approx(mean_interval(ours, 200, 4)._asdict())
        wanted = paired_difference(ours, theirs, 200, 4)._asdict()
        assert found["systems"]["model"]["difference"][metric] == pytest.approx(wanted)
    assert found["systems"]["bm25"]["difference"] == {}
    assert found["systems"]["random"]["difference"]["map@50"]["mean"] < 0
    assert comparison(systems, judgements, 200, 4, depth=50) == found
    assert comparison({"model": systems["model"]}, judgements, 20, 4)["systems"]["model"]["difference"] == {}


def test_nothing_to_measure() -> None:
    empty = Judgements(np.array([0]), np.array([0]), np.array([0]), 1, 1)
    with pytest.raises(InputError, match="none of 1 queries has a relevant document"):
        comparison({"model": rank_collection([(np.array([0]), np.zeros((1, 1)))], empty, 1)}, empty, 10, 1)
    with pytest.raises(InputError, match="no graded pairs"):
        graded_comparison(np.array([]), np.array([]), np.array([]), 10, 1)


def test_flat_names(judgements: Judgements, systems: dict[str, Ranking]) -> None:
    found = comparison(systems, judgements, 20, 1)
    flat = flat_metrics("test", found)
    assert len(flat) == 4 * 6
    assert flat["test/mrr@10"] == found["systems"]["model"]["metrics"]["mrr@10"]["mean"]
    assert flat["test/fused/recall@100"] == found["systems"]["fused"]["metrics"]["recall@100"]["mean"]
    assert {"test/bm25/mrr@10", "test/random/map@100"} <= flat.keys()


def test_table_is_plain_and_fits(judgements: Judgements, systems: dict[str, Ranking]) -> None:
    found = comparison(systems, judgements, 50, 1)
    text = table_text(found, "test: 60 queries against 80 documents")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in text
    assert lines[0] == "test: 60 queries against 80 documents"
    assert lines[2].split() == list(measures(100))
    model = found["systems"]["model"]["metrics"]
    row = next(i for i, line in enumerate(lines) if line.split()[:1] == ["model"])
    assert lines[row].split()[1:] == [f"{model[m]['mean']:.3f}" for m in measures(100)]
    assert lines[row + 1].split() == [f"{model[m]['low']:.3f}–{model[m]['high']:.3f}" for m in measures(100)]
    assert [line.split("  ")[0].strip() for line in lines if "− bm25" in line] == ["model − bm25", "fused − bm25"]
    assert f"{found['without_relevant']} queries without a relevant document" in text
    assert f"{found['counted']} queries over 80 documents; below each mean" in text
    assert "queries, each over its own candidates; below" in table_text(found | {"candidates": "listed"}, "test")
    made = {
        "stemmer": "english",
        "k1": 1.2,
        "b": 0.75,
        "weight": 0.35,
        "validation_queries": 40,
        "tried": {"0.35": 0.5},
    }
    assert table_text(found | {"made": made}, "test").splitlines()[-1] == (
        "bm25: english stems, k1 1.2, b 0.75; fused: 0.35 model + 0.65 bm25; chosen by 40 validation queries"
    )


def test_wins_first_losses_last(tmp_path: Path) -> None:
    relevance = np.array([[1, 0, 0], [0, 2, 1], [0, 0, 0], [0, 0, 1]])
    rows, columns = np.indices(relevance.shape)
    judgements = Judgements(rows.ravel(), columns.ravel(), relevance.ravel(), 4, 3)
    order = {
        "model": [[3, 2, 1], [3, 2, 1], [3, 2, 1], [1, 2, 3]],
        "bm25": [[1, 2, 3], [3, 2, 1], [3, 2, 1], [3, 2, 1]],
    }
    ranked = {k: rank_collection([(np.arange(4), np.array(v, float))], judgements, 10) for k, v in order.items()}
    ranked["model"].scores[3, 2] = -np.inf
    path = tmp_path / "wins.jsonl"
    texts = ["x" * 300, "zwei", "三"]
    # query 0: 1 against 1/3; query 3: 1 against 1/3, too; query 1: both 1/2; query 2 has no answer
    assert (
        write_wins(path, ranked["model"], ranked["bm25"], judgements, list("abcd"), list("ABCD"), list("uvw"), texts)
        == 3
    )
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["query_id"] for line in lines] == ["a", "d", "b"]
    assert [line["difference"] for line in lines] == [pytest.approx(2 / 3, abs=1e-6)] * 2 + [0]
    assert lines[0]["query"] == "A"
    assert lines[0]["model_top"][0] == {"id": "u", "text": "x" * 199 + "…", "relevance": 1, "score": 3}
    assert [d["id"] for d in lines[0]["bm25_top"]] == ["w", "v", "u"]
    assert lines[1]["model_top"][2]["score"] is None
    assert [(d["id"], d["relevance"]) for d in lines[2]["relevant"]] == [("v", 2), ("w", 1)]
    assert "三" in path.read_text(encoding="utf-8")
    write_wins(path, ranked["bm25"], ranked["model"], judgements, list("abcd"), list("ABCD"), list("uvw"), texts)
    assert [json.loads(line)["query_id"] for line in path.open(encoding="utf-8")] == ["b", "a", "d"]


# --- graded pairs -----------------------------------------------------------------------------------------------------
def graded(size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size, p=[0.3, 0.5, 0.2])
    scores = np.round(labels + rng.normal(size=size), 1)  # ties
    return labels, np.clip(np.round(scores), 0, 2).astype(int), scores


def test_weighted_metrics_are_those_of_the_resample() -> None:
    labels, predicted, scores = graded(60, 0)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 60, (40, 60))
    weights = np.stack([np.bincount(rows, minlength=60) for rows in drawn]).astype(float)
    found = weighted_metrics(labels, predicted, scores, weights)
    for i, rows in enumerate(drawn):
        wanted = graded_metrics(labels[rows], predicted[rows], scores[rows])
        assert {name: values[i] for name, values in found.items()} == pytest.approx(wanted)


def test_graded_comparison_with_the_majority() -> None:
    labels, predicted, scores = graded(400, 2)
    found = graded_comparison(labels, predicted, scores, 200, 3)
    json.dumps(found, allow_nan=False)
    assert found["majority"] == 1
    model, majority = found["systems"]["model"], found["systems"]["majority"]
    assert majority["metrics"]["accuracy"]["mean"] == np.mean(labels == 1)
    assert majority["metrics"]["auc"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    for metric, value in graded_metrics(labels, predicted, scores).items():
        part = model["metrics"][metric]
        assert part["low"] < part["mean"] == value < part["high"]
    assert model["difference"]["auc"]["p"] < 0.05
    assert graded_comparison(labels, predicted, scores, 50, 3, majority=0)["majority"] == 0
    assert flat_metrics("test", found)["test/majority/accuracy"] == majority["metrics"]["accuracy"]["mean"]
    text = table_text(found, "graded")
    assert "model − majority" in text
    assert "400 pairs" in text


def test_a_model_like_the_majority_does_not_differ() -> None:
    labels = graded(100, 4)[0]
    found = graded_comparison(labels, np.ones(100, int), np.zeros(100), 100, 1)
    assert found["systems"]["model"]["difference"]["accuracy"] == {"mean": 0, "low": 0, "high": 0, "p": 1}


def test_whole_queries_are_resampled() -> None:
    labels, predicted, scores = (np.repeat(part, 8) for part in graded(50, 5))
    single = graded_comparison(labels, predicted, scores, 300, 1)["systems"]["model"]["metrics"]["accuracy"]
    groups = np.repeat(np.arange(50), 8) + 1000
    grouped = graded_comparison(labels, predicted, scores, 300, 1, groups=groups)["systems"]["model"]["metrics"][
        "accuracy"
    ]
    assert grouped["high"] - grouped["low"] > 2 * (single["high"] - single["low"])  # √8 times as wide


def test_one_grade_has_no_auc() -> None:
    found = graded_comparison(np.ones(9, int), np.ones(9, int), np.arange(9.0), 20, 1)
    assert found["systems"]["model"]["metrics"]["auc"]["mean"] is None
    assert "test/auc" not in flat_metrics("test", found)
    assert "–" in table_text(found, "one grade")

"""A matcher that says which queries it has an answer to: it learns that some have none, and says so everywhere."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.distributed.world import World
from pipeline.evaluation import confidence
from pipeline.evaluation.ranking import Judgements, Ranking
from pipeline.orchestration import flow
from pipeline.reporting import folder as reporting
from pipeline.reporting import page
from pipeline.serving.loading import open_predictor
from pipeline.tasks import matching_answers, matching_evaluation, matching_systems, reranking
from pipeline.tasks.base import task_of
from pipeline.tasks.collection import Collection
from pipeline.tokenization import shards
from tests.conftest import last_json, small_configuration
from tests.networks import fresh, untrained_folder

THINGS = [f"thing{i}" for i in range(30)]


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """A question about one thing with six sentences; of a third of the questions none is about theirs."""
    rng, rows = random.Random(seed), []
    for i in range(count):
        asked, *others = rng.sample(THINGS, 8)
        about = others[:6] if i % 3 == 0 else [asked, *others[:5]]
        for number, thing in enumerate(about):
            sentence = f"f{rng.randrange(20)} {thing} f{rng.randrange(20)}"
            rows.append({"qid": f"q{seed}-{i}", "query": f"what is {asked}", "did": f"d{seed}-{i}-{number}",
                         "document": sentence, "relevance": int(thing == asked)})  # fmt: skip
    return rows


def configuration(folder: Path, **evaluate: Any) -> dict[str, Any]:
    paths = {}
    for seed, (name, count) in enumerate((("train", 200), ("valid", 90), ("test", 90))):
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in questions(count, seed)))
    columns = {"query_id": "qid", "document_id": "did", "relevance": "relevance"}
    train = {"sure_precision": 0.95, "epochs": 12, "max_pairs_per_update": 16, "loss": {"listed_negatives": 3},
             "optimizer": {"learning_rate": 0.01}}  # fmt: skip
    data = small_configuration(folder, train=train, evaluate=evaluate, model={"layers": 1, "dropout": 0.0})
    data["ingest"] = {"source": {"format": "jsonl", "paths": paths, "columns": columns}}
    data["tracking"] = {"system_metrics": False, "send": "later"}
    return data


@pytest.mark.learns
def test_it_knows_which_questions_have_no_answer(duplet: Callable[..., Any], tmp_path: Path) -> None:
    done = last_json(duplet("run", configuration(tmp_path, candidates="listed"), "--json"))
    metrics = done["metrics"]
    assert metrics["test/sure_precision"] > 0.9 and metrics["test/no_answer_recall"] > 0.9
    assert metrics["test/no_answer_precision"] > 0.75 and 0.5 < metrics["test/sure_share"] < 0.75
    folder = Path(done["stages"]["evaluate"]["folder"])
    assert "of 90 queries 30 have no relevant document" in (folder / "table.txt").read_text()
    # the diagram is of both kinds of queries, those with an answer and those without
    read = reporting.load(folder).judged["answers"]
    assert len(read.ids) == 90 and read.classes is not None and 0 < read.classes.labels.mean() < 0.7
    probability = read.classes.probabilities[:, 1]
    assert abs(probability.mean() - read.classes.labels.mean()) < 0.07  # calibrated as a whole
    assert "Reliability: share of right answers by confidence" in page.build(reporting.load(folder))
    # a person asks the same, and is told the same
    model, exported, asked = Path(done["stages"]["train"]["folder"]), tmp_path / "exported", questions(90, 2)
    lists = [{"query": asked[i]["query"], "documents": [row["document"] for row in asked[i : i + 6]]}
             for i in range(0, len(asked), 6)]  # fmt: skip
    by_id = dict(zip(read.ids, probability))
    expected = np.array([by_id[row["qid"]] for row in asked[::6]])
    assert duplet("export", model, "--output", str(exported)).returncode == 0
    for place, backend in ((model, "mxnet"), (model, "onnx"), (exported, "onnx")):
        predictor = open_predictor(place, backend, threads=1)  # type: ignore[arg-type]
        found = predictor.predict(lists)
        np.testing.assert_allclose([row["probability"] for row in found], expected, atol=1e-3)
        assert np.mean([row["sure"] for row in found]) == pytest.approx(metrics["test/sure_share"])
        assert "sure" not in predictor.predict([{"query": "what", "document": "f1"}])[0]  # it is the best of nothing


def test_queries_without_a_relevant_document_are_ranked_too(tmp_path: Path) -> None:
    """Over the collection, where the metrics leave them out: what is chosen must have seen them."""
    config = check_config(configuration(tmp_path), "test")
    stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
    tokenized, ingested = (Path(stages[stage]["folder"]) for stage in ("tokenize", "ingest"))
    network = fresh(task_of(config, tokenized), 3)
    queries = matching_systems.valid_queries(config, tokenized)
    test, valid = matching_systems.to_judge(config, tokenized, ingested)
    assert sorted(queries.collection.keys) == sorted(valid.collection.keys)
    ranking = matching_systems.ranked(config, network, queries, World(), unanswerable=True)
    first = matching_answers.firsts(ranking, queries.judgements)
    assert (len(first.rows), len(queries.judgements.answerable)) == (90, 60) and np.isfinite(first.scores).all()
    assert not first.right[~np.isin(first.rows, queries.judgements.answerable)].any()
    words = matching_systems.Words(config, tokenized, ingested, test, valid)
    found = matching_systems.systems(config, network, test, valid, words, World())
    assert found is not None and (found.rankings["model"].documents[test.judgements.judged, 0] >= 0).all()


def test_each_ranking_that_is_shown_has_numbers_of_its_own(tmp_path: Path) -> None:
    """Fitted to its scores of the first documents over validation, queries without a relevant one among them."""
    config = check_config(configuration(tmp_path, candidates="listed"), "test")
    stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
    tokenized, ingested = (Path(stages[stage]["folder"]) for stage in ("tokenize", "ingest"))
    second = untrained_folder(config, tokenized, tmp_path / "second")
    config = config.model_copy(update={"rerank": config.rerank.model_copy(update={"model": str(second), "top": 5})})
    network, world = fresh(task_of(config, tokenized), 3), World()
    sets = matching_systems.to_judge(config, tokenized, ingested)
    words = matching_systems.Words(config, tokenized, ingested, *sets)
    systems = matching_systems.systems(config, network, *sets, words, world)
    systems = reranking.reranked(config, tokenized, systems, sets, world)
    assert systems is not None
    model = matching_answers.Answering(1.0, 0.0, 0.9, 0.5, 0.5, 0.9)
    found = matching_answers.of_rankings(systems, sets[1].judgements, model)
    assert [*found] == ["model", "fused", "reranked"] and found["model"] is model
    made = systems.fusion_settings
    for name, place in (("fused", made), ("reranked", made["rerank"]), ("alone", made["rerank"]["alone"])):
        first = matching_answers.firsts(systems.valid[name], sets[1].judgements)
        assert len(first.rows) == 90 and np.isfinite(first.scores).all() and 0 < first.right.sum() < 60
        assert place["answering"] == confidence.answering(first.scores, first.right, 0.9)._asdict()
    output = tmp_path / "out"
    output.mkdir()
    flat = matching_evaluation.evaluate(config, tokenized, network, world, ingested, output, model)
    table = (output / "table.txt").read_text()
    for name in ("", "fused/", "reranked/"):
        assert 0 <= flat[f"test/{name}sure_share"] <= 1
    assert "\nmodel: sure from" in table and "\nfused: " in table and "\nreranked: " in table
    assert "answering" in json.loads((output / "fusion.json").read_text())["rerank"]["alone"]


def test_fewer_validation_queries_have_as_many_without_an_answer(tmp_path: Path) -> None:
    config = check_config(configuration(tmp_path), "test")
    stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
    split = shards.open_split(Path(stages["tokenize"]["folder"]), "valid")
    kept = matching_systems.queries_of(split, Collection([split.fields["document"]]), most=20).judgements
    assert (len(kept.answerable), len(kept.judged)) == (20, 30)


def test_what_is_right_and_what_has_no_answer() -> None:
    """By hand: query 0 is answered right, 1 wrong, 2 has no relevant document, 3 no document at all."""
    judgements = Judgements(
        np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 0]), np.array([1, 0, 1, 0, 0]), 4, 3,
        (np.array([3]), np.array([1])),
    )  # fmt: skip
    ranking = Ranking(
        np.array([[0, 1], [2, 1], [0, -1], [-1, -1]]), np.array([[3.0, 1], [2, 1], [1, -np.inf], [-np.inf, -np.inf]])
    )
    first = matching_answers.firsts(ranking, judgements)
    assert first.right.tolist() == [True, False, False, False]
    found = {"model": matching_answers.Answering(1.0, -1.5, 0.9, 0.5, 0.5, 0.9)}
    rows = matching_answers.judged({"model": first}, judgements, list("abcd"), list("wxyz"), found)
    mean = lambda name: np.average(rows.values["model", name], weights=rows.weights.get(("model", name)))
    assert (mean("sure_share"), mean("sure_precision")) == (0.5, 0.5)  # of 0 and 1, which have scores above 1.5
    assert mean("sure_recall") == pytest.approx(1 / 3)  # of 0, 1 and 3
    assert (mean("no_answer_precision"), mean("no_answer_recall")) == (0.5, 1.0)  # 2 and 3 are not sure; 2 has none


def test_grades_alone_have_no_first_document() -> None:
    data = {"name": "t", "ingest": {"source": {"format": "jsonl", "path": "x"}}, "evaluate": {"kinds": ["graded"]},
            "train": {"sure_precision": 0.9, "loss": {"kind": "pointwise"}}}  # fmt: skip
    with pytest.raises(Exception, match=r"train.sure_precision=0.9 is of a query's first document: have ranking among"):
        check_config(data, "test")

"""A second stage: which documents it places anew, by which scores, that it harms no validation, and who may be one."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from pipeline.config import Config, check_config
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation.fusion import WEIGHTS, Mix
from pipeline.evaluation.ranking import Judgements, Ranking
from pipeline.orchestration import flow
from pipeline.orchestration.model_stages import Evaluate
from pipeline.tasks import matching_systems, reranking
from pipeline.tasks.base import task_of
from pipeline.tokenization.encoder import VOCABULARY_NAME
from tests.conftest import small_configuration
from tests.networks import fresh, untrained_folder
from tests.tasks.test_matching_judge import everything, pairs

GRADED = {"train": {"loss": {"kind": "pointwise"}}, "evaluate": {"kinds": ["graded"]}}


def test_the_first_documents_stand_by_the_mix_and_all_others_below() -> None:
    first = Ranking(np.array([[4, 2, 7, 1], [3, 5, -1, -1]]), np.array([[9, 8, 7, 6], [2, 1, -np.inf, -np.inf]]))
    nobody = Judgements(np.array([0]), np.array([0]), np.array([1]), 2, 8)
    second = np.array([[-5.0, 1, 2.5], [0, 4, -np.inf]])
    by_hand = {
        0.0: [[4, 2, 7, 1], [3, 5, -1, -1]],
        0.2: [[2, 7, 4, 1], [5, 3, -1, -1]],  # 0.2 / 1 of the second and 0.8 / 2 of the first
        0.5: [[7, 2, 4, 1], [5, 3, -1, -1]],
        1.0: [[7, 2, 4, 1], [5, 3, -1, -1]],
    }
    for weight, documents in by_hand.items():
        found = reranking.placed(first, second, Mix(weight, 1.0, 2.0), nobody, 4)
        assert found.documents.tolist() == documents, weight
        assert (found.scores[:, 1:] < found.scores[:, :-1])[found.documents[:, 1:] >= 0].all()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """made(second's sections, first's sections) -> configuration, ingested and tokenized folders; the second lies in
    the folder of rerank.model, both untrained."""
    folder = tmp_path_factory.mktemp("reranking")
    paths = {}
    for seed, (name, count) in enumerate((("train", 40), ("valid", 12), ("test", 9))):
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in pairs(count, seed)))
    source = {"format": "jsonl", "paths": paths, "columns": {"query_id": "qid", "relevance": "relevance"}}

    def make(second: dict[str, Any], **sections: Any) -> tuple[Config, Path, Path]:
        base = small_configuration(folder, model={"head": "dot", "dropout": 0.0})
        base["ingest"] = {"source": source}
        other = check_config({**base, **second}, "test")
        stages: dict[str, Any] = flow.run(other, "test", "tokenize", lambda line: None).stages
        target = untrained_folder(other, Path(stages["tokenize"]["folder"]), folder / "second")
        config = check_config({**base, "rerank": {"model": str(target), "top": 7}, **sections}, "test")
        own: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
        return config, Path(own["ingest"]["folder"]), Path(own["tokenize"]["folder"])

    return make


@pytest.mark.parametrize("candidates", ["collection", "listed"])
@pytest.mark.parametrize("second", [{"model": {"embedding": 6, "hidden": 5, "head": "cross_attention"}}, GRADED])
def test_the_fused_ranking_is_placed_anew_by_the_second_models_scores(
    made: Callable[..., Any], second: dict[str, Any], candidates: str
) -> None:
    config, ingested, tokenized = made(second, evaluate={"candidates": candidates})
    sets, world = matching_systems.to_judge(config, tokenized, ingested), World()
    network = fresh(task_of(config, tokenized), 3, init=mx.init.Normal(0.5), force_reinit=True)
    words = matching_systems.Words(config, tokenized, ingested, *sets)
    systems = matching_systems.systems(config, network, *sets, words, world)
    found = reranking.reranked(config, tokenized, systems, sets, world)
    assert systems is not None and found is not None
    assert list(found.rankings) == ["model", "bm25", "fused", "reranked", "random"]
    made_by = found.fusion_settings["rerank"]
    assert [*made_by["tried"]] == list(WEIGHTS)
    assert made_by["tried"][made_by["weight"]] == max(made_by["tried"].values()) >= made_by["tried"][0.0]
    assert made_by["tried"][0.0] == matching_systems.mean_of(config, systems.valid["fused"], sets[1].judgements)
    other = reranking.opened(config, tokenized, world)
    if not other.config.train.loss.graded:
        scores = everything(other.network, sets[0])
    else:
        rows = np.repeat(np.arange(9), len(sets[0].collection))
        every = np.tile(np.arange(len(sets[0].collection)), 9)
        scores = matching_systems.pair_scores(other.config, other.network, sets[0], rows, every, world).reshape(9, -1)
        assert (scores > 0).all() and (scores < 1).all() and np.ptp(scores) > 1e-4  # expected grades
    fused = systems.rankings["fused"]
    for query in range(9):
        there = [document for document in fused.documents[query].tolist() if document >= 0]
        values = {document: made_by["weight"] / made_by["scale"] * scores[query, document]
                  + (1 - made_by["weight"]) / made_by["first_scale"] * fused.scores[query, place]
                  for place, document in enumerate(there[:7])}  # fmt: skip
        ranked = found.rankings["reranked"].documents[query]
        assert {*ranked[: len(values)].tolist()} == {*values}
        places = [values[document] for document in ranked[: len(values)].tolist()]
        assert all(a >= b - 1e-5 for a, b in itertools.pairwise(places))
        assert ranked[7:].tolist() == fused.documents[query][7:].tolist()


@pytest.mark.parametrize("kind", ["other limits", "other words", "no model", "other task", "other shapes", "damaged"])
def test_what_cannot_be_a_second_stage_is_refused(made: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    limits = {"max_tokens": {"query": 12, "document": 9}}
    tokenize = small_configuration(tmp_path)["tokenize"]
    config, _, tokenized = made({}, tokenize={**tokenize, **limits} if kind == "other limits" else tokenize)
    folder = Path(str(config.rerank.model))
    said = {"other limits": "reads texts in another way", "other words": "reads texts in another way",
            "no model": "is not the folder of a trained model", "other task": "is a model of the task classification",
            "other shapes": "is not as its config.json says", "damaged": "is not as its config.json says"}  # fmt: skip
    data = json.loads((folder / "config.json").read_text())
    if kind == "other words":
        (folder / VOCABULARY_NAME).write_text((folder / VOCABULARY_NAME).read_text().replace("worda", "wordz"))
    elif kind == "no model":
        (folder / "config.json").unlink()
    elif kind in ("other task", "other shapes"):
        change = {"task": "classification"} if kind == "other task" else {"model": data["model"] | {"hidden": 7}}
        data["tokenize"]["max_tokens"] = {} if kind == "other task" else data["tokenize"]["max_tokens"]
        metric = {"train": data["train"] | {"metric": "accuracy"}, "promote": {}} if kind == "other task" else {}
        (folder / "config.json").write_text(json.dumps(data | change | metric))
    elif kind == "damaged":
        with np.load(folder / "parameters.npz") as arrays:
            np.savez(folder / "parameters.npz", **{**arrays, "embedding": arrays["embedding"] * np.nan})
    with pytest.raises(InputError, match=rf"rerank\.model=.*{said[kind]}"):
        reranking.opened(config, tokenized, World())


def test_settings_that_rank_nothing_are_refused_and_the_model_is_part_of_the_key(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"rerank\.model scores a ranking's documents anew"):
        check_config({**small_configuration(tmp_path, **GRADED), "rerank": {"model": "a"}}, "test")
    with pytest.raises(InputError, match=r"rerank\.model is for task matching, not classification"):
        check_config({**small_configuration(tmp_path), "task": "classification", "tokenize": {}, "train": {},
                      "rerank": {"model": "a"}}, "test")  # fmt: skip
    config, *_ = made({})
    without = config.model_copy(update={"rerank": type(config.rerank)()})
    before = [Evaluate().key(each, {"train": "t"}) for each in (without, config)]
    folder = Path(str(config.rerank.model))
    with np.load(folder / "parameters.npz") as arrays:
        np.savez(folder / "parameters.npz", **{**arrays, "embedding": arrays["embedding"] + 1})
    changed = Evaluate().key(config, {"train": "t"})
    assert changed != before[1]
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert Evaluate().key(config, {"train": "t"}) not in (changed, before[1])
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"rerank\.model=.* is not the folder of a trained model"):
        Evaluate().key(config, {"train": "t"})
    assert before[0].inputs == {"train": "t"} and "rerank" not in before[0].config

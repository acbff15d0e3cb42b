"""A second stage as an export carries it: equal on ONNX Runtime and on MXNet, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation import joining, overlap
from pipeline.serving import second_stage
from pipeline.serving.export import onnx_export, torch_export
from pipeline.serving.loading import open_encoder, open_predictor
from pipeline.serving.predict.base import MatchingPredictor
from pipeline.tokenization.encoder import load_tokenizer
from tests.serving.networks import VOCABULARY

Trained = Callable[..., Path]
QUERY, LIST = "sort a list", ["list b", "c d e f", "sort", "zzz a", "a list q r s", "b b b", "o p list sort"]
SURE = {"slope": 2.0, "intercept": -1.0, "wanted": 0.9, "threshold": 0.6, "share": 0.5, "precision": 0.9}


def silent(line: str) -> None:
    """Hears nothing."""


@pytest.fixture
def folders(trained: Trained) -> tuple[Path, Path]:
    """A model and a second one, which reads both texts together."""
    return trained(head="late_interaction"), trained(head="cross_attention", seed=1)


def made_with(second: Path, weight: float = 0.6, top: int = 4, **alone: Any) -> dict[str, Any]:
    """fusion.json of an evaluation, in which a list's best four documents are placed anew."""
    alone = {"weight": weight, "scale": 0.5, "first_scale": 2.0} | alone
    mixed = {"weight": 0.25, "scale": 1.0, "first_scale": 1.0}
    rerank = {"model": str(second), "top": top, **mixed, "tried": {}, "alone": alone}
    return {
        "stemmer": "none",
        "k1": 1.5,
        "b": 0.75,
        "weight": 0.5,
        "model_scale": 1.0,
        "words_scale": 1.0,
        "rerank": rerank,
    }


def by_hand(first: Path, second: Path, weight: float = 0.6, top: int = 4) -> np.ndarray:
    """The list's scores, by the networks themselves."""
    ours, theirs = (open_encoder(folder, "mxnet").score([QUERY] * 7, LIST) for folder in (first, second))
    order, values = np.argsort(-ours, kind="stable"), np.empty(7)
    mixed = weight / 0.5 * theirs + (1 - weight) / 2.0 * ours
    values[order[:top]] = mixed[order[:top]]
    values[order[top:]] = mixed[order[:top]].min() - 1 - np.arange(7 - top)
    return values


def ranks(scores: np.ndarray) -> list[int]:
    return (1 + np.argsort(np.argsort(-scores))).tolist()


def test_an_exported_list_is_ranked_as_by_the_networks(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Equal to MXNet's, with ONNX Runtime and with MXNet over what is exported, and exported once more."""
    made = made_with(folders[1], answering=SURE)
    card = onnx_export.export(folders[0], tmp_path / "one", False, silent, made)
    onnx_export.export(tmp_path / "one", tmp_path / "two", True, silent, second_stage.carried(tmp_path / "one"))
    wanted, pair = by_hand(*folders), open_encoder(folders[0], "mxnet").score([QUERY], LIST[:1])
    assert ranks(wanted) != ranks(open_encoder(folders[0], "mxnet").score([QUERY] * 7, LIST))
    folders[1].rename(folders[1].with_name("elsewhere"))
    for name, backend, tolerance in (("one", "onnx", 1e-4), ("one", "mxnet", 1e-4), ("two", "onnx", 0.2)):
        predictor = open_predictor(tmp_path / name, backend, 1)  # type: ignore[arg-type]
        single, several = predictor.predict(
            [{"query": QUERY, "document": LIST[0]}, {"query": QUERY, "documents": LIST}]
        )
        np.testing.assert_allclose(several["scores"], wanted, atol=tolerance)
        assert single["score"] == pytest.approx(pair[0], abs=tolerance)
        assert "two" in name or several["ranks"] == ranks(wanted)
        # the probability is of the score that the list stands by
        chance = 1 / (1 + np.exp(-(2 * max(several["scores"]) - 1)))
        assert several["probability"] == pytest.approx(chance) and several["sure"] == (chance >= 0.6)
    assert card["second_stage"] == {"top": 4, "weight": 0.6, "scale": 0.5, "first_scale": 2.0}
    assert "A second model, in `second/`, scores the best 4" in (tmp_path / "two" / "README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "one" / "fusion.json").read_text(), "where it lay is nobody else's business"


def test_the_second_models_graph_does_without_us(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """matcher.onnx of both models and the card's numbers are enough."""
    card = onnx_export.export(folders[0], tmp_path / "out", False, silent, made_with(folders[1]))["second_stage"]
    scores = []
    for folder in (tmp_path / "out", tmp_path / "out" / "second"):
        tokenizer, feeds = load_tokenizer(folder), {}
        for side, texts in (("query", [QUERY] * 7), ("document", LIST)):
            coded = tokenizer.encode_all(texts, side)
            ids = np.zeros((7, coded.lengths.max()), np.int32)
            ids[np.arange(ids.shape[1]) < coded.lengths[:, None]] = coded.ids
            feeds |= {f"{side}_ids": ids, f"{side}_lengths": coded.lengths.astype(np.int32)}
        session = onnxruntime.InferenceSession(str(folder / "matcher.onnx"), providers=["CPUExecutionProvider"])
        scores.append(session.run(["score"], feeds)[0])
    top = np.argsort(-scores[0])[: card["top"]]
    mixed = card["weight"] / card["scale"] * scores[1] + (1 - card["weight"]) / card["first_scale"] * scores[0]
    np.testing.assert_allclose(mixed[top], by_hand(*folders)[top], atol=1e-4)


def test_a_second_model_of_grades_scores_as_it_was_mixed(trained: Trained) -> None:
    """The evaluation chose its weight by the network alone, whatever the network is joined with elsewhere."""
    second = trained({"kind": "pointwise", "grades": 2}, seed=1)
    first, open_second = np.arange(7, dtype=np.float32), lambda folder: open_encoder(folder, "mxnet")
    stages = [second_stage.opened(made_with(second), "it", open_second)]
    texts, rng = [np.array([3, 4, 5]), np.array([6, 7])] * 10, np.random.default_rng(0)
    shared = overlap.fit(texts, texts, rng.integers(0, 2, 20), 2, VOCABULARY, 2)
    joining.save(second / overlap.NAME, joining.Joined(shared, 0.0, 1.0))
    assert open_second(second).joined is not None
    stages.append(second_stage.opened(made_with(second), "it", open_second))
    one, other = (stage.scores(QUERY, LIST, first) for stage in stages if stage is not None)
    np.testing.assert_array_equal(one, other)


def test_only_a_stage_with_a_weight_is_exported(folders: tuple[Path, Path], tmp_path: Path) -> None:
    made = made_with(folders[1], weight=0.0)
    onnx_export.export(folders[0], tmp_path / "index", False, silent, made)
    opened = open_predictor(tmp_path / "index")
    assert isinstance(opened, MatchingPredictor) and opened.second is None  # a list has no BM25
    found = second_stage.chosen(second_stage.carried(tmp_path / "index")["rerank"], "it")
    assert found is not None and found.weight == 0.25 and Path(found.folder) == tmp_path / "index" / "second"
    assert "is for an index" in (tmp_path / "index" / "README.md").read_text()
    made["rerank"]["weight"] = 0.0
    assert not second_stage.weighs(made)
    onnx_export.export(folders[0], tmp_path / "none", False, silent, made)
    assert not (tmp_path / "none" / "second").exists()
    assert json.loads((tmp_path / "none" / "fusion.json").read_text())["k1"] == 1.5
    torch_export.export(tmp_path / "index", tmp_path / "torch")
    assert not (tmp_path / "torch" / "second").exists() and not (tmp_path / "torch" / "fusion.json").exists()


@pytest.mark.parametrize("wrong", [
    {"scale": 0.0}, {"weight": 2.0}, {"first_scale": float("nan")}, {"top": 0}, {"weight": "a"}, {"scale": None},
    {"alone": 3}, {"answering": {"slope": 1}}, {"answering": SURE | {"slope": float("inf")}}, {"answering": [1, 2]},
])  # fmt: skip
def test_a_damaged_file_is_refused(folders: tuple[Path, Path], tmp_path: Path, wrong: dict[str, Any]) -> None:
    onnx_export.export(folders[0], tmp_path / "out", False, silent, made_with(folders[1]))
    made = json.loads((tmp_path / "out" / "fusion.json").read_text())
    made["rerank"] |= wrong if "alone" in wrong else {"alone": made["rerank"]["alone"] | wrong}
    (tmp_path / "out" / "fusion.json").write_text(json.dumps(made))
    with pytest.raises(InputError, match=r"^[^\n]*fusion\.json.* is damaged.*export"):
        open_predictor(tmp_path / "out")


def test_no_other_folder_is_opened_than_the_one_within(folders: tuple[Path, Path], tmp_path: Path) -> None:
    onnx_export.export(folders[0], tmp_path / "out", False, silent, made_with(folders[1]))
    made = json.loads((tmp_path / "out" / "fusion.json").read_text())
    made["rerank"]["model"] = str(folders[0])
    (tmp_path / "out" / "fusion.json").write_text(json.dumps(made))
    scores = open_predictor(tmp_path / "out").predict([{"query": QUERY, "documents": LIST}])[0]["scores"]
    np.testing.assert_allclose(scores, by_hand(*folders), atol=1e-4)
    (tmp_path / "out" / "second" / "parameters.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"the second model of .*out cannot be used .*parameters\.npz"):
        open_predictor(tmp_path / "out")

"""The gate lets through what it should and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Config, PromoteConfig, check_config
from pipeline.core.errors import InputError
from pipeline.evaluation.judged import Classes, Judged, Said
from pipeline.registry import gate, promotion
from pipeline.registry.gate import decide
from pipeline.registry.resolve_run import EvaluatedRun
from pipeline.reporting import comparison, folder, system_comparison
from pipeline.reporting.folder import Evaluation
from pipeline.tracking.client import local
from tests.reporting.conftest import ranking, run_record, with_fused

Load = Callable[..., Evaluation]


def gated(metric: str = "mrr@10", **settings: Any) -> PromoteConfig:
    """The section as it is once a configuration is read: with its metric."""
    return PromoteConfig(metric=metric, **settings)


@pytest.fixture
def at(loaded: Load) -> Callable[..., Evaluation]:
    """An evaluation whose model has about this quality."""
    return lambda name, quality, seed=0, size=60: loaded(name, {"ranking": ranking(size, quality, seed)})


def test_the_first_version_passes_and_floors_hold_for_it_too(at: Load) -> None:
    first = at("a", 0.5)
    assert decide(first, None, gated()).passed
    assert decide(first, None, gated(floors={"mrr@10": 0.5})).passed
    refused = decide(first, None, gated(floors={"mrr@10": 0.9}))
    assert not refused.passed
    assert "misses its floor of 0.9" in refused.reason


def test_better_passes_and_worse_does_not(at: Load) -> None:
    low, high = at("low", 0.4), at("high", 0.5)
    better = decide(high, low, gated())
    assert better.passed
    assert better.examples == 60
    assert better.row.difference is not None
    assert better.row.difference.mean == pytest.approx(0.1)
    worse = decide(low, high, gated())
    assert not worse.passed
    assert "the interval must lie above 0" in worse.reason
    assert not decide(low, high, gated(judge_by="mean")).passed


def test_what_could_be_chance_passes_by_its_mean_alone(at: Load) -> None:
    a, b = at("a", 0.5, seed=1), at("b", 0.5, seed=2)
    difference = decide(a, b, gated()).row.difference
    assert difference is not None
    assert difference.low < 0 < difference.high
    winner, loser = (a, b) if difference.mean > 0 else (b, a)
    assert not decide(winner, loser, gated()).passed
    assert decide(winner, loser, gated(judge_by="mean")).passed
    assert not decide(loser, winner, gated(judge_by="mean")).passed
    assert decide(loser, winner, gated(min_difference=-0.2)).passed  # may be worse by less than 0.2
    assert not decide(winner, loser, gated(judge_by="mean", min_difference=0.3)).passed


def test_an_equal_model_is_not_better(at: Load) -> None:
    a, same = at("a", 0.5), at("same", 0.5)
    assert not decide(same, a, gated()).passed
    assert not decide(same, a, gated(judge_by="mean")).passed


def test_smaller_is_better_for_some_metrics(loaded: Load) -> None:
    def nats(name: str, mean: float) -> Evaluation:
        values = {("model", "nats"): np.random.default_rng(1).random(50) + mean}
        return loaded(name, {"test": Judged("texts", [f"t{i}" for i in range(50)], [""] * 50, None, {}, values)})

    low, high = nats("low", 1.0), nats("high", 1.2)
    assert decide(low, high, gated("nats")).passed
    assert decide(low, high, gated("nats", judge_by="mean")).passed
    refused = decide(high, low, gated("nats"))
    assert not refused.passed
    assert "must lie below 0" in refused.reason
    assert decide(high, low, gated("nats", min_difference=-0.5)).passed
    assert not decide(low, None, gated("nats", floors={"nats": 1.0})).passed
    assert decide(low, None, gated("nats", floors={"nats": 2.0})).passed


def joined(name: str, network: float, fused: float, loaded: Load, seed: int) -> Evaluation:
    """A classifier whose network, and whose joined answers, are right so often."""
    rng, labels = np.random.default_rng(seed), np.arange(200) % 2
    said = {system: np.where(rng.random(200) < right, labels, 1 - labels) for system, right in
            (("model", network), ("fused", fused), ("naive_bayes", 0.5))}  # fmt: skip
    values = {(system, "accuracy"): (one == labels).astype(float) for system, one in said.items()}
    rows = Judged("texts", [f"t{i}" for i in range(200)], [""] * 200, None, {}, values, {},
                  Classes(["a", "b"], labels, np.eye(2)[said["model"]]),
                  {system: Said.of(one) for system, one in said.items() if system != "model"})  # fmt: skip
    tables = {"classes": system_comparison.comparison(rows, "naive_bayes", 50, 1)}
    return loaded(name, {"classes": rows})._replace(compared=tables)


def test_a_classifier_is_judged_by_the_answers_it_gives(loaded: Load) -> None:
    """Which are the joined ones; the network's alone where the metric says so."""
    new, old = joined("new", 0.6, 0.95, loaded, 1), joined("old", 0.9, 0.7, loaded, 2)
    for metric in ("accuracy", "macro_f1"):
        found = decide(new, old, gated(metric))
        assert (found.passed, found.system, decide(old, new, gated(metric)).passed) == (True, "fused", False)
        assert found.row.candidate == pytest.approx(
            new.compared["classes"]["systems"]["fused"]["metrics"][metric]["mean"]
        )
        alone = decide(new, old, gated(f"model/{metric}"))
        assert (alone.passed, alone.system, alone.metric) == (False, "model", metric)
        assert decide(old, new, gated(f"model/{metric}")).passed
    assert decide(new, None, gated("accuracy", floors={"accuracy": 0.9})).passed
    assert not decide(new, None, gated("accuracy", floors={"model/accuracy": 0.9})).passed
    assert "200 texts, fused; >" in gate.table_text(decide(new, old, gated("accuracy")), "2", "1")
    earlier = old._replace(judged={"classes": old.judged["classes"]._replace(others={})})  # as older ones are
    assert decide(new, earlier, gated("accuracy")).passed


def test_a_ranking_is_judged_by_the_network_unless_asked(loaded: Load) -> None:
    """A version carries no BM25: an index does."""

    def run(name: str, model: float, fused: float) -> Evaluation:
        return loaded(name, {"ranking": with_fused(ranking(60, model), fused)})

    new, old = run("new", 0.5, 0.3), run("old", 0.4, 0.9)
    assert decide(new, old, gated()).passed and decide(new, old, gated()).system == "model"
    assert not decide(new, old, gated("fused/mrr@10")).passed
    assert decide(old, new, gated("fused/mrr@10")).passed
    with pytest.raises(InputError, match="has no fused/bleu"):
        decide(new, None, gated("fused/bleu"))


def test_nats_of_unlike_vocabularies_are_named(loaded: Load) -> None:
    """The gate decides, and says that the figures are means over other tokens."""

    def run(name: str, mean: float, vocabulary: str | None, task: str = "language_model") -> Evaluation:
        rows = Judged(
            "texts", [f"t{i}" for i in range(50)], [""] * 50, None, {}, {("model", "nats"): np.full(50, mean)}
        )
        configuration = run_record(name)["configuration"] | {"task": task}
        return loaded(name, {"test": rows}, vocabulary=vocabulary, configuration=configuration)

    one, other = run("one", 1.0, "a"), run("other", 1.2, "b")
    assert "their vocabularies are unlike: it is a mean over other tokens" in decide(one, other, gated("nats")).reason
    text = comparison.text(comparison.compare([one, other]))
    assert "unlike vocabularies: nats, perplexity are means over other tokens" in " ".join(text.split())
    assert "unlike" not in comparison.html(comparison.compare([one, run("same", 1.1, "a")]))
    for like in (run("like", 1.2, "a"), run("older", 1.2, None)):
        assert "vocabularies" not in decide(one, like, gated("nats")).reason
    questions = [run(f"q{name}", 1.0, name, "visual_question") for name in "ab"]  # nats of an answer, not of a token
    assert comparison.compare(questions).of_other_tokens == []


def test_what_is_searched_is_test_data_too() -> None:
    """A ranking over the documents of all splits changes with them; over a collection, or the split's own, not."""

    def config(**evaluate: Any) -> Config:
        return check_config({"name": "x", "ingest": {"source": {"format": "docstrings"}}, "evaluate": evaluate}, "x")

    files = {f"records-{split}.parquet": {"sha256": split} for split in ("train", "valid", "test")}
    grown = files | {"records-train.parquet": {"sha256": "grown"}}
    at = lambda config, files: folder.test_data({"files": files}, config)
    assert at(config(), files) != at(config(), grown)
    for same in (config(collection="split"), config(candidates="listed")):
        assert at(same, files) == at(same, grown)
    collection = {"collection.parquet": {"sha256": "c"}}
    assert at(config(), files | collection) == at(config(), grown | collection) != at(config(), files)
    assert folder.judging(config()) != folder.judging(config(collection="split"))


def test_only_examples_of_both_count(at: Load) -> None:
    found = decide(at("a", 0.5, size=40), at("b", 0.4, size=60), gated())
    assert found.examples == 40


def test_what_cannot_be_judged(at: Load, loaded: Load) -> None:
    with pytest.raises(InputError, match=r"no bleu: promote\.metric can be mrr@10, map@100"):
        decide(at("a", 0.5), None, gated("bleu"))
    other = loaded("other", {"ranking": ranking(5, 0.5)._replace(ids=["x", "y", "z", "u", "v"])})
    with pytest.raises(InputError, match="no example in common"):
        decide(at("b", 0.5), other, gated())
    bare = [at(name, quality)._replace(judged={}) for name, quality in (("c", 0.5), ("d", 0.4))]
    with pytest.raises(InputError, match=r"set promote\.judge_by=mean"):
        decide(*bare, gated())
    assert decide(*bare, gated(judge_by="mean")).passed


def test_the_table_marks_what_the_gate_looks_at(at: Load) -> None:
    text = gate.table_text(decide(at("a", 0.5), at("b", 0.4), gated("map@100")), "version 2", "version 1")
    assert [line.split()[1] for line in text.splitlines() if line.strip().startswith("> m")] == ["map@100"]
    assert "version 1" in text.splitlines()[0]
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "promote, message",
    [
        ({"metric": "mrr"}, "promote.metric='mrr' is not measured; did you mean mrr@10"),
        ({"floors": {"map": 0.3}}, "promote.floors='map' is not measured; did you mean map@100"),
        ({"metric": "bm25/mrr@10"}, "promote.metric='bm25/mrr@10' is not measured"),
        ({"floors": {"fused/map": 0.3}}, "promote.floors='fused/map' is not measured"),
        ({"judge_by": "luck"}, "promote.judge_by='luck'"),
    ],
)
def test_wrong_settings_are_named(promote: dict[str, Any], message: str) -> None:
    settings = {"name": "x", "ingest": {"source": {"format": "docstrings"}}, "promote": promote}
    with pytest.raises(InputError, match=message):
        check_config(settings, "x.yaml")


def test_overrides_of_the_gate_are_typed_and_leave_the_run_as_it_is(tmp_path: Path) -> None:
    source = {"format": "docstrings"}
    shown = check_config(
        {"name": "x", "ingest": {"source": source}, "promote": {"floors": {"map@100": 0.1}}}, "x"
    ).shown
    found = EvaluatedRun(tmp_path, {"configuration": shown}, tmp_path, local(tmp_path))
    overrides = ["floors.mrr@10=3e-1", "min_difference=-1e-2", "name=2024", "judge_by=mean"]
    made = promotion.settings_of(found, overrides)
    assert (made.floors, made.min_difference) == ({"map@100": 0.1, "mrr@10": 0.3}, -0.01)
    assert (made.name, made.judge_by, made.metric) == ("2024", "mean", "mrr@10")
    assert shown["promote"]["floors"] == {"map@100": 0.1}
    for wrong in ("floors.map=.inf", "floors.map=.nan", "floors.map=nan", "min_difference=1e999", "floors.map"):
        with pytest.raises(InputError, match="--gate"):
            promotion.settings_of(found, [wrong])

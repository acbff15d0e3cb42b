"""After loading, every section holds the value that counts: nothing that reads one finds a default left open."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, check_config, config_model, task_specs
from pipeline.core.errors import InputError

PAIRS = {"ingest": {"source": {"format": "tsv", "path": "pairs.tsv"}}}
CONLLU = {"ingest": {"source": {"format": "conllu", "paths": {"train": "a"}}}, "task": "tagging"}


def read(**data: Any) -> Config:
    return check_config({"name": "faq", **PAIRS, **data}, "faq.yaml")


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, {"query": 64, "document": 256}),  # the task's own
        ({"document": 128}, {"query": 64, "document": 128}),
        ({"query": 5, "document": 6}, {"query": 5, "document": 6}),
    ],
)
def test_each_field_has_its_limit(given: dict[str, int], limits: dict[str, int]) -> None:
    config = read(tokenize={"max_tokens": given})
    assert config.tokenize.max_tokens == limits
    assert [config.tokenize.limit(field) for field in limits] == list(limits.values())
    assert config.shown["tokenize"]["max_tokens"] == limits


@pytest.mark.parametrize("task", task_specs())
def test_each_field_of_each_task_has_a_limit(task: str) -> None:
    model = {"directions": 1} if task == "language_model" else {}
    assert set(read(task=task, model=model).tokenize.max_tokens) == set(task_specs()[task].fields)


def test_tags_are_cut_where_their_words_are() -> None:
    for given in ({"text": 40}, {"tags": 40}, {"text": 40, "tags": 40}):
        limits = read(**CONLLU, tokenize={"max_tokens": given}).tokenize.max_tokens
        assert (limits["text"], limits["tags"]) == (40, 40)
    with pytest.raises(InputError, match="must be the same for text and tags"):
        read(**CONLLU, tokenize={"max_tokens": {"text": 40, "tags": 41}})


def test_a_field_that_is_cut_cannot_be_left_whole() -> None:
    with pytest.raises(InputError, match=r"tokenize\.max_tokens\.document must be a number"):
        read(tokenize={"max_tokens": {"document": None}})


def test_names_and_metrics_are_filled_in() -> None:
    config = read()
    assert (config.train.metric, config.promote.metric) == ("mrr@10", "mrr@10")
    assert (config.promote.name, config.tracking.experiment) == ("faq", "faq")
    config = read(train={"metric": "map@100"}, promote={"name": "live"}, tracking={"experiment": "nightly"})
    assert (config.train.metric, config.promote.metric) == ("map@100", "map@100")
    assert (config.promote.name, config.tracking.experiment) == ("live", "nightly")
    assert read(promote={"metric": "ndcg@10"}).promote.metric == "ndcg@10"


@pytest.mark.parametrize(("format_", "quoting"), [("csv", True), ("tsv", False), ("jsonl", False)])
def test_quoting_is_filled_in(format_: str, quoting: bool) -> None:
    for given, wanted in (({}, quoting), ({"quoting": None}, quoting), ({"quoting": not quoting}, not quoting)):
        source = read(ingest={"source": {"format": format_, "path": "a", **given}}).ingest.source
        assert source.quoting is wanted  # type: ignore[union-attr]


def test_what_an_older_version_wrote_down_is_read(tmp_path: Path) -> None:
    """config.json of a trained folder held null and {} where nothing had been set."""
    settings = read().shown
    settings["tokenize"]["max_tokens"] = {}
    settings["train"]["metric"] = settings["promote"]["metric"] = settings["promote"]["name"] = None
    settings["tracking"]["experiment"] = settings["ingest"]["source"]["quoting"] = None
    assert check_config(json.loads(json.dumps(settings)), "config.json") == read()


def test_the_schema_takes_null_where_settings_do() -> None:
    schema = config_model().model_json_schema()
    for section, name in (
        ("TrainConfig", "metric"), ("PromoteConfig", "name"), ("PromoteConfig", "metric"),
        ("TrackingConfig", "experiment"), ("PairsSource", "quoting"),
    ):  # fmt: skip
        setting = schema["$defs"][section]["properties"][name]
        assert {"type": "null"} in setting["anyOf"]
        assert setting["description"].endswith(".")


def test_matching_has_defaults_of_its_own() -> None:
    """README's seven lines train what the project's own configurations do; other tasks keep the general sizes."""
    config = read()
    assert (config.model.head, config.model.hidden, config.train.loss.temperature) == ("late_interaction", 96, 0.1)
    config = read(model={"head": "cosine", "hidden": 32}, train={"loss": {"temperature": 0.2}})
    assert (config.model.head, config.model.hidden, config.train.loss.temperature) == ("cosine", 32, 0.2)
    assert check_config(config.model_dump(mode="json"), "again") == config
    assert read(task="classification", model={"pooling": "last"}).model.hidden == 256

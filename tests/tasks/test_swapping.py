"""Pairs that mean the same either way round: training reads some of them with their sides exchanged."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import check_config
from pipeline.orchestration import flow
from pipeline.tasks.base import task_of
from pipeline.training.loop import plan_of
from tests.conftest import last_json, small_configuration
from tests.tasks.reads import plain, read_by

GRADED: dict[str, Any] = {"loss": {"kind": "pointwise"}, "metric": "accuracy"}


def task_with(share: float, folder: Path) -> Any:
    """Over a hundred pairs of uneven lengths, none of which has equal sides."""
    rng, source = random.Random(2), folder / "pairs.jsonl"
    text = lambda letter: " ".join(f"{letter}{rng.randrange(9)}" for _ in range(rng.choice([2, 3, 9, 14])))
    rows = [{"qid": f"q{i}", "query": text("a"), "document": text("b"), "relevance": i % 2} for i in range(100)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = check_config(
        small_configuration(
            folder, tokenize={"max_tokens": {"query": 16, "document": 16}}, evaluate={"kinds": ["graded"]},
            train=GRADED | {"swap_share": share, "max_tokens_per_update": 96}, tracking={"send": "later"},
            ingest={"source": {"format": "jsonl", "path": str(source),
                               "columns": {"query_id": "qid", "relevance": "relevance"}}},
        ), "test",
    )  # fmt: skip
    stages: dict[str, Any] = flow.run(config, "test", "tokenize", lambda line: None).stages
    return task_of(config, Path(stages["tokenize"]["folder"]))


def exchanged(task: Any, seed: list[int], workers: int = 1) -> list[bool]:
    """Of the first forty pairs, which are read the other way round; all have the texts of the split."""
    found, own = (
        list(zip(texts["query"], texts["document"])) for texts in (read_by(task, workers, seed, 40), plain(task, 40))
    )
    assert all(pair in (there, there[::-1]) for pair, there in zip(found, own))
    return [pair != there for pair, there in zip(found, own)]


def test_half_of_the_pairs_are_exchanged_anew_each_time_and_by_any_number_of_workers(tmp_path: Path) -> None:
    task = task_with(0.5, tmp_path)
    once = exchanged(task, [1, 0, 0, 4])
    assert 10 < sum(once) < 30
    assert once == exchanged(task, [1, 0, 0, 4], 3) == exchanged(task_of(task.config, task.folder), [1, 0, 0, 4], 2)
    assert once != exchanged(task, [1, 1, 0, 4])


def test_none_is_exchanged_by_default(tmp_path: Path) -> None:
    assert not any(exchanged(task_with(0.0, tmp_path), [1, 0, 0, 4]))


def test_no_update_has_more_tokens_than_it_may(tmp_path: Path) -> None:
    """A batch of short queries and long documents has long ones on both sides once some are exchanged."""
    task = task_with(0.5, tmp_path)
    plan = plan_of(task, task.config)
    cells = [task.batch([batch], 0, [1, 0, 0, update]).cells for update, batch in enumerate(plan.batches(0, 0))]
    assert max(cells) <= task.config.train.max_tokens_per_update


@pytest.mark.parametrize(("changes", "told"), [
    ({"task": "tagging"}, "swap_share=0.5 is for task matching, not tagging"),
    ({"train": {"swap_share": 0.5}}, "is for grades of pairs, and train.loss.kind=in_batch_softmax ranks documents"),
    ({"tokenize": {}}, "set tokenize.max_tokens of query .64. and document .256. alike"),
    ({"teach": {"vectors": ["v.npz"]}}, "cannot be had with a teacher"),
])  # fmt: skip
def test_where_it_cannot_be_had_it_is_refused(changes: dict[str, Any], told: str) -> None:
    data = {
        "name": "t", "ingest": {"source": {"format": "jsonl", "path": "x"}}, "evaluate": {"kinds": ["graded"]},
        "tokenize": {"max_tokens": {"query": 64, "document": 64}}, "train": GRADED | {"swap_share": 0.5},
    }  # fmt: skip
    with pytest.raises(Exception, match=told):
        check_config(
            {**data, **changes}
            if "task" not in changes
            else {**changes, "name": "t", "ingest": data["ingest"], "train": {"swap_share": 0.5}},
            "test",
        )


@pytest.mark.learns
@pytest.mark.parametrize(("share", "least", "most"), [(0.5, 0.95, 1.0), (0.0, 0.0, 0.7)])
def test_pairs_that_are_asked_in_the_other_order(
    share: float, least: float, most: float, duplet: Callable[..., Any], tmp_path: Path
) -> None:
    """Which of ten things go with which of ten others is a table without any rule. Train has each pair with the one of
    the first ten before that of the others, valid and test the other way round."""
    rng, paths = random.Random(1), {}
    filler = lambda: f"f{rng.randrange(12)}"
    table = [[rng.randrange(2) for _ in range(10)] for _ in range(10)]
    for name, count in (("train", 1600), ("valid", 200), ("test", 400)):
        rows = []
        for _ in range(count):
            one, other = rng.randrange(10), rng.randrange(10)
            texts = [f"{filler()} a{one} {filler()}", f"{filler()} b{other} {filler()}"]
            query, document = texts if name == "train" else texts[::-1]
            rows.append({"query": query, "document": document, "relevance": table[one][other]})
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_configuration(
        tmp_path, ingest={"source": {"format": "jsonl", "paths": paths, "columns": {"relevance": "relevance"}}},
        model={"embedding": 16, "hidden": 16, "layers": 1, "dropout": 0.0, "head": "mlp", "towers": "separate"},
        train=GRADED | {"swap_share": share, "epochs": 12, "max_pairs_per_update": 32, "patience_validations": None,
                        "optimizer": {"learning_rate": 0.01}},
        tokenize={"kind": "whitespace"}, evaluate={"kinds": ["graded"]}, tracking={"send": "later"},
    )  # fmt: skip
    accuracy = last_json(duplet("run", config, "--json"))["metrics"]["test/accuracy"]
    assert least < accuracy <= most

"""Updates that cannot be divided into the parts that are asked for: refused in a sentence, at once or when met."""

from typing import Any

import numpy as np
import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError
from pipeline.training.batch_plan import Plan, shares


def config(task: str = "matching", train: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    data = {"name": "test", "task": task, "ingest": {"source": {"format": "docstrings"}}, "train": train or {}}
    if task == "language_model":
        data |= {"ingest": {"source": {"format": "python", "of": "code"}}, "model": {"directions": 1}}
    return data | sections


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            config(train={"workers": 2, "max_pairs_per_update": 10, "accumulate": 3}),
            r"max_pairs_per_update=10 cannot be divided into accumulate=3 parts for each of 2 workers: it must be at "
            r"least 11, or lower accumulate",
        ),
        (
            config(train={"max_tokens_per_update": 1279, "accumulate": 2}),
            r"max_tokens_per_update=1279 must be at least 1280: two pairs .* each part \(train\.accumulate\)",
        ),
        (
            config("language_model", {"accumulate": 6}, language_model={"streams": 5}),
            r"language_model\.streams=5 cannot be divided into train\.accumulate=6 parts for each of 1 workers: lower",
        ),
        (config(train={"accumulate": 0}), "accumulate"),
    ],
)
def test_a_number_of_parts_that_does_not_divide_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_config(data, "test")


def test_the_least_that_divides_is_taken() -> None:
    least = {"workers": 2, "max_pairs_per_update": 11, "accumulate": 3, "max_tokens_per_update": 2 * 6 * 320}
    assert check_config(config(train=least), "test").train.accumulate == 3


def test_fewer_training_examples_than_parts_are_refused() -> None:
    lengths = np.full((5, 1), 3)
    [batch] = Plan(lengths, 8, 100, 1).batches(0, 0)
    with pytest.raises(InputError, match=r"5 examples cannot be divided into 3 parts .* 2 workers: lower train\.accum"):
        shares(batch, lengths, 2, 3)
    assert [len(part) for part in shares(batch, lengths, 1, 5)] == [1] * 5

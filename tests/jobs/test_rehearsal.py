"""What `make rehearsal` calls wrong; its nights themselves take too long for a test."""

from collections import Counter

import pytest

from benchmarks import rehearsal_plan as plan
from benchmarks.rehearsal_plan import Morning

CHAMPIONS = [1, 2, 2, 4, 5, 6, 6, 8, 9, 10, 10, 12, 12, 12, 12, 16, 16, 18, 19, 19, 21, 22, 23, 24, 25, 25, 27, 28, 29,
             30]  # fmt: skip
CODES = {3: 75, 7: 2, 11: 3, 13: 75, 14: 75, 15: 75, 17: 75, 20: None, 26: 3}
TOLD = (3, 7, 11, 13, 14, 15, 17, 19, 20, 26)


def played() -> tuple[list[Morning], Counter[int], dict[int, int]]:
    """Thirty nights as they must be."""
    mornings = []
    for night, champion in enumerate(CHAMPIONS, 1):
        models = min(night, 14)
        size = models << 20
        code, told = CODES.get(night, 0), int(night in TOLD)
        mornings.append(Morning(night, code, champion, told, models, size, size, 9.0, 8.0))
    return mornings, Counter(TOLD), {night: 3 if night in (11, 26) else 0 for night in range(1, 31)}


def test_nights_as_they_must_be() -> None:
    assert plan.judge(*played()) == []


@pytest.mark.parametrize(
    ("night", "change", "what"),
    [
        (5, {"champion": 4}, "night 5: champion of night 4, must be 5"),
        (26, {"champion": 26}, "night 26: champion of night 26, must be 25"),
        (20, {"verdict": 0}, "night 20: verdict 0, must be None"),
        (19, {"told": 0}, "night 19: messages by eight 0, must be 1"),
        (24, {"told": 1}, "night 24: messages by eight 1, must be 0"),
        (30, {"root_bytes": 60 << 20}, "root_bytes a model grew"),
        (28, {"mlflow_bytes": 20 << 20}, "mlflow_bytes a model grew"),
    ],
)
def test_a_morning_that_is_not(night: int, change: dict[str, int], what: str) -> None:
    mornings, told, last = played()
    mornings[night - 1] = mornings[night - 1]._replace(**change)
    [wrong] = plan.judge(mornings, told, last)
    assert wrong.startswith(what)


def test_messages_and_dates_at_the_end() -> None:
    mornings, told, last = played()
    assert plan.judge(mornings, told + Counter({3: 1}), last) == ["night 3: messages in the end 2, must be 1"]
    assert plan.judge(mornings, told + Counter({0: 1}), last) == ["1 messages of what is no night"]
    assert plan.judge(mornings, told, {**last, 14: 75}) == ["night 14: last verdict 75, must be 0"]
    del last[20]
    assert plan.judge(mornings, told, last) == ["night 20: last verdict None, must be 0"]

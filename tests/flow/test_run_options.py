"""Options of `duplet run` that make no sense, alone or together."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(("arguments", "said"), [
    (("run", "--seeds", "1"), "from 2 to 100"), (("train", "--seeds", "3"), "belongs to `duplet run`"),
    (("run", "--refresh-epochs", "1"), "mine.by=[]: set mine.by=[bm25]"),
    (("run", "mine.by=[bm25]", "train.loss.listed_negatives=1", "--refresh-epochs", "2"), "below train.epochs=2, so"),
    (("train", "--refresh-epochs", "1"), "--refresh-epochs belongs to `duplet run`"),
    (("run", "--refresh-epochs", "1", "--seeds", "2"), "do not go together"),
])  # fmt: skip
def test_what_makes_no_sense_is_said(
    arguments: tuple[str, ...], said: str, small_config: Callable[..., dict[str, Any]], duplet: Callable[..., Any]
) -> None:
    done = duplet(arguments[0], small_config(), *arguments[1:])
    assert done.returncode == 2 and said in done.stderr

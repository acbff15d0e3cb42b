"""The scale of gradients that travel as float16; tests/workers/test_ranks.py has the gradients themselves."""

import pytest

from pipeline.core.errors import DupletError
from pipeline.training import half
from pipeline.training.checkpoint import State


def test_the_scale_doubles_after_many_updates_that_fitted_one_after_the_other() -> None:
    state = State(half_scale=8.0)
    for _ in range(half.PATIENCE - 1):
        half.passed(state)
    assert "travel times 4 from here on" in half.overflowed(state, 5)
    for _ in range(half.PATIENCE - 1):
        half.passed(state)
    assert (state.half_scale, state.overflows) == (4.0, 1)
    half.passed(state)
    assert (state.half_scale, state.half_since) == (8.0, 0)


def test_the_scale_has_a_largest_and_a_least_value() -> None:
    state = State(half_scale=half.MOST, half_since=half.PATIENCE)
    half.passed(state)
    assert state.half_scale == half.MOST
    state = State(half_scale=2 * half.LEAST)
    assert "(1 so far)" in half.overflowed(state, 6)
    with pytest.raises(DupletError, match=r"at update 7 even at the least scale: set train\.compression=none"):
        half.overflowed(state, 7)

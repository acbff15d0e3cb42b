"""A bounded share of `make fuzz`, by Hypothesis: whatever the bytes, taken with counts that add up or refused."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import PIECES, targets


@pytest.mark.parametrize("name", targets())
def test_any_bytes_are_taken_or_refused_in_a_sentence(name: str) -> None:
    target = targets()[name]
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed)

    @given(st.randoms(use_true_random=False), st.one_of(st.none(), st.binary(max_size=200)))
    @settings(max_examples=25, deadline=None)
    def any_bytes(rng: random.Random, data: bytes | None) -> None:
        target.run(spoiled(rng, rng.choice(seeds)) if data is None else data)

    any_bytes()


def spoiled(rng: random.Random, good: bytes) -> bytes:
    """Good content, cut, with bits turned, parts repeated or pieces put in."""
    content = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(1, len(content) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del content[at : at + rng.choice((1, 8, 1000))]
        elif kind == 1:
            content[at:at] = rng.choice(PIECES)
        elif kind == 2:
            content[at:at] = content[at : at + 60] * rng.choice((1, 3))
        elif at < len(content):
            content[at] ^= 1 << rng.randrange(8)
    return bytes(content)

"""What is known of the training pairs: the same as looking through all of them."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import derived_arrays
from pipeline.tasks.base import task_of
from pipeline.tasks.known_pairs import Known, found

QUERIES = 5
PAIRS = st.lists(st.tuples(st.integers(0, QUERIES - 1), st.integers(0, 9), st.booleans()), max_size=40)


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.sampled_from([1, 3, 100]))
def test_known_documents_are_those_of_the_pairs(pairs: list[tuple[int, int, bool]], at_once: int) -> None:
    """A pair that comes twice counts as relevant if it is so once."""
    queries, documents, relevant = (np.array(column) for column in zip(*pairs)) if pairs else (np.zeros(0, int),) * 3
    columns = queries.astype(np.int32), documents.astype(np.int32), relevant.astype(np.float32)
    with patch.object(derived_arrays, "AT_ONCE", at_once):
        told = found(*columns, QUERIES, np.empty)
    known = Known(told, QUERIES)
    among = np.array([3, 0, 3, 7, 1], np.int32)  # one stands there twice
    asked = np.array([4, 0, 2, 0], np.int32)
    assert sorted(known.relevant_among(asked, among).T.tolist()) == [
        [i, j] for i, q in enumerate(asked) for j, d in enumerate(among) if (q, d, True) in set(pairs)
    ]
    for query in range(QUERIES):
        good = {document for q, document, fits in pairs if q == query and fits}
        assert known.irrelevant(query).tolist() == sorted({d for q, d, _ in pairs if q == query} - good)


@pytest.mark.parametrize("name", ["matching", "translation", "classification", "tagging"])
def test_large_arrays_of_a_task_lie_in_mapped_files_and_hold_the_same(
    name: str, prepared: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, tokenized = prepared(name)
    held = task_of(config, tokenized)
    held.prepare()
    assert held.lengths.shape == (len(held.examples), len(held.sides))
    assert not tokenized.with_name(f".{tokenized.name}.arrays").exists()
    monkeypatch.setattr(derived_arrays, "LARGE", 1)
    monkeypatch.setattr(derived_arrays, "AT_ONCE", 7)
    for _ in range(2):  # made, then found
        mapped = task_of(config, tokenized)
        mapped.prepare()
        arrays = {"examples": (held.examples, mapped.examples), "lengths": (held.lengths, mapped.lengths)}
        if name == "matching":
            arrays |= {part: tuple(vars(task._known)[part] for task in (held, mapped)) for part in ("_ends", "_told")}
        for what, (expected, got) in arrays.items():
            np.testing.assert_array_equal(got, expected, what)
            owner = got
            while owner.base is not None and not isinstance(owner, np.memmap):
                owner = owner.base
            assert isinstance(owner, np.memmap), what

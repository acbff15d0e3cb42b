"""What is known of the training pairs: the same as looking through all of them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tasks.known_pairs import Known

QUERIES = 5
PAIRS = st.lists(st.tuples(st.integers(0, QUERIES - 1), st.integers(0, 9), st.booleans()), max_size=40)


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_known_documents_are_those_of_the_pairs(pairs: list[tuple[int, int, bool]]) -> None:
    """A pair that comes twice counts as relevant if it is so once."""
    queries, documents, relevant = (np.array(column) for column in zip(*pairs)) if pairs else (np.zeros(0, int),) * 3
    known = Known(queries.astype(np.int32), documents.astype(np.int32), relevant.astype(bool), QUERIES)
    among = np.array([3, 0, 3, 7, 1], np.int32)  # one stands there twice
    asked = np.array([4, 0, 2, 0], np.int32)
    found = known.relevant_among(asked, among).T.tolist()
    assert sorted(found) == [
        [i, j] for i, q in enumerate(asked) for j, d in enumerate(among) if (q, d, True) in set(pairs)
    ]
    for query in range(QUERIES):
        good = {document for q, document, fits in pairs if q == query and fits}
        assert known.irrelevant(query).tolist() == sorted({d for q, d, _ in pairs if q == query} - good)

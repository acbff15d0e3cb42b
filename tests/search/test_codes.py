"""Vectors in eight bits, fewer tokens, and what an index of them finds."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from pipeline.search import codes
from pipeline.serving.predict.scoring import Encoded
from tests.search.conftest import Indexed, topical

Make = Callable[..., Indexed]


def late(lengths: list[int], width: int = 16, seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    return Encoded(rng.normal(size=(total, width)).astype(np.float32), rng.random(total).astype(np.float32),
                   np.cumsum([0, *lengths]).astype(np.int64))  # fmt: skip


def test_eight_bits_are_at_most_half_a_step_away() -> None:
    encoded = Encoded(np.vstack([late([50]).vectors, np.zeros((1, 16), np.float32)]) * 1e-3)
    kept = codes.coded(encoded, 8)
    steps = np.abs(encoded.vectors).max(axis=1, keepdims=True) / 127
    assert kept.vectors.dtype == np.int8 and kept.vectors.nbytes * 4 == encoded.vectors.nbytes
    assert (np.abs(kept.decoded().vectors - encoded.vectors) <= steps / 2 + 1e-9).all()
    assert np.shares_memory(codes.coded(encoded, 32).decoded().vectors, encoded.vectors)


@pytest.mark.parametrize("bits", [8, 32])
def test_codes_are_taken_joined_and_gone_through_as_texts(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "DECODED_AT_ONCE", 7)
    for encoded in (late([3, 1, 9, 2, 5]), Encoded(late([20]).vectors)):
        kept, whole = codes.coded(encoded, bits), codes.coded(encoded, bits).decoded()
        rows = np.array([2, 0, 4])
        for one, other in zip(kept.take(rows).decoded(), whole.take(rows)):
            np.testing.assert_array_equal(one, other)
        again = codes.joined([kept.take(np.arange(2)), kept.take(np.arange(2, kept.texts))])
        for one, other in zip(again.decoded(), whole):
            np.testing.assert_array_equal(one, other)
        parts = list(kept.parts())
        assert len(parts) > (bits == 8) and sum(part.texts for part in parts) == kept.texts
        np.testing.assert_array_equal(np.concatenate([part.vectors for part in parts]), whole.vectors)


def test_the_least_important_tokens_are_left_out() -> None:
    encoded = late([10, 1, 4])
    kept = codes.pruned(encoded, 0.5)
    assert kept.offsets is not None and kept.weights is not None and encoded.weights is not None
    assert np.diff(kept.offsets).tolist() == [5, 1, 2]
    assert sorted(kept.weights[:5]) == sorted(encoded.weights[:10])[5:]
    places = [np.flatnonzero((encoded.vectors == vector).all(axis=1))[0] for vector in kept.vectors]
    assert places == sorted(places), "in their order"


def test_like_tokens_become_their_mean() -> None:
    base = late([3]).vectors
    close = np.vstack([base, base + 0.01]).astype(np.float32)
    kept = codes.pooled(Encoded(close, np.ones(6, np.float32), np.array([0, 6])), 2)
    groups = fcluster(linkage(close, "ward"), 3, "maxclust")
    assert sorted(np.bincount(groups)[1:].tolist()) == [2, 2, 2]
    for vector in base + 0.005:
        assert np.abs(kept.vectors - vector).max(axis=1).min() < 0.01
    assert kept.weights is not None and kept.weights.tolist() == [2, 2, 2]
    one = codes.pooled(late([1, 7]), 4)
    assert one.offsets is not None and np.diff(one.offsets).tolist() == [1, 2]


@pytest.mark.parametrize("head", ["cosine", "late_interaction", "bilinear"])
def test_an_index_in_eight_bits_finds_nearly_the_same(indexed: Make, head: str) -> None:
    documents = topical(60)
    exact, small = (indexed(documents, head, name=name, bits=bits) for name, bits in (("a", 32), ("b", 8)))
    sizes = [sum(path.stat().st_size for path in index.folder.rglob("vectors.npy")) for index in (exact, small)]
    assert sizes[1] < 0.6 * sizes[0]  # files have headers
    for query in ("wing lift", "moon own3 shore", "heart"):
        found = [{r.document.id: r.score for r in index.open().search(query, 60).results} for index in (exact, small)]
        scale = max(map(abs, found[0].values()))
        assert found[0] == pytest.approx(found[1], abs=0.02 * scale)
    small.update(documents[:30], sync=True)
    assert len(small.ids("wing lift", 60)) == 30


def test_fewer_tokens_make_fewer_vectors(indexed: Make) -> None:
    counts = [
        indexed(topical(20), "late_interaction", name=name, **more).open().snapshot.state.counts["vectors"]
        for name, more in (("a", {}), ("b", {"left_out": 0.5}), ("c", {"pooled": 2.0}))
    ]
    assert counts[1] <= 0.65 * counts[0] and counts[2] <= 0.65 * counts[0]


def test_passages_of_one_document_are_encoded_in_parts(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.search import segments

    whole = indexed(topical(9), "late_interaction", name="whole")
    monkeypatch.setattr(segments, "PASSAGES_AT_ONCE", 2)
    asked: list[int] = []
    index = indexed((), "late_interaction", name="parts")
    encode = index.encoder.encode
    monkeypatch.setattr(index.encoder, "encode", lambda side, texts: asked.append(len(texts)) or encode(side, texts))
    index.update(topical(9))
    assert max(asked) == 2 and sum(asked) == 9
    assert index.ids("wing lift") == whole.ids("wing lift")

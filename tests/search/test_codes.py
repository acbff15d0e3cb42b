"""Vectors in eight bits, fewer tokens, and what an index of them finds."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from pipeline.search import codes
from pipeline.search.codes import Codes
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


def grouped(count: int, parts: int, numbers: int, groups: int = 60, width: int = 16, seed: int = 3) -> np.ndarray:
    """(count, width) vectors of which every `numbers` together are one of a few, and a little noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(parts, groups, numbers))
    chosen = [centre[rng.integers(0, groups, count)] for centre in centres]
    return (np.concatenate(chosen, axis=1) + 1e-3 * rng.normal(size=(count, width))).astype(np.float32)


def lost(kept: Codes, vectors: np.ndarray) -> float:
    """The share of the numbers' variance that is not kept."""
    return float(((kept.numbers() - vectors) ** 2).mean() / vectors.var())


@pytest.mark.parametrize("bits", [2, 4])
def test_a_book_finds_the_groups_that_there_are(bits: int) -> None:
    numbers = 8 // bits
    vectors = grouped(6000, 16 // numbers, numbers)
    kept = codes.packed(codes.coded(Encoded(vectors), 32), bits)
    assert kept.book is not None and kept.vectors.dtype == np.uint8 and kept.scales is None
    assert kept.vectors.nbytes * 32 == vectors.nbytes * bits and kept.width == 16
    assert lost(kept, vectors) < 1e-3
    again = codes.packed(codes.unpacked(kept), bits)
    assert lost(again, vectors) < 2e-3
    np.testing.assert_array_equal(codes.packed(codes.coded(Encoded(vectors), 32), bits).vectors, kept.vectors)


def test_vectors_that_a_book_would_not_make_smaller_stay() -> None:
    for vectors in (grouped(500, 4, 4), np.zeros((3000, 0), np.float32), late([5000], 15).vectors):
        eight = codes.coded(Encoded(vectors), 8)
        assert codes.packed(eight, 2) is eight


def kept_in(encoded: Encoded, bits: int) -> Codes:
    kept = codes.coded(encoded, max(8, bits))
    if bits in codes.BOOKED:
        rng = np.random.default_rng(0)
        book = rng.normal(size=(16 * bits // 8, 256, 8 // bits)).astype(np.float32)
        bytes_ = rng.integers(0, 256, (len(encoded.vectors), len(book)), np.uint8)
        kept = kept._replace(vectors=bytes_, scales=None, book=book)
    return kept


@pytest.mark.parametrize("bits", [2, 4, 8, 32])
def test_codes_are_taken_joined_and_gone_through_as_texts(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "DECODED_AT_ONCE", 7)
    for encoded in (late([3, 1, 9, 2, 5]), Encoded(late([20]).vectors)):
        kept = kept_in(encoded, bits)
        whole = kept.decoded()
        rows = np.array([2, 0, 4])
        for one, other in zip(kept.take(rows).decoded(), whole.take(rows)):
            np.testing.assert_array_equal(one, other)
        if bits not in codes.BOOKED:  # parts with books of their own are joined in eight bits
            again = codes.joined([kept.take(np.arange(2)), kept.take(np.arange(2, kept.texts))])
            for one, other in zip(again.decoded(), whole):
                np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(kept.picked(np.array([3, 1])), whole.vectors[[3, 1]])
        parts = list(kept.parts())
        assert len(parts) > (bits <= 8) and sum(part.texts for part in parts) == kept.texts
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
@pytest.mark.parametrize("bits", [4, 8])
def test_an_index_in_fewer_bits_finds_nearly_the_same(
    indexed: Make, monkeypatch: pytest.MonkeyPatch, head: str, bits: int
) -> None:
    monkeypatch.setattr(codes, "WORTH", 0)
    documents = topical(300)
    exact, small = (indexed(documents, head, name=name, bits=bits, documents_per_segment=300)
                    for name, bits in (("a", 32), ("b", bits)))  # fmt: skip
    sizes = [sum(path.stat().st_size for path in index.folder.rglob("vectors.npy")) for index in (exact, small)]
    assert sizes[1] < 0.04 * bits * sizes[0] + 128  # files have headers
    for query in ("wing lift", "moon own3 shore", "heart"):
        found = [{r.document.id: r.score for r in index.open().search(query, 300).results} for index in (exact, small)]
        scale = max(map(abs, found[0].values()))
        if bits == 8:
            assert found[0] == pytest.approx(found[1], abs=0.02 * scale)
        assert np.corrcoef([[one[name] for name in found[0]] for one in found])[0, 1] > 0.99
    small.update(documents[:130], sync=True)
    assert len(small.ids("wing lift", 300)) == 130


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

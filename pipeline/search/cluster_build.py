"""Giving an index its clusters: finding centres, and choosing by recall against exact search how many are looked at."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.progress import Say
from pipeline.search import clusters, postings
from pipeline.search.clusters import Clusters
from pipeline.search.index_store import Settings, Snapshot
from pipeline.search.postings import Counted
from pipeline.search.searcher import Searcher
from pipeline.search.segments import Encodes
from pipeline.serving.predict.scoring import Encoded

MOST = 8_192  # clusters: of more, finding each vector's would take longer than encoding it
PER_CLUSTER = 32  # vectors that the centres are found from
ROUNDS = 8  # of k-means
VECTORS_AT_ONCE = 1 << 17  # 64 MB of 128 numbers
SCORES_AT_ONCE = 1 << 25  # 128 MB
EFFORTS = (4, 8, 16, 32, 64, 128, 256, 512)  # clusters looked at, tried in this order
RECALL_AT = 10
QUERY_WORDS = 12  # of a passage without a title, asked to measure recall


def wanted(vectors: int) -> int:
    """How many clusters for so many vectors."""
    return max(1, min(MOST, int(4 * math.sqrt(vectors))))


def join(
    snapshot: Snapshot, encoder: Encodes, old: Clusters | None, known: int, folder: Path, settings: Settings, say: Say
) -> dict[str, Any]:
    """Writes clusters of all vectors into `folder` and gives them to the snapshot.

    Args:
        old: clusters of the first `known` segments, whose centres stay unless there are four times as many vectors.

    Returns:
        Effort, recall and rows; nothing where exact search has to do, as the recall falls short.
    """
    total = int(snapshot.vector_starts[-1])
    if old is not None and 2 * len(old) < wanted(total):
        old = None
    centres = _centres(snapshot, total, say) if old is None else old.centres
    write(snapshot, centres, old, known, folder, say)
    assert snapshot.width is not None
    snapshot.clusters = Clusters.read(folder, snapshot.width)
    figures = measure(Searcher(snapshot, encoder), settings)
    told = f"recall@{RECALL_AT} of candidates by {len(centres):,} clusters against exact search is"
    if figures["recall"] < settings.wanted_recall:
        say(f"{told} {figures['recall']:.3f}, under {settings.wanted_recall:g}: search stays exact")
        snapshot.clusters = None
        for name in (clusters.CENTRES, clusters.STARTS, clusters.PASSAGES):
            (folder / name).unlink()
        return {}
    say(f"{told} {figures['recall']:.3f} over {figures['queries']} queries ({figures['effort']} clusters looked at; "
        f"{figures['ms']:.1f} ms a query, exact {figures['exact_ms']:.1f} ms)")  # fmt: skip
    return figures


def _centres(snapshot: Snapshot, total: int, say: Say) -> np.ndarray:
    """(C, D) float32, by k-means over vectors drawn at random."""
    import faiss

    assert snapshot.width is not None
    count = wanted(total)
    say(f"finding {count:,} clusters of {total:,} vectors")
    drawn = np.sort(np.random.default_rng(0).choice(total, min(total, PER_CLUSTER * count), replace=False))
    sample = np.empty((len(drawn), snapshot.width), np.float32)
    for segment, start, end in zip(snapshot.segments, snapshot.vector_starts, snapshot.vector_starts[1:]):
        inside = (drawn >= start) & (drawn < end)
        sample[inside] = segment.codes.picked(drawn[inside] - start)
        segment.release()
    means = faiss.Kmeans(snapshot.width, count, niter=ROUNDS, seed=1, min_points_per_centroid=1)
    means.train(sample)
    return np.asarray(means.centroids, np.float32).reshape(count, snapshot.width)


def write(snapshot: Snapshot, centres: np.ndarray, old: Clusters | None, known: int, folder: Path, say: Say) -> None:
    """Writes what `Clusters.read` opens: of the first `known` segments as in `old`, of the others anew."""
    known = known if old is not None else 0
    nearest = [_nearest(snapshot, number, centres, say) for number in range(known, len(snapshot.segments))]

    def counted() -> Iterator[Counted]:
        if old is not None:
            words = np.repeat(np.arange(len(old)), np.diff(old.starts))
            yield Counted(old.passages, words, np.zeros(0, np.float32), np.zeros(0, np.int64), 0)
        for number, own in enumerate(nearest, known):
            segment, rows = snapshot.segments[number], np.arange(len(snapshot.segments[number].passages))
            offsets = np.arange(len(rows) + 1) if segment.codes.offsets is None else segment.codes.offsets
            first = int(snapshot.passage_starts[number])
            yield postings.count(np.arange(len(centres)), own, offsets, rows, first)

    holding = np.zeros(len(centres), np.int64)
    for part in counted():
        holding += np.bincount(part.words, minlength=len(centres))
    starts = np.concatenate([[0], np.cumsum(holding)]).astype(np.int64)
    postings.write(counted, starts, {folder / clusters.PASSAGES: np.int32}, lambda part, order: (part.rows[order],))
    np.save(folder / clusters.STARTS, starts)
    np.save(folder / clusters.CENTRES, centres)


def _nearest(snapshot: Snapshot, number: int, centres: np.ndarray, say: Say) -> np.ndarray:
    """(V,) uint16: the nearest centre of each vector of a segment."""
    import faiss

    index = faiss.IndexFlatL2(centres.shape[1])
    index.add(centres)
    segment = snapshot.segments[number]
    found = np.empty(len(segment.codes.vectors), np.uint16)
    for start in range(0, len(found), VECTORS_AT_ONCE):
        vectors = segment.codes.numbers(start, start + VECTORS_AT_ONCE)
        found[start : start + len(vectors)] = index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]
    segment.release()
    done, total = int(snapshot.vector_starts[number + 1]), int(snapshot.vector_starts[-1])
    say(f"clustered {done:,}/{total:,} vectors")
    return found


def measure(searcher: Searcher, settings: Settings) -> dict[str, Any]:
    """The least effort whose recall of the 10 best documents is as wanted, else the greatest, and that recall.

    The queries are titles, or first words, of documents drawn at random.
    """
    encoded = searcher.encoder.encode("query", _sampled(searcher.snapshot, settings.recall_queries))
    queries = [encoded.slice(row, row + 1) for row in range(encoded.texts)]
    began = time.perf_counter()
    searcher.exact(queries[0], RECALL_AT)
    exact_ms = 1000 * (time.perf_counter() - began)
    exact = list(_exact(searcher, encoded))
    result: dict[str, Any] = {}
    for effort in EFFORTS:
        began = time.perf_counter()
        near = [searcher.approximate(query, RECALL_AT, effort).documents.tolist() for query in queries]
        result = {
            "effort": effort,
            "recall": recall(near, exact),
            "queries": len(queries),
            "ms": 1000 * (time.perf_counter() - began) / len(queries),
            "exact_ms": exact_ms,
        }
        if result["recall"] >= settings.wanted_recall:
            break
    return result


def _exact(searcher: Searcher, encoded: Encoded) -> Iterator[list[int]]:
    """Each query's best documents; some queries at once, so that vectors are decoded for all of them."""
    step = max(1, SCORES_AT_ONCE // max(1, len(searcher.snapshot.document_of)))
    rows = np.flatnonzero(searcher.snapshot.alive_passages)
    for start in range(0, encoded.texts, step):
        for scores in searcher.every_score(encoded.slice(start, min(encoded.texts, start + step))):
            yield searcher.best(rows, scores[rows], RECALL_AT).documents.tolist()


def recall(approximate: list[list[int]], exact: list[list[int]]) -> float:
    """The mean share of each exact list that was found, in [0, 1]; empty lists count as found.

    >>> recall([[1, 2], [5, 9]], [[2, 1], [5, 6]])
    0.75
    """
    shares = [len({*have} & {*want}) / len(want) if want else 1.0 for have, want in zip(approximate, exact)]
    return sum(shares) / len(shares) if shares else 1.0


def _sampled(snapshot: Snapshot, count: int) -> list[str]:
    alive = np.flatnonzero(snapshot.alive)
    chosen = np.random.default_rng(0).choice(alive, min(count, len(alive)), replace=False)
    queries = []
    for row in np.sort(chosen).tolist():
        at = int(np.searchsorted(snapshot.document_starts, row, "right")) - 1
        document = snapshot.segments[at].document(row - int(snapshot.document_starts[at]))
        queries.append(document.title or " ".join(document.text.split()[:QUERY_WORDS]))
    return queries

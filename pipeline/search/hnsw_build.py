"""Giving an index its HNSW graph: linking the vectors, and choosing the effort by recall against exact search."""

import time
from typing import Any

import numpy as np

from pipeline.core.progress import Say
from pipeline.search.hnsw import EFFORTS, Graph, recall
from pipeline.search.index_store import Settings, Snapshot
from pipeline.search.searcher import Searcher
from pipeline.search.segments import Encodes

VECTORS_ADDED_AT_ONCE = 25_000
RECALL_AT = 10
QUERY_WORDS = 12  # of a passage without a title, asked to measure recall


def link(snapshot: Snapshot, encoder: Encodes, graph: Graph | None, settings: Settings, say: Say) -> dict[str, Any]:
    """Sets `snapshot.graph` to one of all its vectors; returns effort, recall and rows, or nothing if it falls short.

    Args:
        graph: one of the first rows, to go on with; None: from the beginning.
    """
    width = snapshot.segments[0].codes.vectors.shape[1]
    snapshot.graph = graph = graph or Graph.empty(width)
    total = int(snapshot.vector_starts[-1])
    for segment, before in zip(snapshot.segments, snapshot.vector_starts.tolist()):
        for start in range(max(0, graph.size - before), len(segment.codes.vectors), VECTORS_ADDED_AT_ONCE):
            graph.add(segment.codes.numbers(start, start + VECTORS_ADDED_AT_ONCE))
            say(f"linked {graph.size}/{total}: vectors in the HNSW graph")
    figures = measure(Searcher(snapshot, encoder), settings)
    if figures["recall"] < settings.wanted_recall:
        say(
            f"recall@{RECALL_AT} of the HNSW graph is {figures['recall']:.3f}, under {settings.wanted_recall:g}: "
            "the graph is left out and search stays exact"
        )
        snapshot.graph = None
        return {}
    say(
        f"recall@{RECALL_AT} of the HNSW graph against exact search: {figures['recall']:.3f} over {figures['queries']} "
        f"queries (efSearch {figures['effort']}; {figures['ms']:.1f} ms a query, exact {figures['exact_ms']:.1f} ms)"
    )
    return figures


def measure(searcher: Searcher, settings: Settings) -> dict[str, Any]:
    """The least effort whose recall of the 10 best documents is as wanted, else the greatest, and that recall.

    The queries are titles, or first words, of documents drawn at random.
    """
    queries = _sampled(searcher.snapshot, settings.recall_queries)
    encoded = [searcher.encoder.encode("query", [query]) for query in queries]
    began = time.perf_counter()
    exact = [searcher.exact(query, RECALL_AT).documents.tolist() for query in encoded]
    exact_ms = 1000 * (time.perf_counter() - began) / len(queries)
    result: dict[str, Any] = {}
    for effort in EFFORTS:
        began = time.perf_counter()
        near = [searcher.approximate(query, RECALL_AT, effort).documents.tolist() for query in encoded]
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


def _sampled(snapshot: Snapshot, count: int) -> list[str]:
    alive = np.flatnonzero(snapshot.alive)
    chosen = np.random.default_rng(0).choice(alive, min(count, len(alive)), replace=False)
    queries = []
    for row in np.sort(chosen).tolist():
        at = int(np.searchsorted(snapshot.document_starts, row, "right")) - 1
        document = snapshot.segments[at].document(row - int(snapshot.document_starts[at]))
        queries.append(document.title or " ".join(document.text.split()[:QUERY_WORDS]))
    return queries

"""Rankings of documents for queries, judged: top lists, candidate lists, and per-query metrics.

Queries and documents are rows (0 … Q-1, 0 … D-1) of the split's own tables. Ties always go against the system: among
equal scores the less relevant document stands first, then the smaller row; infinite scores stand last.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from pipeline.config.tasks.matching import ranking_metrics
from pipeline.core.errors import DupletError, InputError
from pipeline.evaluation.metrics import comparable

SCORES_PER_CHUNK = 2_000_000  # a chunk's scores: 8 MB as float32; sorting it takes twice that


def measures(depth: int) -> dict[str, Any]:
    """What is measured of rankings of so many documents per query, by name: mrr@10, map@DEPTH, …, none deeper."""
    from ir_measures import AP, RR, R, nDCG  # which a model that is served alone does without

    kinds = {"mrr": RR, "map": AP, "ndcg": nDCG, "recall": R}
    names = {name: name.split("@") for name in ranking_metrics(depth)}
    return {name: kinds[kind] @ int(cut) for name, (kind, cut) in names.items()}


def rows_per_chunk(documents: int) -> int:
    """How many queries to score against `documents` documents at once, to stay within SCORES_PER_CHUNK."""
    return max(1, SCORES_PER_CHUNK // max(1, documents))


class Ranking(NamedTuple):
    """The K best documents of each of Q queries, best first."""

    documents: np.ndarray  # (Q, K) int32, document rows, -1 = none
    scores: np.ndarray  # (Q, K) float32, falling; -inf where there is no document


class Judgements:
    """Relevance by query and document, stored by query (CSR), documents in ascending order.

    Judged pairs with relevance 0 are kept: they are a query's candidate list together with the relevant ones.

    Args:
        query_rows, document_rows: (P,) int; relevance: (P,) whole numbers. A pair judged twice counts once, with its
            higher relevance; a relevance below 0 counts as 0, as trec_eval has it.
        queries, documents: Q and D, the sizes of the split's tables.
        missing: rows of queries (M,) and relevance (M,) of M further judgements, of documents that are not among the D.
            A relevant one is to every metric a document that was not found.

    Raises:
        InputError: a relevance is not a whole number, or a row is outside its table.
    """

    def __init__(
        self, query_rows: np.ndarray, document_rows: np.ndarray, relevance: np.ndarray, queries: int, documents: int,
        missing: tuple[np.ndarray, np.ndarray] = (np.zeros(0, int), np.zeros(0)),
    ) -> None:  # fmt: skip
        query_rows, document_rows = np.asarray(query_rows, np.int64), np.asarray(document_rows, np.int64)
        relevance = np.asarray(relevance)
        for rows, size, name in ((query_rows, queries, "query"), (document_rows, documents, "document")):
            if len(rows) and not 0 <= rows.min() <= rows.max() < size:
                raise InputError(f"a judgement names {name} row {rows.min()} or {rows.max()}, but there are {size}")
        grades = _whole_grades(relevance)
        keys = query_rows * documents + document_rows
        order = np.lexsort((-grades, keys))
        self._keys, first = np.unique(keys[order], return_index=True)  # (P,) ascending
        self.queries, self.documents = queries, documents
        self.query_rows = query_rows[order][first].astype(np.int32)  # (P,)
        self.document_rows = document_rows[order][first].astype(np.int32)  # (P,)
        self.relevance = grades[order][first]  # (P,)
        self.starts = np.searchsorted(self.query_rows, np.arange(queries + 1))  # (Q+1,)
        gone, gone_grades = np.asarray(missing[0], np.int64), _whole_grades(np.asarray(missing[1]))
        self.missing_rows, self.missing_relevance = gone[gone_grades > 0], gone_grades[gone_grades > 0]  # (M',) each

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """The judged documents of a query and their relevance, both (n,) int32."""
        part = slice(self.starts[query], self.starts[query + 1])
        return self.document_rows[part], self.relevance[part]

    def lookup(self, query_rows: np.ndarray, document_rows: np.ndarray) -> np.ndarray:
        """(N,) int32 relevance of any N pairs; 0 for those not judged."""
        if not len(self._keys):
            return np.zeros(len(query_rows), np.int32)
        keys = query_rows.astype(np.int64) * self.documents + document_rows
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self.relevance[at], 0)

    @property
    def answerable(self) -> np.ndarray:
        """(n,) int64: the queries with at least one relevant document, the only ones a mean is taken over."""
        return np.unique(np.concatenate([self.query_rows[self.relevance > 0], self.missing_rows])).astype(np.int64)

    @property
    def judged(self) -> np.ndarray:
        """(n,) int64: the queries with a judgement, also those whose documents are all irrelevant."""
        return np.unique(np.concatenate([self.query_rows, self.missing_rows])).astype(np.int64)

    def all_of(self, query: int) -> np.ndarray:
        """(n,) the relevance of all documents judged for a query, the missing ones included."""
        return np.concatenate([self.of(query)[1], self.missing_relevance[self.missing_rows == query]])


def _whole_grades(relevance: np.ndarray) -> np.ndarray:
    """int32, at least 0. Raises InputError where one is not a whole number."""
    whole = np.isfinite(relevance) & (relevance == np.round(relevance)) & (np.abs(relevance) < 2**31)
    if not whole.all():
        raise InputError(
            f"relevance {relevance[~whole][0]:g} is not a whole number, which ranking metrics need: "
            "map the labels to whole grades with ingest.source.grades"
        )
    return np.maximum(relevance, 0).astype(np.int32)


class Best:
    """The best documents of each of Q queries, of scores that come by in parts; memory is Q x depth and one part.

    Each score is packed with its relevance and document row into one integer whose order is the wanted one, so that a
    partial sort settles ties at the cut as well.

    Args:
        depth: documents kept per query (all D where there are fewer).
    """

    def __init__(self, judgements: Judgements, depth: int) -> None:
        self._judgements = judgements
        self._keys = np.zeros((judgements.queries, min(depth, judgements.documents)), np.uint64)  # 0: none

    def add(self, query_rows: np.ndarray, documents: np.ndarray, scores: np.ndarray) -> None:
        """Takes scores (n, m), compared as float32, of n queries with m documents that were not there before.

        Raises:
            DupletError: a score is not a number.
        """
        size, depth = self._judgements.documents, self._keys.shape[1]
        if not depth:
            return
        column_of = np.full(size, -1)
        column_of[documents] = np.arange(len(documents))
        step = rows_per_chunk(len(documents))
        for start in range(0, len(query_rows), step):
            rows = query_rows[start : start + step]
            with np.errstate(over="ignore"):  # beyond float32: infinite, so last
                block = comparable(scores[start : start + step].astype(np.float32))
            keys = _pack(block, documents, size)
            for line, row in zip(keys, rows.tolist()):
                judged, grades = self._judgements.of(row)
                columns = column_of[judged]
                _lower(line, columns[columns >= 0], grades[columns >= 0], size)
            keys = np.concatenate([self._keys[rows], keys], axis=1)
            keys.partition(keys.shape[1] - depth, axis=1)
            self._keys[rows] = keys[:, keys.shape[1] - depth :]

    def ranking(self) -> Ranking:
        """What was found so far."""
        size = self._judgements.documents
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        mask = (np.uint64(1) << np.uint64(_document_bits(size))) - np.uint64(1)
        documents = (size - 1 - (keys & mask).astype(np.int64)).astype(np.int32)
        bits = (keys >> np.uint64(32)).astype(np.uint32)
        scores = np.where(bits >> 31, bits & np.uint32(2**31 - 1), ~bits).astype(np.uint32).view(np.float32)
        present = keys != 0
        return Ranking(np.where(present, documents, -1), np.where(present, scores, -np.inf).astype(np.float32))


def _document_bits(size: int) -> int:
    return max(1, (size - 1).bit_length())


def _highest_grade(size: int) -> int:
    """Grades above it tie with it; 255 for 16 million documents."""
    return int(2 ** (32 - _document_bits(size)) - 1)


def _pack(scores: np.ndarray, documents: np.ndarray, size: int) -> np.ndarray:
    """(n, m) uint64, larger = better: 32 bits of score, then the grade (here 0) and the document, both turned round."""
    bits = scores.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # as floats compare, so do these
    keys = ordered.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.uint64(_highest_grade(size) << _document_bits(size))
    keys |= (size - 1 - documents).astype(np.uint64)
    return keys


def _lower(keys: np.ndarray, columns: np.ndarray, grades: np.ndarray, size: int) -> None:
    """Puts documents with grades behind those of equal scores with lower ones; (m,) keys of one query."""
    keys[columns] -= np.clip(grades, 0, _highest_grade(size)).astype(np.uint64) << np.uint64(_document_bits(size))


def rank_collection(chunks: Iterable[tuple[np.ndarray, np.ndarray]], judgements: Judgements, depth: int) -> Ranking:
    """Ranks the whole collection for the queries that come by in `chunks`; memory is one chunk and Q x depth.

    Args:
        chunks: (query_rows (n,), scores (n, D)), in any order; queries that never come keep an empty list.
        depth: documents kept per query (all D where there are fewer).

    Raises:
        DupletError: a score is not a number, or a chunk has another number of documents than the judgements.
    """
    best, everything = Best(judgements, depth), np.arange(judgements.documents)
    for rows, scores in chunks:
        if scores.shape != (len(rows), judgements.documents):
            raise DupletError(f"scores are {scores.shape}, expected {(len(rows), judgements.documents)}")
        best.add(rows, everything, scores)
    return best.ranking()


def rank_listed(pair_scores: np.ndarray, judgements: Judgements, depth: int | None = None) -> Ranking:
    """Ranks each query's candidate list: the documents judged for it, those with relevance 0 included.

    Args:
        pair_scores: (P,), one per judged pair, in the order of judgements.query_rows and judgements.document_rows.
        depth: documents kept per query; None: the whole lists.
    """
    if len(pair_scores) != len(judgements.query_rows):
        raise DupletError(f"{len(pair_scores)} scores for {len(judgements.query_rows)} judged pairs")
    return rank_pairs(judgements.query_rows, judgements.document_rows, pair_scores, judgements, depth)


def rank_pairs(
    query_rows: np.ndarray, document_rows: np.ndarray, scores: np.ndarray, judgements: Judgements, depth: int | None
) -> Ranking:
    """Ranks N distinct pairs of query and document within each query; all arguments (N,)."""
    with np.errstate(over="ignore"):
        scores = comparable(np.asarray(scores).astype(np.float32))
    grades = judgements.lookup(query_rows, document_rows)
    order = np.lexsort((document_rows, grades, -scores, query_rows))
    rows = query_rows[order]
    lengths = np.bincount(rows, minlength=judgements.queries)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    longest = int(lengths.max(initial=0))
    width = longest if depth is None else min(depth, longest)
    top = places < width
    ranking = Ranking(
        np.full((judgements.queries, width), -1, np.int32), np.full((judgements.queries, width), -np.inf, np.float32)
    )
    ranking.documents[rows[top], places[top]] = document_rows[order][top]
    ranking.scores[rows[top], places[top]] = scores[order][top]
    return ranking


def evaluate(
    ranking: Ranking,
    judgements: Judgements,
    queries: np.ndarray | None = None,
    depth: int = 100,
    names: tuple[str, ...] | None = None,
) -> dict[str, np.ndarray]:
    """Per-query values of the measures, by ir-measures (trec_eval's formulas; see metrics.py).

    The order is the ranking's own: ir-measures is handed falling ranks, so its tie-breaking by name never acts. A
    relevant document below a measure's cut-off counts 0. A cut-off beyond a list's end is no error.

    Args:
        queries: (n,) rows to judge; None: judgements.answerable.
        depth: what the ranking was kept to; names: some of measures(depth); None: all.

    Returns:
        name -> (n,) float64 in [0, 1]; not a number for a query that has no relevant document.
    """
    import ir_measures

    queries = judgements.answerable if queries is None else np.asarray(queries, np.int64)
    called = np.arange(judgements.documents).astype(str).tolist()
    qrels, run = {}, {}
    for query in queries.tolist():
        judged, _ = judgements.of(query)
        every = judgements.all_of(query)
        if not (every > 0).any():
            continue
        known = [called[d] for d in judged.tolist()] + [f"missing {i}" for i in range(len(every) - len(judged))]
        qrels[str(query)] = dict(zip(known, every.tolist()))
        ranked = [called[d] for d in ranking.documents[query].tolist() if d >= 0]
        if ranked:
            run[str(query)] = {name: -float(place) for place, name in enumerate(ranked)}
    wanted = {name: measure for name, measure in measures(depth).items() if names is None or name in names}
    table = {name: np.full(judgements.queries, np.nan) for name in wanted}
    name_of = {measure: name for name, measure in wanted.items()}
    if qrels:
        for query in qrels.keys() - run.keys():
            for values in table.values():
                values[int(query)] = 0.0
        for metric in ir_measures.iter_calc(list(wanted.values()), qrels, run):
            table[name_of[metric.measure]][int(metric.query_id)] = metric.value
    return {name: values[queries] for name, values in table.items()}

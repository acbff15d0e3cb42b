"""What a model has to beat: BM25 and chance, over the collection or over candidate lists."""

from collections.abc import Iterator

import numpy as np

from pipeline.core.errors import DupletError
from pipeline.evaluation.analysis import NONE
from pipeline.evaluation.bm25 import K1, B, Bm25
from pipeline.evaluation.ranking import Judgements, Ranking, rank_collection, rank_listed, rows_per_chunk


def bm25(
    documents: list[list[str]],
    queries: list[list[str]],
    judgements: Judgements,
    depth: int,
    k1: float = K1,
    b: float = B,
    listed: bool = False,
    stemmer: str = NONE,
) -> Ranking:
    """BM25's ranking of the collection, or of candidate lists.

    A word asked twice counts twice; a query without any known word scores 0 everywhere, and ties go against it.

    Args:
        documents: D lists of words, the whole index; queries: Q lists of words.
        depth: documents kept per query; candidate lists are kept whole.
        listed: rank only the documents judged for a query, with scores from the whole index.
        stemmer: as in Bm25.
    """
    if (len(queries), len(documents)) != (judgements.queries, judgements.documents):
        raise DupletError(
            f"{len(queries)} queries and {len(documents)} documents, but the judgements are of "
            f"{judgements.queries} and {judgements.documents}"
        )
    index = Bm25(documents, stemmer)
    return rank(index.scores(index.asked(queries), k1, b), judgements, depth, listed)


def random_ranking(judgements: Judgements, depth: int, seed: int, listed: bool = False) -> Ranking:
    """A random order of the documents for each query (of its candidate list, if listed); equal seeds, equal orders."""
    rng = np.random.default_rng(seed)
    if listed:
        return rank_listed(rng.permutation(len(judgements.query_rows)), judgements)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        step = rows_per_chunk(judgements.documents)
        for start in range(0, judgements.queries, step):
            rows = np.arange(start, min(start + step, judgements.queries))
            order = np.tile(np.arange(judgements.documents, dtype=np.float32), (len(rows), 1))
            yield rows, rng.permuted(order, axis=1)

    return rank_collection(chunks(), judgements, depth)


def rank(chunks: Iterator[tuple[np.ndarray, np.ndarray]], judgements: Judgements, depth: int, listed: bool) -> Ranking:
    """Ranks the collection, or picks the candidates' scores out of each chunk first."""
    if not listed:
        return rank_collection(chunks, judgements, depth)
    scores = np.zeros(len(judgements.query_rows), np.float32)
    for rows, chunk in chunks:
        part = slice(judgements.starts[rows[0]], judgements.starts[rows[-1] + 1])
        scores[part] = chunk[judgements.query_rows[part] - rows[0], judgements.document_rows[part]]
    return rank_listed(scores, judgements)

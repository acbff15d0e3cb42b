"""What a model has to beat: BM25 and chance, over the collection or over candidate lists."""

from collections.abc import Iterable, Iterator

import bm25s
import numpy as np
from scipy import sparse

from pipeline.errors import DupletError
from pipeline.evaluation.ranking import Judgements, Ranking, rank_collection, rank_listed, rows_per_chunk


def bm25(
    documents: list[list[str]],
    queries: list[list[str]],
    judgements: Judgements,
    depth: int,
    k1: float = 1.5,
    b: float = 0.75,
    listed: bool = False,
) -> Ranking:
    """BM25 as Lucene has it, Σ_t idf(t) · tf / (tf + k1·(1 - b + b·length / mean length)), through bm25s.

    A word asked twice counts twice; a query without any known word scores 0 everywhere, and ties go against it.

    Args:
        documents: D lists of tokens, the whole index of the split; queries: Q lists of tokens.
        depth: documents kept per query; candidate lists are kept whole.
        listed: rank only the documents judged for a query, with scores from the whole index.

    Reference: Kamphuis et al., "Which BM25 do you mean?", ECIR 2020; Lù, "BM25S", 2024.
    """
    if (len(queries), len(documents)) != (judgements.queries, judgements.documents):
        raise DupletError(
            f"{len(queries)} queries and {len(documents)} documents, but the judgements are of "
            f"{judgements.queries} and {judgements.documents}"
        )
    # sorted: word ids, and with them the order of the sums, must not depend on Python's hash seed
    ids = {token: i for i, token in enumerate(sorted({token for tokens in documents for token in tokens}))}
    if ids:
        index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
        index.index(
            ([[ids[t] for t in tokens] for tokens in documents], ids), create_empty_token=False, show_progress=False
        )
        parts = (index.scores["data"], index.scores["indices"], index.scores["indptr"])
        weights = sparse.csc_matrix(parts, shape=(len(documents), len(ids))).T.tocsr()  # (V, D)
    else:
        weights = sparse.csr_matrix((0, len(documents)))
    asked = _counts(queries, ids)  # (Q, V)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        step = rows_per_chunk(len(documents))
        for start in range(0, len(queries), step):
            rows = np.arange(start, min(start + step, len(queries)))
            yield rows, (asked[rows] @ weights).toarray()

    return _rank(chunks(), judgements, depth, listed)


def _counts(texts: list[list[str]], ids: dict[str, int]) -> sparse.csr_matrix:
    """(len(texts), V) how often each known token occurs."""
    known = [[ids[token] for token in tokens if token in ids] for tokens in texts]
    ends = np.cumsum([0, *map(len, known)])
    columns = np.fromiter((i for row in known for i in row), np.int64, int(ends[-1]))
    matrix = sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(texts), len(ids)))
    matrix.sum_duplicates()
    return matrix


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


def _rank(chunks: Iterator[tuple[np.ndarray, np.ndarray]], judgements: Judgements, depth: int, listed: bool) -> Ranking:
    """Ranks the collection, or picks the candidates' scores out of each chunk first."""
    if not listed:
        return rank_collection(chunks, judgements, depth)
    scores = np.zeros(len(judgements.query_rows), np.float32)
    for rows, chunk in chunks:
        part = slice(judgements.starts[rows[0]], judgements.starts[rows[-1] + 1])
        scores[part] = chunk[judgements.query_rows[part] - rows[0], judgements.document_rows[part]]
    return rank_listed(scores, judgements)


def naive_bayes(train: Iterable[np.ndarray], labels: np.ndarray, test: Iterable[np.ndarray]) -> np.ndarray:
    """(M,) classes that multinomial naive Bayes with add-one smoothing gives to bags of words.

    Args:
        train: (T,) ids of each training text, whose classes are `labels` (N,).
        test: ids of each text to classify.
    """
    from sklearn.naive_bayes import MultinomialNB

    def matrix(texts: Iterable[np.ndarray], width: int | None = None) -> sparse.csr_matrix:
        bags = list(texts)
        ends = np.cumsum([0, *(len(bag) for bag in bags)])
        ids = np.concatenate([np.zeros(0, np.int32), *bags])
        width = width or int(ids.max(initial=0)) + 1
        ids = np.minimum(ids, width - 1)
        return sparse.csr_matrix((np.ones(len(ids)), ids, ends), shape=(len(bags), width))

    known = matrix(train)
    return MultinomialNB().fit(known, labels).predict(matrix(test, known.shape[1]))

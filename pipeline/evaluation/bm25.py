"""BM25: its formula, which the index on disk uses too (search.bm25_index), and an index in memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from scipy import sparse

from pipeline.evaluation.analysis import NONE, Analyzer, stemmer_for
from pipeline.evaluation.ranking import rows_per_chunk

# Without validation queries. On four sets of five better than Lucene's 0.9 and 0.4; as good as 1.2 and 0.75.
K1, B = 1.5, 0.75
K1S, BS = (K1, 0.6, 0.9, 1.2, 2.0), (B, 0.2, 0.4, 0.6, 0.9)  # tried on the validation queries


def rarity(holding: np.ndarray, documents: int) -> np.ndarray:
    """(V,) each word's inverse document frequency, from the (V,) numbers of documents that hold it."""
    return np.asarray(np.log(1 + (documents - holding + 0.5) / (holding + 0.5)))


def weights(
    times: np.ndarray, lengths: np.ndarray, average: float, rarities: np.ndarray, k1: float, b: float
) -> np.ndarray:
    """(n,) what each word of a document adds to the document's score, as Lucene has it.

    rarity · times / (times + k1 · (1 - b + b · length / average))

    Args:
        times: (n,) how often the word stands in the document; lengths: (n,) words of that document; rarities: (n,).
        average: words of a document, on average.

    Reference: Kamphuis et al., "Which BM25 do you mean?", ECIR 2020.
    """
    return np.asarray(rarities * times / (times + k1 * (1 - b + b * lengths / average)))


class Bm25:
    """How often each term stands in each of D documents; scores for any k1 and b.

    Args:
        documents: each document's words in lower case (`analysis.words_of`); gone through once.
        stemmer: as evaluate.stemmer: "auto", "none" or a language.
        kind: tokenize.kind, for "auto".

    Attributes:
        stemmer: "none" or a language.
        documents: D.
        analyzer: words to terms.
    """

    def __init__(self, documents: Iterable[Sequence[str]], stemmer: str = NONE, kind: str = "word") -> None:
        known: dict[str, int] = {}
        word_ids, ends = array("i"), [0]
        for words in documents:
            word_ids.extend([known.setdefault(word, len(known)) for word in words])
            ends.append(len(word_ids))
        ids = np.frombuffer(word_ids, np.int32) if word_ids else np.zeros(0, np.int32)
        counts = np.bincount(ids, minlength=len(known))
        self.stemmer = stemmer_for(stemmer, kind, dict(zip(known, counts.tolist())))
        self.documents = len(ends) - 1
        self.analyzer = Analyzer(self.stemmer)
        self._terms: dict[str, int] = {}
        term_of = np.full(len(known), -1)
        for i, word in enumerate(known):
            if (term := self.analyzer.term(word)) is not None:
                term_of[i] = self._terms.setdefault(term, len(self._terms))
        self._times = _matrix(term_of[ids], np.array(ends), len(self._terms))  # (D, V)
        self._lengths = np.asarray(self._times.sum(axis=1)).ravel()

    def asked(self, queries: Iterable[Sequence[str]]) -> sparse.csr_matrix:
        """(Q, V) how often each known term is asked for, of queries given as words in lower case."""
        term_ids, ends = array("i"), [0]
        for words in queries:
            term_ids.extend([self._terms.get(term, -1) for term in self.analyzer.terms(words)])
            ends.append(len(term_ids))
        return _matrix(np.array(term_ids, np.int64), np.array(ends), len(self._terms))

    @cached_property
    def _rarities(self) -> np.ndarray:
        return rarity(np.bincount(self._times.indices, minlength=self._times.shape[1]), self.documents)

    def rarities(self, words: Sequence[str]) -> dict[str, float]:
        """The known terms of a query's words, and how rare each is."""
        terms = [term for term in self.analyzer.terms(words) if term in self._terms]
        return {term: float(self._rarities[self._terms[term]]) for term in terms}

    def scores(self, asked: sparse.csr_matrix, k1: float = K1, b: float = B) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of (query rows (n,), scores (n, D)); a term asked twice counts twice."""
        times = self._times
        rows = np.repeat(np.arange(self.documents), np.diff(times.indptr))
        values = weights(
            times.data, self._lengths[rows], max(1e-9, float(self._lengths.mean())) if self.documents else 1.0,
            self._rarities[times.indices], k1, b,
        )  # fmt: skip
        by_term = sparse.csr_matrix((values, times.indices, times.indptr), shape=times.shape).T.tocsr()  # (V, D)
        step = rows_per_chunk(self.documents)
        for start in range(0, asked.shape[0], step):
            chunk = np.arange(start, min(start + step, asked.shape[0]))
            yield chunk, (asked[chunk] @ by_term).toarray()


def _matrix(columns: np.ndarray, ends: np.ndarray, width: int) -> sparse.csr_matrix:
    """(N, width) how often each column is named in each of N rows; -1 names none."""
    offsets = np.concatenate([[0], np.cumsum(columns >= 0)])[ends]
    columns = columns[columns >= 0]
    matrix = sparse.csr_matrix((np.ones(len(columns)), columns, offsets), shape=(len(ends) - 1, width))
    matrix.sum_duplicates()
    return matrix

"""Queries against an opened index: by the model, by words (BM25), or by a mix of both scores."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from pipeline.core.errors import InputError
from pipeline.evaluation import linear
from pipeline.evaluation.analysis import words_of
from pipeline.evaluation.confidence import Answering
from pipeline.evaluation.fusion import Fusion, Mix, Pool, mix_of, reranked_scores
from pipeline.search.bm25_index import WordIndex
from pipeline.search.documents import Document
from pipeline.search.index_store import Snapshot
from pipeline.search.segments import Encodes, indexed_title
from pipeline.search.where import Fields
from pipeline.serving.predict.scoring import Encoded
from pipeline.serving.second_stage import Rerank
from pipeline.tokenization.passages import Span, index_text, places_of

Mode = Literal["model", "hybrid", "words"]
FUSED = (
    100  # documents of each ranking whose scores are mixed, and BM25's candidates where the model only compares pairs
)
CANDIDATES_PER_PROBE = 64  # of late interaction: passages that are compared exactly, for each cluster looked at
SCORED_AT_ONCE = 1 << 16  # vectors of passages that are compared: 32 MB of 128 numbers
FEW = 0.25  # a share of all passages: fewer are looked up one by one, more are gone through in order
SORTED = 1000  # passages that are sorted at first
EXAMPLES_LOOKED_AT = 100  # documents
NOT_ENCODED = Encoded(np.zeros((0, 0), np.float32))
COMMON_SHARE = 0.2  # a word in a greater share of passages is marked only when the query has no rarer one


class Result(NamedTuple):
    rank: int
    score: float
    document: Document
    passage_row: int
    passage: Span  # of the document's text
    marks: list[Span]  # words of the query within the passage's text


class Answer(NamedTuple):
    results: list[Result]
    notices: list[str]  # sentences about the query
    probability: float | None = None  # that the first result is relevant; None: the model does not say
    sure: bool | None = None


class Ranked(NamedTuple):
    """Documents, best first."""

    documents: np.ndarray  # (n,) int64 rows
    scores: np.ndarray  # (n,) float32
    passages: np.ndarray  # (n,) int64, the best one of each


@dataclass
class Asked:
    """A query, whose words are scored once, however many rankings ask for their scores."""

    encoded: Encoded  # empty where the ranking is by words alone
    words: list[str]
    index: WordIndex

    @cached_property
    def word_scores(self) -> np.ndarray:
        """(P,) float32: BM25's. Raises InputError where they are damaged."""
        return _finite(self.index.scores(self.words))


class Searcher:
    """An index and the model that made it. Threads may share it.

    Args:
        vocabulary: the words that the model knows; None: not known, so that no query is told to have unknown ones.
        second: the model of settings.rerank; None: there is none.

    Raises:
        InputError: the index's vectors are none of this model's.
    """

    def __init__(
        self, snapshot: Snapshot, encoder: Encodes, vocabulary: frozenset[str] | None = None,
        second: Encodes | None = None,
    ) -> None:  # fmt: skip
        self.snapshot, self.encoder, self.vocabulary, self.second = snapshot, encoder, vocabulary, second
        self.pairs_only = compares_pairs_only(encoder)
        self.fields = Fields(snapshot)
        width = encoder.config.model.vector_width
        if snapshot.state.model is not None and snapshot.width not in (None, width):
            raise InputError(
                f"{snapshot.folder} is damaged (vectors of {snapshot.width} numbers, the model's have {width}): "
                "delete it and run `duplet index` again"
            )

    def over(self, snapshot: Snapshot) -> "Searcher":
        """The same models over another generation of the index. Raises InputError as the constructor does."""
        return Searcher(snapshot, self.encoder, self.vocabulary, self.second)

    @property
    def best_mode(self) -> Mode:
        """The ranking that the model's evaluation found best; of a model without one, the model's; without a model,
        by words."""
        settings = self.snapshot.state.settings
        if self.snapshot.state.model is not None and settings.linear is not None:
            return "hybrid"
        if self.snapshot.state.model is None or settings.weight == 0:
            return "words"
        return "hybrid" if settings.model_scale is not None and settings.weight < 1 else "model"

    def search(self, query: str, k: int = 10, mode: Mode | None = None, where: str | None = None) -> Answer:
        """The k best documents; without a mode, by `best_mode`.

        Args:
            where: a filter on fields: see `where`.

        Raises:
            InputError: a blank query, a filter that cannot be read, or one on a field that no document has.
        """
        if not query.strip():
            raise InputError("the query is empty: give at least a word")
        words = words_of(self.encoder.tokens("query", query))
        mode, notices = self._advise(query, words, mode or self.best_mode)
        if not self.snapshot.alive.any():
            notices.append("the index holds no documents")
            return Answer([], notices)
        allowed = self._allowed(where)
        if not allowed.any():
            notices.append("no document passes the filter")
            return Answer([], notices)
        encoded = NOT_ENCODED if mode == "words" else self.encoder.encode("query", [query])
        ranked = self._ranked(query, encoded, words, k, mode, allowed)
        best = zip(ranked.documents[:k].tolist(), ranked.scores[:k].tolist(), ranked.passages[:k].tolist())
        marked = self._worth_marking(words)
        results = [self._result(rank, score, passage, marked) for rank, (_, score, passage) in enumerate(best, 1)]
        if not results and not any("no document" in notice for notice in notices):
            searched = not words or self.snapshot.words.analyzer.terms(words)
            stopped = "all words of the query are so frequent in any text that ranking by words leaves them out"
            notices.append("no document holds a word of the query" if searched else stopped)
        answering, scores = self._judging(encoded, ranked, mode)
        if not results or answering is None:
            return Answer(results, notices)
        probability = answering.probabilities(scores)
        sure = bool(answering.sure(probability)[0])
        if not sure and answering.threshold is not None:
            notices.append(
                f"perhaps no document answers this: the first one does with a probability of {probability[0]:.2f}, and "
                f"{answering.threshold:.2f} would be sure"
            )
        return Answer(results, notices, float(probability[0]), sure)

    def _allowed(self, where: str | None) -> np.ndarray:
        """(P,) bool: the passages of documents that can be found, and that the filter lets through."""
        if where is None or not where.strip():
            return self.snapshot.alive_passages
        return self.fields.documents(where)[self.snapshot.document_of]

    def _ranked(
        self, query: str, encoded: Encoded, words: list[str], k: int, mode: Mode, allowed: np.ndarray
    ) -> Ranked:
        asked = Asked(encoded, words, self.snapshot.words)
        ranking = {"words": self.by_words, "model": self.by_model, "hybrid": self.by_both}[mode]
        rerank = self.snapshot.state.settings.rerank
        if rerank is None or self.second is None or mode != self.best_mode:
            return ranking(asked, k, allowed)
        return self._reranked(query, ranking(asked, max(k, rerank.top), allowed), rerank, self.second)

    def _reranked(self, query: str, first: Ranked, rerank: Rerank, second: Encodes) -> Ranked:
        """The first documents by the mix of their scores and a second model's of their best passages, then the rest."""
        count = min(rerank.top, len(first.documents))
        if not count:
            return first
        texts = [self.passage_text(row) for row in first.passages[:count].tolist()]
        scores = second.score_all(second.encode("query", [query]), second.encode("document", texts))[0]
        values = reranked_scores(first.scores, _finite(scores), rerank.mix).astype(np.float32)
        order = np.concatenate([np.argsort(-steps(values[:count]), kind="stable"), np.arange(count, len(values))])
        return Ranked(first.documents[order], values[order], first.passages[order])

    def _judging(self, encoded: Encoded, ranked: Ranked, mode: Mode) -> tuple[Answering | None, np.ndarray]:
        """What tells whether the first document is a sure answer, and the score that it was fitted to.

        Of the best ranking that is the ranking's own score, where the evaluation judged it; else the model's.
        """
        settings = self.snapshot.state.settings
        whole = settings.rerank is None or self.second is not None
        if settings.answering is not None and mode == self.best_mode and whole:
            return settings.answering, ranked.scores[:1]
        if mode == "words" or self.encoder.answering is None:
            return None, ranked.scores[:1]
        return self.encoder.answering, self.scores_of(encoded, ranked.passages[:1])

    def _advise(self, query: str, words: list[str], mode: Mode) -> tuple[Mode, list[str]]:
        """The mode that can answer, and what to tell."""
        notices = []
        if self.snapshot.state.model is None and mode != "words":
            notices.append("the index has no model: ranked by words alone (BM25)")
            mode = "words"
        tokens = self.encoder.tokens("query", query)
        limits = {side: self.encoder.config.tokenize.limit(side) for side in ("query", "document")}
        whole = self.encoder.tokens("document", query)
        if len(tokens) == limits["query"] and (len(whole) > len(tokens) or limits["document"] <= limits["query"]):
            notices.append(f"only the query's first {limits['query']} tokens count: no more are read")
        known = tokens if self.vocabulary is None else [token for token in tokens if token in self.vocabulary]
        unknown = list(dict.fromkeys(token for token in tokens if words_of([token]) and token not in known))
        if not known and mode != "words":
            index = self.snapshot.words
            indexed = any(term in index.vocabulary for term in index.analyzer.terms(words))
            notices.append(
                "the model knows none of the query's words"
                + ("; ranked by words alone (BM25)" if indexed else ", and no document holds one of them")
            )
            mode = "words"
        elif unknown and mode != "words":
            shown = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
            notices.append(f"unknown to the model: {shown}")
        return mode, notices

    # --- rankings -----------------------------------------------------------------------------------------------------
    def by_words(self, asked: Asked, k: int, allowed: np.ndarray) -> Ranked:
        """BM25's k best documents, of those that hold a word of the query; here as below, of allowed passages alone."""
        rows = np.flatnonzero((asked.word_scores > 0) & allowed)
        return self.best(rows, asked.word_scores[rows], k)

    def by_model(self, asked: Asked, k: int, allowed: np.ndarray) -> Ranked:
        """The model's k best documents; a document counts as its best passage does."""
        if self.pairs_only:
            rows = self.by_words(asked, max(k, FUSED), allowed).passages
            return self.best(rows, self.scores_of(asked.encoded, rows), k)
        if self.snapshot.clusters is not None:
            return self.approximate(asked.encoded, k, self.snapshot.state.approximate["effort"], allowed)
        return self.exact(asked.encoded, k, allowed)

    def by_both(self, asked: Asked, k: int, allowed: np.ndarray) -> Ranked:
        """The k best documents by the mix of both scores, of those that either ranking gives first.

        A document's scores are its best passages'; the passage shown is the one that the model finds best.
        """
        settings = self.snapshot.state.settings
        if settings.weight in (0, 1) and settings.linear is None:
            return self.by_model(asked, k, allowed) if settings.weight else self.by_words(asked, k, allowed)
        depth = max(k, FUSED)
        first, others = self.by_model(asked, depth, allowed), self.by_words(asked, depth, allowed).documents
        found = [first, self._of_documents(asked.encoded, np.setdiff1d(others, first.documents))]
        documents, model, passages = (np.concatenate(parts) for parts in zip(*found))
        if not len(documents):
            return first
        words = np.array([asked.word_scores[slice(*self._passages_of(row))].max() for row in documents.tolist()])
        pool = Pool(np.zeros(len(documents), int), documents, model, words.astype(np.float32))
        fusion: Fusion = mix_of(pool, settings.weight)
        if settings.linear is not None:
            fusion, pool = settings.linear, pool._replace(looks=self._looks(asked.words, passages))
        elif settings.model_scale is not None and settings.words_scale is not None:
            fusion = Mix(settings.weight, settings.model_scale, settings.words_scale)
        scores = fusion.of(pool).astype(np.float32)
        order = np.lexsort((self.snapshot.place[documents], -steps(scores)))[:k]
        return Ranked(documents[order], scores[order], passages[order])

    def _looks(self, words: list[str], passages: np.ndarray) -> np.ndarray:
        """(n, 3) what the linear combination knows of these passages' texts."""
        index = self.snapshot.words
        asked, found = index.rarities(words), []
        for row in passages.tolist():
            tokens = self.encoder.tokens("document", self.passage_text(row))
            found.append(linear.looks(asked, index.analyzer.terms(words_of(tokens))))
        return np.array(found).reshape(-1, 3)

    def _passages_of(self, document: int) -> tuple[int, int]:
        """The rows of a document's passages: the first, and the one after the last."""
        start, end = (int(np.searchsorted(self.snapshot.document_of, document, side)) for side in ("left", "right"))
        return start, end

    def _of_documents(self, query: Encoded, documents: np.ndarray) -> Ranked:
        """These documents by the model's scores."""
        rows = [np.arange(*self._passages_of(document)) for document in documents.tolist()]
        chosen = np.concatenate([np.zeros(0, np.int64), *rows])
        return self.best(chosen, self.scores_of(query, chosen), len(documents))

    def exact(self, query: Encoded, k: int, allowed: np.ndarray | None = None) -> Ranked:
        """Compares with every passage."""
        rows = np.flatnonzero(self.snapshot.alive_passages if allowed is None else allowed)
        few = len(rows) < FEW * len(self.snapshot.document_of)
        return self.best(rows, self.scores_of(query, rows) if few else self.every_score(query)[0][rows], k)

    def every_score(self, queries: Encoded) -> np.ndarray:
        """(N, P) float32: the model's scores of all passages, dead ones too."""
        parts = (part for segment in self.snapshot.segments for part in segment.codes.parts())
        scores = [np.zeros((queries.texts, 0), np.float32), *(self.encoder.score_all(queries, part) for part in parts)]
        return np.concatenate(scores, axis=1)

    def approximate(self, query: Encoded, k: int, effort: int, allowed: np.ndarray | None = None) -> Ranked:
        """Compares with the passages that the clusters give, of more clusters as long as they are too few documents."""
        clusters, alive = self.snapshot.clusters, self.snapshot.alive_passages
        assert clusters is not None
        allowed = alive if allowed is None else allowed
        most = max(1, int(allowed.sum()))
        vector = None if query.weights is not None else mapped(self.encoder, query)[0]
        probes = effort if vector is None else effort * -(-int(alive.sum()) // most)  # a filter leaves few in a cluster
        while True:
            count = max(CANDIDATES_PER_PROBE * probes, 2 * k)
            if probes >= len(clusters) or count >= most:
                return self.exact(query, k, allowed)
            if vector is not None:
                rows = clusters.near_vector(vector, probes, allowed)
            else:
                assert query.weights is not None
                rows = clusters.near_tokens(query.vectors, query.weights, probes, count, allowed)
            ranked = self.best(rows, self.scores_of(query, rows), k)
            if len(ranked.documents) >= k:
                return ranked
            probes *= 4

    def scores_of(self, query: Encoded, rows: np.ndarray) -> np.ndarray:
        """(n,) float32: the model's scores of these passages."""
        snapshot = self.snapshot
        scores = np.empty(len(rows), np.float32)
        for segment, start, end in zip(snapshot.segments, snapshot.passage_starts, snapshot.passage_starts[1:]):
            inside = np.flatnonzero((rows >= start) & (rows < end))
            for part in segment.codes.divided(rows[inside] - start, SCORED_AT_ONCE):
                codes = segment.codes.take(rows[inside[part]] - start)
                scores[inside[part]] = self.encoder.score_all(query, codes.decoded())[0]
        return scores

    def best(self, rows: np.ndarray, scores: np.ndarray, k: int) -> Ranked:
        """The k best documents among scored passages; equal scores stand by the documents' ids, then by passage."""
        level, reach = steps(_finite(scores)), max(SORTED, 4 * k)
        while reach < len(rows):  # of a million, only the best are worth sorting: those of k documents at least
            near = np.flatnonzero(level >= np.partition(level, -reach)[-reach])
            if len(np.unique(self.snapshot.document_of[rows[near]])) >= k:
                rows, scores, level = rows[near], scores[near], level[near]
                break
            reach *= 8
        order = np.lexsort((rows, self.snapshot.place[self.snapshot.document_of[rows]], -level))
        documents = self.snapshot.document_of[rows[order]]
        _, first = np.unique(documents, return_index=True)
        chosen = order[np.sort(first)[:k]]
        return Ranked(self.snapshot.document_of[rows[chosen]], scores[chosen], rows[chosen])

    # --- results ------------------------------------------------------------------------------------------------------
    def _result(self, rank: int, score: float, row: int, marked: set[str | None]) -> Result:
        document, span = self._passage(row)
        text = document.text[span.start : span.end]
        tokens = self.encoder.tokens("document", text)
        term = self.snapshot.words.analyzer.term
        marks = [place for token, place in zip(tokens, places_of(text, tokens)) if term(token.lower()) in marked]
        return Result(rank, float(score), document, row, span, marks)

    def _worth_marking(self, words: list[str]) -> set[str | None]:
        """The terms of the query to mark: those that few passages hold; where there is none, all."""
        index = self.snapshot.words
        limit = COMMON_SHARE * max(1, int(self.snapshot.alive_passages.sum()))
        present = {term for term in index.analyzer.terms(words) if term in index.vocabulary}
        rare = {term for term in present if index.holding[index.vocabulary[term]] <= limit}
        return {*(rare or present)}

    def document_of(self, row: int) -> Document:
        """The document of a passage. Raises InputError as `passage_text` does."""
        return self._passage(row)[0]

    def examples(self, count: int) -> list[str]:
        """Titles of documents that could be queries, each of other words, spread over the index; always the same."""
        alive = np.flatnonzero(self.snapshot.alive)
        titles: dict[tuple[str, ...], str] = {}  # by their words: of "Release 1.2" and "Release 1.3" one is enough
        for place in alive[:: max(1, len(alive) // EXAMPLES_LOOKED_AT)][: 2 * EXAMPLES_LOOKED_AT].tolist():
            at = int(np.searchsorted(self.snapshot.document_starts, place, "right")) - 1
            segment = self.snapshot.segments[at]
            title = str(segment.table["title"][place - int(self.snapshot.document_starts[at])].as_py())
            words = [token for token in words_of(self.encoder.tokens("query", title)) if token.isalpha()]
            if " " in title and 2 <= len(words) <= 8 and len(title) <= 60:  # else a file's name
                titles.setdefault(tuple(words), title)
        return [*titles.values()][:: max(1, len(titles) // count)][:count]

    def passage_text(self, row: int) -> str:
        """What the model was given of a passage. Raises InputError where there is none that can be found."""
        document, (start, end) = self._passage(row)
        return index_text(indexed_title(document.title, self.encoder), document.text[start:end])

    def _passage(self, row: int) -> tuple[Document, Span]:
        """A passage's document, and where in its text the passage is."""
        if not 0 <= row < len(self.snapshot.alive_passages) or not self.snapshot.alive_passages[row]:
            raise InputError("no such passage: the index has changed, search again")
        segment, at = self.snapshot.segment_of_passage(row)
        in_segment, start, end = segment.passages[at].tolist()
        return segment.document(in_segment), Span(start, end)


def _finite(scores: np.ndarray) -> np.ndarray:
    """The scores. Raises InputError where one is not a finite number, which no ranking could place."""
    if not np.isfinite(scores).all():
        raise InputError("the index or its model is damaged (a score is not a finite number): build the index again")
    return scores


def steps(scores: np.ndarray) -> np.ndarray:
    """(n,) whole numbers in the order of n scores, equal where scores differ by float noise alone.

    A matrix product's last bits depend on what else is in the matrix, so on the order in which documents were added.
    """
    if not len(scores):
        return scores
    return np.round(scores / 2.0 ** (np.frexp(np.abs(scores).max())[1] - 18))


def compares_pairs_only(encoder: Encodes) -> bool:
    """Whether the model has no vectors to look up (some heads, graded pairs), so that BM25 must give candidates."""
    return encoder.config.model.scored_by.index == "candidates" or encoder.config.train.loss.graded


def mapped(encoder: Encodes, query: Encoded) -> np.ndarray:
    """(N, P) vectors whose dot product with a document's is the score: a score against each unit vector."""
    return encoder.score_all(query, Encoded(np.eye(query.vectors.shape[1], dtype=np.float32)))

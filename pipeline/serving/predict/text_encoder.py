"""Encoding texts and scoring pairs with a trained model: ONNX Runtime by default, MXNet on request."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.evaluation.confidence import Answering
from pipeline.evaluation.grades import expected_grade
from pipeline.evaluation.joining import Joined
from pipeline.evaluation.overlap import Overlap
from pipeline.serving.predict.scoring import Encoded, Represent, Scorer
from pipeline.tokenization.encoder import Encoder
from pipeline.tokenization.passages import best_of, cut, remembered

SIDES = ("query", "document")
Backend = Literal["onnx", "mxnet"]
# Padded tokens of a batch: few enough to stay in the caches (at 4096 fp32 is a fifth slower, int8 a third).
TOKENS_PER_BATCH = 1024
# Texts whose ids are held at once, and among which like lengths are put together.
TEXTS_PER_WINDOW = 20_000


def side_by_side(threads: int) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]:
    """What calls a function for each of several things, as `map` does, so many at once."""
    return ThreadPoolExecutor(threads).map if threads > 1 else map


class Batch(NamedTuple):
    rows: np.ndarray  # (n,) of the window
    ids: np.ndarray  # (n, T) int32, 0 on padding
    lengths: np.ndarray  # (n,) int32


class TextEncoder:
    """A model folder opened for use. Threads may share it.

    Args:
        represent: called from `threads` threads at once.
        threads: so many batches go through the network side by side. Threads of their own for each batch gain less: a
            recurrent step is a small product, after which all of them wait for each other.

    Attributes:
        config: what the model was trained with.
        sides: "query" and "document".
        pointwise: whether `grades` can be asked for.
        answering: which queries' first documents are sure answers; None: the model does not say.
        joined: what the grades of pairs are joined with; None: nothing.
    """

    def __init__(
        self, config: Config, tokenizer: Encoder, represent: Represent, scorer: Scorer, threads: int = 1,
        answering: Answering | None = None, joined: Joined[Overlap] | None = None,
    ) -> None:  # fmt: skip
        self._map = side_by_side(threads)
        self.config, self.sides, self.answering, self.joined = config, SIDES, answering, joined
        self.pointwise = config.train.loss.graded
        self.by_token = config.model.scored_by.by_token
        self._tokenizer, self._represent, self._scorer = tokenizer, represent, scorer

    def tokens(self, side: str, text: str) -> list[str]:
        """The tokens of a text that `encode` sees: cut at the side's limit."""
        return self._tokenizer.tokens(text)[: self._tokenizer.max_tokens[side]]

    def encode(self, side: str, texts: Sequence[str]) -> Encoded:
        """Encodes texts of one side ("query" or "document"), in their order.

        A text without tokens stands as one unknown word. Raises InputError for a side that is none.
        """
        windows = [texts[start : start + TEXTS_PER_WINDOW] for start in range(0, len(texts), TEXTS_PER_WINDOW)]
        parts = []
        for window in windows or [[]]:
            coded = self._tokenizer.encode_all(list(window), side)
            parts.append(self.encode_ids(side, coded.ids, coded.lengths))
        return _joined(parts) if len(parts) > 1 else parts[0]

    def encode_ids(self, side: str, ids: np.ndarray, lengths: np.ndarray) -> Encoded:
        """As `encode`, of (sum of lengths,) token ids and the (N,) lengths, at least 1 each."""
        if not len(lengths):
            return self._empty()
        parts = list(batches(ids, lengths))
        outputs = list(self._map(lambda batch: self._batch(side, batch), parts))
        if not self.by_token:
            vectors = np.empty((len(lengths), outputs[0][0].shape[1]), np.float32)
            for batch, (values, _) in zip(parts, outputs):
                vectors[batch.rows] = values
            return Encoded(vectors)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        flat = np.empty((offsets[-1], outputs[0][0].shape[2]), np.float32)
        weights = np.empty(offsets[-1], np.float32)
        for batch, (values, importance) in zip(parts, outputs):
            assert importance is not None
            mask = np.arange(values.shape[1]) < batch.lengths[:, None]
            places = (offsets[batch.rows][:, None] + np.arange(values.shape[1]))[mask]
            flat[places], weights[places] = values[mask], importance[mask]
        return Encoded(flat, weights, offsets)

    def _batch(self, side: str, batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        """See Represent. Raises InputError where the network gives other shapes than its configuration says."""
        vectors, weights = self._represent(side, batch.ids, batch.lengths)
        width = self.config.model.vector_width
        if self.by_token:
            wanted: tuple[tuple[int, ...] | None, ...] = ((*batch.ids.shape, width), batch.ids.shape)
        else:
            wanted = (len(batch.ids), width), None
        shapes = vectors.shape, None if weights is None else weights.shape
        if shapes != wanted:
            raise InputError(
                f"the model's network gave vectors and weights of shapes {shapes} for {wanted}: export the model again"
            )
        return vectors, weights

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """(N,) float32: query text i with document text i, by its best passage where the model's documents are read in
        passages; of a pointwise model the expected grade."""
        if self.joined is not None:
            return expected_grade(self.grades(queries, documents)).astype(np.float32)
        most, limit = self.config.tokenize.max_passages, self.config.tokenize.limit("document")
        if most == 1:
            return self.score_pairs(*self.encode_pairs(queries, documents))
        tokens = remembered(self._tokenizer.tokens)
        cut_once = functools.cache(lambda text: [text[a:b] for a, b in cut(text, limit, tokens)[:most]])
        passages = [cut_once(text) for text in documents]
        asked = [query for query, several in zip(queries, passages) for _ in several]
        scores = self.score_pairs(*self.encode_pairs(asked, [text for several in passages for text in several]))
        counts = np.array([len(several) for several in passages], np.int64)
        return best_of(scores, counts)

    def grades(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """(N, G) probabilities of grades 0 … G - 1. Raises InputError unless the model was trained pointwise."""
        chances = self.grade_pairs(*self.encode_pairs(queries, documents))
        if self.joined is None:
            return chances
        read = functools.cache(self._tokenizer.encode)  # a list repeats its query
        ids = lambda side, texts: (read(text, side) for text in texts)
        return self.joined.probabilities(chances, *map(ids, SIDES, (queries, documents)))

    def encode_pairs(self, queries: Sequence[str], documents: Sequence[str]) -> tuple[Encoded, Encoded]:
        """Both sides of N pairs; a text that comes several times goes through the network once."""
        sides = []
        for side, texts in zip(SIDES, (queries, documents)):
            rows: dict[str, int] = {}
            places = np.array([rows.setdefault(text, len(rows)) for text in texts], np.int64)
            sides.append(self.encode(side, list(rows)).take(places))
        return sides[0], sides[1]

    def score_pairs(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(N,) float32: encoded query i with encoded document i."""
        return self._scorer.score_pairs(query, document)

    def score_all(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(Nq, Nd) float32: every encoded query with every encoded document."""
        return self._scorer.score_all(query, document)

    def grade_pairs(self, query: Encoded, document: Encoded) -> np.ndarray:
        """(N, G) probabilities of encoded pairs, by the network alone. Raises InputError unless it was trained
        pointwise."""
        if not self.pointwise:
            raise InputError("this model gives scores and no grades: it was not trained with train.loss.kind=pointwise")
        return self._scorer.grades(query, document)

    def _empty(self) -> Encoded:
        vectors = np.zeros((0, self.config.model.vector_width), np.float32)
        return Encoded(vectors, np.zeros(0, np.float32), np.zeros(1, np.int64)) if self.by_token else Encoded(vectors)


def batches(ids: np.ndarray, lengths: np.ndarray) -> Iterator[Batch]:
    """Texts of like lengths put together, no more padded tokens than TOKENS_PER_BATCH unless one text has more.

    Args:
        ids: (sum of lengths,) int32, text after text; lengths: (N,), at least 1 each.
    """
    order = np.argsort(lengths, kind="stable")
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    end = len(order)
    while end > 0:
        longest = int(lengths[order[end - 1]])
        start = max(0, end - max(1, TOKENS_PER_BATCH // longest))
        rows = order[start:end]
        padded = np.zeros((len(rows), longest), np.int32)
        for line, first, length in zip(padded, starts[rows].tolist(), lengths[rows].tolist()):
            line[:length] = ids[first : first + length]
        yield Batch(rows, padded, lengths[rows].astype(np.int32))
        end = start


def _joined(parts: list[Encoded]) -> Encoded:
    vectors = np.concatenate([part.vectors for part in parts])
    if parts[0].offsets is None:
        return Encoded(vectors)
    offsets, before = [np.zeros(1, np.int64)], 0
    for part in parts:
        assert part.offsets is not None
        offsets.append(part.offsets[1:] + before)
        before += int(part.offsets[-1])
    weights = np.concatenate([part.weights for part in parts if part.weights is not None])
    return Encoded(vectors, weights, np.concatenate(offsets))

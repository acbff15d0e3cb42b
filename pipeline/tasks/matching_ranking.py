"""What a matching network makes of texts: rankings of a collection and scores of pairs, shared out over the workers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from mxnet import nd

from pipeline.distributed.world import World
from pipeline.evaluation.ranking import Best, Judgements, Ranking, rank_pairs
from pipeline.models.matcher import SIDES, Matcher, Representation
from pipeline.tasks.collection import Collection
from pipeline.tokenization import shards
from pipeline.tokenization.passages import best_of

# Padded tokens encoded at once: enough to keep the matrix products busy, little beside the parameters.
TOKENS_PER_CHUNK = 16_384
# The same of queries that late interaction compares token by token: few, so that short ones have little padding.
QUERY_TOKENS_PER_CHUNK = 1024
# Padded tokens of queries whose representations are held while all documents go by: 256 MB of 256 numbers a token.
QUERY_TOKENS = 262_144
# Pairs of a query's and a document's token compared at once by late interaction: 32 MB as float32.
COMPARED_PER_CHUNK = 8_000_000


class Lines(Protocol):
    """Texts as ids: shards.Texts, or a Collection, whose documents may be several passages each."""

    @property
    def lengths(self) -> np.ndarray: ...

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


class Asked(NamedTuple):
    """Queries to rank a collection for."""

    texts: Lines  # Q
    judgements: Judgements  # over the collection
    wanted: np.ndarray  # (Q, W) documents whose scores are wanted whatever their rank; -1: none
    unanswerable: bool = False  # whether queries without a relevant document are ranked too


class Found(NamedTuple):
    ranking: Ranking
    wanted: np.ndarray  # (Q, W) float32 scores; -inf where none was wanted


def encode(
    network: Matcher, side: str, texts: Lines, rows: np.ndarray, world: World
) -> Iterator[tuple[np.ndarray, Representation]]:
    """Representations of some rows of a table in chunks of like lengths: (the chunk's rows, their representation).

    Of a document that is read in passages, one of each passage, side by side.
    """
    most = QUERY_TOKENS_PER_CHUNK if side == "query" and network.by_token else TOKENS_PER_CHUNK
    order, parts = rows[np.argsort(texts.lengths[rows], kind="stable")], parts_of(texts)
    start = 0
    while start < len(order):
        longest = texts.lengths[order[start : start + most]]
        cells = np.maximum.accumulate(longest) * np.cumsum(parts[order[start : start + most]])
        end = start + max(1, int(np.searchsorted(cells, most, side="right")))
        yield order[start:end], _represented(network, side, texts, order[start:end], world)
        start = end


def parts_of(texts: Lines) -> np.ndarray:
    """(N,) how many passages each text is read in."""
    return texts.parts if isinstance(texts, Collection) else np.ones(len(texts.lengths), np.int64)


def _represented(network: Matcher, side: str, texts: Lines, rows: np.ndarray, world: World) -> Representation:
    ids, lengths = texts.padded(rows)
    table, context = network.embedding.data(world.context), world.context
    return network.represent(side, table, nd.array(ids.T, context, "int32"), nd.array(lengths, context, "int32"))


def rank(network: Matcher, collection: Collection, asked: Sequence[Asked], depth: int, world: World) -> list[Found]:
    """Ranks a collection for several sets of queries; each worker encodes and ranks its share of the documents.

    Documents go by in chunks, so that memory is one of those, the queries' representations and what is found.
    """
    distinct = np.unique(collection.like)
    # like lengths for all workers: like costs
    own_documents = distinct[np.argsort(collection.lengths[distinct], kind="stable")][world.rank :: world.size]
    order = np.argsort(collection.like, kind="stable")
    best = [Best(queries.judgements, depth) for queries in asked]
    wanted = [np.full(queries.wanted.shape, -np.inf, np.float32) for queries in asked]
    for block in _query_blocks(network, asked, world):
        for documents, representation in encode(network, "document", collection, own_documents, world):
            take, everyone = _with_equals(documents, collection.like[order], order)
            column_of = np.full(len(collection) + 1, -1)  # the last for -1, no document
            column_of[everyone] = np.arange(len(everyone))
            for number, rows, query in block:
                scores = best_of(_scores(network, query, representation), collection.parts[documents])[:, take]
                best[number].add(rows, everyone, scores)
                columns = column_of[asked[number].wanted[rows]]
                wanted_scores = np.take_along_axis(scores, np.maximum(columns, 0), axis=1)
                wanted[number][rows] = np.where(columns >= 0, wanted_scores, wanted[number][rows])
    return [_gathered(b.ranking(), w, queries.judgements, depth, world) for b, w, queries in zip(best, wanted, asked)]


def _query_blocks(
    network: Matcher, asked: Sequence[Asked], world: World
) -> Iterator[list[tuple[int, np.ndarray, Representation]]]:
    """Queries encoded, as many at a time as may be held: (number of the set, rows, representation) each."""
    block: list[tuple[int, np.ndarray, Representation]] = []
    held = 0
    for number, queries in enumerate(asked):
        judgements = queries.judgements
        chosen = judgements.judged if queries.unanswerable else judgements.answerable
        for rows, query in encode(network, "query", queries.texts, chosen, world):
            tokens = len(rows) * int(queries.texts.lengths[rows].max())
            if block and held + tokens > QUERY_TOKENS:
                yield block
                block, held = [], 0
            block.append((number, rows, query))
            held += tokens
    if block:
        yield block


def _with_equals(documents: np.ndarray, likes: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents and all that have the same tokens: where each one's like stands among `documents`, and the rows."""
    low, high = (np.searchsorted(likes, documents, side) for side in ("left", "right"))
    counts = high - low
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(documents)), counts), order[np.repeat(low, counts) + places]


def _scores(network: Matcher, query: Representation, document: Representation) -> np.ndarray:
    """(Nq, Nd), so many queries at once that what tokens are compared by does not take much memory."""
    count = query.vectors.shape[0]
    step = count
    if query.vectors.ndim == 3:
        each = network.numbers_per_score(query.vectors, document.vectors) * document.vectors.shape[0]
        step = max(1, COMPARED_PER_CHUNK // each)
    parts = (Representation(*(array[start : start + step] for array in query)) for start in range(0, count, step))
    return np.concatenate([network.score_all(part, document).asnumpy() for part in parts])


def _gathered(ranking: Ranking, wanted: np.ndarray, judgements: Judgements, depth: int, world: World) -> Found:
    """What all workers found together, on each of them."""
    if world.size == 1:
        return Found(ranking, wanted)
    documents = world.gather_numpy(ranking.documents, "ranked documents")
    scores = world.gather_numpy(ranking.scores, "ranked scores")
    rows, places = np.nonzero(documents >= 0)
    merged = rank_pairs(rows % judgements.queries, documents[rows, places], scores[rows, places], judgements, depth)
    if wanted.size:
        wanted = world.gather_numpy(wanted, "wanted scores").reshape(world.size, *wanted.shape).max(axis=0)
    return Found(merged, wanted)


def score_pairs(
    network: Matcher,
    queries: shards.Texts,
    query_rows: np.ndarray,
    collection: Collection,
    document_rows: np.ndarray,
    world: World,
    outputs: int = 0,
) -> np.ndarray:
    """Scores P pairs, shared out over the workers: (P,) or, with `outputs`, logits (P, outputs), on every rank."""
    keys, inverse = np.unique(
        query_rows.astype(np.int64) * len(collection) + collection.like[document_rows], return_inverse=True
    )
    rows = np.divmod(keys, max(1, len(collection)))
    texts: tuple[Lines, Lines] = (queries, collection)
    parts = collection.parts[rows[1]]  # a query is read beside each passage
    cost = parts * sum((lines.lengths[part] for lines, part in zip(texts, rows)), np.zeros(len(keys), np.int64))
    order = np.argsort(cost, kind="stable")
    step = max(1, TOKENS_PER_CHUNK // max(1, int(cost.max(initial=1))))
    share = -(-len(keys) // world.size)  # rows of each worker, some empty: an exchange wants equal shapes
    values = np.zeros((share, outputs or 1), np.float32)
    own_pairs = order[world.rank :: world.size]
    for start in range(0, len(own_pairs), step):
        part = own_pairs[start : start + step]
        beside = np.repeat(rows[0][part], parts[part]), rows[1][part]
        sides = [_represented(network, side, lines, r, world) for side, lines, r in zip(SIDES, texts, beside)]
        scored = network.pair_outputs(*sides) if outputs else network.score_pairs(*sides).expand_dims(1)
        values[start : start + len(part)] = best_of(scored.asnumpy().T, parts[part]).T
    together = world.gather_numpy(values, "pair scores") if len(keys) else values
    result = np.empty((len(keys), outputs or 1), np.float32)
    for worker in range(world.size):
        places = order[worker :: world.size]
        result[places] = together[worker * share :][: len(places)]
    return result[inverse] if outputs else result[inverse, 0]

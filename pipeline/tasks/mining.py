"""Hard negatives: which documents of the training split look relevant to a query and are not judged so.

Queries go by in blocks, so that memory does not grow with them. See the section `mine` of the settings.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.config.mining import MineConfig
from pipeline.distributed.world import World
from pipeline.evaluation.analysis import words_of
from pipeline.evaluation.bm25 import K1, B, Bm25
from pipeline.evaluation.ranking import Judgements, Ranking, rank_collection
from pipeline.models.matcher import Matcher
from pipeline.tasks import known_pairs
from pipeline.tasks.collection import Collection
from pipeline.tasks.matching_ranking import Asked, rank
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import UNKNOWN_ID

NAME = "negatives.npy"  # (queries, per_query) int32 rows of documents, -1 behind them
BY_MODEL = "by-model"  # before the names of a block's arrays that the workers leave
QUERIES = 20_000  # of a block
MOST_RELEVANT = 32  # documents of a query whose scores by the model are compared


class Found(NamedTuple):
    """What a system ranks first for the n queries of a block."""

    documents: np.ndarray  # (n, K) int32, best first; -1: none
    scores: np.ndarray  # (n, K) float32
    best: np.ndarray  # (n,) float32: the largest score of a relevant document


class Block(NamedTuple):
    """Some queries of the training split that have a relevant document."""

    rows: np.ndarray  # (n,) int64
    relevant: list[np.ndarray]  # by query, rows of documents
    judgements: Judgements  # of the relevant ones, queries by their place in the block


class Some:
    """Some rows of a table of texts, as a table."""

    def __init__(self, texts: shards.Texts, rows: np.ndarray) -> None:
        self._texts, self._rows = texts, rows
        self.lengths = texts.lengths_of(rows)

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As shards.Texts has it."""
        return self._texts.padded(self._rows[rows])


def blocks(split: shards.Split, size: int = QUERIES) -> Iterator[Block]:
    """All queries with a relevant document, block by block."""
    documents = len(split.fields["document"])
    known = known_pairs.of(split)
    answerable = np.unique(split.rows["query"][split.relevance > 0]).astype(np.int64)
    for start in range(0, len(answerable), size):
        rows = answerable[start : start + size]
        relevant = [known.relevant(row) for row in rows.tolist()]
        places = np.repeat(np.arange(len(rows)), [len(of) for of in relevant])
        ones = np.ones(len(places))
        yield Block(rows, relevant, Judgements(places, np.concatenate(relevant), ones, len(rows), documents))


def by_model(config: Config, split: shards.Split, network: Matcher, world: World, folder: Path) -> None:
    """Ranks train's documents for all its queries by a network; rank 0 writes each block's Found into `folder`."""
    collection = Collection([split.fields["document"]])
    for number, block in enumerate(blocks(split)):
        wanted = np.full((len(block.rows), max(min(len(of), MOST_RELEVANT) for of in block.relevant)), -1, np.int64)
        for row, of in enumerate(block.relevant):
            wanted[row, : len(of)] = of[:MOST_RELEVANT]
        asked = Asked(Some(split.fields["query"], block.rows), block.judgements, wanted)
        [found] = rank(network, collection, [asked], config.mine.last_rank, world)
        split.release()
        if world.rank == 0:
            arrays = Found(found.ranking.documents, found.ranking.scores, found.wanted.max(axis=1))
            np.savez(folder / f"{BY_MODEL}-{number:05d}.npz", **arrays._asdict())


class ByWords:
    """BM25 over train's documents as the model reads them."""

    def __init__(self, config: Config, tokenized: Path, split: shards.Split) -> None:
        self._settings, self._split, self._depth = config.evaluate, split, config.mine.last_rank
        vocabulary = shards.load_vocabulary(tokenized)
        self._words = np.empty(len(vocabulary), object)
        for word, i in vocabulary.items():
            self._words[i] = word
        texts = (self._read("document", row) for row in range(len(split.fields["document"])))
        self._index = Bm25(texts, config.evaluate.stemmer, config.tokenize.kind)

    def found(self, block: Block) -> Found:
        """See Found; a document without a common word is none."""
        asked = self._index.asked(self._read("query", row) for row in block.rows.tolist())
        best = np.full(len(block.rows), -np.inf, np.float32)
        k1, b = (own if own is not None else usual for own, usual in
                 ((self._settings.bm25_k1, K1), (self._settings.bm25_b, B)))  # fmt: skip

        def noted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for rows, scores in self._index.scores(asked, k1, b):
                for place, row in enumerate(rows.tolist()):
                    best[row] = scores[place, block.relevant[row]].max()
                yield rows, scores

        ranking: Ranking = rank_collection(noted(), block.judgements, self._depth)
        documents = np.where(ranking.scores > 0, ranking.documents, -1)
        self._split.release()
        return Found(documents, ranking.scores, best)

    def _read(self, side: str, row: int) -> list[str]:
        ids = self._split.fields[side].ids(row)
        return words_of(self._words[ids[ids != UNKNOWN_ID]].tolist())  # unknown words are no word that two texts share


def below(scores: np.ndarray, best: float, share: float) -> np.ndarray:
    """Which of (k,) scores are below the best relevant document's by a share of it, whatever its sign.

    >>> below(np.array([0.8, 0.77, 0.76, 0.1]), 0.8, 0.05), below(np.array([-0.5, -0.52, -0.53]), -0.5, 0.05)
    (array([False, False,  True,  True]), array([False, False,  True]))
    """
    return np.asarray(scores <= best - share * abs(best))


class Sieve:
    """What is left of the documents that systems rank high, and why the others are not.

    Args:
        cosine: (query row, rows of documents) -> the teacher's cosines; None: it is not asked.
    """

    def __init__(
        self, settings: MineConfig, documents: shards.Texts, seed: int,
        cosine: Callable[[int, np.ndarray], np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self._settings, self._documents, self._seed, self._cosine = settings, documents, seed, cosine
        self.counts: Counter[str] = Counter()

    def of(self, query: int, relevant: np.ndarray, found: list[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
        """(k,) int32, k at most per_query: ascending rows of documents.

        Args:
            found: of each system the query's documents, their scores, and the best relevant document's.
        """
        settings, taken = self._settings, [np.zeros(0, np.int64)]
        for documents, scores, best in found:
            ranks = slice(settings.first_rank - 1, settings.last_rank)
            there = documents[ranks] >= 0
            candidates, scores = documents[ranks][there], scores[ranks][there]
            keep = below(scores, best, settings.margin)
            self.counts["ranked"] += len(candidates)
            self.counts["above_margin"] += int((~keep).sum())
            taken.append(candidates[keep])
        left = np.setdiff1d(np.concatenate(taken), relevant)
        if len(left):
            far = ~self._near(left, relevant)
            self.counts["near"] += int((~far).sum())
            left = left[far]
        if len(left) and self._cosine is not None and settings.veto is not None:
            weaker = below(self._cosine(query, left), float(self._cosine(query, relevant).max()), settings.veto)
            self.counts["vetoed"] += int((~weaker).sum())
            left = left[weaker]
        if len(left) > settings.per_query:
            chosen = np.random.default_rng([self._seed, query]).choice(len(left), settings.per_query, replace=False)
            left = left[np.sort(chosen)]
        self.counts["kept"] += len(left)
        self.counts["queries_without"] += not len(left)
        return left.astype(np.int32)

    def _near(self, documents: np.ndarray, relevant: np.ndarray) -> np.ndarray:
        """(k,) bool: whether a document has nearly the words of a relevant one."""
        own = [frozenset(ids.tolist()) for ids in self._documents.read(relevant)]
        others = [frozenset(ids.tolist()) for ids in self._documents.read(documents)]
        share = lambda a, b: len(a & b) / len(a | b)
        return np.array([any(share(words, of) >= self._settings.near for of in own) for words in others])

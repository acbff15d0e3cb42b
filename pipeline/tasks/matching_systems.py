"""The systems that a matching evaluation compares: the model, BM25, the two mixed, and chance."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.config.sources import CollectionSource
from pipeline.core.record_schema import missing_name
from pipeline.distributed.world import World
from pipeline.evaluation import baselines, fusion, linear
from pipeline.evaluation.analysis import words_of
from pipeline.evaluation.bm25 import BS, K1S, Bm25
from pipeline.evaluation.fusion import Fusion, Mix, Pool
from pipeline.evaluation.grades import expected_grade, grade_probabilities
from pipeline.evaluation.linear import Fit
from pipeline.evaluation.ranking import Judgements, Ranking, evaluate, measures, rank_listed, rank_pairs
from pipeline.models.matcher import SIDES, Matcher
from pipeline.tasks.collection import Collection
from pipeline.tasks.matching_ranking import Asked, Found, rank, score_pairs
from pipeline.tokenization import shards
from pipeline.tokenization.stage import COLLECTION_NAME

VALIDATION_QUERIES = 1000  # at most so many choose BM25's numbers and the weight
TERMS_REMEMBERED = 1 << 16  # documents whose terms are held
OTHERS = ("valid", "train")  # splits whose documents are ranked beside the test split's


class Queries(NamedTuple):
    """A split's queries over a collection."""

    split: shards.Split
    collection: Collection
    judgements: Judgements


class Systems(NamedTuple):
    """Rankings by name, and how BM25 and the mix were made (fusion.json; see docs/report.md)."""

    rankings: dict[str, Ranking]
    fusion_settings: dict[str, Any]
    valid: dict[str, Ranking]  # of the validation queries: the model's, fused, and of a second stage both placed anew


def queries_of(split: shards.Split, collection: Collection, table: int = 0, most: int | None = None) -> Queries:
    """The queries of a split.

    Args:
        table: which of the collection's tables has the split's documents.
        most: so many queries with a relevant document are kept, evenly spaced, and the same share of those without;
            None: all.
    """
    documents = collection.rows[table][split.rows["document"]]
    sizes = len(split.fields["query"]), len(collection)
    judgements = Judgements(split.rows["query"], documents, split.relevance, *sizes, split.missing)
    if most is not None and len(answerable := judgements.answerable) > most:
        others = np.setdiff1d(judgements.judged, answerable)
        parts = ((answerable, most), (others, len(others) * most // len(answerable)))
        chosen = np.concatenate([rows[np.linspace(0, len(rows) - 1, n).astype(int)] for rows, n in parts])
        judged, lost = (np.isin(rows, chosen) for rows in (split.rows["query"], split.missing[0]))
        judgements = Judgements(
            split.rows["query"][judged], documents[judged], split.relevance[judged], *sizes,
            (split.missing[0][lost], split.missing[1][lost]),
        )  # fmt: skip
    return Queries(split, collection, judgements)


def to_judge(config: Config, tokenized: Path, ingested: Path) -> tuple[Queries, Queries]:
    """The test split's queries, and those of the validation split which choose BM25's numbers and the weight.

    Both over the documents of all splits, or with evaluate.collection=split over each split's own. Where the source is
    a collection, a split's table is all of it; but a title is looked for among the texts without titles.
    """
    splits = {name: shards.open_split(tokenized, name) for name in ("test", *OTHERS)}
    names, others = _ranked_over(config, (ingested / COLLECTION_NAME).exists())
    documents = lambda over: Collection([splits[name].fields["document"] for name in over])
    collection = beside = documents(names)
    if others != names and (own := documents(others)).keys != collection.keys:  # equal ones are encoded once for both
        beside = own
    valid = queries_of(splits["valid"], beside, others.index("valid"), VALIDATION_QUERIES)
    return queries_of(splits["test"], collection), valid


def _ranked_over(config: Config, whole: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The splits whose documents the test queries are ranked over, and those of the validation queries.

    Args:
        whole: whether the source is a collection, so that a split's table is all of it.
    """
    source, own = config.ingest.source, config.evaluate.collection == "split"
    if not (whole or own):
        return ("test", *OTHERS), ("test", *OTHERS)
    titles = isinstance(source, CollectionSource) and source.train_on_titles
    return ("test",), OTHERS if titles and not own else ("valid",)


def valid_queries(config: Config, tokenized: Path) -> Queries:
    """All queries of the validation split, over the documents that `to_judge` gives those which choose the weight."""
    _, names = _ranked_over(config, isinstance(config.ingest.source, CollectionSource))
    splits = {name: shards.open_split(tokenized, name) for name in names}
    collection = Collection([split.fields["document"] for split in splits.values()])
    return queries_of(splits["valid"], collection, names.index("valid"))


def ranked(config: Config, network: Matcher, queries: Queries, world: World, unanswerable: bool = False) -> Ranking:
    """The model's ranking, on every rank.

    Args:
        unanswerable: whether queries without a relevant document are ranked too, as candidate lists always are.
    """
    if config.evaluate.candidates == "listed":
        return rank_listed(listed_scores(config, network, queries, world), queries.judgements)
    nothing = np.zeros((queries.judgements.queries, 0), np.int64)
    asked = Asked(queries.split.fields["query"], queries.judgements, nothing, unanswerable)
    return rank(network, queries.collection, [asked], config.evaluate.depth, world)[0].ranking


def listed_scores(config: Config, network: Matcher, queries: Queries, world: World) -> np.ndarray:
    """(P,) the model's scores of the judged pairs."""
    judgements = queries.judgements
    return pair_scores(config, network, queries, judgements.query_rows, judgements.document_rows, world)


def pair_scores(
    config: Config, network: Matcher, queries: Queries, query_rows: np.ndarray, document_rows: np.ndarray, world: World
) -> np.ndarray:
    """(P,) a model's scores of pairs; of a pointwise model, expected grades.

    Args:
        config: what the network was trained with.
    """
    loss, texts = config.train.loss, queries.split.fields["query"]
    values = score_pairs(network, texts, query_rows, queries.collection, document_rows, world, loss.outputs)
    if not loss.graded:
        return values
    return expected_grade(grade_probabilities(values, loss.grade_link))


class Words:
    """Rank 0's BM25 over the queries to judge and those that choose its numbers.

    Attributes:
        k1, b: as set, or the best on the validation queries.
    """

    def __init__(self, config: Config, tokenized: Path, ingested: Path, test: Queries, valid: Queries) -> None:
        self._config = config
        tokenizer = shards.load_tokenizer(tokenized)
        self.sets = (test, valid)
        indexes: dict[int, Bm25] = {}
        self._asked, self._tokenizer = [], tokenizer
        self._texts: list[dict[str, list[str]]] = []  # kept where the linear combination reads them
        for name, queries in zip(("test", "valid"), self.sets):
            texts = texts_of(ingested, name, queries)
            if id(queries.collection) not in indexes:
                words = (words_of(tokenizer.tokens(text)) for text in texts["document"])
                indexes[id(queries.collection)] = Bm25(words, config.evaluate.stemmer, config.tokenize.kind)
            index = indexes[id(queries.collection)]
            self._asked.append((index, index.asked(words_of(tokenizer.tokens(text)) for text in texts["query"])))
            self._texts += [texts] if config.evaluate.fusion == "linear" else []
            if name == "test":
                self.texts, self.stemmer = texts, index.stemmer
        self.k1, self.b = self._numbers()

    def _numbers(self) -> tuple[float, float]:
        """k1 and b as they are set, or those of the grid that rank the validation queries best; of equals the first."""
        settings, judgements = self._config.evaluate, self.sets[1].judgements
        grid = [
            (k1, b)
            for k1 in (K1S if settings.bm25_k1 is None else (settings.bm25_k1,))
            for b in (BS if settings.bm25_b is None else (settings.bm25_b,))
        ]
        if len(grid) == 1 or not len(judgements.answerable):
            return grid[0]
        return max(grid, key=lambda numbers: mean_of(self._config, self.ranking(1, *numbers), judgements))

    def ranking(self, number: int, k1: float, b: float) -> Ranking:
        """Of the queries to judge (0) or the validation queries (1)."""
        index, asked = self._asked[number]
        settings, judgements = self._config.evaluate, self.sets[number].judgements
        return baselines.rank(index.scores(asked, k1, b), judgements, settings.depth, settings.candidates == "listed")

    def at(self, number: int, query_rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(N,) float32 scores of N pairs, whose query rows ascend."""
        index, asked = self._asked[number]
        values = np.zeros(len(query_rows), np.float32)
        for rows, scores in index.scores(asked, self.k1, self.b):
            part = slice(*np.searchsorted(query_rows, (rows[0], rows[-1] + 1)))
            values[part] = scores[query_rows[part] - rows[0], documents[part]]
        return values

    def looks(self, number: int, pool: Pool) -> Pool:
        """The pool with what the linear combination knows of its texts; as it is where there is none to be made."""
        if not self._texts:
            return pool
        index, texts = self._asked[number][0], self._texts[number]
        words = lambda side, row: words_of(self._tokenizer.tokens(texts[side][row]))
        asked = functools.lru_cache(1)(lambda row: index.rarities(words("query", row)))
        terms = functools.lru_cache(TERMS_REMEMBERED)(lambda row: index.analyzer.terms(words("document", row)))
        pairs = zip(pool.query_rows.tolist(), pool.documents.tolist())
        found = [linear.looks(asked(query), terms(document)) for query, document in pairs]
        return pool._replace(looks=np.array(found).reshape(-1, 3))


def mean_of(config: Config, ranking: Ranking, judgements: Judgements) -> float:
    """What validation chooses by, if it is a ranking's metric, else the first of those."""
    names = tuple(measures(config.evaluate.depth))
    metric = config.train.metric if config.train.metric in names else names[0]
    return float(evaluate(ranking, judgements, depth=config.evaluate.depth, names=(metric,))[metric].mean())


def systems(
    config: Config, network: Matcher, test: Queries, valid: Queries, words: Words | None, world: World
) -> Systems | None:
    """Every rank must call it.

    Args:
        words: on rank 0, which alone returns the systems.
    """
    settings, depth = config.evaluate, config.evaluate.depth
    listed, sets = settings.candidates == "listed", (test, valid)
    if listed:
        scores = [listed_scores(config, network, queries, world) for queries in sets]
        if words is None:
            return None
        rows = [(queries.judgements.query_rows, queries.judgements.document_rows) for queries in sets]
        pools = [Pool(*r, s, words.at(number, *r)) for number, (r, s) in enumerate(zip(rows, scores))]
        model, beside = (rank_listed(s, queries.judgements) for s, queries in zip(scores, sets))
        bm25 = [words.ranking(0, words.k1, words.b)]
    else:
        bm25 = [] if words is None else [words.ranking(number, words.k1, words.b) for number in (0, 1)]
        wanted = world.agree([ranking.documents for ranking in bm25], "BM25's documents")
        results = _ranked_together(config, network, sets, wanted, world)
        if words is None:
            return None
        model, beside = (result.ranking for result in results)
        pools = [
            fusion.pooled(result.ranking, ranking, result.wanted, functools.partial(words.at, number))
            for number, (result, ranking) in enumerate(zip(results, bm25))
        ]
    pools = [words.looks(number, pool) for number, pool in enumerate(pools)]
    fused = [
        functools.partial(fusion.fuse, pool, judgements=queries.judgements, depth=None if listed else depth)
        for pool, queries in zip(pools, sets)
    ]
    mix, tried = chosen(config, fusion.mix_of(pools[1]), valid.judgements, fused[1])
    best: Fusion = mix
    fusion_settings: dict[str, Any] = {
        "stemmer": words.stemmer, "k1": words.k1, "b": words.b, **mix._asdict(),
        "validation_queries": len(valid.judgements.answerable), "tried": tried,
    }  # fmt: skip
    if settings.fusion == "linear":
        fit = _linear(config, pools[1], valid.judgements, mix, tried)
        fusion_settings["linear"], best = fit.told, fit.found or mix
    rankings = {
        "model": model,
        "bm25": bm25[0],
        "fused": fused[0](best),
        "random": baselines.random_ranking(test.judgements, depth, config.seed, listed),
    }
    return Systems(rankings, fusion_settings, {"fused": fused[1](best), "model": beside})


def _linear(config: Config, pool: Pool, judgements: Judgements, mix: Mix, tried: dict[float, float]) -> Fit:
    """The linear combination of the validation queries' pool, beside the mix that was chosen."""
    depth = None if config.evaluate.candidates == "listed" else config.evaluate.depth

    def judge(scores: np.ndarray) -> float:
        return mean_of(config, rank_pairs(pool.query_rows, pool.documents, scores, judgements, depth), judgements)

    relevant = judgements.lookup(pool.query_rows, pool.documents) > 0
    return linear.fit(pool, relevant, mix, tried.get(mix.weight, 0.0), judge)


def chosen(
    config: Config, mix: Mix, judgements: Judgements, ranked: Callable[[Mix], Ranking]
) -> tuple[Mix, dict[float, float]]:
    """The mix that ranks the validation queries best, of equals the most even one; and what each weight gave."""
    if not len(judgements.answerable):
        return mix, {}
    tried = {weight: mean_of(config, ranked(mix._replace(weight=weight)), judgements) for weight in fusion.WEIGHTS}
    best = max(tried, key=lambda weight: (tried[weight], -abs(weight - fusion.UNTUNED)))
    return mix._replace(weight=best), tried


def _ranked_together(
    config: Config, network: Matcher, sets: Sequence[Queries], wanted: list[np.ndarray], world: World
) -> list[Found]:
    """The model's rankings of several sets of queries, which go by together where they share their collection."""
    tells = config.train.sure_precision is not None  # which queries have no answer
    asked = [
        Asked(queries.split.fields["query"], queries.judgements, documents, tells)
        for queries, documents in zip(sets, wanted)
    ]
    depth = config.evaluate.depth
    if sets[0].collection is sets[1].collection:
        return rank(network, sets[0].collection, asked, depth, world)
    return [
        rank(network, queries.collection, [asked_queries], depth, world)[0]
        for queries, asked_queries in zip(sets, asked)
    ]


def texts_of(ingested: Path, split: str, queries: Queries) -> dict[str, list[str]]:
    """The texts of a split's queries and of the collection's documents, in the order of their rows."""
    texts: dict[str, dict[str, str]] = {side: {} for side in SIDES}
    collection = [COLLECTION_NAME] if (ingested / COLLECTION_NAME).exists() else []
    records = [f"records-{name}.parquet" for name in (split, *(n for n in (*OTHERS, "test") if n != split))]
    judged = [missing_name(split)] if (ingested / missing_name(split)).exists() else []  # queries alone
    # With train_on_titles a document of train and valid is its text without the title, which the collection has.
    for name in (*collection, *records, *judged) if split == "test" else (*records, *collection, *judged):
        sides = SIDES if name == records[0] else SIDES[:1] if name in judged else SIDES[1:]
        for batch in pq.ParquetFile(ingested / name).iter_batches(10_000, columns=[
            column for side in sides for column in (f"{side}_id", side)
        ]):  # fmt: skip
            for side in sides:
                for key, text in zip(batch[f"{side}_id"].to_pylist(), batch[side].to_pylist()):
                    texts[side].setdefault(key, text)  # as tokenization has it, the first of a key
    keys = {"query": queries.split.fields["query"].keys, "document": queries.collection.keys}
    return {side: [texts[side][key] for key in keys[side]] for side in SIDES}

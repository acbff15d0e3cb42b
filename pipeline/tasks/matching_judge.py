"""Scores a split with a matching network, the work divided over the workers, and judges it: rankings and grades."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from mxnet import nd

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.evaluation import baselines, metrics, report
from pipeline.evaluation.analysis import words_of
from pipeline.evaluation.bm25 import Bm25
from pipeline.evaluation.grades import grade_probabilities
from pipeline.evaluation.ranking import (
    Judgements,
    Ranking,
    fuse,
    rank_listed,
    rank_pairs,
    rows_per_chunk,
    top_k,
)
from pipeline.evaluation.ranking import (
    evaluate as judge,
)
from pipeline.files import as_json
from pipeline.models.matcher import SIDES, Matcher, Representation
from pipeline.records import missing_name
from pipeline.tasks.matching_evidence import Evidence
from pipeline.tokenization import shards
from pipeline.workers import World

# Padded tokens encoded at once: enough to keep the matrix products busy, little beside the parameters.
TOKENS_PER_CHUNK = 16_384
# Pairs of a query's and a document's token compared at once by late interaction: 32 MB as float32.
COMPARED_PER_CHUNK = 8_000_000


def judgements_of(split: shards.Split) -> Judgements:
    """The split's pairs as judgements over its own tables of queries and documents."""
    return Judgements(
        split.rows["query"],
        split.rows["document"],
        split.relevance,
        len(split.fields["query"]),
        len(split.fields["document"]),
        split.missing,
    )


def check_grades(relevance: np.ndarray, grades: int, split: str) -> None:
    """Raises InputError where a pair's relevance is not one of 0 … grades - 1."""
    wrong = ~np.isin(relevance, np.arange(grades))
    if wrong.any():
        raise InputError(
            f"relevance {relevance[wrong][0]:g} in the {split} split is not one of the grades 0 … {grades - 1}: "
            "set train.loss.grades or map labels with ingest.source.grades"
        )


# --- scoring ----------------------------------------------------------------------------------------------------------
def encode(
    network: Matcher, side: str, texts: shards.Texts, rows: np.ndarray, world: World
) -> Iterator[tuple[np.ndarray, Representation]]:
    """Representations of some rows of a table in chunks of like lengths: (the chunk's rows, their representation)."""
    table = network.embedding.data(world.context)
    order = rows[np.argsort(texts.lengths[rows], kind="stable")]
    start = 0
    while start < len(order):
        longest = texts.lengths[order[start : start + TOKENS_PER_CHUNK]]
        cells = np.maximum.accumulate(longest) * np.arange(1, len(longest) + 1)
        end = start + max(1, int(np.searchsorted(cells, TOKENS_PER_CHUNK, side="right")))
        ids, lengths = texts.padded(order[start:end])
        yield (
            order[start:end],
            network.represent(
                side, table, nd.array(ids.T, world.context, "int32"), nd.array(lengths, world.context, "int32")
            ),
        )
        start = end


def rank_split(network: Matcher, split: shards.Split, judgements: Judgements, depth: int, world: World) -> Ranking:
    """Ranks all documents of a split for each of its queries; each worker encodes and ranks its share of the documents.

    Late interaction keeps a vector per token of the worker's documents in memory.
    """
    texts = split.fields["document"]
    mine = np.argsort(texts.lengths, kind="stable")[world.rank :: world.size]  # like lengths for all: like costs
    chunks = list(encode(network, "document", texts, mine, world))
    columns = np.concatenate([rows for rows, _ in chunks]) if chunks else mine
    column_of = np.full(len(texts), -1)
    column_of[columns] = np.arange(len(columns))
    depth = min(depth, len(texts))
    documents = np.full((judgements.queries, depth), -1, np.int32)
    best = np.full((judgements.queries, depth), -np.inf, np.float32)
    for rows, query in encode(network, "query", split.fields["query"], judgements.answerable, world):
        for start in range(0, len(rows), step := _queries_at_once(query, chunks, len(columns))):
            part = Representation(*(array[start : start + step] for array in query))
            scores = np.concatenate([network.score_all(part, d).asnumpy() for _, d in chunks], axis=1)
            judged = [_restricted(judgements.of(int(row)), column_of) for row in rows[start : start + step]]
            places, values = top_k(scores, judged, depth)
            found = rows[start : start + step]
            documents[found] = np.where(places >= 0, columns[places], -1)
            best[found] = values
    if world.size == 1:
        return Ranking(documents, best)
    everyone = world.gather_numpy(documents, "ranked documents"), world.gather_numpy(best, "ranked scores")
    rows, places = np.nonzero(everyone[0] >= 0)
    return rank_pairs(
        rows % judgements.queries, everyone[0][rows, places], everyone[1][rows, places], judgements, depth
    )


def _queries_at_once(query: Representation, chunks: list[tuple[np.ndarray, Representation]], documents: int) -> int:
    """So many queries that neither their scores nor late interaction's token pairs take much memory."""
    step = rows_per_chunk(documents)
    if query.vectors.ndim == 3:
        tokens = max(d.vectors.shape[0] * d.vectors.shape[1] for _, d in chunks) * query.vectors.shape[1]
        step = min(step, max(1, COMPARED_PER_CHUNK // tokens))
    return step


def _restricted(judged: tuple[np.ndarray, np.ndarray], column_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    columns = column_of[judged[0]]
    return columns[columns >= 0], judged[1][columns >= 0]


def score_pairs(
    network: Matcher, split: shards.Split, query_rows: np.ndarray, document_rows: np.ndarray, world: World, grades: bool
) -> np.ndarray:
    """Scores P pairs, shared out over the workers: (P,) or, with `grades`, logits (P, outputs), on every rank."""
    table = network.embedding.data(world.context)
    cost = sum(split.fields[side].lengths[rows] for side, rows in zip(SIDES, (query_rows, document_rows)))
    order = np.argsort(cost, kind="stable")
    step = max(1, TOKENS_PER_CHUNK // max(1, int(cost.max(initial=1))))
    values = []
    mine = order[world.rank :: world.size]
    for start in range(0, len(mine), step):
        part = mine[start : start + step]
        sides = []
        for side, rows in zip(SIDES, (query_rows[part], document_rows[part])):
            ids, lengths = split.fields[side].padded(rows)
            sides.append(
                network.represent(
                    side, table, nd.array(ids.T, world.context, "int32"), nd.array(lengths, world.context, "int32")
                )
            )
        scored = network.pair_outputs(*sides) if grades else network.score_pairs(*sides).expand_dims(1)
        values.append(scored.asnumpy())
    width = values[0].shape[1] if values else 1
    together = world.gather_numpy(np.concatenate([np.zeros((0, width), np.float32), *values]), "pair scores")
    result = np.empty_like(together)
    result[np.concatenate([order[rank :: world.size] for rank in range(world.size)])] = together
    return result if grades else result[:, 0]


# --- judging ----------------------------------------------------------------------------------------------------------
def _graded(
    config: Config, network: Matcher, split: shards.Split, name: str, world: World
) -> tuple[np.ndarray, np.ndarray]:
    """A split's labels (P,) and the probabilities of the grades (P, G)."""
    loss = config.train.loss
    check_grades(split.relevance, loss.grades, name)
    logits = score_pairs(network, split, split.rows["query"], split.rows["document"], world, grades=True)
    return split.relevance.astype(int), grade_probabilities(logits, loss.link)


def _predictions(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest and the expected grade of each pair, (P,) each."""
    return probabilities.argmax(axis=1), probabilities @ np.arange(probabilities.shape[1])


def _ranked(config: Config, network: Matcher, split: shards.Split, judgements: Judgements, world: World) -> Ranking:
    if config.evaluate.candidates == "collection":
        return rank_split(network, split, judgements, config.evaluate.depth, world)
    graded = config.train.loss.kind == "pointwise"
    values = score_pairs(network, split, judgements.query_rows, judgements.document_rows, world, graded)
    if graded:
        loss = config.train.loss
        values = grade_probabilities(values, loss.link) @ np.arange(loss.grades)
    return rank_listed(values, judgements)


def validate(config: Config, tokenized: Path, network: Matcher, world: World) -> dict[str, float]:
    """Means over the validation split, the same on every rank.

    Raises:
        InputError: the split has nothing to judge.
    """
    split = shards.open_split(tokenized, "valid")
    found: dict[str, float] = {}
    if "graded" in config.evaluate.kinds and len(split.relevance):
        labels, probabilities = _graded(config, network, split, "valid", world)
        found |= metrics.graded_metrics(labels, *_predictions(probabilities))
    if "ranking" in config.evaluate.kinds:
        judgements = judgements_of(split)
        if len(judgements.answerable):
            ranking = _ranked(config, network, split, judgements, world)
            found |= {name: float(values.mean()) for name, values in judge(ranking, judgements).items()}
    if config.train.metric not in found:
        raise InputError("the validation split has no relevant pair to judge: raise ingest.split.valid")
    return world.agree(found, "validation")


def evaluate(
    config: Config, tokenized: Path, network: Matcher, world: World, ingested: Path, folder: Path
) -> dict[str, float]:
    """Judges the test split beside its baselines; rank 0 writes into `folder` and returns the metrics.

    Files: table.txt, metrics.json (all means, intervals and differences), wins.jsonl (a line per query), and what
    matching_evidence leaves.
    """
    split = shards.open_split(tokenized, "test")
    settings, compared, tables = config.evaluate, {}, []
    flat: dict[str, float] = {}
    evidence = None
    if world.rank == 0:
        evidence = Evidence(config, tokenized, split, _texts(split, ingested), folder, network, world)
    if "graded" in settings.kinds:
        graded = _graded(config, network, split, "test", world)
        if evidence:
            compared["graded"] = _against_majority(evidence, *graded)
    if "ranking" in settings.kinds:
        judgements = judgements_of(split)
        if not len(judgements.answerable):
            raise InputError("the test split has no relevant pair to judge: raise ingest.split.test")
        model = _ranked(config, network, split, judgements, world)
        if evidence:
            compared["ranking"] = _against_baselines(evidence, judgements, model)
    if not evidence:
        return {}
    evidence.finish()
    for kind, table in compared.items():
        flat |= report.flat_metrics("test", table)
        tables.append(report.table_text(table, f"{config.name}: test split, {kind}"))
    (folder / "table.txt").write_text("\n".join(tables), encoding="utf-8")
    (folder / "metrics.json").write_text(as_json(compared, indent=1), encoding="utf-8")
    return flat


def _against_majority(evidence: Evidence, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    config, split = evidence.config, evidence.split
    majority = int(np.bincount(evidence.train.relevance.astype(int)).argmax())
    evidence.grades(labels, probabilities, majority)
    return report.graded_comparison(
        labels,
        *_predictions(probabilities),
        config.evaluate.bootstrap_samples,
        config.seed,
        majority,
        split.rows["query"],
    )


def _against_baselines(evidence: Evidence, judgements: Judgements, model: Ranking) -> dict[str, Any]:
    config, split, texts = evidence.config, evidence.split, evidence.texts
    settings, listed = config.evaluate, config.evaluate.candidates == "listed"
    words = {side: (words_of(evidence.tokenizer.tokens(text)) for text in texts[side]) for side in SIDES}
    index = Bm25(words["document"], settings.stemmer, config.tokenize.kind)
    scores = index.scores(index.asked(words["query"]), settings.bm25_k1, settings.bm25_b)
    bm25 = baselines.rank(scores, judgements, settings.depth, listed)
    systems = {
        "model": model,
        "bm25": bm25,
        "fused": fuse(model, bm25, judgements, None if listed else settings.depth),
        "random": baselines.random_ranking(judgements, settings.depth, config.seed, listed),
    }
    report.write_wins(
        evidence.folder / "wins.jsonl", model, bm25, judgements,
        split.fields["query"].keys, texts["query"], split.fields["document"].keys, texts["document"],
    )  # fmt: skip
    evidence.rankings(systems, judgements)
    return report.comparison(systems, judgements, settings.bootstrap_samples, config.seed)


def _texts(split: shards.Split, ingested: Path) -> dict[str, list[str]]:
    """The text of every query and document of the test split, in the order of its tables."""
    found: dict[str, dict[str, str]] = {side: {} for side in SIDES}
    parts = {"records-test.parquet": SIDES, "collection.parquet": SIDES[1:], missing_name("test"): SIDES[:1]}
    for name, sides in parts.items():
        if (ingested / name).exists():
            for batch in pq.ParquetFile(ingested / name).iter_batches(10_000):
                for side in sides:
                    found[side].update(zip(batch[f"{side}_id"].to_pylist(), batch[side].to_pylist()))
    return {side: [found[side][key] for key in split.fields[side].keys] for side in SIDES}

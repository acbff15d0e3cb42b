"""Which queries a matcher has an answer to: chosen on the validation split, told on the test split.

A query's answer is its first document. It is right where that document is relevant, so never for a query without one.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import confidence
from pipeline.evaluation.confidence import Answering
from pipeline.evaluation.judged import Classes, Judged
from pipeline.evaluation.ranking import Judgements, Ranking
from pipeline.models.matcher import Matcher
from pipeline.tasks import matching_systems


class Firsts(NamedTuple):
    """The first documents of the n queries that are judged."""

    rows: np.ndarray  # (n,) of the queries
    scores: np.ndarray  # (n,) float32; -inf where a query has no document
    right: np.ndarray  # (n,) bool


def firsts(ranking: Ranking, judgements: Judgements) -> Firsts:
    rows = judgements.judged
    documents = ranking.documents[rows, 0]
    right = (documents >= 0) & (judgements.lookup(rows, np.maximum(documents, 0)) > 0)
    return Firsts(rows, ranking.scores[rows, 0], right)


def choose(config: Config, tokenized: Path, network: Matcher, world: World, folder: Path) -> None:
    """Rank 0 writes into the trained folder which answers are sure. Raises InputError where validation has no query."""
    assert config.train.sure_precision is not None
    queries = matching_systems.valid_queries(config, tokenized)
    if not len(queries.judgements.judged):
        raise InputError("train.sure_precision is chosen on validation, which has no query: raise ingest.split.valid")
    ranking = matching_systems.ranked(config, network, queries, world, unanswerable=True)
    if world.rank == 0:
        first = firsts(ranking, queries.judgements)
        confidence.save(folder, confidence.answering(first.scores, first.right, config.train.sure_precision))


def judged(first: Firsts, judgements: Judgements, ids: list[str], texts: list[str], found: Answering) -> Judged:
    """A row per query of the test split, for tables, the reliability diagram and comparisons.

    Metrics: sure_share of the queries are sure, sure_precision of those right, and sure_recall of the queries with a
    relevant document are sure and right; no_answer_precision of the queries that are not sure have no relevant
    document, and no_answer_recall of the queries without one are not sure.

    Args:
        ids, texts: of all queries of the split's table.
    """
    chances = found.probabilities(first.scores)
    sure = found.sure(chances).astype(np.float64)
    nothing = ~np.isin(first.rows, judgements.answerable)
    values = {
        "sure_share": (sure, None),
        "sure_precision": (first.right, sure),
        "sure_recall": (first.right * sure, ~nothing),
        "no_answer_precision": (nothing, 1 - sure),
        "no_answer_recall": (1 - sure, nothing),
    }
    return Judged(
        unit="queries",
        ids=[ids[row] for row in first.rows.tolist()],
        texts=[texts[row] for row in first.rows.tolist()],
        groups=None,
        slices={},
        values={("model", name): np.asarray(value, np.float64) for name, (value, _) in values.items()},
        weights={("model", name): w.astype(np.float64) for name, (_, w) in values.items() if w is not None},
        classes=Classes(["wrong", "right"], first.right.astype(np.int64), np.stack([1 - chances, chances], 1), True),
    )


def told(found: Answering, rows: Judged) -> str:
    """A sentence below the table."""
    without = int(rows.weights["model", "no_answer_recall"].sum())
    of = f"of {len(rows.ids):,} queries {without:,} have no relevant document"
    if found.threshold is None:
        return f"sure: none; no threshold has a precision of {found.wanted:g} on the validation split; {of}"
    return (
        f"sure: a probability of {found.threshold:.3f} or more that the first document is relevant, for a precision of "
        f"{found.wanted:g} on the validation split (there {found.share:.1%} of the queries, {found.precision:.1%} of "
        f"them right); {of}"
    )

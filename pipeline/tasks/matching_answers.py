"""Which queries a matcher has an answer to: chosen on the validation split, told on the test split.

A query's answer is its first document. It is right where that document is relevant, so never for a query without one.
"""

from collections.abc import Mapping
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
from pipeline.tasks.matching_systems import Systems
from pipeline.tasks.reranking import ALONE
from pipeline.tasks.reranking import NAME as RERANKED


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


def of_rankings(systems: Systems, judgements: Judgements, model: Answering) -> dict[str, Answering]:
    """By the name of a ranking of the test split, which of its first documents are sure answers.

    The model's was chosen when it was trained. Those of the others are chosen here, by their own scores over the
    validation queries, and noted in `systems.fusion_settings`: who shows such a ranking judges by them.
    """
    made, found = systems.fusion_settings, {"model": model}
    places = {"fused": made}
    if second := made.get("rerank"):
        places |= {RERANKED: second, ALONE: second[ALONE]}
    for name, place in places.items() if len(judgements.judged) else ():
        first = firsts(systems.valid[name], judgements)
        chosen = confidence.answering(first.scores, first.right, model.wanted)
        place["answering"] = chosen._asdict()
        if name in systems.rankings:
            found[name] = chosen
    return found


def judged(
    first: Mapping[str, Firsts], judgements: Judgements, ids: list[str], texts: list[str],
    found: Mapping[str, Answering],
) -> Judged:  # fmt: skip
    """A row per query of the test split, for tables, the reliability diagram (the model's) and comparisons.

    Metrics: sure_share of the queries are sure, sure_precision of those right, and sure_recall of the queries with a
    relevant document are sure and right; no_answer_precision of the queries that are not sure have no relevant
    document, and no_answer_recall of the queries without one are not sure.

    Args:
        first, found: by ranking, "model" among them.
        ids, texts: of all queries of the split's table.
    """
    queries = first["model"].rows
    nothing = ~np.isin(queries, judgements.answerable)
    values: dict[tuple[str, str], tuple[np.ndarray, np.ndarray | None]] = {}
    for name, answering in found.items():
        sure = answering.sure(answering.probabilities(first[name].scores)).astype(np.float64)
        right = first[name].right
        values |= {
            (name, "sure_share"): (sure, None),
            (name, "sure_precision"): (right, sure),
            (name, "sure_recall"): (right * sure, ~nothing),
            (name, "no_answer_precision"): (nothing, 1 - sure),
            (name, "no_answer_recall"): (1 - sure, nothing),
        }
    chances, right = found["model"].probabilities(first["model"].scores), first["model"].right
    return Judged(
        unit="queries",
        ids=[ids[row] for row in queries.tolist()],
        texts=[texts[row] for row in queries.tolist()],
        groups=None,
        slices={},
        values={key: np.asarray(value, np.float64) for key, (value, _) in values.items()},
        weights={key: w.astype(np.float64) for key, (_, w) in values.items() if w is not None},
        classes=Classes(["wrong", "right"], right.astype(np.int64), np.stack([1 - chances, chances], 1), True),
    )


def told(name: str, found: Answering, rows: Judged) -> str:
    """A sentence below the table, of a ranking."""
    without = int(rows.weights[name, "no_answer_recall"].sum())
    of = f"of {len(rows.ids):,} queries {without:,} have no relevant document"
    if found.threshold is None:
        return f"{name}: none is sure; no threshold has a precision of {found.wanted:g} on the validation split; {of}"
    return (
        f"{name}: sure from a probability of {found.threshold:.3f} that the first document is relevant, for a "
        f"precision of {found.wanted:g} on the validation split (there {found.share:.1%} of the queries, "
        f"{found.precision:.1%} of them right); {of}"
    )

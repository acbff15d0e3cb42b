"""Grades of pairs: a network's probabilities, what they are joined with, and both beside the baselines."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import joining, overlap
from pipeline.evaluation.grades import expected_grade, grade_probabilities
from pipeline.evaluation.joining import Joined
from pipeline.evaluation.overlap import Overlap
from pipeline.models.matcher import SIDES, Matcher
from pipeline.reporting import tables
from pipeline.tasks.collection import Collection
from pipeline.tasks.matching_evidence import Evidence
from pipeline.tasks.matching_ranking import score_pairs
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import UNKNOWN_ID


def check(relevance: np.ndarray, grades: int, split: str) -> None:
    """Raises InputError where a pair's relevance is not one of 0 … grades - 1."""
    wrong = ~np.isin(relevance, np.arange(grades))
    if wrong.any():
        raise InputError(
            f"relevance {relevance[wrong][0]:g} in the {split} split is not one of the grades 0 … {grades - 1}: "
            "set train.loss.grades or map labels with ingest.source.grades"
        )


def of_split(
    config: Config, network: Matcher, split: shards.Split, name: str, world: World
) -> tuple[np.ndarray, np.ndarray]:
    """A split's labels (P,) and the network's probabilities of the grades (P, G)."""
    loss = config.train.loss
    check(split.relevance, loss.grades, name)
    rows, collection = split.rows, Collection([split.fields["document"]])
    query = split.fields["query"]
    logits = score_pairs(network, query, rows["query"], collection, rows["document"], world, loss.outputs)
    return split.relevance.astype(int), grade_probabilities(logits, loss.grade_link)


def told(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest and the expected grade of each pair, (P,) each."""
    return probabilities.argmax(axis=1), expected_grade(probabilities)


# --- joined -----------------------------------------------------------------------------------------------------------
def fit(config: Config, tokenized: Path) -> Overlap:
    """What training pairs have in common, and which grade they have."""
    split = shards.open_split(tokenized, "train")
    count = len(split.relevance)
    rows = np.unique(np.linspace(0, count - 1, min(count, overlap.FITTED_ON)).astype(np.int64))
    labels, size = split.relevance[rows].astype(int), shards.vocabulary_size(tokenized)
    return overlap.fit(*_texts(split, rows), labels, config.train.loss.grades, size, UNKNOWN_ID + 1)


def choose(config: Config, tokenized: Path, network: Matcher, world: World, folder: Path) -> None:
    """Rank 0 writes into the trained folder how the network is joined with `fit`, by the validation split.

    Raises InputError where that split is empty.
    """
    valid = shards.open_split(tokenized, "valid")
    if not len(valid.relevance):
        raise InputError("train.join_overlap is chosen on validation, which has no pair: raise ingest.split.valid")
    labels, probabilities = of_split(config, network, valid, "valid", world)
    if world.rank > 0:
        return
    train = shards.open_split(tokenized, "train").relevance.astype(int)
    by = joining.judged_by(config.train.metric, train, config.train.loss.grades)
    mixture, _ = joining.joined(fit(config, tokenized), probabilities, _texts(valid), labels, *by)
    joining.save(folder / overlap.NAME, mixture)


def _texts(split: shards.Split, records: np.ndarray | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The (T,) ids of both sides of these records; None: of all."""
    rows = [split.rows[side] if records is None else split.rows[side][records] for side in SIDES]
    queries, documents = ([split.fields[side].ids(row) for row in some.tolist()] for side, some in zip(SIDES, rows))
    return queries, documents


def compared(
    evidence: Evidence, labels: np.ndarray, probabilities: np.ndarray, tokenized: Path, mixture: Joined[Overlap] | None
) -> dict[str, Any]:
    """The table of the test split's pairs: the network, what the texts have in common, both together, the majority.

    Args:
        mixture: what `choose` wrote; None: nothing is joined.
    """
    config, split = evidence.config, evidence.split
    majority = int(np.bincount(evidence.train.relevance.astype(int)).argmax())
    texts, model = _texts(split), mixture.model if mixture else fit(config, tokenized)
    logs = model.log_probabilities(*texts)
    chances = {"overlap": np.exp(logs)}
    if mixture:
        chances["fused"] = mixture.mixed(probabilities, logs)
    evidence.grades(labels, probabilities, chances, majority)
    return tables.graded_comparison(
        labels,
        *told(probabilities),
        config.evaluate.bootstrap_samples,
        config.seed,
        majority,
        split.rows["query"],
        {name: told(those) for name, those in chances.items()},
    )

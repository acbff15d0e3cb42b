"""Judges a split with a matching network: rankings and grades, beside their baselines."""

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import judged, metrics
from pipeline.evaluation.confidence import Answering
from pipeline.evaluation.joining import Joined
from pipeline.evaluation.overlap import Overlap
from pipeline.evaluation.ranking import evaluate as judge
from pipeline.models.matcher import Matcher
from pipeline.reporting import system_comparison, tables
from pipeline.reporting.folder import FUSION
from pipeline.tasks import matching_answers, matching_grades, matching_systems, reranking
from pipeline.tasks.collection import Collection
from pipeline.tasks.matching_evidence import Evidence
from pipeline.tasks.matching_systems import Queries, Systems, Words
from pipeline.tokenization import shards


def validate(config: Config, tokenized: Path, network: Matcher, world: World) -> dict[str, float]:
    """Means over the validation split, the same on every rank.

    Raises:
        InputError: the split has nothing to judge.
    """
    split = shards.open_split(tokenized, "valid")
    means: dict[str, float] = {}
    if "graded" in config.evaluate.kinds and len(split.relevance):
        labels, probabilities = matching_grades.of_split(config, network, split, "valid", world)
        means |= metrics.graded_metrics(labels, *matching_grades.told(probabilities))
    if "ranking" in config.evaluate.kinds:
        queries = matching_systems.queries_of(split, Collection([split.fields["document"]]))
        if len(queries.judgements.answerable):
            ranking = matching_systems.ranked(config, network, queries, world)
            values = judge(ranking, queries.judgements, depth=config.evaluate.depth)
            means |= {name: float(per_query.mean()) for name, per_query in values.items()}
    if config.train.metric not in means:
        raise InputError("the validation split has no relevant pair to judge: raise ingest.split.valid")
    return world.agree(means, "validation")


def evaluate(
    config: Config, tokenized: Path, network: Matcher, world: World, ingested: Path, folder: Path,
    answering: Answering | None = None, joined: Joined[Overlap] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Judges the test split beside its baselines; rank 0 writes into `folder` and returns the metrics.

    Files: table.txt, metrics.json (all means, intervals and differences), wins.jsonl (a line per query), fusion.json
    (how BM25 and the mix were made), and what matching_evidence leaves.

    Args:
        answering: which answers the model is sure of; None: it does not say.
        joined: what the grades of pairs are joined with; None: nothing.
    """
    split = shards.open_split(tokenized, "test")
    kinds, compared, printed = config.evaluate.kinds, {}, []
    flat: dict[str, float] = {}
    test, valid = matching_systems.to_judge(config, tokenized, ingested)
    words, evidence, note = None, None, ""
    if "ranking" in kinds and not len(test.judgements.answerable):
        raise InputError("the test split has no relevant pair to judge: raise ingest.split.test")
    if world.rank == 0:
        words = Words(config, tokenized, ingested, test, valid)
        evidence = Evidence(config, tokenized, split, words.texts, folder, network, world)
    if "graded" in kinds:
        graded = matching_grades.of_split(config, network, split, "test", world)
        if evidence:
            compared["graded"] = matching_grades.compared(evidence, *graded, tokenized, joined)
    if "ranking" in kinds:
        systems = matching_systems.systems(config, network, test, valid, words, world)
        if config.rerank.model:
            systems = reranking.reranked(config, tokenized, systems, (test, valid), world)
        if evidence and systems:
            answers = matching_answers.of_rankings(systems, valid.judgements, answering) if answering else {}
            compared["ranking"] = _against_baselines(evidence, test, systems)
            if answering:
                compared["answers"], note = _answers(evidence, test, systems, answers)
    if not evidence:
        return {}
    evidence.finish()
    for kind, table in compared.items():
        flat |= tables.flat_metrics("test", table)
        printed.append(tables.table_text(table, f"{config.name}: test split, {kind}"))
    printed += [note + "\n"] if note else []
    (folder / "table.txt").write_text("\n".join(printed), encoding="utf-8")
    (folder / "metrics.json").write_text(as_json(compared, indent=1), encoding="utf-8")
    return flat


def _against_baselines(evidence: Evidence, test: Queries, systems: Systems) -> dict[str, Any]:
    config, texts, rankings = evidence.config, evidence.texts, systems.rankings
    tables.write_wins(
        evidence.folder / "wins.jsonl", rankings["model"], rankings["bm25"], test.judgements,
        test.split.fields["query"].keys, texts["query"], test.collection.keys, texts["document"],
    )  # fmt: skip
    evidence.rankings(rankings, test.judgements)
    (evidence.folder / FUSION).write_text(as_json(systems.fusion_settings, indent=1), encoding="utf-8")
    return tables.comparison(
        rankings, test.judgements, config.evaluate.bootstrap_samples, config.seed, depth=config.evaluate.depth
    ) | {"made": systems.fusion_settings, "candidates": config.evaluate.candidates}


def _answers(
    evidence: Evidence, test: Queries, systems: Systems, answers: dict[str, Answering]
) -> tuple[dict[str, Any], str]:
    """The table of which answers are sure, by each ranking that says so, and sentences."""
    config, keys = evidence.config, list(test.split.fields["query"].keys)
    firsts = {name: matching_answers.firsts(systems.rankings[name], test.judgements) for name in answers}
    rows = matching_answers.judged(firsts, test.judgements, keys, evidence.texts["query"], answers)
    judged.write(evidence.folder / "judged-answers.parquet", rows)
    measured = rows._replace(classes=None)  # grades have a macro_f1 and an auc of their own
    table = system_comparison.comparison(measured, "model", config.evaluate.bootstrap_samples, config.seed)
    return table, "\n".join(matching_answers.told(name, found, rows) for name, found in answers.items())

"""What an evaluation says: systems side by side with intervals, their table, and wins and losses query by query."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.core.atomic_files import as_json
from pipeline.core.errors import InputError
from pipeline.evaluation import bootstrap, metrics
from pipeline.evaluation.judged import MODEL, shown
from pipeline.evaluation.ranking import Judgements, Ranking, evaluate

TABLE_WIDTH = 100  # columns
Figure = dict[str, float | None]  # mean, low, high and, of a difference, p
Asked = Callable[[str, str], Figure]  # of a system and a metric


# --- rankings ---------------------------------------------------------------------------------------------------------
def comparison(
    systems: dict[str, Ranking],
    judgements: Judgements,
    samples: int,
    seed: int,
    reference: str = "bm25",
    depth: int = 100,
) -> dict[str, Any]:
    """Means of all ranking metrics with 95 % bootstrap intervals, and each system's paired difference to one of them.

    Means are over the queries with at least one relevant document; the others are counted.

    Returns:
        A JSON-able dictionary: unit ("queries"), counted, without_relevant, missing (relevant documents that are not in
        the collection), documents, samples, reference,
        systems: name -> {"metrics": metric -> {mean, low, high},
                          "difference": metric -> {mean, low, high, p}} (no difference for the reference itself, or
        where it is not among the systems).

    Raises:
        InputError: no query has a relevant document.
    """
    queries = judgements.answerable
    if not len(queries):
        raise InputError(
            f"none of {judgements.queries} queries has a relevant document, so there is nothing to measure: "
            "check the relevance column and ingest.source.grades"
        )
    values = {name: evaluate(ranking, judgements, queries, depth) for name, ranking in systems.items()}
    measured = list(next(iter(values.values())))
    columns = {(name, m): i for i, (name, m) in enumerate((name, m) for name in systems for m in measured)}
    table = np.stack([values[name][m] for name, m in columns], axis=1)  # (n, systems x metrics)
    observed = table.mean(axis=0)
    means = bootstrap.resampled_means(table, samples, seed)

    def interval(name: str, metric: str) -> Figure:
        i = columns[name, metric]
        return interval_of(float(observed[i]), means[:, i])

    def difference(name: str, metric: str) -> Figure:
        i, j = columns[name, metric], columns[reference, metric]
        return interval_of(float(observed[i] - observed[j]), means[:, i] - means[:, j], with_p=True)

    return {
        "unit": "queries",
        "counted": len(queries),
        "without_relevant": judgements.queries - len(queries),
        "missing": len(judgements.missing_rows),
        "documents": judgements.documents,
        "samples": samples,
        "reference": reference,
        "systems": of_systems([*systems], measured, reference, interval, difference),
    }


def write_wins(
    path: Path,
    model: Ranking,
    bm25: Ranking,
    judgements: Judgements,
    query_ids: Sequence[str],
    query_texts: Sequence[str],
    document_ids: Sequence[str],
    document_texts: Sequence[str],
    metric: str = "mrr@10",
) -> int:
    """Writes a line of JSON for each query with a relevant document, the model's wins first and its losses last.

    A line: query_id, query, model, bm25 and difference (values of `metric`), relevant (the relevant documents, best
    first), model_top and bm25_top (five each). A document: id, text (200 characters), relevance, in the lists score.

    Returns:
        The number of lines.
    """
    queries = judgements.answerable
    ours = evaluate(model, judgements, queries)[metric]
    theirs = evaluate(bm25, judgements, queries)[metric]

    def document(row: int, grade: int) -> dict[str, Any]:
        return {"id": document_ids[row], "text": shown(document_texts[row]), "relevance": grade}

    def top(ranking: Ranking, query: int) -> list[dict[str, Any]]:
        rows = ranking.documents[query, :5]
        rows = rows[rows >= 0]
        grades = judgements.lookup(np.full(len(rows), query), rows).tolist()
        scores = [float(s) if math.isfinite(s) else None for s in ranking.scores[query, : len(rows)]]
        return [document(r, g) | {"score": s} for r, g, s in zip(rows.tolist(), grades, scores)]

    with path.open("w", encoding="utf-8") as file:
        for place in np.argsort(theirs - ours, kind="stable"):
            query = int(queries[place])
            judged, grades = judgements.of(query)
            best_first = np.argsort(-grades, kind="stable")[: np.count_nonzero(grades)]
            line = {
                "query_id": query_ids[query],
                "query": query_texts[query],
                MODEL: round(float(ours[place]), 6),
                "bm25": round(float(theirs[place]), 6),
                "difference": round(float(ours[place] - theirs[place]), 6),
                "relevant": [document(int(judged[i]), int(grades[i])) for i in best_first],
                "model_top": top(model, query),
                "bm25_top": top(bm25, query),
            }
            file.write(as_json(line, ensure_ascii=False) + "\n")
    return len(queries)


# --- graded pairs -----------------------------------------------------------------------------------------------------
def graded_comparison(
    labels: np.ndarray,
    predicted: np.ndarray,
    scores: np.ndarray,
    samples: int,
    seed: int,
    majority: int | None = None,
    groups: np.ndarray | None = None,
    others: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """accuracy, macro_f1 and auc of the model, of others and of the majority, with 95 % paired-bootstrap intervals.

    Args:
        labels, predicted: (N,) whole grades; scores: (N,), higher = more relevant.
        majority: the grade that the baseline gives to every pair; None: the most frequent of `labels` (the best that a
            constant can do on them).
        groups: (N,) query rows; given, whole queries are resampled, since pairs of one query are not independent.
        others: other systems' grades and scores, by name. The first is the reference; without any it is the majority.

    Returns:
        As `comparison`, with unit "pairs" and the majority's grade. An auc that does not exist
        (one grade only) is None.

    Raises:
        InputError: no pairs.
    """
    labels, predicted, scores = np.asarray(labels), np.asarray(predicted), np.asarray(scores, np.float64)
    if not len(labels):
        raise InputError("the split has no graded pairs, so there is nothing to measure")
    if majority is None:
        grades, counts = np.unique(labels, return_counts=True)
        majority = int(grades[np.argmax(counts)])
    inputs = {
        MODEL: (predicted, scores),
        **(others or {}),
        "majority": (np.full_like(labels, majority), np.zeros(len(labels))),
    }
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    drawn: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in inputs}
    for times in bootstrap.resamples(int(groups.max()) + 1, samples, seed):
        weights = times[:, groups].astype(np.float64)  # (s, N): a pair is drawn as often as its query
        for name, (predictions, score) in inputs.items():
            drawn[name].append(metrics.weighted_metrics(labels, predictions, score, weights))
    observed = {name: metrics.graded_metrics(labels, *outputs) for name, outputs in inputs.items()}
    resampled = {name: {m: np.concatenate([d[m] for d in drawn[name]]) for m in observed[MODEL]} for name in inputs}
    reference = next(iter(others or ["majority"]))

    def interval(name: str, metric: str) -> Figure:
        return interval_of(observed[name][metric], resampled[name][metric])

    def difference(name: str, metric: str) -> Figure:
        gained = observed[name][metric] - observed[reference][metric]
        return interval_of(gained, resampled[name][metric] - resampled[reference][metric], with_p=True)

    return {
        "unit": "pairs",
        "counted": len(labels),
        "majority": majority,
        "samples": samples,
        "reference": reference,
        "systems": of_systems([*inputs], [*observed[MODEL]], reference, interval, difference),
    }


def of_systems(
    names: Sequence[str], measured: Sequence[str], reference: str, interval: Asked, difference: Asked
) -> dict[str, Any]:
    """System -> its metrics, and their differences to the reference's, where that is another one of them."""
    return {
        name: {
            "metrics": {metric: interval(name, metric) for metric in measured},
            "difference": {metric: difference(name, metric) for metric in measured}
            if reference in names and name != reference
            else {},
        }
        for name in names
    }


def interval_of(observed: float, resampled: np.ndarray, with_p: bool = False) -> Figure:
    """A figure with the 95 % interval of its resamples, and as a difference its p; all None where it does not exist."""
    values: dict[str, float]
    if with_p:
        values = bootstrap.difference(observed, resampled)._asdict()
    else:
        low, high = bootstrap.percentiles(resampled)
        values = {"mean": observed, "low": low, "high": high}
    return {name: None if math.isnan(observed) else value for name, value in values.items()}


# --- both -------------------------------------------------------------------------------------------------------------
def flat_metrics(prefix: str, compared: dict[str, Any]) -> dict[str, float]:
    """The means that exist, by name: PREFIX/METRIC for the model, PREFIX/SYSTEM/METRIC for the others.

    >>> flat_metrics("test", {"systems": {"model": {"metrics": {"mrr@10": {"mean": 0.5}}},
    ...                                   "bm25": {"metrics": {"mrr@10": {"mean": 0.25}}}}})
    {'test/mrr@10': 0.5, 'test/bm25/mrr@10': 0.25}
    """
    return {
        f"{prefix}/{metric}" if system == MODEL else f"{prefix}/{system}/{metric}": value["mean"]
        for system, entry in compared["systems"].items()
        for metric, value in entry["metrics"].items()
        if value["mean"] is not None
    }


def table_text(compared: dict[str, Any], title: str) -> str:
    """A plain-text table, at most TABLE_WIDTH columns wide: a system's means, below them their 95 % intervals.

    The last rows are the differences to the reference; * marks those whose interval does not hold 0 (p at most 0.05).
    """
    systems, reference = compared["systems"], compared["reference"]
    names = list(next(iter(systems.values()))["metrics"])
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    last = list(systems)[-1]
    for system, entry in systems.items():
        table.add_row(system, *(_mean_cell(entry["metrics"][name]) for name in names), end_section=system == last)
    for system, entry in systems.items():
        if entry["difference"] and system != "random":  # that chance is worse is no news
            cells = [_difference_cell(entry["difference"][name]) for name in names]
            table.add_row(f"{system} − {reference}", *cells)
    return "\n".join([plain(TABLE_WIDTH, table), *_notes(compared)]).strip("\n") + "\n"


def plain(width: int, *parts: Any) -> str:
    """Tables and texts of rich as plain text of at most so many columns."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False, _environ={})
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _notes(compared: dict[str, Any]) -> list[str]:
    over = f" over {compared['documents']:,} documents" if "documents" in compared else ""
    if compared.get("candidates") == "listed":
        over = ", each over its own candidates"
    notes = [
        f"{compared['counted']:,} {compared['unit']}{over}; below each mean its 95 % interval "
        f"({compared['samples']:,} bootstrap samples); * p ≤ 0.05"
    ]
    if compared.get("without_relevant"):
        notes.append(f"{compared['without_relevant']:,} queries without a relevant document are left out")
    if compared.get("missing"):
        notes.append(f"{compared['missing']:,} relevant documents are not in the collection: they count as not found")
    if "made" in compared:
        notes += _made(compared["made"])
    return notes


def _made(fusion: dict[str, Any]) -> list[str]:
    """How BM25 and the mix were made."""
    stems = "words as they are" if fusion["stemmer"] == "none" else f"{fusion['stemmer']} stems"
    chosen = f"by {fusion['validation_queries']:,} validation queries" if fusion["tried"] else "by no query"
    fit = fusion.get("linear", {})
    fused = f"{fusion['weight']:.2f} model + {1 - fusion['weight']:.2f} bm25"
    if fit and "why" not in fit:
        fused = " ".join(f"{weight:+.2f} {name}" for name, weight in fit["weights"].items())
    elif fit:
        fused += f" (linear: {fit['why']})"
    made = f"bm25: {stems}, k1 {fusion['k1']:g}, b {fusion['b']:g}; fused: {fused}"
    if second := fusion.get("rerank"):
        weight = second["weight"]
        made += f"; reranked: the first {second['top']} by {weight:.2f} second model + {1 - weight:.2f} fused"
    return [f"{made}; chosen {chosen}"]


def _mean_cell(value: dict[str, float | None]) -> str:
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.3f}\n{value['low']:.3f}–{value['high']:.3f}"


def _difference_cell(value: dict[str, float | None]) -> str:
    if value["mean"] is None or value["p"] is None:
        return "–"
    star = "*" if value["p"] <= bootstrap.SIGNIFICANT else " "
    return f"{value['mean']:+.3f}{star}\n{_short(value['low'])} {_short(value['high'])}"


def _short(value: float | None) -> str:
    """+.123: the leading zero left out, so that both ends fit the column."""
    return f"{value:+.3f}".replace("0.", ".", 1)

"""The report of a run: an evaluation's folder as one HTML file that needs nothing else, no script and no network.

A section appears where the folder holds what it shows, so every task's evaluation has its page; docs/report.md says
which file makes which section. All that comes from data is escaped by the template; only figures, which this package
draws and escapes itself, go in as markup. Sizes are bounded whatever the data.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config import task_spec
from pipeline.config.heads import HEADS
from pipeline.config.plugins import part
from pipeline.core import atomic_files, naming
from pipeline.core.errors import InputError
from pipeline.evaluation import judged
from pipeline.evaluation.bootstrap import SIGNIFICANT, Interval, mean_interval
from pipeline.evaluation.judged import Classes, Judged
from pipeline.reporting import examples, figures, folder
from pipeline.reporting.figures import Series
from pipeline.reporting.folder import Evaluation
from pipeline.reporting.slices import slices

SHOWN_QUERIES = 8  # won, and as many lost
SHOWN_DOCUMENTS = 5
MAX_CHARACTERS = 300  # of any text from data
MAX_SETTINGS = 400
MAX_SLICES, MAX_HISTOGRAMS, MAX_ALIGNMENTS, MAX_CLASSES = 8, 6, 6, 30
ALIGNED_ROWS, ALIGNED_COLUMNS = 32, 60
RELIABILITY_BINS = 10


def write(evaluation: Path, path: Path) -> None:
    """Makes the page of an evaluation's folder; the file appears whole. Raises InputError as folder.load."""
    text = build(folder.load(evaluation))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): give another --output") from None


def environment() -> Environment:
    """Templates that escape everything and stop at a name that is not there."""
    templates = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"figure": figure, "signed": signed, "cut": cut}
    templates.globals |= {"star": star}
    return templates


def build(evaluation: Evaluation) -> str:
    """The page."""
    kind, metric = evaluation.metric
    context: dict[str, Any] = {
        "name": cut(evaluation.name),
        "run": {name: cut(evaluation.run.get(name) or "") for name in ("made", "git_commit", "command", "test_data")}
        | {"versions": [(cut(name), cut(value)) for name, value in (evaluation.run.get("versions") or {}).items()]},
        "kind": kind,
        "metric": metric,
        "headline": _headline(evaluation),
        "tables": [_table(name, table, evaluation.judged.get(name)) for name, table in evaluation.compared.items()],
        "curves": Markup(figures.curves(evaluation.history)) if evaluation.history else None,
        "histograms": [
            {"title": cut(entry["title"]), "figure": Markup(figures.histogram(entry))}
            for entry in evaluation.histograms[:MAX_HISTOGRAMS]
        ],
        "slices": _slices(evaluation),
        "wins": _wins(evaluation),
        "examples": examples.chosen(evaluation),
        "written": evaluation.written,
        "classes": [_classes(name, rows) for name, rows in evaluation.judged.items() if rows.classes],
        "own": _own(evaluation),
        "alignments": [_alignment(entry) for entry in evaluation.alignments[:MAX_ALIGNMENTS]],
        "data": _data(evaluation.run),
        "settings": list(islice(flat(evaluation.run.get("configuration", {})), MAX_SETTINGS)),
    }
    return environment().get_template("report.html.j2").render(context)


# --- cells ------------------------------------------------------------------------------------------------------------
def figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference: its sign is always there, and it is a minus, not a hyphen."""
    return "–" if value is None or value != value else f"{value:+.3f}".replace("-", "−")


def star(difference: dict[str, float | None]) -> bool:
    """Whether a difference is told from 0."""
    p = difference.get("p")
    return p is not None and p <= SIGNIFICANT


def cut(value: Any) -> str:
    """Any value from data as a text of bounded length."""
    return judged.shown(str(value), MAX_CHARACTERS)


# --- sections ---------------------------------------------------------------------------------------------------------
def _headline(evaluation: Evaluation) -> dict[str, Any]:
    kind, metric = evaluation.metric
    table = evaluation.compared[kind]
    systems, reference = table["systems"], table.get("reference")
    return {
        "model": systems["model"]["metrics"][metric],
        "reference": reference if reference in systems else None,
        "baseline": systems.get(reference, {}).get("metrics", {}).get(metric),
        "difference": systems["model"].get("difference", {}).get(metric),
    }


def _table(kind: str, table: dict[str, Any], rows: Judged | None) -> dict[str, Any]:
    """The table of a kind, and its figure: all systems' metrics of one scale beside each other."""
    systems = table["systems"]
    names = list(systems["model"]["metrics"])
    shown = [name for name in names if systems["model"]["metrics"][name]["mean"] is not None]
    series = [
        Series(
            system,
            [
                Interval(*(entry["metrics"][name][end] for end in ("mean", "low", "high")))
                if entry["metrics"].get(name, {}).get("mean") is not None
                else None
                for name in shown
            ],
        )
        for system, entry in systems.items()
    ]
    one_scale = all(0 <= i.mean <= 1 for one in series for i in one.intervals if i is not None)
    return {
        "kind": kind,
        "metrics": names,
        "systems": systems,
        "reference": table.get("reference"),
        "counted": table.get("counted", len(rows.ids) if rows else 0),
        "unit": table.get("unit", "examples"),
        "samples": table.get("samples"),
        "without_relevant": table.get("without_relevant", 0),
        "figure": Markup(figures.intervals(shown, series, "mean (0 to 1)", "", 4.2)) if one_scale and shown else None,
    }


def _slices(evaluation: Evaluation) -> list[dict[str, Any]]:
    sections = []
    for kind, rows in evaluation.judged.items():
        metric = evaluation.metric[1] if kind == evaluation.metric[0] else ""
        if metric not in rows.metrics:
            metric = rows.metrics[0]
        reference = evaluation.compared[kind].get("reference")
        named = [name for name in ("model", reference) if (name, metric) in rows.values]
        named = named or ["model"]
        for one in slices(rows, metric, named, evaluation.samples, evaluation.seed)[:MAX_SLICES]:
            series = [Series(name, [part.systems[i] for part in one.parts]) for i, name in enumerate(one.systems)]
            places = [f"{part.label}\n({part.examples:,})" for part in one.parts]
            drawn = figures.intervals(places, series, metric, f"{one.name}; in brackets {rows.unit}")
            sections.append({"slice": one, "metric": metric, "unit": rows.unit, "figure": Markup(drawn)})
    return sections


def _wins(evaluation: Evaluation) -> dict[str, Any] | None:
    """How many queries each side won, and the clearest of both sides with their lists."""
    counts = {"won": 0, "tied": 0, "lost": 0}
    won: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for line in evaluation.wins():
        side = "tied" if not line["difference"] else "won" if line["difference"] > 0 else "lost"
        counts[side] += 1
        if side == "won" and len(won) < SHOWN_QUERIES:
            won.append(_query(line))
        if side == "lost":
            lost = [_query(line), *lost[: SHOWN_QUERIES - 1]]
    return {"counts": counts, "won": won, "lost": lost} if sum(counts.values()) else None


def _query(line: dict[str, Any]) -> dict[str, Any]:
    document = lambda d: {"text": cut(d["text"]), "relevant": d["relevance"] > 0, "score": d.get("score")}
    return {
        "query": cut(line["query"]),
        "values": {"model": line["model"], "bm25": line["bm25"]},
        "relevant": [document(d) for d in line["relevant"][:SHOWN_DOCUMENTS]],
        "tops": {name: [document(d) for d in line[f"{name}_top"][:SHOWN_DOCUMENTS]] for name in ("model", "bm25")},
    }


def _classes(kind: str, rows: Judged) -> dict[str, Any]:
    """Calibration and the confusion matrix, rows the true classes; beyond MAX_CLASSES the most frequent ones."""
    classes = rows.classes
    assert classes is not None
    confidence = 100 * classes.probabilities.max(axis=1)
    right = 100.0 * (classes.predicted == classes.labels)
    bins = reliability_bins(confidence, right)
    error = sum(count * abs(at - share.mean) for at, share, count in bins) / max(1, len(right))
    return {
        "kind": kind,
        "figure": Markup(figures.reliability(confidence, right, bins)),
        "calibration_error": error,
        **confusion(classes),
    }


def reliability_bins(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, Interval, int]]:
    """Bins of equal size by confidence: mean confidence, share right with its interval (per cent), and count."""
    order = np.argsort(confidence, kind="stable")
    return [
        (float(confidence[part].mean()), mean_interval(right[part], 300, 1), len(part))
        for part in np.array_split(order, min(RELIABILITY_BINS, max(1, len(order) // 10)))
        if len(part)
    ]


def confusion(classes: Classes) -> dict[str, Any]:
    """counts (C, C) with the classes' names; those beyond MAX_CLASSES, the rarest, are counted in `left_out`."""
    size = len(classes.names)
    places = np.sort(np.argsort(-np.bincount(classes.labels, minlength=size), kind="stable")[:MAX_CLASSES])
    counts = np.zeros((size, size), int)
    np.add.at(counts, (classes.labels, classes.predicted), 1)
    counts = counts[np.ix_(places, places)]
    sums = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {
        "names": [cut(classes.names[i]) for i in places],
        "counts": counts.tolist(),
        "shares": (100 * counts / sums).tolist(),
        "left_out": size - len(places),
    }


def _own(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The sections that the task and the head add: a title and a table of texts, its heads first."""
    configuration = evaluation.run.get("configuration", {})
    task = task_spec(configuration["task"]) if configuration.get("task") else None
    head = HEADS.all.get(configuration.get("model", {}).get("head")) if task and task.heads else None
    reports = [task and task.report, head and head.report]
    sections = []
    for section in (part(report)(evaluation.folder) for report in reports if report):
        if section is not None:
            title, (heads, *rows) = section
            rows = [[cut(cell) for cell in row] for row in rows[:MAX_SETTINGS]]
            sections.append({"title": cut(title), "heads": [cut(head) for head in heads], "rows": rows})
    return sections


def _alignment(entry: dict[str, Any]) -> dict[str, Any]:
    """A heat map and the tokens' weights; see docs/report.md for the entry."""
    rows, columns = entry["rows"][:ALIGNED_ROWS], entry["columns"][:ALIGNED_COLUMNS]
    values = np.array(entry["values"], float)[: len(rows), : len(columns)]
    axes = [cut(name) for name in entry.get("axes", ("query tokens", "document tokens"))]
    drawn = figures.heat_map(rows, columns, values, entry["label"], bool(entry.get("maxima")), axes)
    weights = []
    for one in entry.get("weights", []):
        usual = max(1e-12, sum(one["values"]) / max(1, len(one["values"])))
        tokens = [
            {"token": cut(token), "value": value, "strength": min(100, round(40 * value / usual))}
            for token, value in zip(one["tokens"][:ALIGNED_COLUMNS], one["values"])
        ]
        weights.append({"text": one["text"], "what": one["what"], "tokens": tokens})
    return {
        "title": cut(entry["title"]),
        "figure": Markup(drawn),
        "weights": weights,
        "cut": entry.get("cut", 0),
    }


def _data(run: dict[str, Any]) -> list[tuple[str, str]]:
    """What each stage read and made, as rows of a table."""
    rows: list[tuple[str, str]] = []
    for stage, entry in run.get("stages", {}).items():
        rows.append((f"{stage}: folder", f"{entry.get('key')} ({entry.get('created')}, {entry.get('seconds')} s)"))
        rows += [(f"{stage}: {name}", value) for name, value in flat(entry.get("counts") or {})]
        rows += [(f"{stage}: SHA-256 of {name}", value) for name, value in (entry.get("sha256") or {}).items()]
    return [(cut(name), cut(value)) for name, value in rows[:MAX_SETTINGS]]


def flat(value: Any) -> list[tuple[str, str]]:
    """Nested settings by dotted path, to be shown."""
    return [(path, cut("" if item in ({}, [], None) else item)) for path, item in naming.dotted(value)]

"""Runs side by side: what differs in their settings and data, their metrics, and the examples that changed sides.

The first run is what the others are compared with. Differences are paired over the examples that both judge.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from pipeline.config import smaller_is_better
from pipeline.evaluation import judged
from pipeline.evaluation.bootstrap import SIGNIFICANT, Difference, Interval
from pipeline.evaluation.judged import FUSED, MODEL, Judged, Key
from pipeline.reporting import captions_page, figures, page
from pipeline.reporting.figures import Series
from pipeline.reporting.folder import Evaluation
from pipeline.reporting.tables import plain

RANDOMISATIONS = 10_000
EXAMPLES = 8  # of each change of sides
MOST_SETTINGS = 3  # that name a run in place of its own name
OTHER_DATA = (
    "The runs were judged on different test data or in different ways: means are not comparable, and differences, over "
    "the examples in common, only roughly; `duplet promote` judges both alike."
)


class Setting(NamedTuple):
    name: str
    values: list[str]  # one of each run; "–" where a run has none


class Metric(NamedTuple):
    kind: str
    system: str  # the model, or `fused` where all runs have it
    name: str
    means: list[Interval | None]  # one of each run, as it was judged
    differences: list[Difference | None]  # of each further run to the first, over `common` examples
    common: list[int]
    p: list[float | None]  # of each difference, by a paired randomisation test

    @property
    def title(self) -> str:
        return self.name if self.system == MODEL else f"{self.system} {self.name}"


class Change(NamedTuple):
    """An example whose side differs between the first run and another."""

    id: str
    text: str
    before: float
    after: float


class Changes(NamedTuple):
    kind: str
    metric: str
    run: int  # position of the other run
    reference: str | None  # sides are above, level with or below its figure; None: above or below the first run's own
    counts: dict[str, int]  # "won → lost" -> examples
    examples: dict[str, list[Change]]


class Pictured(NamedTuple):
    """A picture that all runs wrote something about."""

    name: str
    picture: str  # PNG in base64
    references: list[str]
    captions: list[dict[str, Any]]  # of each run: see captions_page.keep


class Comparison(NamedTuple):
    names: list[str]
    same_test_data: bool
    of_other_tokens: list[str]  # metrics
    settings: list[Setting]
    metrics: list[Metric]
    changes: list[Changes]
    pictures: list[Pictured]


def compare(runs: list[Evaluation]) -> Comparison:
    """Compares two or more evaluations. Raises InputError where two have no example in common."""
    kinds = [kind for kind in runs[0].compared if all(kind in run.compared for run in runs)]
    metrics = [metric for kind in kinds for metric in _metrics(runs, kind)]
    changes = [
        _changes(runs[0], run, kind, position)
        for kind in kinds
        for position, run in enumerate(runs)
        if position and all(kind in one.judged for one in (runs[0], run))
    ]
    same = all(run.run.get(part) == runs[0].run.get(part) for run in runs for part in ("test_data", "judging"))
    unlike = list(dict.fromkeys(name for run in runs[1:] for name in runs[0].of_other_tokens(run)))
    return Comparison(_names(runs), same, unlike, _settings(runs), metrics, changes, _pictures(runs))


def _pictures(runs: list[Evaluation]) -> list[Pictured]:
    found = [captions_page.kept(run.folder) for run in runs]
    return [
        Pictured(name, one["picture"], one["references"], [other[name] for other in found])
        for name, one in found[0].items()
        if all(name in other for other in found)
    ]


def heads(comparison: Comparison) -> list[str]:
    """Each run's name with the settings of the configuration that differ, where these are few: for what is narrow."""
    rows = [row for row in comparison.settings if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", row.name)]
    if not 0 < len(rows) <= MOST_SETTINGS:
        return comparison.names
    return [
        ", ".join(f"{row.name.rpartition('.')[2]}: {row.values[i]}" for row in rows)
        for i in range(len(comparison.names))
    ]


def _names(runs: list[Evaluation]) -> list[str]:
    """The runs' names, with the evaluation's folder where two have the same."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} {run.folder.name[:8]}" for name, run in zip(names, runs)]


def _settings(runs: list[Evaluation]) -> list[Setting]:
    """Settings, data, versions and commits that are not the same in all runs."""
    flat = []
    for run in runs:
        values = dict(page.flat(run.run.get("configuration", {})))
        values |= {f"version of {name}": version for name, version in run.run.get("versions", {}).items()}
        for stage, entry in run.run.get("stages", {}).items():
            counts = page.flat(_rounded(entry.get("counts") or {}))
            values |= {f"{stage}: {name}": value for name, value in counts if stage != "tokenize" or "vocab" in name}
        commit = str(run.run.get("git_commit") or "–")
        values |= {"test data": str(run.run.get("test_data", "–")), "commit": commit[:10] + "+" * commit.endswith("+")}
        flat.append(values)
    names = dict.fromkeys(name for values in flat for name in values)
    rows = [Setting(name, [values.get(name, "–") for values in flat]) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def _rounded(value: Any) -> Any:
    """Figures to six digits, which is more than two trainings have in common."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _metrics(runs: list[Evaluation], kind: str) -> list[Metric]:
    names = list(runs[0].compared[kind]["systems"][MODEL]["metrics"])
    systems = [MODEL, *([FUSED] if all(FUSED in run.compared[kind]["systems"] for run in runs) else [])]
    pairs = [
        judged.matched(run.judged[kind], runs[0].judged[kind])
        if all(kind in r.judged for r in (run, runs[0]))
        else None
        for run in runs[1:]
    ]
    return [
        Metric(
            kind,
            *key,
            [_mean(run, kind, key) for run in runs],
            [_paired(pair, key, judged.difference, runs[0].samples, runs[0].seed) for pair in pairs],
            [len(pair[0].ids) if pair else 0 for pair in pairs],
            [_paired(pair, key, judged.randomised, RANDOMISATIONS, runs[0].seed) for pair in pairs],
        )
        for key in itertools.product(systems, names)
    ]


def _mean(run: Evaluation, kind: str, key: Key) -> Interval | None:
    entry = run.compared[kind]["systems"][key[0]]["metrics"].get(key[1], {"mean": None})
    return None if entry["mean"] is None else Interval(entry["mean"], entry["low"], entry["high"])


def _paired(pair: tuple[Judged, Judged] | None, key: Key, by: Callable[..., Any], samples: int, seed: int) -> Any:
    """What a function says of both sides of a system's metric; None where one of them does not have it."""
    if pair is None or not all(rows.measures(*key) for rows in pair):
        return None
    return by((pair[0], key), (pair[1], key), samples, seed)


def _changes(first: Evaluation, other: Evaluation, kind: str, position: int) -> Changes:
    """Which examples changed sides: against the reference where there is one, right or wrong for classes."""
    before, after = judged.matched(first.judged[kind], other.judged[kind])
    wanted = first.metric[1]
    metric = wanted if ("model", wanted) in before.values else next(m for s, m in before.values if s == "model")
    reference = first.compared[kind].get("reference")
    sign = -1 if smaller_is_better(metric) else 1
    old, new = (sign * rows.values["model", metric] for rows in (before, after))
    if before.classes is not None:
        yes, no = ("sure", "not sure") if metric == "sure_share" else ("right", "wrong")
        reference, words = None, {1: yes, -1: no, 0: "–"}
        sides = [np.where(values > 0, 1, -1) for values in (old, new)]
    elif reference != "model" and (reference, metric) in before.values and (reference, metric) in after.values:
        words = {1: "won", 0: "tied", -1: "lost"}
        sides = [
            np.sign(values - sign * rows.values[str(reference), metric]).astype(int)
            for values, rows in ((old, before), (new, after))
        ]
    else:
        reference, words = None, {1: "better", -1: "worse", 0: "same"}
        sides = [np.zeros(len(old), int), np.sign(new - old).astype(int)]
    counts: dict[str, int] = {}
    examples: dict[str, list[Change]] = {}
    for a in (1, 0, -1):
        for b in (-1, 0, 1):
            rows = np.flatnonzero((sides[0] == a) & (sides[1] == b))
            if a != b and len(rows):
                name = f"{words[a]} → {words[b]}"
                counts[name] = len(rows)
                clearest = rows[np.argsort(-np.abs(new - old)[rows], kind="stable")][:EXAMPLES]
                examples[name] = [
                    Change(before.ids[i], before.texts[i], sign * float(old[i]), sign * float(new[i])) for i in clearest
                ]
    return Changes(kind, metric, position, reference, counts, examples)


# --- shown ------------------------------------------------------------------------------------------------------------
def as_dict(comparison: Comparison) -> dict[str, Any]:
    """For --json."""
    return {
        "runs": comparison.names,
        "same_test_data": comparison.same_test_data,
        "of_other_tokens": comparison.of_other_tokens,
        "settings": {row.name: row.values for row in comparison.settings},
        "metrics": [
            {
                "kind": metric.kind,
                "system": metric.system,
                "metric": metric.name,
                "means": [mean and mean._asdict() for mean in metric.means],
                "differences": [one and one._asdict() for one in metric.differences],
                "common": metric.common,
                "p_randomisation": metric.p,
            }
            for metric in comparison.metrics
        ],
        "changes": [
            change._asdict()
            | {"examples": {side: [one._asdict() for one in listed] for side, listed in change.examples.items()}}
            for change in comparison.changes
        ],
    }


def text(comparison: Comparison) -> str:
    """Plain-text tables."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    settings = Table("differs in", *comparison.names, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in comparison.settings:
        settings.add_row(row.name, *row.values)
    others = [f"{name} − {comparison.names[0]}" for name in comparison.names[1:]]
    table = Table("metric", *comparison.names, *others, box=box.SIMPLE_HEAD, pad_edge=False)
    for metric in comparison.metrics:
        cells = [f"{m.mean:.4f}\n{m.low:.3f}–{m.high:.3f}" if m else "–" for m in metric.means]
        for one, p in zip(metric.differences, metric.p):
            star = "*" if p is not None and p <= SIGNIFICANT else " "
            cells.append(f"{one.mean:+.4f}{star}\n{one.low:+.3f} {one.high:+.3f}\np {p:.4f}" if one else "–")
        table.add_row(metric.title, *cells)
    lines = ["* p ≤ 0.05 by a paired randomisation test; ranges are 95 % bootstrap intervals\n"]
    if not comparison.same_test_data:
        lines.append(f"{OTHER_DATA}\n")
    if comparison.of_other_tokens:
        lines.append(f"{other_tokens(comparison)}\n")
    for change in comparison.changes:
        against = f" against {change.reference}" if change.reference else ""
        title = f"{change.metric}{against}, {comparison.names[0]} → {comparison.names[change.run]}"
        lines.append(f"{title}: {_counted(change)}")
        for side, listed in change.examples.items():
            for example in listed[:3]:
                words = " ".join(example.text.split())[:80]
                lines.append(f"  {side}: {example.before:.2f} → {example.after:.2f}  {words}")
    told = settings if comparison.settings else "settings and data are the same"
    return plain(110, told, table, *map(Text, lines)).strip("\n")


def other_tokens(comparison: Comparison) -> str:
    """A sentence about the metrics that are of other tokens."""
    return f"The runs have unlike vocabularies: {', '.join(comparison.of_other_tokens)} are means over other tokens."


def _counted(change: Changes) -> str:
    return ", ".join(f"{count:,} {side}" for side, count in change.counts.items()) or "no example changed sides"


def html(comparison: Comparison) -> str:
    """One self-contained page, as reports are."""
    shown = [metric.title for metric in comparison.metrics if all(metric.means)]
    series = [
        Series(name, [metric.means[i] for metric in comparison.metrics if all(metric.means)])
        for i, name in enumerate(comparison.names[:5])
    ]
    drawn = Markup(figures.intervals(shown, series, "mean", "", 4.2)) if shown else None
    context = {
        "comparison": comparison, "other_data": OTHER_DATA, "other_tokens": other_tokens, "figure": drawn,
        "counted": _counted, "heads": heads(comparison),
    }  # fmt: skip
    return page.environment().get_template("compare.html.j2").render(context)

"""Whether a new version may take the champion's place: both judged on the same test data, example by example."""

from typing import NamedTuple

from rich import box
from rich.table import Table

from pipeline.config import PromoteConfig, smaller_is_better
from pipeline.core.errors import InputError
from pipeline.evaluation import judged
from pipeline.evaluation.bootstrap import SIGNIFICANT, Difference
from pipeline.evaluation.judged import MODEL
from pipeline.reporting.folder import Evaluation
from pipeline.reporting.tables import plain


class Row(NamedTuple):
    """A metric of both."""

    metric: str
    candidate: float
    champion: float | None
    difference: Difference | None  # candidate - champion; None without rows to resample


class Decision(NamedTuple):
    passed: bool
    reason: str  # a sentence's end, with the figures
    kind: str
    metric: str  # what the gate looked at
    system: str  # of the candidate, whose metrics these are
    rows: list[Row]
    examples: int  # judged by both
    unit: str

    @property
    def row(self) -> Row:
        return next(row for row in self.rows if row.metric == self.metric)


def decide(candidate: Evaluation, champion: Evaluation | None, settings: PromoteConfig) -> Decision:
    """Applies the gate, to the answers that a version gives (`Evaluation.answers`) or, by a metric `SYSTEM/NAME`, to
    another system's.

    Raises:
        InputError: the metric was not measured, or cannot be resampled and promote.judge_by=interval asks for that.
    """
    looked_at = _measured(candidate, settings.metric)
    reached = {name: _mean(candidate, _measured(candidate, name)) for name in settings.floors}
    floors = [
        f"{name} {reached[name]:.4f} misses its floor of {floor:g}"
        for name, floor in settings.floors.items()
        if not _gain(name.rpartition("/")[2], reached[name], floor) >= 0
    ]
    kind, system, metric = looked_at
    rows, examples, unit = _rows(candidate, champion, kind, system, settings.metric.rpartition("/")[0])
    decision = Decision(False, "; ".join(floors), kind, metric, system, rows, examples, unit)
    if floors:
        return decision
    if champion is None:
        return decision._replace(passed=True, reason="it is the first champion")
    row = decision.row
    assert row.champion is not None
    if settings.judge_by == "mean":
        gain, what = _gain(metric, row.candidate, row.champion), f"{metric} differs by {_signed(row)}"
    elif row.difference is None:
        raise InputError(
            f"{metric} has no figure per example, so its difference has no interval: set promote.judge_by=mean, or "
            f"promote.metric to one of {', '.join(candidate.judged[kind].metrics) if kind in candidate.judged else '-'}"
        )
    else:
        low, high = row.difference.low, row.difference.high
        gain = -high if smaller_is_better(metric) else low
        what = f"{metric} differs by {_signed(row)} (95 % interval {low:+.4f} to {high:+.4f})"
    if metric in candidate.of_other_tokens(champion):
        what += ", but their vocabularies are unlike: it is a mean over other tokens"
    passed = gain > settings.min_difference
    side = "below" if smaller_is_better(metric) else "above"
    bound = 0.0 + (-settings.min_difference if smaller_is_better(metric) else settings.min_difference)  # no -0
    must = f"the {'interval' if settings.judge_by == 'interval' else 'difference'} must lie {side} {bound:g}"
    return decision._replace(passed=passed, reason=what if passed else f"{what}, and {must}")


class Measured(NamedTuple):
    """Whose metric."""

    kind: str
    system: str
    metric: str


def _measured(evaluation: Evaluation, asked: str) -> Measured:
    """Of the system that is asked for, else of the one that answers, or of the model where that one lacks it."""
    system, _, metric = asked.rpartition("/")
    for kind, table in evaluation.compared.items():
        for one in [system] if system else [evaluation.answers(kind), MODEL]:
            if table["systems"].get(one, {"metrics": {}})["metrics"].get(metric, {}).get("mean") is not None:
                return Measured(kind, one, metric)
    names = [name for table in evaluation.compared.values() for name in table["systems"][MODEL]["metrics"]]
    raise InputError(f"the evaluation of {evaluation.name} has no {asked}: promote.metric can be {', '.join(names)}")


def _mean(evaluation: Evaluation, of: Measured) -> float:
    return float(evaluation.compared[of.kind]["systems"][of.system]["metrics"][of.metric]["mean"])


def _gain(metric: str, new: float, old: float) -> float:
    """How much better the new figure is."""
    return old - new if smaller_is_better(metric) else new - old


def _signed(row: Row) -> str:
    assert row.champion is not None
    return f"{row.candidate - row.champion:+.4f}"


def _rows(
    candidate: Evaluation, champion: Evaluation | None, kind: str, system: str, asked: str
) -> tuple[list[Row], int, str]:
    """All metrics of a kind; where both have rows, over the examples that both judge.

    Args:
        system: the candidate's; asked: what the gate names, "": each one's own.
    """
    table = candidate.compared[kind]
    found = table["systems"][system]["metrics"]
    own = [Measured(kind, system, name) for name, value in found.items() if value["mean"] is not None]
    unit = table.get("unit", "examples")
    if champion is None:
        return [Row(of.metric, _mean(candidate, of), None, None) for of in own], table.get("counted", 0), unit
    if kind not in champion.compared:
        raise InputError(f"the champion was not judged as {kind}: evaluate.kinds of both must share it")
    theirs = {of.metric: _measured(champion, f"{asked}/{of.metric}" if asked else of.metric) for of in own}
    if kind not in candidate.judged or kind not in champion.judged:
        rows = [Row(of.metric, _mean(candidate, of), _mean(champion, theirs[of.metric]), None) for of in own]
        return rows, table.get("counted", 0), unit
    new, old = judged.matched(candidate.judged[kind], champion.judged[kind])
    rows = []
    for of in own:
        other = theirs[of.metric]
        if new.measures(*of[1:]) and old.measures(*other[1:]):
            drawn = judged.difference((new, of[1:]), (old, other[1:]), candidate.samples, candidate.seed)
            rows.append(Row(of.metric, judged.observed(new, of[1:]), judged.observed(old, other[1:]), drawn))
        else:
            rows.append(Row(of.metric, _mean(candidate, of), _mean(champion, other), None))
    return rows, len(new.ids), unit


def table_text(decision: Decision, candidate: str, champion: str | None) -> str:
    """A plain-text table of both versions' metrics; > marks the one that the gate looked at."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", candidate, *([champion, "difference", "95 % interval"] if champion else [])):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in decision.rows:
        cells = [("> " if row.metric == decision.metric else "  ") + row.metric, f"{row.candidate:.4f}"]
        if champion and row.champion is not None:
            d = row.difference
            star = "*" if d and d.p <= SIGNIFICANT else " "
            cells += [f"{row.champion:.4f}", f"{row.candidate - row.champion:+.4f}{star}"]
            cells += [f"{d.low:+.4f} to {d.high:+.4f}" if d else "–"]
        table.add_row(*cells)
    lines = [line for line in plain(100, table).splitlines() if line]
    whose = f", {decision.system}" if decision.system != MODEL else ""
    under = f"{decision.examples:,} {decision.unit}{whose}; > what the gate looks at; * p ≤ 0.05"
    return "\n".join([*lines, "", under])

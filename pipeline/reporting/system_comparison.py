"""Systems compared example by example, for any task whose metrics are means over examples (see judged)."""

from pathlib import Path
from typing import Any

from pipeline.core.atomic_files import as_json
from pipeline.evaluation import judged as rows
from pipeline.evaluation.judged import Judged
from pipeline.reporting import tables

NOTHING = ("mean", "low", "high")


def comparison(judged: Judged, reference: str, samples: int, seed: int) -> dict[str, Any]:
    """All systems' metrics with 95 % intervals, and each one's paired difference to `reference`.

    A metric that a system lacks (macro_f1 and auc need what it said) has a mean of None.

    Returns:
        As tables.comparison.
    """
    metrics = judged.metrics
    keys = [(system, metric) for system in judged.systems for metric in metrics]
    known = [key for key in keys if judged.measures(*key)]
    drawn = dict(zip(known, rows.resampled([(judged, key) for key in known], samples, seed)))
    observed = {key: rows.observed(judged, key) for key in known}

    def interval(system: str, metric: str) -> tables.Figure:
        own = system, metric
        return tables.interval_of(observed[own], drawn[own]) if own in observed else dict.fromkeys(NOTHING)

    def difference(system: str, metric: str) -> tables.Figure:
        own, other = (system, metric), (reference, metric)
        if own not in observed or other not in observed:
            return dict.fromkeys((*NOTHING, "p"))
        return tables.interval_of(observed[own] - observed[other], drawn[own] - drawn[other], with_p=True)

    return {
        "unit": judged.unit,
        "counted": len(judged.ids),
        "samples": samples,
        "reference": reference,
        "systems": tables.of_systems(judged.systems, metrics, reference, interval, difference),
    }


def write(
    folder: Path, title: str, kinds: dict[str, tuple[Judged, str]], samples: int, seed: int, note: str = ""
) -> dict[str, float]:
    """Writes table.txt, metrics.json and judged-KIND.parquet of each kind; returns the flat metrics.

    Args:
        kinds: kind -> its judged examples and the system that the others are compared with.
        note: stands below the tables.
    """
    compared: dict[str, Any] = {}
    printed: list[str] = []
    flat: dict[str, float] = {}
    for kind, (judged, reference) in kinds.items():
        rows.write(folder / f"judged-{kind}.parquet", judged)
        compared[kind] = comparison(judged, reference, samples, seed)
        printed.append(tables.table_text(compared[kind], f"{title}: test split, {kind}"))
        flat |= tables.flat_metrics("test", compared[kind])
    (folder / "table.txt").write_text("\n".join([*printed, *([note + "\n"] if note else [])]), encoding="utf-8")
    (folder / "metrics.json").write_text(as_json(compared, indent=1), encoding="utf-8")
    return flat

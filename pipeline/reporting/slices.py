"""Parts of the test data, cut by a property of its examples, each judged by itself."""

from typing import NamedTuple

import numpy as np

from pipeline.evaluation import judged
from pipeline.evaluation.bootstrap import Difference, Interval
from pipeline.evaluation.judged import Judged

PARTS = 4
TOO_FEW = 8  # examples; an interval of fewer would only pretend


class Part(NamedTuple):
    label: str  # "3 to 7"
    examples: int
    systems: list[Interval | None]  # None: too few
    difference: Difference | None  # the first system minus the second


class Slice(NamedTuple):
    name: str
    systems: list[str]
    parts: list[Part]


def slices(rows: Judged, metric: str, systems: list[str], samples: int, seed: int) -> list[Slice]:
    """For each property that varies enough, up to PARTS parts of about equal size, in its order."""
    varied = []
    for name, values in rows.slices.items():
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            continue
        cuts = np.unique(np.quantile(values[known], np.arange(1, PARTS) / PARTS, method="lower"))
        places = np.searchsorted(cuts, values[known], side="left")
        if np.count_nonzero(np.bincount(places) >= TOO_FEW) > 1:
            parts = [
                _part(judged.subset(rows, known[places == place]), values[known[places == place]], metric, systems,
                      samples, seed)
                for place in np.unique(places)
            ]  # fmt: skip
            varied.append(Slice(name, systems, parts))
    return varied


def _part(rows: Judged, values: np.ndarray, metric: str, systems: list[str], samples: int, seed: int) -> Part:
    low, high = float(values.min()), float(values.max())
    label = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    if len(rows.ids) < TOO_FEW:
        return Part(label, len(rows.ids), [None] * len(systems), None)
    keys = [(system, metric) for system in systems]
    difference = None
    if len(systems) > 1:
        difference = judged.difference((rows, keys[0]), (rows, keys[1]), samples, seed)
    return Part(label, len(rows.ids), list(judged.intervals(rows, keys, samples, seed)), difference)

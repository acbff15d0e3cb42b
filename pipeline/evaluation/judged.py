"""Judged examples on disk, a row per query, pair or text: what reports slice and two models are compared by.

An evaluation folder holds `judged-KIND.parquet` for each kind of its metrics.json that can be taken apart; the columns
are in docs/report.md.
"""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError, one_line
from pipeline.evaluation import bootstrap, metrics
from pipeline.evaluation.grades import expected_grade

MODEL, FUSED = "model", "fused"

SHOWN_CHARACTERS = 200
FORMAT = 1
_META = b"duplet.judged"
_SLICE, _WEIGHT, _PROBABILITY, _SAID, _SCORE = "slice/", "#weight", "probability/", "said/", "score/"


class Classes(NamedTuple):
    """What a classifier said of N examples; grades are classes too."""

    names: list[str]  # (C,)
    labels: np.ndarray  # (N,) int64, positions in `names`
    probabilities: np.ndarray  # (N, C) float64, rows summing to 1
    ordered: bool = False  # grades: auc compares the expected grades, as metrics.auc does

    @property
    def predicted(self) -> np.ndarray:
        """(N,) int64, the likeliest class."""
        return self.probabilities.argmax(axis=1)

    @property
    def scores(self) -> np.ndarray:
        """(N,) expected grade."""
        return expected_grade(self.probabilities)


class Said(NamedTuple):
    """What another system said of the same examples."""

    predicted: np.ndarray  # (N,) int64, positions in the classes' names
    scores: np.ndarray  # (N,) float64, the expected grade; zeros where classes have no order

    @classmethod
    def of(cls, predicted: np.ndarray, scores: np.ndarray | None = None) -> "Said":
        return cls(predicted.astype(np.int64), np.zeros(len(predicted)) if scores is None else scores)


class Judged(NamedTuple):
    """N examples. A metric is Σ weight · value / Σ weight over them; weights are 1 where none are given."""

    unit: str  # "queries", "pairs", "texts"
    ids: list[str]  # (N,) distinct; two models' rows are matched by them
    texts: list[str]  # (N,) what to show for an example
    groups: list[str] | None  # (N,) examples of a group are drawn together; None: each by itself
    slices: dict[str, np.ndarray]  # "query length (tokens)" -> (N,) float64, not a number where unknown
    values: dict[tuple[str, str], np.ndarray]  # (system, metric) -> (N,) float64
    weights: dict[tuple[str, str], np.ndarray] = {}
    classes: Classes | None = None  # of the model
    others: dict[str, Said] = {}  # system -> what it said, where there are classes

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(system for system, _ in self.values))

    @property
    def metrics(self) -> list[str]:
        """Those of the model that can be measured from the rows."""
        return [metric for system, metric in self.values if system == MODEL] + self._of_classes

    @property
    def _of_classes(self) -> list[str]:
        return [] if self.classes is None else ["macro_f1", "auc"] if self.classes.ordered else ["macro_f1"]

    def measures(self, system: str, metric: str) -> bool:
        """Whether a system's metric can be measured from the rows."""
        said = system == MODEL or system in self.others
        return (system, metric) in self.values or (said and metric in self._of_classes)

    def said(self, system: str) -> Said:
        """What a system said; KeyError where it is not known."""
        if system in self.others or system != MODEL or self.classes is None:
            return self.others[system]
        return Said(self.classes.predicted, self.classes.scores)


def write(path: Path, judged: Judged) -> None:
    """Writes the rows as Parquet, texts cut to SHOWN_CHARACTERS."""
    columns: dict[str, pa.Array] = {"id": pa.array(judged.ids, pa.string())}
    columns["text"] = pa.array([shown(text) for text in judged.texts], pa.string())
    if judged.groups is not None:
        columns["group"] = pa.array(judged.groups, pa.string())
    columns |= {_SLICE + name: pa.array(values, pa.float64()) for name, values in judged.slices.items()}
    for (system, metric), values in judged.values.items():
        columns[f"{system}/{metric}"] = pa.array(values, pa.float64())
    for (system, metric), values in judged.weights.items():
        columns[f"{system}/{metric}{_WEIGHT}"] = pa.array(values, pa.float64())
    if judged.classes is not None:
        columns["label"] = pa.array(judged.classes.labels, pa.int64())
        for i, name in enumerate(judged.classes.names):
            columns[_PROBABILITY + name] = pa.array(judged.classes.probabilities[:, i], pa.float64())
    for system, said in judged.others.items():
        columns[_SAID + system] = pa.array(said.predicted, pa.int64())
        columns[_SCORE + system] = pa.array(said.scores, pa.float64())
    meta = {
        "format": FORMAT,
        "unit": judged.unit,
        "values": list(judged.values),
        "weights": list(judged.weights),
        "classes": judged.classes and judged.classes.names,
        "ordered": bool(judged.classes and judged.classes.ordered),
        "others": list(judged.others),
    }
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(meta).encode()})
    pq.write_table(table, path, compression="zstd")


def read(path: Path) -> Judged:
    """Reads what `write` wrote. Raises InputError where the file is damaged or of another format."""
    try:
        table = pq.read_table(path)
        meta = json.loads((table.schema.metadata or {})[_META])
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']} instead of {FORMAT}")
        column = lambda name: table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        named = lambda name: table[name].cast(pa.string()).to_pylist()
        classes = None
        if meta["classes"]:
            probabilities = np.stack([column(_PROBABILITY + name) for name in meta["classes"]], axis=1)
            labels = table["label"].cast(pa.int64()).to_numpy(zero_copy_only=False)
            if not np.isfinite(probabilities).all() or (labels >= probabilities.shape[1]).any():
                raise ValueError("a label or a probability is out of range")
            if (labels < 0).any():  # of an evaluation from before labels unknown to training were classes
                meta["classes"].append("(not in training)")
                probabilities = np.pad(probabilities, ((0, 0), (0, 1)))
                labels = np.where(labels < 0, probabilities.shape[1] - 1, labels)
            classes = Classes(meta["classes"], labels, probabilities, meta["ordered"])
        whole = lambda name: table[name].cast(pa.int64()).to_numpy(zero_copy_only=False)
        judged = Judged(
            unit=str(meta["unit"]),
            ids=named("id"),
            texts=named("text"),
            groups=named("group") if "group" in table.column_names else None,
            slices={name.removeprefix(_SLICE): column(name) for name in table.column_names if name.startswith(_SLICE)},
            values={(system, metric): column(f"{system}/{metric}") for system, metric in meta["values"]},
            weights={(system, metric): column(f"{system}/{metric}{_WEIGHT}") for system, metric in meta["weights"]},
            classes=classes,
            others={
                name: Said(whole(_SAID + name), column(_SCORE + name)) for name in meta.get("others", ())
            },  # an evaluation from before has none
        )
        _check(judged)
        return judged
    except (OSError, KeyError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        sentence = one_line(error)
        raise InputError(f"{path} cannot be read ({sentence}): delete its folder and run `duplet evaluate`") from None


def _check(judged: Judged) -> None:
    """Raises ValueError where rows cannot be judged: none, without an id or a text, or with a figure that is none."""
    if not judged.ids:
        raise ValueError("it has no rows")
    if any(text is None for part in (judged.ids, judged.texts, judged.groups or []) for text in part):
        raise ValueError("a row has no id, no text or no group")
    if not any(system == MODEL for system, _ in judged.values):
        raise ValueError("it has no figure of the model")
    if not all(np.isfinite(values).all() for values in (*judged.values.values(), *judged.weights.values())):
        raise ValueError("a figure is not finite")
    size = len(judged.classes.names) if judged.classes else 0
    for said in judged.others.values():
        if ((said.predicted < 0) | (said.predicted >= size)).any() or not np.isfinite(said.scores).all():
            raise ValueError("what a system said is out of range")


def shown(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """A text cut for showing.

    >>> shown("a long sentence", 8)
    'a long …'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


# --- statistics -------------------------------------------------------------------------------------------------------
Key = tuple[str, str]  # system, metric


def statistic(judged: Judged, key: Key, times: np.ndarray) -> np.ndarray:
    """(S,) a system's metric where row n is drawn times[s, n] times; not a number where there is nothing to measure."""
    if key in judged.values:
        values = judged.values[key]
        weights = judged.weights.get(key, np.ones(len(values)))
        above, below = times @ (values * weights), times @ weights
        return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
    assert judged.classes is not None, f"{key} cannot be measured from the rows"
    said = judged.said(key[0])
    return metrics.weighted_metrics(judged.classes.labels, *said, times.astype(np.float64))[key[1]]


def observed(judged: Judged, key: Key) -> float:
    """A system's metric over all rows."""
    return float(statistic(judged, key, np.ones((1, len(judged.ids))))[0])


def resampled(parts: list[tuple[Judged, Key]], samples: int, seed: int) -> list[np.ndarray]:
    """For each part its metric under the same `samples` draws, (samples,) each; all parts have the same rows."""
    first = parts[0][0]
    group = None if first.groups is None else np.unique(first.groups, return_inverse=True)[1]
    size = len(first.ids) if group is None else int(group.max()) + 1
    drawn: list[list[np.ndarray]] = [[] for _ in parts]
    for times in bootstrap.resamples(size, samples, seed):
        step = max(1, bootstrap.DRAWS_PER_CHUNK // max(1, len(first.ids)))  # a group may hold many rows
        for start in range(0, len(times), step):
            rows = times[start : start + step] if group is None else times[start : start + step][:, group]
            for draws, (judged, key) in zip(drawn, parts):
                draws.append(statistic(judged, key, rows))
    return [np.concatenate(draws) for draws in drawn]


def intervals(judged: Judged, keys: list[Key], samples: int, seed: int) -> list[bootstrap.Interval]:
    """Each metric with its 95 % interval."""
    drawn = resampled([(judged, key) for key in keys], samples, seed)
    return [bootstrap.Interval(observed(judged, key), *bootstrap.percentiles(draws)) for key, draws in zip(keys, drawn)]


def difference(a: tuple[Judged, Key], b: tuple[Judged, Key], samples: int, seed: int) -> bootstrap.Difference:
    """a - b over the same rows, paired."""
    own, other = resampled([a, b], samples, seed)
    return bootstrap.difference(observed(*a) - observed(*b), own - other)


def randomised(a: tuple[Judged, Key], b: tuple[Judged, Key], samples: int, seed: int) -> float:
    """The two-sided p-value of a - b by a paired randomisation test: how often the difference is as large or larger
    when each example's two results (a group's together) are handed to the systems at random.

    Cohen, "Empirical methods for artificial intelligence", 1995, section 5.3; for retrieval: Smucker, Allan and
    Carterette, "A comparison of statistical significance tests for information retrieval evaluation", 2007. Both are of
    the same rows. The observed difference counts as one more sample, so p is never 0.
    """
    (own, key), (other, other_key) = a, b
    rows = len(own.ids)
    group = np.arange(rows) if own.groups is None else np.unique(own.groups, return_inverse=True)[1]
    both = _stacked(own, key, other, other_key)
    rng, size = np.random.default_rng(seed), int(group.max()) + 1
    seen, least = 1, abs(observed(*a) - observed(*b)) - bootstrap.ROUNDING
    step = max(1, bootstrap.DRAWS_PER_CHUNK // (2 * rows))
    for start in range(0, samples, step):
        sides = (rng.random((min(step, samples - start), size)) < 0.5)[:, group].astype(np.int64)
        first = statistic(both, key, np.concatenate([sides, 1 - sides], axis=1))
        second = statistic(both, key, np.concatenate([1 - sides, sides], axis=1))
        seen += int(np.count_nonzero(~(np.abs(first - second) < least)))  # not a number: no evidence
    return seen / (samples + 1)


def _stacked(own: Judged, key: Key, other: Judged, other_key: Key) -> Judged:
    """The rows of one system's metric, then those of the other's, as if they were one system's."""
    together = own._replace(
        ids=[*own.ids, *other.ids], texts=[], groups=None, slices={}, values={}, weights={}, others={}
    )
    if key in own.values:
        ones = np.ones(len(own.ids))
        values = {key: np.concatenate([own.values[key], other.values[other_key]])}
        weights = {key: np.concatenate([own.weights.get(key, ones), other.weights.get(other_key, ones)])}
        return together._replace(values=values, weights=weights, classes=None)
    assert own.classes is not None and other.classes is not None, f"{key} cannot be measured from the rows"
    names = list(dict.fromkeys([*own.classes.names, *other.classes.names]))
    labels, predicted, scores = [], [], []
    for classes, said in ((own.classes, own.said(key[0])), (other.classes, other.said(other_key[0]))):
        places = np.array([names.index(name) for name in classes.names])
        labels.append(places[classes.labels])
        predicted.append(places[said.predicted])
        scores.append(said.scores)
    nothing = np.zeros((len(together.ids), len(names)))  # what is asked of stands in others
    return together._replace(
        classes=Classes(names, np.concatenate(labels), nothing, own.classes.ordered),
        others={key[0]: Said(np.concatenate(predicted), np.concatenate(scores))},
    )


def subset(judged: Judged, rows: np.ndarray) -> Judged:
    """Some rows, in the order given."""
    classes = judged.classes
    return judged._replace(
        ids=[judged.ids[row] for row in rows],
        texts=[judged.texts[row] for row in rows],
        groups=None if judged.groups is None else [judged.groups[row] for row in rows],
        slices={name: values[rows] for name, values in judged.slices.items()},
        values={key: values[rows] for key, values in judged.values.items()},
        weights={key: values[rows] for key, values in judged.weights.items()},
        classes=classes and classes._replace(labels=classes.labels[rows], probabilities=classes.probabilities[rows]),
        others={name: Said(said.predicted[rows], said.scores[rows]) for name, said in judged.others.items()},
    )


def matched(a: Judged, b: Judged) -> tuple[Judged, Judged]:
    """The rows that both judge, in the same order.

    Raises:
        InputError: there is none, or an id stands for two rows, of which nobody knows which is meant.
    """
    for judged in (a, b):
        if len({*judged.ids}) < len(judged.ids):
            twice = next(name for name, times in Counter(judged.ids).items() if times > 1)
            raise InputError(f"the id {twice!r:.60} stands for several examples of one evaluation: run it again")
    places = {key: row for row, key in enumerate(b.ids)}
    rows = np.array([(row, places[key]) for row, key in enumerate(a.ids) if key in places], int).reshape(-1, 2)
    if not len(rows):
        raise InputError("the two evaluations judge no example in common: there is nothing to compare")
    return subset(a, rows[:, 0]), subset(b, rows[:, 1])

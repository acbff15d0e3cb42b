"""What an evaluation said of single examples, for its page: the first of the file, and those that it did worst on."""

import json
from itertools import islice
from typing import Any

import numpy as np

from pipeline.config import smaller_is_better
from pipeline.evaluation.judged import Judged, shown
from pipeline.reporting.folder import Evaluation

SHOWN = 6  # of each kind
MAX_CHARACTERS, MAX_WORDS = 300, 60  # of one example
HIDDEN = ("id",)


def chosen(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Lists of {"title", "lines"}; none where the evaluation wrote no predictions.

    A line is {"facts": list of (name, text)} and, of a tagged sentence, "words": list of {word, tag, given}.
    """
    first = [line_of(line) for line in islice(evaluation.predictions(), SHOWN)]
    if not first:
        return []
    lists = [{"title": "As they come", "lines": first}]
    metric, places = _worst(evaluation)
    if places:
        lines = {place: line for place, line in enumerate(evaluation.predictions()) if place in places}
        worst = [line_of(lines[place]) for place in places if place in lines]
        lists.append({"title": f"Least {metric}" if not smaller_is_better(metric) else f"Most {metric}",
                      "lines": worst})  # fmt: skip
    return lists


def _worst(evaluation: Evaluation) -> tuple[str, list[int]]:
    """By which metric, and the places of the examples that are worst by it; those as good as the best are left out."""
    if not evaluation.judged:
        return "", []
    kind, metric = evaluation.metric
    rows = evaluation.judged.get(kind) or next(iter(evaluation.judged.values()))
    if ("model", metric) not in rows.values:
        metric = _telling(rows)
    badness = rows.values["model", metric] * (1 if smaller_is_better(metric) else -1)
    order = np.argsort(-badness, kind="stable")[:SHOWN]
    return metric, [int(place) for place in order if badness[place] > badness.min()]


def _telling(rows: Judged) -> str:
    """The metric with the most different values."""
    metrics = [metric for system, metric in rows.values if system == "model"]
    return max(metrics, key=lambda metric: len(np.unique(rows.values["model", metric])))


def line_of(line: dict[str, Any]) -> dict[str, Any]:
    """A line of predictions.jsonl as the page shows it.

    >>> line_of({"id": "7", "text": "so dull", "given": "bad", "probabilities": {"good": 0.25, "bad": 0.75}})["facts"]
    [('text', 'so dull'), ('given', 'bad'), ('probabilities', 'bad 0.750, good 0.250')]
    """
    parts: dict[str, Any] = {"words": []}
    if {"words", "tags", "given"} <= line.keys():
        columns = (line[name][:MAX_WORDS] for name in ("words", "tags", "given"))
        parts["words"] = [
            {"word": shown(word, 40), "tag": shown(tag, 40), "given": shown(label, 40)}
            for word, tag, label in zip(*columns)
        ]
        line = {name: value for name, value in line.items() if name not in ("words", "tags", "given")}
    parts["facts"] = [(shown(name, 40), _text(value)) for name, value in line.items() if name not in HIDDEN]
    return parts


def _text(value: Any) -> str:
    if isinstance(value, str):
        return shown(value, MAX_CHARACTERS)
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict) and value and all(isinstance(number, int | float) for number in value.values()):
        likeliest = sorted(value.items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{shown(str(name), 40)} {number:.3f}" for name, number in likeliest)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return shown(" | ".join(value), MAX_CHARACTERS)
    return shown(json.dumps(value, ensure_ascii=False), MAX_CHARACTERS)

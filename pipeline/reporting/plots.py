"""Pictures for the tracker: loss curves and length histograms, without a display or pyplot's global state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.config.tasks import metric_named

# Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of colour vision; line styles differ as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def loss_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Writes `loss_figure` as a PNG."""
    _save(loss_figure(history), path)


def loss_figure(history: list[dict[str, Any]], width_in: float = 8, height_in: float = 6.5) -> Figure:
    """Training loss by update and, below it, the validation metrics, those of one scale together.

    Args:
        history: rows with "update" and any of "loss" and "valid/METRIC"; a row may lack any but "update".
    """
    metrics = sorted({name for row in history for name in row if name.startswith("valid/")})
    scales = {scale: [name for name in metrics if _scale(name) == scale] for scale in map(_scale, metrics)}
    if "nats" in scales:
        scales.pop("perplexity", None)  # the same curve once more: its exponential
    height = height_in * (0.6, 1, 1.4, 1.8, 2.2)[min(4, len(scales))]
    figure = Figure(figsize=(width_in, height), dpi=120, layout="constrained")
    axes = figure.subplots(1 + len(scales), 1, sharex=True, squeeze=False)[:, 0]
    updates, losses = _series(history, "loss")
    axes[0].plot(
        updates, losses, color=COLOURS[0], linewidth=1, alpha=0.35 if len(losses) > 20 else 1, label="as logged"
    )
    if len(losses) > 20:
        axes[0].plot(updates, _smooth(losses), color=COLOURS[0], linewidth=2, label="running mean")
        axes[0].legend(frameon=False)
    axes[0].set_ylabel("loss")
    axes[0].set_title("Training: mean loss per example", loc="left")
    for axis, (scale, names) in zip(axes[1:], scales.items()):
        for i, name in enumerate(names):
            at, values = _series(history, name)
            style, colour = STYLES[i % len(STYLES)], COLOURS[(i + 1) % len(COLOURS)]
            axis.plot(at, values, style, marker="o", markersize=4, color=colour, label=name.removeprefix("valid/"))
        axis.set_ylabel(scale)
        axis.set_title("Validation", loc="left")
        axis.legend(
            frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.09 - 0.09 * len(scales))
        )  # below all
    axes[-1].set_xlabel("update (optimizer steps)")
    return figure


def _scale(metric: str) -> str:
    """What a validation metric's numbers are.

    >>> [_scale(name) for name in ("valid/mrr@10", "valid/left_nats", "valid/bleu", "valid/bleu_4")]
    ['0 to 1', 'nats', '0 to 100', '0 to 1']
    """
    return metric_named(metric.removeprefix("valid/").removeprefix("left_")).scale


def length_histograms(lengths: dict[str, np.ndarray], path: Path) -> None:
    """Draws one histogram per field, with its median and 95th percentile, as a PNG.

    Args:
        lengths: field -> (N,) lengths in tokens.
    """
    figure = Figure(figsize=(max(4.5, 4.5 * len(lengths)), 3.8), dpi=120, layout="constrained")
    axes = figure.subplots(1, max(1, len(lengths)), squeeze=False)[0]
    for axis, colour, (name, values) in zip(axes, COLOURS * len(lengths), lengths.items()):
        note = ""
        if len(values):
            longest = int(values.max())
            width = max(1, -(-(longest + 1) // 50))  # whole tokens per bar, 50 bars at most
            edges = np.arange(0, longest + width + 1, width) - 0.5
            counts = np.bincount(values)
            axis.hist(np.arange(len(counts)), bins=edges, color=colour, weights=counts * (100 / len(values)))
            median, high = np.percentile(values, [50, 95])
            axis.axvline(median, color="black", linestyle="-", linewidth=1.2)
            axis.axvline(high, color="black", linestyle="--", linewidth=1.2)
            note = f"\nmedian {median:.0f} (solid), 95th percentile {high:.0f} (dashed)"
        axis.set_title(f"{name}: {len(values):,} texts{note}", loc="left", fontsize=11)
        axis.set_xlabel("length (tokens)")
        axis.set_ylabel("share of texts (%)")
    _save(figure, path)


def examination(chances: Sequence[float], path: Path) -> None:
    """Writes how likely each place of a list of results is looked at, as a model of clicks found it, as a PNG."""
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axis = figure.subplots()
    axis.plot(range(1, len(chances) + 1), chances, marker="o", markersize=4, color=COLOURS[0])
    axis.set_ylim(0, 1.05)
    axis.set_xlabel("place in the list of results, from the top")
    axis.set_ylabel("chance to be looked at")
    axis.set_title("Examination: what the clicks tell of where people look", loc="left")
    _save(figure, path)


def _series(history: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [(row["update"], row[name]) for row in history if row.get(name) is not None]
    values = np.array(rows, np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of all points around each, shorter at the ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    begin, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[end] - sums[begin]) / (end - begin)


def tidy(figure: Figure) -> None:
    """A faint grid, and no frame above and to the right."""
    for axis in figure.axes:
        axis.grid(alpha=0.18)
        axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    tidy(figure)
    FigureCanvasAgg(figure).print_png(str(path))


def sweep(rows: list[dict[str, Any]], keys: list[str], logarithmic: set[str], metric: str, path: Path) -> None:
    """Draws a sweep's metric over each setting, as a PNG; with two settings, a line per value of the other.

    Args:
        rows: a dictionary per trial, of its settings and "value".
        keys: the settings varied.
        logarithmic: those with a logarithmic axis.
    """
    figure = Figure(figsize=(max(5.0, 4.2 * len(keys)), 3.8), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=True)[0]
    for key, axes in zip(keys, panels):
        others = [other for other in keys if other != key]
        lines: dict[str, list[tuple[Any, float]]] = {}
        for row in rows:
            named = ", ".join(f"{other.split('.')[-1]}={row[other]}" for other in others)
            lines.setdefault(named if len(others) == 1 else "", []).append((row[key], row["value"]))
        numeric = all(isinstance(row[key], int | float) and not isinstance(row[key], bool) for row in rows)
        for i, (name, points) in enumerate(lines.items() if len(lines) <= len(COLOURS) else []):
            points.sort(key=lambda point: (str(type(point[0])), point[0]) if numeric else (str(point[0]), 0))
            at = [point[0] if numeric else str(point[0]) for point in points]
            style = STYLES[i % len(STYLES)] if len(others) == 1 else ""
            axes.plot(at, [value for _, value in points], style, marker="o", color=COLOURS[i], label=name or None)
        if len(lines) > len(COLOURS):
            at = [row[key] if numeric else str(row[key]) for row in rows]
            axes.plot(at, [row["value"] for row in rows], "", marker="o", linestyle="none", color=COLOURS[0])
        elif len(lines) > 1:
            axes.legend(frameon=False)
        axes.set_xlabel(key)
        if key in logarithmic:
            axes.set_xscale("log")
        elif numeric and len(tried := sorted({row[key] for row in rows})) <= 8:
            axes.set_xticks(tried, [f"{value:g}" for value in tried])
    panels[0].set_ylabel(f"validation {metric}")
    _save(figure, path)


def norms_over_distance(norms: dict[str, np.ndarray], path: Path) -> None:
    """Draws the norms of ds_t/ds_k over t - k = 1, 2, … as a PNG, logarithmically.

    Args:
        norms: "NAME, start" and "NAME, trained" -> (lags,); a name's two curves share a colour.
    """
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    names = list(dict.fromkeys(key.rsplit(", ", 1)[0] for key in norms))
    for key, values in norms.items():
        name, when = key.rsplit(", ", 1)
        style = "--" if when == "start" else "-"
        axis.plot(
            np.arange(1, len(values) + 1), values, style, color=COLOURS[names.index(name) % len(COLOURS)], label=key
        )
    axis.set_yscale("log")
    axis.set_xlabel("t − k (steps)")
    axis.set_ylabel("‖∂s_t/∂s_k‖ (largest singular value)")
    axis.set_title("What is left of a state in later ones", loc="left")
    axis.legend(frameon=False, ncols=2)
    _save(figure, path)

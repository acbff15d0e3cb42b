"""Pictures for the tracker: loss curves and length histograms, without a display or pyplot's global state."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of colour vision; line styles differ as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def loss_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draws training loss by update and, below it, the validation metrics, as a PNG.

    Args:
        history: rows with "update" and any of "loss" and "valid/METRIC"; a row may lack any but "update".
    """
    metrics = sorted({name for row in history for name in row if name.startswith("valid/")})
    figure = Figure(figsize=(8, 6.5 if metrics else 4), dpi=120, layout="constrained")
    axes = figure.subplots(2 if metrics else 1, 1, sharex=True, squeeze=False)[:, 0]
    updates, losses = _series(history, "loss")
    axes[0].plot(
        updates, losses, color=COLOURS[0], linewidth=1, alpha=0.35 if len(losses) > 20 else 1, label="as logged"
    )
    if len(losses) > 20:
        axes[0].plot(updates, _smooth(losses), color=COLOURS[0], linewidth=2, label="running mean")
        axes[0].legend(frameon=False)
    axes[0].set_ylabel("training loss (mean per pair)")
    axes[0].set_title("Training", loc="left")
    for i, name in enumerate(metrics):
        at, values = _series(history, name)
        style = STYLES[i % len(STYLES)]
        colour = COLOURS[(i + 1) % len(COLOURS)]
        axes[1].plot(at, values, style, marker="o", markersize=4, color=colour, label=name.removeprefix("valid/"))
    if metrics:
        axes[1].set_ylabel("validation metric (0 to 1)")
        axes[1].set_title("Validation", loc="left")
        axes[1].legend(frameon=False)
    axes[-1].set_xlabel("update (optimizer steps)")
    _save(figure, path)


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
            axis.hist(values, bins=edges, color=colour, weights=np.full(len(values), 100 / len(values)))
            median, high = np.percentile(values, [50, 95])
            axis.axvline(median, color="black", linestyle="-", linewidth=1.2)
            axis.axvline(high, color="black", linestyle="--", linewidth=1.2)
            note = f"\nmedian {median:.0f} (solid), 95th percentile {high:.0f} (dashed)"
        axis.set_title(f"{name}: {len(values):,} texts{note}", loc="left", fontsize=11)
        axis.set_xlabel("length (tokens)")
        axis.set_ylabel("share of texts (%)")
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


def _save(figure: Figure, path: Path) -> None:
    for axis in figure.axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(str(path))

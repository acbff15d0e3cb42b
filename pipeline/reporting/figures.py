"""Figures as inline SVG: drawn with matplotlib, in the page's own colours and letters, so that they turn dark with it.

Series colours are Okabe and Ito's, as the page's variables --s1 to --s6; markers and line styles differ as well. All
texts come from data and are shown as they are: no mathematics is read out of dollar signs.
"""

import html
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.judged import shown
from pipeline.reporting import plots

WIDTH_IN = 4.6  # as wide as a phone, so that letters keep their size there
INK = "#010203"
# drawn in these, shown in the page's variables
_SHOWN = {INK: "currentColor", "#000000": "currentColor", "#ffffff": "var(--card)"} | {
    colour.lower(): f"var(--s{i + 1})" for i, colour in enumerate(plots.COLOURS[:6])
}
_MARKERS = ("o", "s", "D", "^", "v")
_RC = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
    "legend.frameon": False,
}


class Series(NamedTuple):
    name: str
    intervals: list[Interval | None]  # one for each place; None: too few to say


def curves(history: list[dict[str, Any]]) -> str:
    """Training loss and validation metrics by update."""
    with matplotlib.rc_context(_RC):
        return _svg(plots.loss_figure(history, WIDTH_IN, 4.6), "Training loss and validation metrics by update")


def intervals(places: Sequence[str], series: Sequence[Series], y: str, x: str = "", height_in: float = 2.9) -> str:
    """Means with their intervals for each place, the series side by side."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        axis = figure.subplots()
        step = 0.7 / max(1, len(series))
        for i, one in enumerate(series):
            shown = [(place, interval) for place, interval in enumerate(one.intervals) if interval is not None]
            if not shown:
                continue
            at = np.array([place for place, _ in shown]) + (i - (len(series) - 1) / 2) * step
            means = np.array([interval.mean for _, interval in shown])
            ends = (
                np.array([(interval.mean - interval.low, interval.high - interval.mean) for _, interval in shown])
                .clip(0)
                .T
            )
            axis.errorbar(
                at, means, ends, fmt=_MARKERS[i % 5], markersize=4.5, color=plots.COLOURS[i % 5],
                label=_short(one.name, 24), linewidth=1.4, capsize=2,
            )  # fmt: skip
        axis.set_xticks(
            range(len(places)),
            ["\n".join(_short(line, 16) for line in place.replace("@", "\n@").split("\n")) for place in places],
        )
        axis.set_xlim(-0.6, len(places) - 0.4)
        axis.set_ylabel(y)
        axis.set_xlabel(_short(x, 60))
        figure.legend(loc="outside upper left", ncols=min(4, max(1, len(series))), handletextpad=0.3, columnspacing=1)
        return _svg(figure, f"{y} with 95 % intervals: " + ", ".join(one.name for one in series))


def histogram(entry: dict[str, Any]) -> str:
    """Shares of each series over common bins; see docs/report.md for the entry."""
    edges = np.array(entry["edges"], float)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        axis = figure.subplots()
        for i, series in enumerate(entry["series"][:5]):
            counts = np.array(series["counts"], float)
            shares = 100 * counts / max(1.0, counts.sum())
            axis.stairs(shares, edges, fill=True, alpha=0.25, color=plots.COLOURS[i])
            style = plots.STYLES[i % len(plots.STYLES)]
            axis.stairs(
                shares, edges, color=plots.COLOURS[i], linestyle=style, linewidth=1.5,
                label=f"{_short(series['name'], 24)} ({int(counts.sum()):,})",
            )  # fmt: skip
        axis.set_xlabel(_short(entry["x"], 60))
        axis.set_ylabel("share of each (%)")
        axis.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2 if len(entry["series"]) < 4 else 3, columnspacing=1)
        return _svg(figure, str(entry["title"]))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: list[tuple[float, Interval, int]]) -> str:
    """How often a class given with some confidence is right, and how often each confidence occurs.

    Args:
        confidence, right: (N,) per cent, and whether the class was right.
        bins: mean confidence, share right with its interval (both per cent) and count.
    """
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
        axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axis.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=":", label="perfectly calibrated")
        at = np.array([b[0] for b in bins])
        means = np.array([b[1].mean for b in bins])
        ends = np.array([(b[1].mean - b[1].low, b[1].high - b[1].mean) for b in bins]).reshape(-1, 2).clip(0).T
        axis.errorbar(
            at, means, ends, fmt="o-", markersize=4.5, color=plots.COLOURS[0], label="model, 95 % interval", capsize=2
        )
        axis.set_ylabel("right (%)")
        axis.set_ylim(-3, 103)
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1)
        edges = np.linspace(0, 100, 21)
        axis.set_xlim(float(edges[max(0, np.searchsorted(edges, confidence.min()) - 2)]), 101)
        counts = np.histogram(confidence, edges)[0]
        below.stairs(100 * counts / max(1, len(right)), edges, fill=True, alpha=0.4, color=plots.COLOURS[0])
        below.set_xlabel("confidence of the model (probability of its class, %)")
        below.set_ylabel("share (%)")
        return _svg(figure, "Reliability: share of right answers by confidence")


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: np.ndarray, label: str, maxima: bool,
    axes: Sequence[str] = ("query tokens", "document tokens"),
) -> str:  # fmt: skip
    """A matrix (R, C) of similarities with its tokens; shown upright, the columns' tokens downwards.

    `maxima`: a ring marks the best column of each row.
    """
    with matplotlib.rc_context(_RC | {"font.size": 8}):
        figure = Figure(figsize=(WIDTH_IN, 1.4 + 0.145 * len(columns)), layout="constrained")
        axis = figure.subplots()
        image = axis.imshow(values.T, aspect="auto", cmap="cividis", interpolation="nearest")
        if maxima:
            axis.plot(range(len(rows)), values.argmax(axis=1), "o", markersize=4, markerfacecolor="none",
                      markeredgecolor="#d55e00", markeredgewidth=1.5)  # fmt: skip
        axis.set_xticks(range(len(rows)), [_short(token) for token in rows], rotation=90)
        axis.set_yticks(range(len(columns)), [_short(token) for token in columns])
        axis.xaxis.tick_top()
        axis.tick_params(length=0, pad=2)
        axis.set_frame_on(False)
        axis.set_xlabel(axes[0])
        axis.xaxis.set_label_position("top")
        axis.set_ylabel(axes[1])
        bar = figure.colorbar(image, ax=axis, location="bottom", fraction=0.08, aspect=40, pad=0.01)
        bar.set_label(label)
        bar.ax.set_frame_on(False)
        return _svg(figure, f"Heat map: {label}", frame=False)


def _short(text: str, limit: int = 14) -> str:
    return shown("".join(c if c.isprintable() else "·" for c in str(text)), limit)


def _svg(figure: Figure, description: str, frame: bool = True) -> str:
    """The figure as an SVG element of the page, its colours and letters left to the page's style."""
    if frame:
        plots.tidy(figure)
    figure.patch.set_visible(False)
    for axis in figure.axes:
        axis.patch.set_visible(False)
    for label in figure.findobj(Text):
        label.set_parse_math(False)
    out = io.StringIO()
    # equal figures give equal bytes, and two figures of one page no equal ids
    with matplotlib.rc_context({"svg.hashsalt": description}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the browser has the letters that matplotlib's own font lacks
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r"<[^>]*>", lambda tag: _themed(tag[0]), text)  # in texts < and > are escaped
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


def _themed(tag: str) -> str:
    """A tag with the page's colours and letters instead of fixed ones."""
    tag = re.sub(r"#[0-9a-fA-F]{6}\b", lambda colour: _SHOWN.get(colour[0].lower(), colour[0]), tag)
    tag = re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)  # only what is referred to needs a name
    return re.sub(r" ?font-family: [^;\"]*;?", "", tag)

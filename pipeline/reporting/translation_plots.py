"""Attention drawn: what each written token looked at."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def heat_map(weights: np.ndarray, source: Sequence[str], target: Sequence[str], path: Path) -> None:
    """Draws (T, L) attention weights, rows of which sum to 1, as a PNG: a row per target token.

    Args:
        source: L tokens; target: T tokens.
    """
    size = (2.2 + 0.32 * len(source), 1.8 + 0.28 * len(target))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(source)), [_plain(token) for token in source], rotation=60, ha="right")
    axis.set_yticks(range(len(target)), [_plain(token) for token in target])
    axis.set_xlabel("source")
    axis.set_ylabel("written")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # no font for it here: a box is drawn
        FigureCanvasAgg(figure).print_png(str(path))


def _plain(token: str) -> str:
    return token.replace("$", r"\$")  # which would begin a formula

"""The pictures are written for any history and lengths, and say what they show."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from pipeline.reporting import figures as figures_of_page
from pipeline.reporting import plots


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collects each figure on its way to the file."""
    seen: list[Figure] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (seen.append(figure), save(figure, path)))
    return seen


def test_loss_curves(tmp_path: Path, figures: list[Figure]) -> None:
    history = [{"update": i, "loss": 1 / i} for i in range(1, 60)] + [{"update": 50, "loss": None, "valid/mrr@10": 0.4}]
    plots.loss_curves(history, tmp_path / "loss.png")
    assert imread(tmp_path / "loss.png").shape[1] > 500
    loss, valid = figures[0].axes
    assert loss.lines[0].get_xydata()[-1].tolist() == [59, 1 / 59]
    assert valid.lines[0].get_xydata().tolist() == [[50, 0.4]]
    assert valid.get_xlabel() == "update (optimizer steps)"
    assert "loss" in loss.get_ylabel()
    assert [text.get_text() for text in valid.get_legend().get_texts()] == ["mrr@10"]


@pytest.mark.parametrize("history", [[], [{"update": 1, "loss": float("nan")}], [{"update": 3, "valid/map": 0.1}]])
def test_scant_histories_are_drawn(history: list[dict[str, float]], tmp_path: Path) -> None:
    plots.loss_curves(history, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_running_mean_of_a_line_is_the_line() -> None:
    line = np.arange(100.0)
    np.testing.assert_allclose(plots._smooth(line)[2:-2], line[2:-2])


def test_length_histograms(tmp_path: Path, figures: list[Figure]) -> None:
    lengths = {"query": np.array([1, 2, 2, 3]), "document": np.arange(1, 257), "none": np.array([], int)}
    plots.length_histograms(lengths, tmp_path / "lengths.png")
    query, document, none = figures[0].axes
    heights = [bar.get_height() for bar in query.patches]
    assert heights == [0, 25, 50, 25]  # lengths 0 to 3, in per cent
    assert sum(bar.get_height() for bar in document.patches) == pytest.approx(100)
    assert len(document.patches) <= 50
    assert "median 2 (solid)" in query.get_title(loc="left")
    assert query.get_xlabel() == "length (tokens)"
    assert query.get_ylabel() == "share of texts (%)"
    assert none.get_title(loc="left") == "none: 0 texts"


def test_colours_differ() -> None:
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) >= 6


def test_metrics_of_different_scales_have_axes_of_their_own(tmp_path: Path, figures: list[Figure]) -> None:
    names = ("bleu", "chrf", "nats", "perplexity", "exact")
    values = {f"valid/{name}": 0.5 for name in names}
    plots.loss_curves([{"update": 1, "loss": 1.0}, {"update": 2} | values], tmp_path / "l.png")
    shown = {axis.get_ylabel(): [line.get_label() for line in axis.lines] for axis in figures[0].axes[1:]}
    assert shown == {
        "0 to 100": ["bleu", "chrf"], "0 to 1": ["exact"], "nats": ["nats"],
    }  # fmt: skip


def test_no_label_is_longer_than_its_axis() -> None:
    """Else it is cut off, or runs into the next axis's, where a page shows several scales in little room."""
    values = {f"valid/{name}": 0.5 for name in ("exact", "bleu_4", "cider", "nats")}
    drawn = plots.loss_figure([{"update": 1, "loss": 1.0}, {"update": 2} | values], figures_of_page.WIDTH_IN, 4.6)
    drawn.canvas.draw()  # type: ignore[attr-defined]
    assert len(drawn.axes) == 4
    for axis in drawn.axes:
        assert axis.yaxis.label.get_window_extent().height <= axis.get_window_extent().height

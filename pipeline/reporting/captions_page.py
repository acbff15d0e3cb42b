"""A page of images with what was written about them: one HTML file with all in it."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1.2rem; }
figure { margin: 0; padding: .8rem; border: 1px solid #ccc; border-radius: 6px; }
figure.exact { border-color: #009e73; }
img { width: 100%; image-rendering: pixelated; border-radius: 3px; }
ul { padding-left: 1.1rem; color: #555; }
"""


class Shown(NamedTuple):
    name: str
    image: np.ndarray | None  # (H, W, 3) uint8; None: only a vector is known
    caption: str
    references: list[str]
    exact: bool
    weights: np.ndarray | None = None  # (L,) of the places of a square grid, row by row: what was looked at


def write(path: Path, title: str, note: str, images: Sequence[Shown]) -> None:
    """Writes the page; all text is escaped, and nothing is loaded from elsewhere."""
    figures = "\n".join(_figure(image) for image in images)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{STYLE}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n<p>{html.escape(note)}</p>\n<main>\n{figures}\n</main></body></html>\n",
        encoding="utf-8",
    )


def _figure(shown: Shown) -> str:
    picture = ""
    if shown.image is not None:
        seen = _lit(shown.image, shown.weights)
        picture = f'<img alt="{html.escape(shown.name)}" src="data:image/png;base64,{_png(seen)}">'
    references = "".join(f"<li>{html.escape(reference)}</li>" for reference in shown.references)
    kind = ' class="exact"' if shown.exact else ""
    caption = (
        f"<figcaption><b>{html.escape(shown.caption)}</b><ul>{references}</ul>{html.escape(shown.name)}</figcaption>"
    )
    return f"<figure{kind}>{picture}{caption}</figure>"


def _lit(image: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The picture with, beside it, a copy in which the places of small weight are dark."""
    if weights is None or not len(weights):
        return image
    side, height = round(len(weights) ** 0.5), image.shape[0]
    if side * side != len(weights):
        return image
    places = np.minimum(np.arange(height) * side // height, side - 1)
    light = 0.15 + 0.85 * (weights / weights.max()).reshape(side, side)[places][:, places]
    return np.concatenate([image, (image * light[:, :, None]).astype(np.uint8)], axis=1)


def _png(image: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")

"""A page of images with what was written about them: one HTML file with all in it; and what comparing runs reads."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.atomic_files import as_json
from pipeline.reporting import folder as reporting
from pipeline.reporting import stored

KEPT = "captions.json"  # the first pictures with their captions, for pages of several runs
KEPT_PICTURES = 24
WORD_PX = 64  # at most, of the small picture above each word

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1.2rem; }
figure { margin: 0; padding: .8rem; border: 1px solid #ccc; border-radius: 6px; }
figure.exact { border-color: #009e73; }
img { width: 100%; image-rendering: pixelated; border-radius: 3px; }
ul { padding-left: 1.1rem; color: #555; }
.words { display: flex; flex-wrap: wrap; gap: .3rem; }
.words span { width: 4rem; text-align: center; font-size: 12px; }
"""


class Shown(NamedTuple):
    name: str
    image: np.ndarray | None  # (H, W, 3) uint8; None: only a vector is known
    caption: str
    references: list[str]
    exact: bool
    weights: np.ndarray | None = None  # (L,) of the places of a square grid, row by row: what was looked at
    words: Sequence[tuple[str, np.ndarray]] = ()  # each written word, and the (L,) weights while it was written


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
    words = "".join(
        f'<span><img alt="" src="data:image/png;base64,{small}">{html.escape(word)}</span>'
        for word, small in _words(shown)
    )
    return f"<figure{kind}>{picture}{caption}" + (f'<div class="words">{words}</div>' if words else "") + "</figure>"


def _words(shown: Shown) -> list[tuple[str, str]]:
    """Each word with a small PNG of the picture, in base64, on which the places that it did not look at are dark."""
    if shown.image is None:
        return []
    step = -(-max(shown.image.shape[:2]) // WORD_PX)
    small = shown.image[::step, ::step]
    return [(word, _png(_dark(small, weights))) for word, weights in shown.words]


def keep(folder: Path, images: Sequence[Shown]) -> None:
    """Writes captions.json: the first pictures, what was written of each, and where each word looked."""
    found = [
        {
            "name": shown.name,
            "picture": _png(shown.image),
            "caption": shown.caption,
            "exact": shown.exact,
            "references": shown.references,
            "words": _words(shown),
        }
        for shown in images[:KEPT_PICTURES]
        if shown.image is not None
    ]
    if found:
        (folder / KEPT).write_text(as_json(found, ensure_ascii=False), encoding="utf-8")


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    """By picture, what `keep` wrote into an evaluation's folder; empty where it wrote nothing. Raises InputError."""
    return {one["name"]: one for one in reporting.read(folder, KEPT, stored.CAPTIONS, [])}


def _lit(image: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The picture with, beside it, a copy in which the places of small weight are dark."""
    if weights is None or not len(weights) or _side(weights) is None:
        return image
    return np.concatenate([image, _dark(image, weights)], axis=1)


def _side(weights: np.ndarray) -> int | None:
    """Of a square grid of so many places; None: they are no square."""
    side = round(len(weights) ** 0.5)
    return side if side * side == len(weights) else None


def _dark(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The square picture with the places of small weight dark."""
    side, height = _side(weights), image.shape[0]
    if side is None:
        return image
    places = np.minimum(np.arange(height) * side // height, side - 1)
    light = 0.15 + 0.85 * (weights / weights.max()).reshape(side, side)[places][:, places]
    return np.asarray((image * light[:, :, None]).astype(np.uint8))


def _png(image: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")

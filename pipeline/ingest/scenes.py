"""Drawn scenes: two coloured shapes and how they lie, with the one sentence that says so. No download, no library."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.config.sources import Columns, ScenesSource, SplitName
from pipeline.ingest import images
from pipeline.ingest.rows import Row

SIZE_PX = 48
SHAPES = ("square", "circle", "triangle", "cross")
COLOURS = {
    "red": (220, 50, 40), "green": (50, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50),
    "purple": (150, 60, 180),
}  # fmt: skip
RELATIONS = ("left of", "above", "inside")
# All scenes with the same two things, whatever lies where, are in one split: those of test were never seen together.
COLUMNS = Columns(group=("things",), metadata=("things",))


class Thing(NamedTuple):
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


THINGS = [Thing(colour, shape) for colour, shape in itertools.product(COLOURS, SHAPES)]


def read(
    source: ScenesSource, config: Config, limit_bytes: int, folder: Path
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `image`, its name, and `caption`; leaves the pictures in `folder` (see images.Writer)."""
    yield None, _rows(source.count, config.split_seed, folder)


def _rows(count: int, seed: int, folder: Path) -> Iterator[Row]:
    with images.Writer(folder, [f"scene-{i:06d}" for i in range(count)], (SIZE_PX, SIZE_PX, 3), np.uint8) as writer:
        for i, name in enumerate(writer.names):
            rng = np.random.default_rng([seed, i])
            thing, other = (THINGS[int(n)] for n in rng.choice(len(THINGS), 2, replace=False))
            # the same colour inside itself cannot be seen
            relation = RELATIONS[int(rng.integers(len(RELATIONS) - (thing.colour == other.colour)))]
            writer.put(i, draw(thing, relation, other, rng))
            caption = f"a {thing} {relation} a {other}"
            things = " + ".join(sorted((str(thing), str(other))))
            yield Row("scenes", i + 1, {"image": name, "caption": caption, "things": things}, caption)


def draw(thing: Thing, relation: str, other: Thing, rng: np.random.Generator) -> np.ndarray:
    """(SIZE_PX, SIZE_PX, 3) uint8: a scene at places, of sizes and in shades that vary, on noise."""
    canvas = np.full((SIZE_PX, SIZE_PX, 3), rng.integers(15, 70), np.float64)
    if relation == "inside":
        at, radius = rng.uniform(21, SIZE_PX - 21, 2), rng.uniform(19, 21)
        paint(canvas, other, at, radius, rng)
        if other.shape == "triangle":  # its middle is below that of its height
            at[1] += radius / 4
        paint(canvas, thing, at + rng.uniform(-1, 1, 2), rng.uniform(7, 8), rng)
    else:
        first, second = ([middle + rng.uniform(-2, 2), 24 + rng.uniform(-4, 4)] for middle in (12, 36))
        if relation == "above":
            first, second = first[::-1], second[::-1]
        paint(canvas, thing, np.array(first), rng.uniform(7, 9), rng)
        paint(canvas, other, np.array(second), rng.uniform(7, 9), rng)
    canvas += rng.normal(0, 6, canvas.shape)
    return canvas.clip(0, 255).astype(np.uint8)


def paint(canvas: np.ndarray, thing: Thing, at: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    """Fills a shape around (x, y)."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] + 0.5
    x, y = x - at[0], y - at[1]
    far, near = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    inside = {
        "square": far <= 0.9 * radius,
        "circle": x * x + y * y <= radius * radius,
        "triangle": (abs(y) <= radius) & (abs(x) <= (y + radius) / 2),
        "cross": (far <= radius) & (near <= radius / 3),
    }[thing.shape]
    canvas[inside] = np.array(COLOURS[thing.colour]) + rng.uniform(-20, 20, 3)

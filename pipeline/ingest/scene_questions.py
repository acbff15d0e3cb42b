"""Drawn scenes with a question about each and its one-word answer: made up, no download, no library.

For each kind of question the answer is drawn first, evenly among the possible ones, and the scene is drawn to fit it:
the question alone then says nothing of the answer. The idea of questions by kind over drawn scenes: Johnson et al.,
"CLEVR: a diagnostic dataset for compositional language and elementary visual reasoning", 2017.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import Config
from pipeline.config.sources import Column, Columns, SceneQuestionsSource, SplitName
from pipeline.ingest import images
from pipeline.ingest.rows import Row
from pipeline.ingest.scenes import SIZE_PX, THINGS, Thing, paint

PLACES = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("zero", "one", "two", "three")
SMALL, LARGE = (4.5, 5.5), (9.0, 10.5)  # radius in pixels of a thing in its quarter of the picture
# Scenes with the same set of things are in one split: no set of the test split is in the training split.
COLUMNS = Columns(group=("things",), metadata=("things", "kind"))


class Placed(NamedTuple):
    thing: Thing
    large: bool


class Asked(NamedTuple):
    """A question, its answer, and the scenes that fit: `things` stand in it, and no other thing may be one of `barred`.

    `place` is the quarter of the first of `things`; None: any.
    """

    question: str
    answer: str
    things: list[Placed]
    barred: Callable[[Thing], bool]
    place: int | None = None


def read(
    source: SceneQuestionsSource, config: Config, limit_bytes: int, folder: Path
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `image`, its name, `question` and `answer`; leaves the pictures in `folder` (see images.Writer)."""
    yield None, _rows(source.count, config.split_seed, folder)


def _rows(count: int, seed: int, folder: Path) -> Iterator[Row]:
    kinds = list(KINDS)
    with images.Writer(folder, [f"scene-{i:06d}" for i in range(count)], (SIZE_PX, SIZE_PX, 3), np.uint8) as writer:
        for i, name in enumerate(writer.names):
            rng = np.random.default_rng([seed, i])
            kind = kinds[i % len(kinds)]
            asked = KINDS[kind](rng)
            quarters = _placed(asked, rng)
            writer.put(i, _draw(quarters, rng))
            things = " + ".join(sorted(str(placed.thing) for placed in quarters.values()))
            values: dict[Column, str] = {"image": name, "question": asked.question, "answer": asked.answer}
            values |= {"kind": kind, "things": things}
            yield Row("scene_questions", i + 1, values, asked.question)


def _colour(rng: np.random.Generator) -> Asked:
    """The colour of the only thing of its shape."""
    thing = _thing(rng)
    things = [_sized(thing, rng)]
    return Asked(f"what colour is the {thing.shape} ?", thing.colour, things, lambda other: other.shape == thing.shape)


def _shape(rng: np.random.Generator) -> Asked:
    """The shape of the only thing of its colour."""
    thing = _thing(rng)
    things = [_sized(thing, rng)]
    return Asked(
        f"what shape is the {thing.colour} thing ?", thing.shape, things, lambda other: other.colour == thing.colour
    )


def _count(rng: np.random.Generator) -> Asked:
    """How many things have a colour, or a shape."""
    number, by_colour = int(rng.integers(len(NUMBERS))), bool(rng.integers(2))
    asked = _thing(rng)
    fits: Callable[[Thing], bool]
    if by_colour:
        fits = lambda thing: thing.colour == asked.colour
        what = f"{asked.colour} things"
    else:
        fits = lambda thing: thing.shape == asked.shape
        what = f"{asked.shape}{'es' if asked.shape == 'cross' else 's'}"
    able = [thing for thing in THINGS if fits(thing)]
    things = [_sized(able[int(rng.integers(len(able)))], rng) for _ in range(number)]
    return Asked(f"how many {what} are there ?", NUMBERS[number], things, fits)


def _place(rng: np.random.Generator) -> Asked:
    """The quarter of the picture where a thing is."""
    thing, place = _thing(rng), int(rng.integers(len(PLACES)))
    return Asked(f"where is the {thing} ?", PLACES[place], [_sized(thing, rng)], lambda other: other == thing, place)


def _comparison(rng: np.random.Generator) -> Asked:
    """Whether one thing is larger than another."""
    thing, other = (THINGS[int(n)] for n in rng.choice(len(THINGS), 2, replace=False))
    larger = bool(rng.integers(2))
    things = [Placed(thing, larger), Placed(other, not larger)]
    return Asked(
        f"is the {thing} larger than the {other} ?", "yes" if larger else "no", things, lambda it: it in (thing, other)
    )


def _existence(rng: np.random.Generator) -> Asked:
    """Whether a thing is there; where it is not, one of its colour and one of its shape often are."""
    thing, yes = _thing(rng), bool(rng.integers(2))
    near = [
        other for other in THINGS if other != thing and (other.colour == thing.colour or other.shape == thing.shape)
    ]
    first = thing if yes else near[int(rng.integers(len(near)))]
    return Asked(f"is there a {thing} ?", "yes" if yes else "no", [_sized(first, rng)], lambda other: other == thing)


KINDS: dict[str, Callable[[np.random.Generator], Asked]] = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "place": _place,
    "comparison": _comparison,
    "yes or no": _existence,
}


def _thing(rng: np.random.Generator) -> Thing:
    return THINGS[int(rng.integers(len(THINGS)))]


def _sized(thing: Thing, rng: np.random.Generator) -> Placed:
    return Placed(thing, bool(rng.integers(2)))


def _placed(asked: Asked, rng: np.random.Generator) -> dict[int, Placed]:
    """Quarter of the picture -> what stands there: all of `asked.things`, and others, two to four things in all."""
    things = list(asked.things)
    able = [thing for thing in THINGS if not asked.barred(thing)]
    for _ in range(int(rng.integers(max(2, len(things)), len(PLACES) + 1)) - len(things)):
        things.append(_sized(able[int(rng.integers(len(able)))], rng))
    quarters = [int(n) for n in rng.permutation(len(PLACES))]
    if asked.place is not None:  # the first thing goes there, what would have gone there takes its quarter
        at = quarters.index(asked.place)
        quarters[0], quarters[at] = quarters[at], quarters[0]
    return dict(zip(quarters, things))


def _draw(quarters: dict[int, Placed], rng: np.random.Generator) -> np.ndarray:
    """(SIZE_PX, SIZE_PX, 3) uint8: things at places and in shades that vary, on noise."""
    canvas = np.full((SIZE_PX, SIZE_PX, 3), rng.integers(15, 70), np.float64)
    middle = SIZE_PX / 4
    for quarter, (thing, large) in quarters.items():
        at = np.array([middle + 2 * middle * (quarter % 2), middle + 2 * middle * (quarter // 2)])
        paint(canvas, thing, at + rng.uniform(-1.2, 1.2, 2), rng.uniform(*(LARGE if large else SMALL)), rng)
    canvas += rng.normal(0, 6, canvas.shape)
    return canvas.clip(0, 255).astype(np.uint8)

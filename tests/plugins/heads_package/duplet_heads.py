"""Heads and a pooling of another package, a class each: a distance, one that compares tokens, one not for an index.

A formula is written once, over `m`: MXNet's arithmetic in training, NumPy's in prediction and search, ONNX's in an
exported graph. Nothing heavy is imported here.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.config import Settings
from pipeline.config.head import Dense, Head, Learned, Maths, Matrix, Texts
from pipeline.config.poolings import Pooling, StepMaths


class GaussOptions(Settings):
    """How the distance of two texts becomes a score."""

    scale: float = Field(default=1.0, gt=0, description="Divides the squared distance.")


class Gauss(Head):
    """- sum of w (q - d)^2 / scale, with learned weights w of the numbers of a vector."""

    name = "gauss"
    summary = "the squared distance of both vectors, with a learned weight for each number"
    learned = False
    options = GaussOptions
    report = "duplet_heads:report"

    def parts(self, width: int, graded: bool, options: Any) -> Learned:
        return {"importance": Matrix((1, width), "ones")}

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        apart = query.vectors - document.vectors
        return m.sum(m.array("importance") * apart * apart, 1, keep=True) * (-1 / m.options.scale)


class SoftLate(Head):
    """As late interaction, but each query token takes a mean of the document's tokens, the more alike the more."""

    name = "soft_late"
    summary = "each token of the query with a mean of the document's tokens"
    by_token = True
    learned = False

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        similar = m.products(query.vectors, document.vectors)
        alike = m.softmax(8 * similar - m.expanded(m.zero(document.weights) * 1e9, 1))
        return m.expanded(m.sum(m.sum(alike * similar, 2) * query.weights, 1) / m.sum(query.weights, 1), 1)


class Bent(Head):
    """The mean of what a layer without a bias makes of both vectors side by side."""

    name = "bent"
    summary = "a learned layer over both vectors"
    learned = False

    def parts(self, width: int, graded: bool, options: Any) -> Learned:
        return {"layer": Dense(4, 2 * width, bias=False)}

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        return m.sum(m.tanh(m.dense(m.concat(query.vectors, document.vectors), "layer")), 1, keep=True)


class Unsearchable(Gauss):
    """The same score, not for an index."""

    name = "unsearchable"
    index = "none"


def report(folder: Path) -> tuple[str, list[list[str]]]:
    """The metrics' files of an evaluation, as a table."""
    size = (folder / "metrics.json").stat().st_size
    return "What the distance gave", [["file", "bytes"], ["metrics.json", str(size)]]


GAUSS, SOFT_LATE, BENT, UNSEARCHABLE = Gauss(), SoftLate(), Bent(), Unsearchable()


class Quadratic(Pooling):
    """The root of the mean square of what a learned layer makes of the states, over time."""

    name = "quadratic"
    times = 2

    def parts(self, width: int) -> Learned:
        return {"wide": Dense(2 * width, width)}

    def pooled(self, m: StepMaths, states: Any, hidden: int) -> Any:
        wide = m.filled(m.dense(states, "wide"), 0.0)
        return m.root(m.sum(wide * wide, 0) / m.lengths)


QUADRATIC = Quadratic()

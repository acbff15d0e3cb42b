"""Three heads of another package, each a class: a distance, one that compares tokens, and one that cannot be indexed.

A formula is written once, over `m`: MXNet's arithmetic in training, NumPy's in prediction and search, ONNX's in an
exported graph. Nothing heavy is imported here.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.config import Settings
from pipeline.config.head import Head, Learned, Maths, Matrix, Texts


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


class Unsearchable(Gauss):
    """The same score, not for an index."""

    name = "unsearchable"
    index = "none"


def report(folder: Path) -> tuple[str, list[list[str]]]:
    """The metrics' files of an evaluation, as a table."""
    size = (folder / "metrics.json").stat().st_size
    return "What the distance gave", [["file", "bytes"], ["metrics.json", str(size)]]


GAUSS, SOFT_LATE, UNSEARCHABLE = Gauss(), SoftLate(), Unsearchable()

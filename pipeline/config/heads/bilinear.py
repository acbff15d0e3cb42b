"""A learned bilinear form of two vectors."""

from typing import Any

from pipeline.config.head import DotHead, Learned, Maths, Matrix


class Bilinear(DotHead):
    """q' A d, with A starting at the identity, so as a dot product."""

    name = "bilinear"
    summary = "a dot product with a learned matrix between"

    def parts(self, width: int, graded: bool, options: Any) -> Learned:
        return {"form": Matrix((width, width), "identity")}

    def mapped(self, m: Maths, query: Any, document: Any) -> tuple[Any, Any]:
        return m.times(query, m.array("form")), document

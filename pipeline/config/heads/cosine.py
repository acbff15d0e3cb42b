"""The cosine of two vectors."""

from typing import Any

from pipeline.config.head import DotHead, Maths


class Cosine(DotHead):
    """q' d / (|q| |d|)."""

    name = "cosine"
    summary = "the cosine of both vectors"
    unit = True

    def mapped(self, m: Maths, query: Any, document: Any) -> tuple[Any, Any]:
        return m.unit(query), m.unit(document)

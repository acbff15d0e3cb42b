"""The dot product of two vectors."""

from pipeline.config.head import DotHead


class Dot(DotHead):
    """q' d."""

    name = "dot"
    summary = "the dot product of both vectors"

"""A hidden layer over two vectors."""

from typing import Any

from pipeline.config.head import Dense, Head, Learned, Maths, Texts


class Mlp(Head):
    """relu(W [q, d, |q - d|, q * d] + b), and a linear output of it."""

    name = "mlp"
    summary = "a hidden layer over both vectors, their difference and their product"
    most_pairs = 512

    def parts(self, width: int, graded: bool, options: Any) -> Learned:
        return {"hidden": Dense(width, 4 * width)}

    def size(self, width: int, options: Any) -> int:
        return width

    def features(self, m: Maths, query: Texts, document: Texts) -> Any:
        q, d = query.vectors, document.vectors
        return m.relu(m.dense(m.concat(q, d, m.absolute(q - d), q * d), "hidden"))

"""A small encoder without a network: a word's vector is drawn by its name, so what search finds can be foretold."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.config import Config, check_config
from pipeline.evaluation.confidence import Answering
from pipeline.serving.predict.scoring import Encoded, Scorer

WIDTH = 16


def config_of(head: str, query: int = 8, document: int = 12, pointwise: bool = False) -> Config:
    data: dict[str, Any] = {
        "name": "double",
        "ingest": {"source": {"format": "jsonl", "path": "none.jsonl"}},
        "tokenize": {"max_tokens": {"query": query, "document": document}},
        "model": {"head": head, "embedding": WIDTH // 2, "hidden": WIDTH, "directions": 1},
    }
    if pointwise:
        data |= {"train": {"loss": {"kind": "pointwise"}, "metric": "accuracy"}, "evaluate": {"kinds": ["graded"]}}
    return check_config(data, "test")


class WordEncoder:
    """A text's vector is the sum of its words'; of late interaction, a vector per word and a weight by its length.

    Attributes:
        texts_encoded: of the document side, in the order they came.
        stop_after: raise KeyboardInterrupt at the call that would encode more documents than so many.
    """

    def __init__(self, head: str = "cosine", **limits: Any) -> None:
        self.config = config_of(head, **limits)
        self.answering: Answering | None = None
        rng = np.random.default_rng(7)
        shapes = {"head.form": (WIDTH, WIDTH), "head.hidden.weight": (WIDTH, 4 * WIDTH), "head.hidden.bias": (WIDTH,),
                  "output.weight": (1 + (head != "mlp"), WIDTH if head == "mlp" else 1),
                  "output.bias": (1 + (head != "mlp"),)}  # fmt: skip
        parameters = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        self._scorer = Scorer(self.config, parameters)
        self.texts_encoded: list[str] = []
        self.stop_after: int | None = None

    def tokens(self, side: str, text: str) -> list[str]:
        words = "".join(c if c.isalnum() else f" {c} " for c in text.lower()).split()
        return words[: self.config.tokenize.max_tokens[side]]

    def encode(self, side: str, texts: Sequence[str]) -> Encoded:
        if side == "document":
            if self.stop_after is not None and len(self.texts_encoded) + len(texts) > self.stop_after:
                raise KeyboardInterrupt
            self.texts_encoded += texts
        words = [self.tokens(side, text) or ["<unk>"] for text in texts]
        if self.config.model.head != "late_interaction":
            vectors = [np.sum([vector_of(word) for word in found], axis=0) for found in words]
            return Encoded(np.array(vectors, np.float32).reshape(-1, WIDTH))
        every = [word for found in words for word in found]
        vectors = np.array([vector_of(word) for word in every], np.float32).reshape(-1, WIDTH)
        vectors /= np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        weights = np.array([len(word) for word in every], np.float32)
        return Encoded(vectors, weights, np.cumsum([0, *map(len, words)]).astype(np.int64))

    def score_all(self, query: Encoded, document: Encoded) -> np.ndarray:
        return self._scorer.score_all(query, document)


def vector_of(word: str) -> np.ndarray:
    """(WIDTH,) standard normal, the same for the same word on any machine."""
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=WIDTH)

"""What stands in a model's place in an index without one: it cuts texts into words for BM25 and gives no vectors."""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import check_config
from pipeline.evaluation.confidence import Answering
from pipeline.serving.predict.scoring import Encoded
from pipeline.tokenization.tokenizers import HAN, tokenizer_of

Kind = Literal["word", "jieba"]
MAX_TOKENS = {"query": 1_000, "document": 256}  # of a query, of a passage
HAN_SHARE = 0.1  # of letters, above which words are cut by jieba's dictionary
LOOKED_AT = 50  # documents


class WordsAlone:
    """As a model's encoder, but a text has a vector of no numbers."""

    answering: Answering | None = None

    def __init__(self, kind: Kind) -> None:
        self.config = check_config(
            {
                "name": "words",
                "ingest": {"source": {"format": "jsonl", "path": "-"}},
                "tokenize": {"kind": kind, "max_tokens": MAX_TOKENS},
                "model": {"head": "cosine"},
            },
            "words alone",
        )
        self._tokenizer = tokenizer_of(kind, True, Path())

    def tokens(self, side: str, text: str) -> list[str]:
        return self._tokenizer.tokens(text)[: MAX_TOKENS[side]]

    def encode(self, side: str, texts: Sequence[str]) -> Encoded:
        return Encoded(np.zeros((len(texts), 0), np.float32))

    def score_all(self, query: Encoded, document: Encoded) -> np.ndarray:
        return np.zeros((query.texts, document.texts), np.float32)


def kind_for(texts: Iterable[str]) -> Kind:
    """The tokens for a collection, by its first texts: "jieba" where a tenth of their letters are Han characters.

    >>> kind_for(["机翼的升力 lift"]), kind_for(["the lift of a wing"]), kind_for([])
    ('jieba', 'word', 'word')
    """
    sample = "".join(text[:2_000] for text in islice(texts, LOOKED_AT))
    letters = sum(c.isalpha() for c in sample)
    return "jieba" if letters and len(re.findall(f"[{HAN}]", sample)) >= HAN_SHARE * letters else "word"

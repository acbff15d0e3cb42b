"""What the tokenizing stage does with pieces of text, wherever they are run: counting and encoding tokens."""

import functools
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.config.sections import ExecutionConfig
from pipeline.core import executors
from pipeline.core.executors import Executor
from pipeline.tokenization.encoder import Encoded, Encoder, load_bare_tokenizer, load_vocabulary

PIECE_TEXTS = 1000


class Piece(NamedTuple):
    folder: Path  # that holds the tokenizer's files
    field: str
    texts: list[str]


def executor_for(texts: int, execution: ExecutionConfig) -> Executor:
    """What suits so many texts."""
    return executors.executor(*execution.how, much=texts > 5 * PIECE_TEXTS)


def count(piece: Piece) -> Counter[str]:
    """Tokens within the field's limit: what lies behind it is never seen in training."""
    tokenizer, limits = _bare_tokenizer(piece.folder)
    counts: Counter[str] = Counter()
    for text in piece.texts:
        counts.update(tokenizer.tokens(text)[: limits[piece.field]])
    return counts


def encode(piece: Piece) -> Encoded:
    return _encoder(piece.folder).encode_all(piece.texts, piece.field)


# A process tokenizes for one folder only; what it has loaded is forgotten when the run ends.
_bare_tokenizer = functools.cache(load_bare_tokenizer)


@functools.cache
def _encoder(folder: Path) -> Encoder:
    tokenizer, limits = _bare_tokenizer(folder)
    return Encoder(tokenizer, load_vocabulary(folder), limits)


def forget() -> None:
    """Lets go of what this process has loaded."""
    _bare_tokenizer.cache_clear()
    _encoder.cache_clear()

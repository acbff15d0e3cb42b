"""What the tokenizing stage does with pieces of text, wherever they are run: counting and encoding tokens."""

import functools
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.config.sections import ExecutionConfig
from pipeline.core import atomic_files, executors
from pipeline.core.executors import Executor
from pipeline.core.kept import Form, Kept, packed, unpacked
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


def keeping(executor: Executor, folder: Path) -> Executor:
    """An executor that keeps what pieces gave in a folder, and takes from it what an earlier run left there."""
    folder.mkdir(parents=True, exist_ok=True)
    forms = {"count": Form(_stamp, _counts_packed, _counts_unpacked), "encode": Form(_stamp, _packed, _unpacked)}
    return Kept(executor, folder, forms)


def _stamp(piece: Piece) -> str:
    """Of its texts; what else shapes a result is in the stage's key."""
    return atomic_files.digest([piece.field, piece.texts])


def _counts_packed(counts: Counter[str]) -> bytes:
    return json.dumps(counts).encode()


def _counts_unpacked(content: bytes) -> Counter[str]:
    return Counter(json.loads(content))


def _packed(encoded: Encoded) -> bytes:
    return packed(**encoded._asdict())


def _unpacked(content: bytes) -> Encoded:
    found = unpacked(content)
    return Encoded(found["ids"], found["lengths"], *(int(found[name]) for name in ("cut", "unknown_tokens", "empty")))


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

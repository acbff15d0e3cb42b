"""What the tokenizing stage does with pieces of text, wherever they are run: counting and encoding tokens."""

import functools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import numpy as np

from pipeline.config.sections import ExecutionConfig
from pipeline.core import atomic_files, executors
from pipeline.core.executors import Executor
from pipeline.core.kept import Form, Kept, packed, unpacked
from pipeline.tokenization.encoder import (
    Counted,
    Encoded,
    Encoder,
    count_tokens,
    load_bare_tokenizer,
    load_vocabulary,
)
from pipeline.tokenization.passages import cut, remembered

PIECE_TEXTS = 1000
KEPT = 2  # the form of what pieces leave behind: another one's is not read


class Piece(NamedTuple):
    folder: Path  # that holds the tokenizer's files
    field: str
    texts: list[str]
    passages: int = 1  # that a text is read in at most


def executor_for(texts: int, execution: ExecutionConfig) -> Executor:
    """What suits so many texts."""
    return executors.executor(*execution.how, much=texts > 5 * PIECE_TEXTS)


def count(piece: Piece) -> Counted:
    """Of all that a text's passages may hold, where it is read in several."""
    tokenizer, limits = _bare_tokenizer(piece.folder)
    limit = limits[piece.field]
    return count_tokens(tokenizer, piece.texts, limit and limit * piece.passages)


def encode(piece: Piece) -> Encoded:
    return _encoder(piece.folder).encode_all(piece.texts, piece.field)


class Cut(NamedTuple):
    """The passages of N texts, as ids one after the other."""

    counts: np.ndarray  # (N,) int32, 0 of a text that is one passage
    ids: np.ndarray  # (sum of lengths,) int32
    lengths: np.ndarray  # (sum of counts,) int32
    left_out: int  # texts with further passages


def passages(piece: Piece) -> Cut:
    """The passages of texts, as an index cuts them."""
    encoder = _encoder(piece.folder)
    limit = encoder.max_tokens[piece.field]
    assert limit is not None, "only texts that are cut have passages"
    tokens = remembered(encoder.tokens)
    texts: list[str] = []
    counts, left_out = np.zeros(len(piece.texts), np.int32), 0
    for row, text in enumerate(piece.texts):
        spans = cut(text, limit, tokens)
        if len(spans) > 1:
            counts[row] = min(len(spans), piece.passages)
            left_out += len(spans) > piece.passages
            texts += [text[span.start : span.end] for span in spans[: piece.passages]]
    encoded = encoder.encode_all(texts, piece.field)
    return Cut(counts, encoded.ids, encoded.lengths, left_out)


def keeping(executor: Executor, folder: Path) -> Executor:
    """An executor that keeps what pieces gave in a folder, and takes from it what an earlier run left there."""
    folder.mkdir(parents=True, exist_ok=True)
    forms = {
        "count": Form(_stamp, _counted_packed, _counted_unpacked),
        "encode": Form(_stamp, _packed, _unpacked),
        "passages": Form(_stamp, _packed, _cut_unpacked),
    }
    return Kept(executor, folder, forms)


def _stamp(piece: Piece) -> str:
    """Of its texts and of how results are kept; what else shapes a result is in the stage's key."""
    return atomic_files.digest([KEPT, piece.field, piece.texts])


def _counted_packed(counted: Counted) -> bytes:
    tokens = np.frombuffer(json.dumps(counted.tokens).encode(), np.uint8)
    return packed(tokens=tokens, counts=counted.counts, **counted.places._asdict())


def _counted_unpacked(content: bytes) -> Counted:
    found = unpacked(content)
    return Counted(json.loads(found["tokens"].tobytes()), found["counts"].tolist(), _encoded(found))


def _packed(encoded: Encoded | Cut) -> bytes:
    return packed(**encoded._asdict())


def _cut_unpacked(content: bytes) -> Cut:
    found = unpacked(content)
    return Cut(found["counts"], found["ids"], found["lengths"], int(found["left_out"]))


def _unpacked(content: bytes) -> Encoded:
    return _encoded(unpacked(content))


def _encoded(found: dict[str, np.ndarray]) -> Encoded:
    return Encoded(found["ids"], found["lengths"], *(int(found[name]) for name in ("cut", "unknown_tokens", "empty")))


class CountedTexts:
    """A field's texts and keys as they were read for counting, in a file without a name: none is read a second time."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = TemporaryFile(dir=folder)  # noqa: SIM115

    def add(self, keys: list[str], counted: Counted) -> None:
        pickle.dump((keys, counted), self._file, pickle.HIGHEST_PROTOCOL)

    def encoded(self, folder: Path) -> Iterator[tuple[list[str], Encoded]]:
        """What was added, once the vocabulary lies in the folder of the tokenizer's files."""
        encoder = _encoder(folder)
        end = self._file.tell()
        self._file.seek(0)
        while self._file.tell() < end:
            keys, counted = pickle.load(self._file)  # nobody else can write there
            yield keys, encoder.encode_counted(counted)

    def close(self) -> None:
        self._file.close()


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

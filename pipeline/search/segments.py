"""A segment: some documents, their passages, what the model makes of them, and their words; written once.

Folder: `documents.arrow` (id, title, text, fields, hash), `passages.npy` (P, 3: document row, first and last + 1
character), `vectors.npy` and, of late interaction, `weights.npy` and `offsets.npy` (P + 1: a passage's first token);
for BM25 `words.npy` (word ids, passage after passage), `word_offsets.npy` (P + 1) and `words.json` (id -> word);
`segment.json` with every file's size, written last.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from pipeline.config import Config
from pipeline.core import atomic_files, mapped_memory
from pipeline.core.errors import InputError
from pipeline.evaluation.analysis import words_of
from pipeline.search.documents import Document
from pipeline.search.passages import Tokens, cut, short_title
from pipeline.serving.predict.scoring import Encoded

NAME = "segment.json"
WORDS_REMEMBERED, MAX_WORD = 1 << 16, 40  # characters
SCHEMA = pa.schema([(name, pa.large_string()) for name in (*Document._fields, "hash")])


class Encodes(Protocol):
    """What the index needs of a model: serving.predict.text_encoder.TextEncoder, or a small double in tests."""

    config: Config

    def encode(self, side: str, texts: Sequence[str]) -> Encoded: ...

    def score_all(self, query: Encoded, document: Encoded) -> np.ndarray: ...

    def tokens(self, side: str, text: str) -> list[str]: ...


class Passage(NamedTuple):
    document: int  # row in the segment
    start: int  # characters of the document's text
    end: int


@dataclass(frozen=True)
class Segment:
    """An opened segment; arrays are read from disk as they are needed."""

    folder: Path
    passages: np.ndarray  # (P, 3) int64
    encoded: Encoded  # P texts; vectors of unit length under a cosine head
    words: np.ndarray  # (sum of words,) int32
    word_offsets: np.ndarray  # (P + 1,) int64
    table: pa.Table  # the documents
    maps: tuple[tuple[int, int], ...]  # address and size of each file's memory map

    @property
    def name(self) -> str:
        return self.folder.name

    def release(self) -> None:
        """Frees the memory that holds pages of its files; a later access reads them again."""
        for address, size in self.maps:
            mapped_memory.release(address, size)

    @property
    def ids(self) -> list[str]:
        """Read anew each time, as all lists here: an update has every segment open."""
        return list(self.table["id"].to_pylist())

    @property
    def hashes(self) -> list[str]:
        return list(self.table["hash"].to_pylist())

    @property
    def vocabulary(self) -> list[str]:
        return list(json.loads((self.folder / "words.json").read_text(encoding="utf-8")))

    def document(self, row: int) -> Document:
        """Raises InputError where its text is damaged."""
        try:
            return Document(*(self.table[name][row].as_py() for name in Document._fields))
        except UnicodeDecodeError:
            raise InputError(f"{self.folder} is damaged: delete the index and run `duplet index` again") from None

    def keep(self, rows: np.ndarray) -> "Part":
        """The documents of these rows (ascending), for a segment made of several."""
        place = np.full(len(self.table), -1)
        place[rows] = np.arange(len(rows))
        chosen = np.flatnonzero(place[self.passages[:, 0]] >= 0)
        passages = self.passages[chosen].copy()
        passages[:, 0] = place[passages[:, 0]]
        vocabulary = self.vocabulary
        words = [[vocabulary[i] for i in self.words[self.word_offsets[p] : self.word_offsets[p + 1]]]
                 for p in chosen.tolist()]  # fmt: skip
        return Part([self.document(row) for row in rows.tolist()], passages, self.encoded.take(chosen), words)


class Part(NamedTuple):
    """What a segment is written of."""

    documents: list[Document]
    passages: np.ndarray  # (P, 3) int64
    encoded: Encoded
    words: list[list[str]]


def index_text(title: str, passage: str) -> str:
    """What is encoded, and what BM25 sees: the passage below its document's title."""
    return f"{title}\n{passage}" if title else passage


def encode(documents: list[Document], encoder: Encodes) -> Part:
    """Cuts documents into passages and encodes those."""
    limit = encoder.config.tokenize.limit("document")
    tokens = _remembered(lambda text: encoder.tokens("document", text))
    rows, texts = [], []
    for row, document in enumerate(documents):
        title = short_title(document.title, limit, tokens)
        form = str(document.known.get("format", "")) if document.fields else ""
        for span in cut(document.text, limit - len(tokens(title)), tokens, form):
            rows.append(Passage(row, *span))
            texts.append(index_text(title, document.text[span.start : span.end]))
    encoded = encoder.encode("document", texts)
    if not np.isfinite(encoded.vectors).all():
        raise InputError("the model is damaged: its vectors are not finite numbers; train it again")
    if encoder.config.model.head == "cosine":
        norm = np.sqrt((encoded.vectors * encoded.vectors).sum(axis=1, keepdims=True) + 1e-12)
        encoded = Encoded((encoded.vectors / norm).astype(np.float32))
    words = [words_of(tokens(text)) for text in texts]
    return Part(documents, np.array(rows, np.int64).reshape(-1, 3), encoded, words)


def _remembered(tokens: Tokens) -> Tokens:
    """The tokens of short texts are kept: a collection's words are asked for again and again."""
    short = lru_cache(WORDS_REMEMBERED)(tokens)
    return lambda text: short(text) if len(text) <= MAX_WORD else tokens(text)


def joined(parts: list[Part]) -> Part:
    """Parts one after the other."""
    first: list[Document] = []
    passages, offsets, before = [], [], 0
    for part in parts:
        shifted = part.passages.copy()
        shifted[:, 0] += len(first)
        passages.append(shifted)
        first += part.documents
        if part.encoded.offsets is not None:
            offsets.append(part.encoded.offsets[:-1] + before)
            before += len(part.encoded.vectors)
    vectors = np.concatenate([part.encoded.vectors for part in parts])
    encoded = Encoded(vectors)
    if offsets:
        weights = [part.encoded.weights for part in parts if part.encoded.weights is not None]
        encoded = Encoded(vectors, np.concatenate(weights), np.concatenate([*offsets, [before]]).astype(np.int64))
    return Part(first, np.concatenate(passages), encoded, [words for part in parts for words in part.words])


def write(folder: Path, part: Part, model_key: str) -> None:
    """Writes a segment's folder, whole or not at all."""
    ids: dict[str, int] = {}
    words = [ids.setdefault(word, len(ids)) for found in part.words for word in found]
    arrays: dict[str, Any] = {
        "passages": part.passages,
        "vectors": part.encoded.vectors,
        "weights": part.encoded.weights,
        "offsets": part.encoded.offsets,
        "words": np.array(words, np.int32),
        "word_offsets": np.cumsum([0, *map(len, part.words)], dtype=np.int64),
    }
    with atomic_files.new_folder(folder) as new:
        columns = [[*column] for column in zip(*((*d, d.hash) for d in part.documents))]
        with pa.OSFile(str(new / "documents.arrow"), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            writer.write_table(pa.table([pa.array(column, pa.large_string()) for column in columns], schema=SCHEMA))
        for name, array in arrays.items():
            if array is not None:
                np.save(new / f"{name}.npy", array)
        (new / "words.json").write_text(json.dumps(list(ids), ensure_ascii=False), encoding="utf-8")
        sizes = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
        atomic_files.write_text(new / NAME, json.dumps({"model": model_key, "files": sizes}))


def read(folder: Path) -> Segment:
    """Opens a segment.

    Raises:
        InputError: it is not whole. OSError, ValueError: a file vanishes meanwhile, or is damaged.
    """
    check_sizes(folder, folder / NAME)
    late = (folder / "offsets.npy").exists()
    names = ["passages", "words", "word_offsets", "vectors", *(("weights", "offsets") if late else ())]
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names]
    table, address, size = mapped_memory.mapped_table(folder / "documents.arrow")
    # as plain arrays: slices of a memmap are slow to make
    passages, words, word_offsets, *encoded = (np.asarray(array) for array in arrays)
    segment = Segment(
        folder, passages, Encoded(*encoded), words, word_offsets, table,
        ((address, size), *((array.ctypes.data, array.nbytes) for array in arrays)),
    )  # fmt: skip
    _check(segment)
    segment.release()  # checking has read most of it
    return segment


def _check(segment: Segment) -> None:
    """Raises ValueError where a part points outside of another: what is read later is not looked at again."""
    passages, encoded = segment.passages, segment.encoded
    if segment.table.schema != SCHEMA or any(column.null_count for column in segment.table.columns):
        raise ValueError("documents.arrow has other columns")
    segment.table.select(["id", "hash"]).validate(full=True)  # that they are UTF-8, too; texts are many times as long
    for batch in segment.table.to_batches():
        for column in batch.columns:  # Arrow looks at the first and last offset only
            starts = np.frombuffer(column.buffers()[1], np.int64)[column.offset :][: len(column) + 1]
            if not (np.diff(starts) >= 0).all():
                raise ValueError("documents.arrow has texts that end before they begin")
    if passages.ndim != 2 or passages.shape[1:] != (3,) or passages.dtype.kind != "i":
        raise ValueError("passages.npy has another shape")
    documents = passages[:, 0]
    if len(documents) and not (documents[0] >= 0 and documents[-1] < len(segment.table)):
        raise ValueError("passages.npy names documents that are not there")
    if not (np.diff(documents) >= 0).all():
        raise ValueError("passages.npy is out of order")
    if encoded.vectors.ndim != 2 or encoded.vectors.dtype != np.float32:
        raise ValueError("vectors.npy has another shape")
    if encoded.offsets is None:
        whole = len(encoded.vectors) == len(passages)
    else:
        assert encoded.weights is not None
        whole = _divides(encoded.offsets, len(passages), len(encoded.vectors))
        whole = whole and encoded.weights.shape == (len(encoded.vectors),)
    if not whole or not _divides(segment.word_offsets, len(passages), len(segment.words)):
        raise ValueError("its parts differ in length")


def _divides(offsets: np.ndarray, parts: int, total: int) -> bool:
    """Whether (parts + 1,) offsets go from 0 to the total without a step back."""
    if offsets.shape != (parts + 1,) or offsets.dtype.kind != "i":
        return False
    return bool(offsets[0] == 0 and offsets[-1] == total and (np.diff(offsets) >= 0).all())


def check_sizes(folder: Path, listing: Path) -> None:
    """Raises InputError where a file that a folder's listing names has another size, OSError where it is not there."""
    for name, size in json.loads(listing.read_text(encoding="utf-8"))["files"].items():
        if (found := (folder / name).stat().st_size) != size:
            raise InputError(
                f"{folder / name} has {found} bytes instead of {size}: delete the index and run `duplet index` again"
            )

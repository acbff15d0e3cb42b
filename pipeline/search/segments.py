"""A segment: some documents, their passages, what the model makes of them, and their words; written once.

Folder: `documents.arrow` (id, title, text, fields, hash), `passages.npy` (P, 3: document row, first and last + 1
character), `vectors.npy` with `scales.npy` or `book.npy` (codes.py) and, of late interaction, `weights.npy` and
`offsets.npy` (P + 1: a passage's first token); for BM25 `words.npy` (word ids, passage after passage),
`word_offsets.npy` (P + 1) and `words.json` (id -> word); `segment.json` with every file's size, written last.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from pipeline.config import Config
from pipeline.core import atomic_files, mapped_memory
from pipeline.core.errors import InputError
from pipeline.evaluation.analysis import words_of
from pipeline.evaluation.confidence import Answering
from pipeline.search import codes
from pipeline.search.codes import Codes
from pipeline.search.documents import Document
from pipeline.serving.predict.scoring import Encoded
from pipeline.tokenization.passages import Tokens, cut, index_text, remembered, short_title

NAME = "segment.json"
OPTIONAL = ("scales", "weights", "offsets", "book")
ARRAYS = ("passages", "words", "word_offsets", "vectors", *OPTIONAL)
PASSAGES_AT_ONCE = 4_000  # encoded: of late interaction with 128 tokens of 128 numbers, 260 MB
SCHEMA = pa.schema([(name, pa.large_string()) for name in (*Document._fields, "hash")])


class Encodes(Protocol):
    """What the index needs of a model: serving.predict.text_encoder.TextEncoder, or a small double in tests."""

    config: Config
    answering: Answering | None

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
    codes: Codes  # P texts; vectors of unit length under a head that takes them so
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

    def fields(self, row: int) -> dict[str, Any]:
        """A document's other fields. Raises InputError where they are damaged."""
        try:
            fields = json.loads(self.table["fields"][row].as_py() or "{}")
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise InputError(f"{self.folder} is damaged: delete the index and run `duplet index` again")
        return fields

    def keep(self, rows: np.ndarray) -> "Part":
        """The documents of these rows (ascending), for a segment made of several."""
        place = np.full(len(self.table), -1)
        place[rows] = np.arange(len(rows))
        chosen = np.flatnonzero(place[self.passages[:, 0]] >= 0)
        passages = self.passages[chosen].copy()
        passages[:, 0] = place[passages[:, 0]]
        vocabulary = self.vocabulary
        words = [[vocabulary[i] for i in self.words[self.word_offsets[p] : self.word_offsets[p + 1]].tolist()]
                 for p in chosen.tolist()]  # fmt: skip
        own = codes.unpacked(self.codes.take(chosen))
        return Part([self.document(row) for row in rows.tolist()], passages, own, words)


class Part(NamedTuple):
    """What a segment is written of."""

    documents: list[Document]
    passages: np.ndarray  # (P, 3) int64
    codes: Codes  # without a book, which is made when all of them are there
    words: list[list[str]]


class Storage(NamedTuple):
    """How vectors are kept: bits a number; of late interaction, the share of tokens left out, how many become one."""

    bits: int = 32
    left_out: float = 0.0
    pooled: float = 1.0


UNCHANGED = Storage()


def indexed_title(title: str, encoder: Encodes, tokens: Tokens | None = None) -> str:
    """What of a document's title stands above each of its passages, when it is encoded and whenever it is read again.

    Args:
        tokens: the tokens of the encoder's document side, where they are remembered.
    """
    limit = encoder.config.tokenize.limit("document")
    return short_title(title, limit, tokens or (lambda text: encoder.tokens("document", text)))


def encode(documents: list[Document], encoder: Encodes, storage: Storage = UNCHANGED) -> Part:
    """Cuts documents into passages and encodes those, PASSAGES_AT_ONCE at a time: a document may have any number."""
    limit = encoder.config.tokenize.limit("document")
    tokens = remembered(lambda text: encoder.tokens("document", text))
    rows, texts = [], []
    for row, document in enumerate(documents):
        title = indexed_title(document.title, encoder, tokens)
        form = str(document.known.get("format", "")) if document.fields else ""
        for span in cut(document.text, limit - len(tokens(title)), tokens, form):
            rows.append(Passage(row, *span))
            texts.append(index_text(title, document.text[span.start : span.end]))
    parts = [_codes(encoder.encode("document", texts[start : start + PASSAGES_AT_ONCE]), encoder, storage)
             for start in range(0, max(1, len(texts)), PASSAGES_AT_ONCE)]  # fmt: skip
    words = [words_of(tokens(text)) for text in texts]
    return Part(documents, np.array(rows, np.int64).reshape(-1, 3), codes.joined(parts), words)


def _codes(encoded: Encoded, encoder: Encodes, storage: Storage) -> Codes:
    """What is kept of passages' vectors."""
    if not np.isfinite(encoded.vectors).all():
        raise InputError("the model is damaged: its vectors are not finite numbers; train it again")
    if encoder.config.model.scored_by.unit:
        norm = np.sqrt((encoded.vectors * encoded.vectors).sum(axis=1, keepdims=True) + 1e-12)
        encoded = Encoded((encoded.vectors / norm).astype(np.float32))
    if encoded.offsets is not None:
        encoded = codes.pruned(encoded, storage.left_out) if storage.left_out else encoded
        encoded = codes.pooled(encoded, storage.pooled) if storage.pooled > 1 else encoded
    return codes.coded(encoded, max(8, storage.bits))


def joined(parts: list[Part]) -> Part:
    """Parts one after the other."""
    first: list[Document] = []
    passages = []
    for part in parts:
        shifted = part.passages.copy()
        shifted[:, 0] += len(first)
        passages.append(shifted)
        first += part.documents
    vectors = codes.joined([part.codes for part in parts])
    return Part(first, np.concatenate(passages), vectors, [words for part in parts for words in part.words])


def write(folder: Path, part: Part, model_key: str, bits: int) -> None:
    """Writes a segment's folder, whole or not at all; its vectors in so many bits a number."""
    kept = codes.packed(part.codes, bits) if bits in codes.BOOKED else part.codes
    ids: dict[str, int] = {}
    words = [ids.setdefault(word, len(ids)) for passage_words in part.words for word in passage_words]
    arrays: dict[str, Any] = {
        "passages": part.passages,
        "vectors": kept.vectors,
        "scales": kept.scales,
        "weights": kept.weights,
        "offsets": kept.offsets,
        "book": kept.book,
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
    names = [name for name in ARRAYS if name not in OPTIONAL or (folder / f"{name}.npy").exists()]
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names]
    table, address, size = mapped_memory.mapped_table(folder / "documents.arrow")
    # as plain arrays: slices of a memmap are slow to make
    by_name = {name: np.asarray(array) for name, array in zip(names, arrays)}
    own_codes = Codes(by_name["vectors"], *(by_name.get(name) for name in OPTIONAL))
    segment = Segment(
        folder, by_name["passages"], own_codes, by_name["words"], by_name["word_offsets"], table,
        ((address, size), *((array.ctypes.data, array.nbytes) for array in arrays)),
    )  # fmt: skip
    _check(segment)
    segment.release()  # checking has read most of it
    return segment


def _check(segment: Segment) -> None:
    """Raises ValueError where a part points outside of another: what is read later is not looked at again."""
    passages, own_codes = segment.passages, segment.codes
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
    _check_vectors(own_codes)
    each = [(own_codes.scales, (np.float32,)), (own_codes.weights, (np.float16, np.float32))]
    if any(a is not None and (a.shape != (len(own_codes.vectors),) or a.dtype not in kinds) for a, kinds in each):
        raise ValueError("its parts differ in length")
    if own_codes.offsets is None:
        whole = len(own_codes.vectors) == len(passages) and own_codes.weights is None
    else:
        whole = _divides(own_codes.offsets, len(passages), len(own_codes.vectors)) and own_codes.weights is not None
    if not whole or not _divides(segment.word_offsets, len(passages), len(segment.words)):
        raise ValueError("its parts differ in length")


def _check_vectors(own: Codes) -> None:
    """Raises ValueError where vectors are of another kind than their scales, or their book, say."""
    book, kind = own.book, np.float32 if own.scales is None else np.int8
    if own.vectors.ndim != 2 or own.vectors.dtype != (kind if book is None else np.uint8):
        raise ValueError("vectors.npy has another shape")
    wanted = (own.vectors.shape[1], codes.BOOK)
    if book is not None and (book.ndim != 3 or book.shape[:2] != wanted or book.dtype != np.float32):
        raise ValueError("book.npy has another shape")


def _divides(offsets: np.ndarray, parts: int, total: int) -> bool:
    """Whether (parts + 1,) offsets go from 0 to the total without a step back."""
    if offsets.shape != (parts + 1,) or offsets.dtype.kind != "i":
        return False
    return bool(offsets[0] == 0 and offsets[-1] == total and (np.diff(offsets) >= 0).all())


def check_sizes(folder: Path, listing: Path) -> None:
    """Raises InputError where a file that a folder's listing names has another size, OSError where it is not there."""
    for name, size in json.loads(listing.read_text(encoding="utf-8"))["files"].items():
        if (actual_size := (folder / name).stat().st_size) != size:
            raise InputError(
                f"{folder / name} has {actual_size} bytes instead of {size}: delete the index and run "
                "`duplet index` again"
            )

"""Vectors of words before any training: from the contexts that words stand in, or from an encoder in ONNX.

The file is read by `model.vectors` and `tokenize.more_words`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.ingest import places
from pipeline.ingest.rows import BadRow
from pipeline.orchestration.onnx_teacher import OnnxTeacher
from pipeline.tokenization.encoder import Encoder, load_tokenizer, load_vocabulary
from pipeline.tokenization.stage import COLLECTION_NAME
from pipeline.tokenization.vocabulary import SPECIAL

SPREAD = 0.3  # standard deviation of the numbers of an encoder's vectors, about that of GloVe's
WORDS_AT_ONCE = 4096
READ_ROWS = 1024
MOST_BYTES = 1 << 26  # of a line
MOST_TOKENS = 10_000  # gensim drops what a sentence has beyond so many (MAX_SENTENCE_LEN), without a word


class Sentences:
    """The tokens of each distinct text of train, of the collection and of further files, as often as wanted.

    A text of more than MOST_TOKENS tokens comes in pieces of at most so many.
    """

    def __init__(self, config: Config, ingested: Path, tokenized: Path, more: Iterable[Path]) -> None:
        names = [name for name, form in config.spec.fields.items() if form.vocabulary == ""]
        self._sources = [(ingested / "records-train.parquet", names)]
        if (ingested / COLLECTION_NAME).exists():
            self._sources.append((ingested / COLLECTION_NAME, ["document"]))
        self._files = list(more)
        self._encoder: Encoder = load_tokenizer(tokenized)

    def __iter__(self) -> Iterator[list[str]]:
        seen: set[bytes] = set()
        for text in self._texts():
            if (known := hashlib.blake2b(text.encode(), digest_size=8).digest()) not in seen:
                seen.add(known)
                tokens = self._encoder.tokens(text)
                yield from (tokens[start : start + MOST_TOKENS] for start in range(0, len(tokens), MOST_TOKENS))

    def _texts(self) -> Iterator[str]:
        for path, names in self._sources:
            for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(READ_ROWS, columns=names):
                for name in names:
                    yield from batch[name].to_pylist()
        for path in self._files:
            try:
                for line in places.lines(str(path), "utf-8", MOST_BYTES):
                    if line.problem is not None:
                        raise line.problem
                    yield line.text
            except (InputError, BadRow) as error:
                raise InputError(f"--texts {path} cannot be read as lines of UTF-8 text ({error})") from None


def of_contexts(sentences: Sentences, size: int, epochs: int, least: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Skip-gram with negative sampling (Mikolov et al. 2013), by gensim: equal seeds give equal vectors.

    Args:
        least: how often a word must stand to get a vector.

    Returns:
        Words, the most frequent first, and their (N, size) float32 vectors.

    Raises:
        InputError: gensim is not installed, or no word stands often enough.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise InputError("duplet vectors needs gensim, which is not installed: pip install 'duplet[vectors]'") from None
    try:
        model = Word2Vec(
            sentences, vector_size=size, epochs=epochs, min_count=least, seed=seed, sg=1, negative=10, workers=1
        )
    except RuntimeError:  # it has no vocabulary
        raise InputError(
            f"no word stands {least} times (tokenize.min_count) in the texts: give more by --texts"
        ) from None
    return list(model.wv.index_to_key), np.asarray(model.wv.vectors, np.float32)


def of_encoder(folder: Path, tokenized: Path, size: int) -> tuple[list[str], np.ndarray]:
    """What an encoder makes of each word of the vocabulary and of each whole word that it has itself, read as a text.

    Returns:
        Words, and their (N, size) float32 vectors: the encoder's, less their mean, along their principal components.

    Raises:
        InputError: see OnnxTeacher; or its vectors have fewer than `size` numbers.
    """
    encoder = OnnxTeacher(folder, "--onnx ")
    words = list(
        dict.fromkeys([*(word for word in load_vocabulary(tokenized) if word not in SPECIAL), *encoder.words()])
    )
    parts = (words[start : start + WORDS_AT_ONCE] for start in range(0, len(words), WORDS_AT_ONCE))
    vectors = np.concatenate([encoder.vectors("document", part) for part in parts]).astype(np.float64)
    if vectors.shape[1] < size:
        raise InputError(f"--size {size} is more than the {vectors.shape[1]} numbers of a vector of {folder}")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    vectors -= vectors.mean(axis=0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    vectors = vectors @ axes[:, ::-1][:, :size]
    return words, (vectors * (SPREAD / max(float(vectors.std()), 1e-9))).astype(np.float32)


def write(path: Path, words: list[str], vectors: np.ndarray) -> int:
    """Writes word2vec's text form, which cannot hold words with white space; returns how many words it has."""
    kept = [row for row, word in enumerate(words) if len(word.split()) == 1 and word.split()[0] == word]
    lines = [f"{words[row]} {' '.join(f'{number:.5g}' for number in vectors[row].tolist())}\n" for row in kept]
    atomic_files.write_text(path, f"{len(kept)} {vectors.shape[1]}\n" + "".join(lines))
    return len(kept)

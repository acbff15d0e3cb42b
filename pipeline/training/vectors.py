"""Word vectors that were trained elsewhere, as the start of a network's embedding.

Only the vectors of words that the vocabulary has are held.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from mxnet import gluon, nd

from pipeline.core.errors import InputError
from pipeline.tokenization.word_vectors import entries

FEW = 0.05  # share of the vocabulary below which the file is probably another language's


class Found(NamedTuple):
    """The vectors of a vocabulary's words."""

    rows: np.ndarray  # (F,) int64 ascending
    vectors: np.ndarray  # (F, E) float32


def start(path: Path, network: gluon.Block, vocabulary: dict[str, int]) -> tuple[np.ndarray, list[str]]:
    """Gives the rows of an initialized network's embedding that a file has vectors for these.

    Other rows stay random, and are brought to the same spread, so that neither kind drowns the other.

    Returns:
        (V,) bool: the rows that were given; and what to say.

    Raises:
        InputError: the file cannot be read, is damaged, or has vectors of another width.
    """
    table = getattr(network, "embedding", None)
    if not isinstance(table, gluon.Parameter):
        raise InputError("model.vectors needs a task that reads words: matching, classification or tagging")
    size, width = table.shape
    pretrained = read(path, vocabulary, width)
    values = table.data(table.list_ctx()[0]).asnumpy()
    pretrained_rows = np.zeros(size, bool)
    pretrained_rows[pretrained.rows] = True
    if len(pretrained.rows):
        values[~pretrained_rows] *= float(pretrained.vectors.std()) / (float(values.std()) or 1.0)
        values[pretrained.rows] = pretrained.vectors
    table.set_data(nd.array(values))
    words = len([word for word in vocabulary if word not in ("<pad>", "<unk>")])
    lines = [f"vectors for {len(pretrained.rows):,} of {words:,} words of the vocabulary from {path}"]
    if len(pretrained.rows) < FEW * words:
        share = len(pretrained.rows) / max(1, words)
        lines.append(
            f"warning: only {share:.1%} of the vocabulary's words have a vector in {path}: "
            "is it of this language, and of words as tokenize.kind and tokenize.lowercase make them?"
        )
    return pretrained_rows, lines


def read(path: Path, vocabulary: dict[str, int], width: int) -> Found:
    """The vectors of the words in a vocabulary (word -> row); a word that stands there in another case alone gets that.

    Raises:
        InputError: see `start`.
    """
    rows: dict[int, np.ndarray] = {}
    exact: set[int] = set()
    for word, vector in entries(path, width):
        fits = word in vocabulary
        row = vocabulary[word] if fits else vocabulary.get(word.lower(), -1)
        if row < 0 or row in exact or (row in rows and not fits):
            continue
        rows[row] = vector
        if fits:
            exact.add(row)
    order = np.array(sorted(rows), np.int64)
    return Found(order, np.array([rows[row] for row in order.tolist()], np.float32).reshape(len(order), width))

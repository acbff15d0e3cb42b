"""The registry: a source's format -> what reads it. (`docstrings` has no files and is called by the stage itself.)"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.config.sources import SplitName
from pipeline.ingest import (
    beir,
    conll,
    id_text,
    images,
    numbers,
    python_text,
    scenes,
    text,
    trec,
)
from pipeline.ingest.rows import Row

# address, encoding, row limit in bytes -> rows
ReadFile = Callable[[str, str, int], Iterator[Row]]


class CollectionReader(NamedTuple):
    """How a format's files are read: rows of (id, title, text), of (id, text) and of (query, document, relevance)."""

    documents: ReadFile
    queries: ReadFile
    judgements: ReadFile = id_text.read_judgements


COLLECTIONS: dict[str, CollectionReader] = {
    "trec": CollectionReader(trec.read_documents, trec.read_queries),
    "beir": CollectionReader(beir.read_documents, beir.read_queries),
    "msmarco": CollectionReader(id_text.read_texts, id_text.read_texts),
}
# source, configuration, row limit in bytes -> for each file, the split it was given for (None: to be cut) and its rows
ReadTexts = Callable[[Any, Config, int], Iterator[tuple[SplitName | None, Iterator[Row]]]]
TEXTS: dict[str, ReadTexts] = {
    "text": text.read_text,
    "lines": text.read_lines,
    "labelled": text.read_labelled,
    "conllu": conll.read,
    "conll": conll.read,
    "python": python_text.read,
    "numbers": numbers.read,
}
# as TEXTS, and the stage's folder, in which they leave images
IMAGES: dict[str, Callable[[Any, Config, int, Path], Iterator[tuple[SplitName | None, Iterator[Row]]]]] = {
    "scenes": scenes.read,
    "captions": images.read,
}

"""The registry: a source's format -> what reads it. (`docstrings` has no files and is called by the stage itself.)"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Column, PairsSource
from pipeline.ingest import beir, delimited, jsonl, parquet, tables, trec
from pipeline.ingest.rows import Row

# source, address, the columns to read, row limit in bytes, a folder for temporary files -> rows with these columns
ReadPairs = Callable[[PairsSource, str, Sequence[Column], int, Path], Iterator[Row]]
# address, encoding, row limit in bytes -> rows
ReadFile = Callable[[str, str, int], Iterator[Row]]


class CollectionReader(NamedTuple):
    """How a format's files are read: rows of (id, title, text), of (id, text) and of (query, document, relevance)."""

    documents: ReadFile
    queries: ReadFile
    judgements: ReadFile = tables.read_judgements


PAIRS: dict[str, ReadPairs] = {
    "jsonl": jsonl.read_pairs,
    "tsv": delimited.read_pairs,
    "csv": delimited.read_pairs,
    "parquet": parquet.read_pairs,
}
COLLECTIONS: dict[str, CollectionReader] = {
    "trec": CollectionReader(trec.read_documents, trec.read_queries),
    "beir": CollectionReader(beir.read_documents, beir.read_queries),
    "msmarco": CollectionReader(tables.read_texts, tables.read_texts),
}

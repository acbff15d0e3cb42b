"""A folder as BEIR has it: corpus.jsonl (_id, title, text), queries.jsonl (_id, text), qrels/{train,dev,test}.tsv."""

from collections.abc import Iterator
from typing import Any

from pipeline.config.sources import CollectionSource, Column, SplitName
from pipeline.core.errors import InputError
from pipeline.ingest import jsonl, places
from pipeline.ingest.rows import BadRow, Row

_QRELS: dict[str, SplitName] = {"train": "train", "dev": "valid", "valid": "valid", "test": "test"}
_PACKED = ("", ".gz", ".zst")


def locate(source: CollectionSource) -> tuple[str, dict[SplitName | None, str], dict[SplitName | None, str]]:
    """The addresses of documents, queries and judgements in the folder.

    Raises:
        InputError: one of them is not there; says what is.
    """
    folder = source.path or ""
    names = places.names_in(folder)
    qrels_folder = places.join(folder, "qrels")
    qrels = places.names_in(qrels_folder) if "qrels" in names else []

    def pick(stem: str) -> str:
        for name in (stem + end for end in _PACKED):
            if name in names:
                return places.join(folder, name)
        listed = ", ".join(names[:8]) or "nothing"
        raise InputError(f"{places.shown_address(folder)} has no {stem} (nor .gz or .zst); found {listed}")

    judgements: dict[SplitName | None, str] = {}
    for stem, split in _QRELS.items():
        for name in (f"{stem}.tsv{end}" for end in _PACKED):
            if name in qrels:
                judgements.setdefault(split, places.join(qrels_folder, name))
    documents, queries = pick("corpus.jsonl"), pick("queries.jsonl")
    if not judgements:
        listed = ", ".join(qrels[:8]) or "nothing"
        raise InputError(
            f"{places.shown_address(qrels_folder)} has none of train.tsv, dev.tsv, test.tsv; found {listed}"
        )
    return documents, {None: queries}, judgements


def read_documents(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """Documents with the fields id, title and text."""
    return _texts(address, encoding, limit_bytes, {"_id": "id", "title": "title", "text": "text"})


def read_queries(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    """Queries with the fields id and text."""
    return _texts(address, encoding, limit_bytes, {"_id": "id", "text": "text"})


def _texts(address: str, encoding: str, limit_bytes: int, names: dict[str, str]) -> Iterator[Row]:
    """Rows by our names; `id` is taken where there is no `_id`."""
    for row, _ in jsonl.read(address, (*names, "id"), encoding, limit_bytes):
        values: dict[Column, Any] = {
            names.get(str(key), "id"): row.values[key] for key in ("id", *names) if key in row.values
        }
        problem = row.problem
        if problem is None and "id" not in values:
            problem = BadRow("missing field", "no '_id' (nor 'id')")
        yield row._replace(values=values, problem=problem)

"""Indexes over a few documents, made with the double."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.search import index_store
from pipeline.search.build import Change, Update
from pipeline.search.documents import Document
from pipeline.search.index_store import ModelStamp, Settings
from pipeline.search.searcher import Searcher
from tests.search.double import WordEncoder

TOPICS = ("wing flow lift drag", "heart blood valve pulse", "file path read write", "tide moon wave shore")


def topical(count: int, seed: int = 0, words: int = 6) -> list[Document]:
    """Documents of a few words, each of one topic's and a few of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        topic = TOPICS[i % len(TOPICS)].split()
        text = " ".join([*rng.choice(topic, words - 2), f"own{i}", f"own{i % 7}"])
        found.append(Document(f"d{i}", f"title{i}" if i % 3 == 0 else "", text))
    return found


class Indexed:
    """An index folder, and calls of `duplet index` upon it in this process."""

    def __init__(self, folder: Path, encoder: WordEncoder, settings: Settings, key: str = "k1") -> None:
        self.folder, self.encoder, self.settings = folder, encoder, settings
        self.stamp = ModelStamp(key, "train", str(folder), "model", encoder.config.model.head, "matching")
        self.said: list[str] = []

    def update(self, documents: Iterable[Document] = (), sync: bool = False, delete: Iterable[str] = ()) -> Change:
        with Update(self.folder, None, self.encoder, self.stamp, self.settings, self.said.append) as update:
            given = list(documents)
            if given or sync:
                update.put(given, sync)
            update.delete(delete)
            update.publish()
        return update.change

    def open(self, vocabulary: frozenset[str] | None = None) -> Searcher:
        return Searcher(index_store.open_snapshot(self.folder), self.encoder, vocabulary)

    def ids(self, query: str, k: int = 10, mode: Any = "model") -> list[str]:
        return [result.document.id for result in self.open().search(query, k, mode).results]


@pytest.fixture
def indexed(tmp_path: Path) -> Callable[..., Indexed]:
    """Makes an index of documents; more keywords are the encoder's limits or the index's settings."""

    def make(documents: Iterable[Document] = (), head: str = "cosine", name: str = "index", **more: Any) -> Indexed:
        limits = {key: more.pop(key) for key in ("query", "document", "pointwise") if key in more}
        index = Indexed(
            tmp_path / name, WordEncoder(head, **limits), Settings(**{"documents_per_segment": 4, "bits": 32} | more)
        )
        if documents:
            index.update(documents)
        return index

    return make


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path

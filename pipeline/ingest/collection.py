"""Documents, queries and judgements in files of their own -> records, joined on disk."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.config import SplitShares
from pipeline.config.sources import CollectionSource, SplitName
from pipeline.core.errors import InputError
from pipeline.core.record_schema import Record
from pipeline.ingest import beir, document_rows, id_text, listing, readers
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.rows import (
    TWO_TEXTS,
    BadRow,
    Row,
    as_id,
    as_relevance,
    as_text,
    short_hash,
    with_title,
)
from pipeline.ingest.scratch import Missing, Scratch
from pipeline.ingest.splits import shares_to_cut, split_of


class Places(NamedTuple):
    """Files; queries and judgements by split, or under None for all splits."""

    documents: list[str]
    queries: dict[SplitName | None, list[str]]
    judgements: dict[SplitName | None, list[str]]


def locate(source: CollectionSource) -> Places:
    """Where the files of a source lie.

    Raises:
        InputError: a BEIR folder lacks a file; or judgements of a split without queries for it.
    """
    if source.format == "beir":
        documents, queries, judgements = beir.locate(source)
        return Places([documents], _listed(queries), _listed(judgements))
    by_split = lambda paths: paths if isinstance(paths, dict) else {None: paths}
    places = Places(
        listing.files(source.documents or ""), _listed(by_split(source.queries)), _listed(by_split(source.judgements))
    )
    if None not in places.queries and None not in places.judgements:
        for split in places.judgements:
            if split not in places.queries:
                raise InputError(f"ingest.source.judgements.{split} is given, ingest.source.queries.{split} is not")
    return places


def _listed(by_split: Mapping[SplitName | None, Any]) -> dict[SplitName | None, list[str]]:
    return {split: listing.files(place) for split, place in by_split.items()}


def files(source: CollectionSource) -> dict[str, list[str]]:
    """All files by a name that says what they are, such as `queries.train`."""
    places = locate(source)
    parts = {"queries": places.queries, "judgements": places.judgements}
    named = {
        f"{part}.{split or 'all'}": listed for part, by_split in parts.items() for split, listed in by_split.items()
    }
    return {"documents": places.documents, **named}


class Ingest:
    """One run over a source; each step reads some of the files and writes what it keeps."""

    def __init__(
        self,
        source: CollectionSource,
        seed: int,
        shares: SplitShares,
        limit_bytes: int,
        tools: tuple[Ledger, Scratch, Output],
    ) -> None:
        self._source, self._seed, self._shares, self._limit = source, seed, shares, limit_bytes
        self._ledger, self._scratch, self._output = self._tools = tools
        self._places = locate(source)
        self._reader = readers.COLLECTIONS[source.format]

    def run(self) -> None:
        """Raises InputError: a file is absent, cannot be read or holds no rows."""
        document_rows.keep(self._rows(self._reader.documents, self._places.documents), self._tools)
        for split, files in self._places.queries.items():
            self._queries(split, files)
        if self._source.train_on_titles:
            self._title_pairs()
        for split, files in self._places.judgements.items():
            self._judgements(split, files)

    def _queries(self, split: SplitName | None, files: list[str]) -> None:
        for position, row in enumerate(self._rows(self._reader.queries, files), start=1):
            try:
                values = row.checked()
                query_id = str(position) if self._source.query_ids == "position" else as_id(values, "id")
                text = as_text(values, "text")
                if self._scratch.query(split or "", query_id) not in (None, text):
                    raise BadRow(TWO_TEXTS, f"query id {query_id[:60]!r} is another text's")
            except BadRow as problem:
                self._ledger.quarantine("queries", row, problem)
                continue
            if self._scratch.add_query(split or "", query_id, text):
                self._ledger.kept("queries")
            else:
                self._ledger.duplicate("queries")

    def _judgements(self, file_split: SplitName | None, files: list[str]) -> None:
        """Of two judgements of a pair the higher stays. Judgements of documents that are not kept are put aside, and
        those of valid and test noted for the evaluation: a relevant document that is not there is one not found."""
        read = id_text.read_triples if self._source.triples else self._reader.judgements
        for row in self._rows(read, files):
            try:
                values = row.checked()
                query_id, document_id = as_id(values, "query"), as_id(values, "document")
                relevance = as_relevance(values, "relevance", self._source.grades)
                told, query = self._query(file_split, query_id)
            except BadRow as problem:
                self._ledger.quarantine("records", row, problem)
                continue
            split, document = self._split(file_split, told, query_id), self._scratch.document(document_id)
            if document is None:
                if self._scratch.add_missing(split, Missing(query_id, query, document_id, relevance)):
                    unknown = BadRow("unknown document", f"{document_id[:60]!r} is not among the documents kept")
                    self._ledger.quarantine("records", row, unknown)
                else:
                    self._ledger.duplicate("records")
                continue
            place = self._output.places[split]
            if self._scratch.seen(split, place, relevance, "judgement", file_split or "", query_id, document_id):
                self._ledger.duplicate("records")
                continue
            self._keep(split, (query_id, query), (document_id, with_title(*document)), relevance, document[0])

    def _split(self, file_split: SplitName | None, told: SplitName | None, query_id: str) -> SplitName:
        """The split of a query's judgements; `told`: as the files give it."""
        if self._source.train_on_titles:
            return "test"
        if told is not None and told != "train":
            return told
        told_by = self._places.judgements if file_split else self._places.queries
        return split_of(query_id, self._seed, shares_to_cut(told, told_by, self._shares))

    def _query(self, file_split: SplitName | None, query_id: str) -> tuple[SplitName | None, str]:
        """A query's split, as judgements or queries give it, and its text. Raises BadRow if it is unknown."""
        if None in self._places.queries:
            tried: dict[SplitName | None, str] = {file_split: ""}
        elif file_split:
            tried = {file_split: file_split}
        else:
            tried = {"train": "train", "valid": "valid", "test": "test"}
        for split, key in tried.items():
            if (text := self._scratch.query(key, query_id)) is not None:
                return split, text
        raise BadRow("unknown query", f"{query_id[:60]!r} is not among the queries kept")

    def _title_pairs(self) -> None:
        """Documents with both a title and a body become pairs of the two, in train and valid."""
        shares = SplitShares(valid=self._shares.valid, test=0)
        for document_id, title, body in self._scratch.documents():
            if title and body:
                split = split_of(document_id, self._seed, shares)
                self._keep(split, (f"title:{document_id}", title), (document_id, body), 1.0)

    def _keep(
        self, split: SplitName, query: tuple[str, str], document: tuple[str, str], relevance: float, title: str = ""
    ) -> None:
        metadata = json.dumps({"title": title}, ensure_ascii=False) if title else "{}"
        keys, texts = (query[0], document[0]), (query[1], document[1])
        record = Record(short_hash(*keys), keys, texts, relevance, metadata)
        self._ledger.keep_record(split)
        self._output.add_record(split, record)

    def _rows(self, read: readers.ReadFile, files: list[str]) -> Iterator[Row]:
        before = self._ledger.total_read()
        yield from listing.rows(files, lambda address: read(address, self._source.encoding, self._limit))
        if self._ledger.total_read() == before:
            raise InputError(f"{listing.shown(files)} holds no rows; give a file that does")

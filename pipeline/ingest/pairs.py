"""Rows of query, document and relevance -> records."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.config import Column, Columns, PairsSource, SplitName, SplitShares
from pipeline.errors import InputError
from pipeline.ingest import places, readers
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.rows import BadRow, Row, as_id, as_metadata, as_relevance, as_text, short_hash
from pipeline.ingest.scratch import Scratch
from pipeline.ingest.splits import shares_to_cut, split_of
from pipeline.records import Record

Files = Iterable[tuple[SplitName | None, Iterable[Row]]]  # the rows of each file, and the split it was given for
GROUP_SEPARATOR = "\x1f"  # no cleaned field holds it


def addresses(source: PairsSource) -> dict[SplitName | None, str]:
    """Where the rows lie, by the split they were given for; None: all in one."""
    found: dict[SplitName | None, str] = {None: source.path} if source.path else {}
    return found | source.paths


def wanted_columns(columns: Columns) -> list[Column]:
    """Every column that the configuration names, once."""
    single = (columns.query, columns.document, columns.relevance, columns.id, columns.query_id, columns.document_id)
    return list(dict.fromkeys(c for c in (*single, *columns.group, *columns.metadata) if c is not None))


def to_record(row: Row, columns: Columns, grades: Mapping[str, float]) -> tuple[Record, str]:
    """The record of a row and the group that must not be split.

    Raises:
        BadRow: a field is missing or cannot be read.
    """
    if row.problem:
        raise row.problem
    values = row.values
    query, document = as_text(values, columns.query), as_text(values, columns.document)
    relevance = 1.0 if columns.relevance is None else as_relevance(values, columns.relevance, grades)
    query_id = short_hash(query) if columns.query_id is None else as_id(values, columns.query_id)
    document_id = short_hash(document) if columns.document_id is None else as_id(values, columns.document_id)
    record = Record(
        id=short_hash(query_id, document_id) if columns.id is None else as_id(values, columns.id),
        query_id=query_id,
        query=query,
        document_id=document_id,
        document=document,
        relevance=relevance,
        metadata=as_metadata(values, columns.metadata),
    )
    return record, GROUP_SEPARATOR.join(as_text(values, column) for column in columns.group) or query_id


def file_rows(source: PairsSource, limit_bytes: int, scratch: Path) -> Files:
    """The rows of each file of a source; a packed Parquet file is unpacked into `scratch`."""
    wanted = wanted_columns(source.columns)
    for given, address in addresses(source).items():
        yield given, readers.PAIRS[source.format](source, address, wanted, limit_bytes, scratch)


def ingest(
    files: Files,
    origin: Mapping[SplitName | None, str],
    columns: Columns,
    grades: Mapping[str, float],
    seed: int,
    shares: SplitShares,
    tools: tuple[Ledger, Scratch, Output],
) -> None:
    """Turns rows into records, each file's duplicates left out, and gives each its split.

    Args:
        origin: the address of each file, for messages.

    Raises:
        InputError: a file holds no rows.
    """
    ledger, scratch, output = tools
    for given, rows in files:
        cut, before = shares_to_cut(given, origin, shares), ledger.total_read()
        for row in rows:
            try:
                record, group = to_record(row, columns, grades)
            except BadRow as problem:
                ledger.quarantine("records", row, problem)
                continue
            if scratch.seen(given or "", record.query_id, record.document_id):
                ledger.duplicate("records")
                continue
            split = given if given and given != "train" else split_of(group, seed, cut)
            ledger.keep_record(split)
            output.add_record(split, record)
        if ledger.total_read() == before:
            raise InputError(f"{places.shown_address(origin[given])} holds no rows; give a file that does")

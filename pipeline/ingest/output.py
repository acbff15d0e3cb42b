"""Records and documents to Parquet, streamed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SPLITS, task_spec
from pipeline.config.sources import SplitName
from pipeline.core.record_schema import Record, collection_schema, missing_name, missing_schema, schema

_ROWS = 1000  # of a row group, at the most
_CHARACTERS = 4 << 20  # of a row group, about


class TableWriter:
    """Writes rows to one file, a row group at a time; a file without rows is still a valid one.

    What one call hands over is encoded by a thread while the caller goes on: Arrow leaves Python's lock for that. An
    error of it, such as a full disk, is raised by the next call that writes, or by `close`.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False)
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._tables: list[pa.Table] = []
        self._table_rows = self._table_bytes = self._characters = 0
        self._texts = [place for place, field in enumerate(schema) if pa.types.is_string(field.type)]

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        for place in self._texts:
            self._characters += len(row[place])
        if len(self._rows) >= _ROWS or self._characters >= _CHARACTERS:
            self._flush()

    def add_table(self, table: pa.Table) -> None:
        """As `add`, of some rows of bounded size as Arrow has them; one writer takes either kind."""
        self._tables.append(table)
        self._table_rows += len(table)
        self._table_bytes += table.nbytes
        if self._table_rows >= _ROWS or self._table_bytes >= _CHARACTERS:
            together = pa.concat_tables(self._tables).combine_chunks()
            full = len(together) - len(together) % _ROWS or len(together)
            self._write(together.slice(0, full))
            rest = together.slice(full)
            self._tables, self._table_rows, self._table_bytes = [rest] if len(rest) else [], len(rest), rest.nbytes

    def close(self) -> None:
        try:
            if self._rows:
                self._flush()
            if self._tables:
                self._write(pa.concat_tables(self._tables).combine_chunks())
            self._wait()
        finally:
            self._thread.shutdown()
            self._writer.close()

    def _flush(self) -> None:
        columns = [pa.array(column, field.type) for column, field in zip(zip(*self._rows), self._schema)]
        self._write(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows, self._characters = [], 0

    def _write(self, table: pa.Table) -> None:
        """Begins to write a table, in groups of `_ROWS`, once the one before is written."""
        self._wait()
        self._written = self._thread.submit(self._writer.write_table, table, _ROWS)

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()


class Output:
    """`records-SPLIT.parquet` for each split and, if asked for, `collection.parquet`, in `folder`."""

    def __init__(self, folder: Path, task: str, collection: bool) -> None:
        self._records = {
            split: TableWriter(folder / f"records-{split}.parquet", schema(task_spec(task).fields)) for split in SPLITS
        }
        self._documents = TableWriter(folder / "collection.parquet", collection_schema()) if collection else None
        self.places: Counter[str] = Counter()  # of the next record of each split

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (*self._records.values(), *([self._documents] if self._documents else [])):
            writer.close()

    def add_record(self, split: SplitName, record: Record) -> None:
        self._records[split].add(record.row())
        self.places[split] += 1

    def add_records(self, split: SplitName, records: pa.Table) -> None:
        """Adds some records of bounded size."""
        self._records[split].add_table(records)

    def add_document(self, document_id: str, document: str) -> None:
        assert self._documents is not None
        self._documents.add((document_id, document))


def write_missing(folder: Path, split: SplitName, judgements: Iterable[tuple[Any, ...]]) -> None:
    """Writes a split's judgements of documents that are not kept; see records.missing_schema."""
    writer = TableWriter(folder / missing_name(split), missing_schema())
    for judgement in judgements:
        writer.add(judgement)
    writer.close()


def raise_relevance(folder: Path, split: SplitName, raised: Mapping[int, float]) -> None:
    """Writes a split's records anew, with another relevance for those at the places given."""
    path = folder / f"records-{split}.parquet"
    file = pq.ParquetFile(path, pre_buffer=False)
    aside, place = path.with_name(f".{path.name}"), 0
    writer = pq.ParquetWriter(aside, file.schema_arrow, compression="zstd", write_statistics=False)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        column = table.schema.get_field_index("relevance")
        values = [raised.get(place + row, value) for row, value in enumerate(table["relevance"].to_pylist())]
        place += len(values)
        writer.write_table(table.set_column(column, table.schema.field(column), pa.array(values, pa.float32())))
    writer.close()
    file.close()
    aside.rename(path)

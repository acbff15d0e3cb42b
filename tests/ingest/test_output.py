"""Parquet that a thread writes: the rows and their groups, and errors that are not lost."""

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ingest.output import TableWriter

SCHEMA = pa.schema([("text", pa.string())])


def table(first: int, last: int) -> pa.Table:
    return pa.table({"text": [f"row {number}" for number in range(first, last)]}, schema=SCHEMA)


def test_tables_of_any_size_become_groups_of_a_thousand_rows(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "t.parquet", SCHEMA)
    for first, last in ((0, 10), (10, 10), (10, 2700), (2700, 3001), (3001, 3002)):
        writer.add_table(table(first, last))
    writer.close()
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [1000, 1000, 1000, 2]
    assert file.read()["text"].to_pylist() == [f"row {number}" for number in range(3002)]


@pytest.mark.parametrize("rows", [1, 1000, 5000])
def test_a_full_disk_is_said_though_a_thread_met_it(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    writer = TableWriter(tmp_path / "t.parquet", SCHEMA)
    with pytest.raises(OSError, match="No space left"):
        for first in range(0, rows, 500):
            writer.add_table(table(first, min(rows, first + 500)))
        writer.close()

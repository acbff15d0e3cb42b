"""Reading ids back: rows across shards, padding, memory maps, damage."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.tokenization import shard_files, shards, stage
from pipeline.tokenization.encoder import Encoded
from tests.mapped import resident

Ids = list[list[int]]


def write(folder: Path, texts: Ids, per_shard: int, field: str = "document") -> None:
    """Shards as the stage writes them, keys t0, t1, …"""
    for number, start in enumerate(range(0, max(len(texts), 1), per_shard)):
        part = texts[start : start + per_shard]
        encoded = Encoded(
            np.array([i for ids in part for i in ids], np.int32),
            np.array([len(ids) for ids in part], np.int32),
            0,
            0,
            0,
        )
        keys = [f"t{start + i}" for i in range(len(part))]
        stage.write_shard(folder / shards.shard_name(field, number), keys, [encoded])


TEXTS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(texts=TEXTS, per_shard=st.integers(1, 13), data=st.data())
def test_padded_equals_the_naive_way(
    tmp_path_factory: pytest.TempPathFactory, texts: Ids, per_shard: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    write(folder, texts, per_shard)
    read = shards.Texts(folder, "document")
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=20))
    ids, lengths = read.padded(np.array(rows, np.int32))
    longest = max((len(texts[row]) for row in rows), default=0)
    assert ids.tolist() == [texts[row] + [0] * (longest - len(texts[row])) for row in rows]
    assert lengths.tolist() == [len(texts[row]) for row in rows]
    assert (ids.dtype, lengths.dtype, ids.shape) == (np.int32, np.int32, (len(rows), longest))
    assert [read.ids(row).tolist() for row in range(len(read))] == texts
    assert [ids.tolist() for ids in read.read(np.array(rows, np.int32))] == [texts[row] for row in rows]
    assert read.lengths_of(np.array(rows, np.int32)).tolist() == lengths.tolist()
    assert read.lengths.tolist() == [len(ids) for ids in texts]
    assert list(read.keys) == [read.keys[i] for i in range(len(texts))] == [f"t{i}" for i in range(len(texts))]
    assert read.keys[1:3] == [f"t{i}" for i in range(1, min(3, len(texts)))]


def test_rows_out_of_range_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [[1], [2]], 1)
    read = shards.Texts(tmp_path, "document")
    for row in (-1, 2):
        with pytest.raises(IndexError):
            read.ids(row)
        for some in (read.padded, read.read, read.lengths_of):
            with pytest.raises(IndexError):
                some(np.array([0, row]))
    with pytest.raises(IndexError):
        read.keys[2]


def test_ids_stay_in_the_mapped_file(tmp_path: Path) -> None:
    write(tmp_path, [[7] * 1000] * 3000, 1500)
    before = pa.total_allocated_bytes()
    read = shards.Texts(tmp_path, "document")
    assert pa.total_allocated_bytes() - before < 100_000  # the ids are 12 million bytes
    for row, number in ((0, 0), (2999, 1)):
        ids = read.ids(row)
        address = ids.__array_interface__["data"][0]
        name = str(tmp_path / shards.shard_name("document", number))
        mapped = [
            tuple(int(end, 16) for end in line.split()[0].split("-"))
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(name)
        ]
        assert any(start <= address < end for start, end in mapped)
        assert not ids.flags.writeable
        assert np.shares_memory(ids, read.ids(row))


def test_reading_some_texts_holds_no_file_in_memory(tmp_path: Path) -> None:
    write(tmp_path, [[7] * 1000] * 3000, 1500)
    read = shards.Texts(tmp_path, "document")
    assert resident(tmp_path) == 0  # checking has gone through both files
    some = np.arange(0, 3000, 7)
    assert sum(int(ids.sum()) for ids in read.read(some)) == read.padded(some)[0].sum() == 7000 * len(some)
    assert resident(tmp_path) == 0
    read.token_counts(8)
    assert resident(tmp_path) > 10_000
    for file in read.files:
        file.release()
    assert resident(tmp_path) == 0
    assert read.ids(2999).tolist() == [7] * 1000


@pytest.mark.parametrize("left", [None, 5000])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, left: int | None) -> None:
    write(tmp_path, [[7] * 1000] * 30, 15)
    read = shards.Texts(tmp_path, "document")
    path = tmp_path / shards.shard_name("document", 1)
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[:left])
    assert len(read.read(np.array([3]))) == 1
    with pytest.raises(InputError, match=re.escape(f"{path} was changed while it was read")):
        read.read(np.array([3, 29]))


def test_no_texts(tmp_path: Path) -> None:
    write(tmp_path, [], 5)
    read = shards.Texts(tmp_path, "document")
    assert (len(read), list(read.keys), read.lengths.tolist()) == (0, [], [])
    ids, lengths = read.padded(np.zeros(0, np.int32))
    assert ids.shape == (0, 0) and lengths.shape == (0,)


@pytest.fixture
def folder(ingested: Callable[..., Path], tokenized: Callable[..., tuple[Path, dict[str, Any]]]) -> Path:
    pairs = [(f"q{i}", f"query {i}", f"d{i}", "some words here", 1.0) for i in range(5)]
    return tokenized(ingested(train=pairs, valid=pairs, test=pairs), rows_per_shard=2)[0]


@pytest.mark.parametrize("name", ["document-00001.arrow", "query-00000.arrow", "examples.arrow"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing", "other"])
def test_a_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / "train" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        table = pa.table({"x": [1]})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no arrow" * 99}[damage])
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        shards.open_split(folder, "train")
    assert "duplet tokenize" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("lengths", [[1, 3], [0, 3], [2, 2]])
def test_lengths_that_disagree_with_the_ids_are_refused(tmp_path: Path, lengths: list[int]) -> None:
    path = tmp_path / shards.shard_name("document", 0)
    ids = pa.array([[1], [2, 3]], pa.list_(pa.int32()))
    batch = pa.record_batch([pa.array(["a", "b"]), ids, pa.array(lengths, pa.int32())], schema=shards.TEXTS_SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(InputError, match="lengths and ids disagree"):
        shards.Texts(tmp_path, "document")


def test_examples_beyond_the_shards_are_refused(folder: Path) -> None:
    (folder / "train" / "query-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"examples.arrow points at more query texts than its shards hold \(4\)"):
        shards.open_split(folder, "train")


def test_reading_imports_no_mxnet() -> None:
    code = (
        "import sys; from pipeline.tokenization import parallel, shards, stage, vocabulary;"
        "print([name for name in ('mxnet', 'gluonnlp', 'jieba', 'sentencepiece') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["document-00001.arrow", "query-00000.arrow", "examples.arrow"])
def test_no_turned_bit_of_a_file_ends_the_process(folder: Path, name: str) -> None:
    """Arrow trusts what stands in the middle of a file: a wrong end of a text would be read as an address."""
    path = folder / "train" / name
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.unlink()  # never written over: it may be mapped
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        try:
            split = shards.open_split(folder, "train")
            for texts in split.fields.values():
                texts.padded(np.arange(len(texts)))
                list(texts.keys)
            list(split.ids)
        except InputError as error:
            assert "\n" not in str(error)


def test_each_shard_is_opened_once_however_many_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 texts out of 200 shards: 200 files are opened by the first update, and none by the ones after it."""
    write(tmp_path, [[i % 50] for i in range(2000)], 10)
    opened: list[Path] = []
    real = os.open
    monkeypatch.setattr(shard_files.os, "open", lambda path, *how: opened.append(path) or real(path, *how))
    read = shards.Texts(tmp_path, "document")
    rows = np.random.default_rng(1).permutation(2000)[:1024]
    for _ in range(3):
        assert [ids.tolist() for ids in read.read(rows)] == [[row % 50] for row in rows]
    assert len(opened) == len(set(opened)) == len(set(rows // 10))


def test_files_beyond_the_systems_limit_are_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_limit", lambda: 3)
    monkeypatch.setattr(shard_files, "_kept", 0)
    write(tmp_path, [[i % 50] for i in range(200)], 10)
    read = shards.Texts(tmp_path, "document")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [ids.tolist() for ids in read.read(np.arange(200))] == [[row % 50] for row in range(200)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 3
    del read
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_was_checked_is_checked_again_only_when_it_changes(folder: Path) -> None:
    """Damage that leaves size, time and inode as they were is not seen again: the manifest's checksums are for that."""
    shards.open_split(folder, "train")
    path = folder / "train" / "document-00000.arrow"
    stamp, content = path.stat(), path.read_bytes()
    place = content.rindex(np.array([3, 3], np.int32).tobytes())  # the lengths of the shard's two texts
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(4))  # a length of 0
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    shards.open_split(folder, "train")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    with pytest.raises(InputError, match="lengths and ids disagree"):
        shards.open_split(folder, "train")
    with pytest.raises(InputError, match="lengths and ids disagree"):
        shards.Texts(folder / "train", "document")  # asked for without its folder: checked whole


def test_a_folder_that_is_read_only_or_elsewhere_is_checked_whole(folder: Path, tmp_path: Path) -> None:
    shards.open_split(folder, "train")
    (folder.parent / f".{folder.name}.checked").write_text("no JSON", encoding="utf-8")
    shards.open_split(folder, "train")
    moved = tmp_path / "elsewhere" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    path = moved / "train" / "examples.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        shards.open_split(moved, "train")


@pytest.mark.parametrize("held", [0, 1 << 28])
def test_lengths_of_any_rows(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_HELD_LENGTHS", held)
    monkeypatch.setattr(shards, "_ROWS_AT_ONCE", 7)
    sizes = np.random.default_rng(1).integers(1, 9, 100)
    write(tmp_path, [[1] * size for size in sizes], 13)
    read = shards.Texts(tmp_path, "document")
    rows = np.random.default_rng(2).integers(0, 100, 250)
    assert read.lengths_of(rows).tolist() == sizes[rows].tolist()
    assert read.lengths_of(rows[:0]).tolist() == []

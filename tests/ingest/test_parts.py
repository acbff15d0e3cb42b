"""Tables are read in parts: the same records, whatever the parts, what runs them, and whichever process is killed."""

import gzip
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SPLITS, check_config
from pipeline.core.errors import InputError
from pipeline.core.executors import InProcess
from pipeline.ingest import blocks, copies, hashes, line_batches, parts, records, stage
from pipeline.ingest.hashes import Block
from pipeline.ingest.rows import short_hash
from tests.killing import at_every_step, killing

Settings = dict[str, Any]


def run(
    folder: Path, source: Settings, execution: Settings | None = None, work: Path | None = None, **more: Any
) -> Settings:
    """What an ingest leaves: the digest of each file, and all that can be read in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    given = {"source": source, "max_quarantined_share": 0.999, "leaks": "warn", **more}
    config = check_config({"name": "t", "ingest": given, "execution": execution or {}}, "test")
    counts = stage.run(config, folder, None, work)
    assert not list(folder.glob(".*")), "temporary files are left"
    return {
        "counts": counts,
        "bytes": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())},
        "records": [pq.read_table(folder / f"records-{split}.parquet").to_pylist() for split in SPLITS],
        "quarantine": (folder / "quarantine.jsonl").read_text(encoding="utf-8"),
    }  # fmt: skip


def same(one: Settings, other: Settings) -> bool:
    return all(one[what] == other[what] for what in ("counts", "records", "quarantine"))


def small(monkeypatch: pytest.MonkeyPatch, part_bytes: int = 200, block_rows: int = 20) -> None:
    """Many parts, blocks and ranges of a little data."""
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(parts, "_BATCH_ROWS", 7)
    monkeypatch.setattr(line_batches, "_BATCH_BYTES", 100)
    monkeypatch.setattr(hashes, "RANGE_ROWS", 50)
    monkeypatch.setattr(hashes, "RANGE_ROWS_PER_BLOCK", 1)


def rows(count: int) -> list[dict[str, Any]]:
    """Pairs with copies of other relevance, in all splits, and bad ones between them."""
    rng = np.random.default_rng(1)
    return [
        {
            "query": "" if n % 41 == 40 else f"query {q}",
            "document": f"document {d} of ünder {'x' * (d % 9 if n % 29 else 9)}",
            "label": int(rng.integers(0, 4)), "qid": q if n % 37 else q + 1, "did": d, "id": n % 150,
        }
        for n, (q, d) in enumerate(rng.integers(0, 60, (count, 2)).tolist())
    ]  # fmt: skip


def _lines(text: Callable[[dict[str, Any]], str], head: str = "") -> bytes:
    return (head + "".join(f"{text(row)}\n" for row in rows(400))).encode()


def _parquet() -> bytes:
    pq.write_table(pa.Table.from_pylist(rows(400)), sink := pa.BufferOutputStream(), row_group_size=35)
    return bytes(sink.getvalue().to_pybytes())


FIELDS = list(rows(1)[0])
TSV = _lines(lambda row: "\t".join(map(str, row.values())), "\t".join(FIELDS) + "\n")
FILES: dict[str, tuple[Settings, bytes]] = {
    "tsv": ({"format": "tsv"}, TSV),
    "tsv, CR LF": ({"format": "tsv"}, TSV.replace(b"\n", b"\r\n")),
    "tsv, CR": ({"format": "tsv"}, TSV.replace(b"\n", b"\r")),
    "tsv, UTF-16": ({"format": "tsv"}, TSV.decode().encode("utf-16")),
    "tsv, packed": ({"format": "tsv"}, gzip.compress(TSV)),
    "csv": ({"format": "csv"}, TSV.replace(b"\t", b",")),
    "csv without quotes": ({"format": "csv", "quoting": False}, TSV.replace(b"\t", b",")),
    "jsonl": ({"format": "jsonl"}, _lines(json.dumps)),
    "array": ({"format": "jsonl"}, json.dumps(rows(400)).encode()),
    "parquet": ({"format": "parquet"}, _parquet()),
    "parquet, packed": ({"format": "parquet"}, gzip.compress(_parquet())),
}
CUT = {"tsv", "tsv, CR LF", "csv without quotes", "jsonl", "parquet"}  # the others are one part
COLUMNS: dict[str, Settings] = {
    "keys of texts": {"relevance": "label"},
    "query ids": {"relevance": "label", "query_id": "qid"},
    "both ids": {"relevance": "label", "query_id": "qid", "document_id": "did"},
    "record ids": {"relevance": "label", "id": "id"},
}


@pytest.mark.parametrize(
    ("name", "columns"),
    [*((name, "keys of texts") for name in FILES), *(("tsv", columns) for columns in [*COLUMNS][1:])],
)
def test_parts_and_blocks_of_any_size_give_the_same_records(
    name: str, columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, content = FILES[name]
    (tmp_path / "source").write_bytes(content)
    source = {**source, "path": str(tmp_path / "source"), "columns": COLUMNS[columns]}
    whole = run(tmp_path / "whole", source, split={"valid": 0.3, "test": 0.3})
    assert min(map(len, whole["records"])) > 30 and whole["quarantine"]
    small(monkeypatch)
    made: list[int] = []
    cut = parts.cut
    monkeypatch.setattr(parts, "cut", lambda *given: (made.append(1) or part for part in cut(*given)))
    assert same(run(tmp_path / "cut", source, split={"valid": 0.3, "test": 0.3}), whole)
    assert (len(made) > 5) is (name in CUT)


anything = st.lists(
    st.sampled_from([b"\t", b"\n", b"\r", b"a", b"b\tc", b'"', b"\xff", b"\0", b"\xff\xfe", b"x" * 40, b'{"query":"a"}',
                     b'{"query": "a", "document": "b"}', b"\xef\xbb\xbf"]), max_size=40,
).map(b"".join)  # fmt: skip


@pytest.mark.parametrize("source", [
    {"format": "tsv"}, {"format": "jsonl"}, {"format": "csv", "quoting": False},
    {"format": "tsv", "header": False, "columns": {"query": 0, "document": 1}},
])  # fmt: skip
@given(head=st.sampled_from([b"", b"query\tdocument\n", b"query,document\n"]), body=anything, size=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_in_parts_of_any_size(source: Settings, head: bytes, body: bytes, size: int) -> None:
    found = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (path := Path(folder, "source")).write_bytes(head + body)
        for cut in (False, True):
            if cut:
                small(patch, size, 2)
            try:
                found.append(run(Path(folder, "made"), {**source, "path": str(path)}, max_row_kb=1))
            except InputError as error:
                found.append({what: str(error) for what in ("counts", "records", "quarantine")})
    assert same(*found)


def pairs_file(folder: Path) -> str:
    path = folder / "pairs.tsv"
    path.write_bytes(TSV)
    return str(path)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Some parts; they are cut by the command, so that workers need not know."""
    monkeypatch.setattr(parts, "PART_BYTES", 1500)
    monkeypatch.setattr(hashes, "RANGE_ROWS", 50)
    monkeypatch.setattr(hashes, "RANGE_ROWS_PER_BLOCK", 1)
    return {"format": "tsv", "path": pairs_file(tmp_path), "columns": {"relevance": "label"}}


def test_any_number_of_processes_gives_the_same_bytes(source: Settings, tmp_path: Path) -> None:
    alone = run(tmp_path / "1", source, {"workers": 1})
    for workers in (2, 3):
        assert run(tmp_path / str(workers), source, {"workers": workers}) == alone


@pytest.mark.parametrize("after_s", [0.0, 1.0, 2.0])
def test_a_process_that_is_killed_changes_no_byte(after_s: float, source: Settings, tmp_path: Path) -> None:
    alone = run(tmp_path / "1", source, {"workers": 1})
    with killing(after_s) as killed:
        assert run(tmp_path / "2", source, {"workers": 2}) == alone
    assert killed or after_s


def test_a_dask_cluster_whose_worker_is_killed_gives_the_same_bytes(source: Settings, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    alone = run(tmp_path / "1", source, {"workers": 1})
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        how = {"engine": "dask", "address": cluster.scheduler_address}
        assert run(tmp_path / "2", source, how) == alone
        with killing(0.0) as killed:
            assert run(tmp_path / "3", source, how) == alone
    assert killed


def test_a_part_of_bad_rows_among_many_good_ones_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is given up for its bad rows before it is known that the source has many good ones."""
    small(monkeypatch, 10_000)
    monkeypatch.setattr("pipeline.ingest.ledger._HOPELESS", 50)
    good = "".join(f"q{n}\td{n}\n" for n in range(2000))
    (tmp_path / "a.tsv").write_text("query\tdocument\n" + good + "bad\n" * 1000 + "last\trow\n")
    made = run(tmp_path / "made", {"format": "tsv", "path": str(tmp_path / "a.tsv")}, split={"valid": 0, "test": 0})
    assert made["counts"]["records"] | {"splits": None} == {
        "read": 3001, "kept": 2001, "quarantined": 1000, "duplicates": 0, "splits": None
    }  # fmt: skip
    assert made["records"][0][-1]["query"] == "last"


def test_a_part_of_a_hopeless_file_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 1 << 20)
    monkeypatch.setattr("pipeline.ingest.ledger._HOPELESS", 50)
    (tmp_path / "a.tsv").write_text("query\tdocument\n" + "bad\n" * 5000)
    written: list[str] = []
    enter = blocks._Writer.__enter__
    monkeypatch.setattr(blocks._Writer, "__enter__", lambda self: written.append(self._name) or enter(self))
    with pytest.raises(InputError, match="50 of 50 rows are bad"):
        run(tmp_path / "made", {"format": "tsv", "path": str(tmp_path / "a.tsv")}, max_quarantined_share=0.5)
    assert len(written) < 10


@given(
    some=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    ranges=st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_copies_are_those_that_a_dictionary_finds(some: list[Any], cuts: list[int], ranges: int) -> None:
    """Hashes that are equal in their first half only, too; copies of one row are all in train, or none is."""
    every = [(high << 62, low, relevance, low % 2 == 0) for high, low, relevance in some]
    bounds = sorted({0, len(every), *(cut for cut in cuts if cut < len(every))})
    first: dict[Any, Any] = {}
    times: dict[Any, int] = {}
    expected: dict[tuple[int, int], tuple[int, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, made = Path(name), []
        for block, (start, stop) in enumerate(itertools.pairwise(bounds)):
            entries = np.zeros(stop - start, hashes.KINDS["keys"])
            entries["row"] = np.arange(stop - start)
            for place, column in enumerate(("high", "low", "relevance", "train")):
                entries[column] = [entry[place] for entry in every[start:stop]]
            entries.tofile(folder / "unsorted")
            hashes.write(folder / f"{block}.keys", "keys", folder / "unsorted")
            made.append(Block(str(block), stop - start, 0))
            for row, (high, low, relevance, train) in enumerate(every[start:stop]):
                key = (high, low)
                times[key] = times.get(key, 0) + 1
                if key not in first:
                    first[key] = [(block, row), relevance]
                    continue
                expected[block, row] = (copies.LEFT_OUT if train else times[key], 0)
                if train and relevance > first[key][1]:
                    first[key][1] = relevance
                    expected[first[key][0]] = (copies.RAISED, relevance)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hashes, "RANGE_ROWS", -(-len(every) // ranges))
            patch.setattr(hashes, "RANGE_ROWS_PER_BLOCK", 0)
            read = hashes.find("keys", copies.look, made, folder, InProcess())()
        found = {}
        for block in range(len(made)):
            for at, row, number, relevance in read.of(block, copies.COPY).tolist():
                found[at, row] = (number, relevance if number == copies.RAISED else 0)
                assert at == block
    assert found == expected


def by_hand(files: dict[str, list[dict[str, str]]], columns: Settings) -> dict[str, Any]:
    """What docs/data.md says of ids, row after row."""
    named, documents, seen, times = {}, {}, {}, {}
    records: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    bad = []
    for split, rows in files.items():
        for number, row in enumerate(rows, 2):
            names = [(field, row[columns[f"{field}_id"]], row[field]) for field in ("query", "document")
                     if f"{field}_id" in columns]  # fmt: skip
            wrong = [field for field, key, text in names if named.get((split, field, key), text) != text]
            if wrong:
                bad.append((split, number, wrong[0]))
                continue
            named.update({(split, field, key): text for field, key, text in names})
            keys = {field: short_hash(row[field]) for field in ("query", "document")}
            keys |= {field: key for field, key, _ in names}
            own, made = keys["document"], short_hash(keys["query"], keys["document"])
            while "document_id" in columns and documents.setdefault(own, row["document"]) != row["document"]:
                own = f"{own}~{split}"
            key = (split, keys["query"], own)
            relevance = float(row["label"])
            again, seen[key] = key in seen, seen.get(key, len(records[split]))
            if again and split == "train":
                first = records["train"][seen[key]]
                first["relevance"] = max(first["relevance"], relevance)
                continue
            given = row[columns["id"]] if "id" in columns else made
            number_of = times.setdefault(split, {})
            name, count = given, 1
            while name in number_of:
                count = number_of[given] = number_of[given] + 1
                name = f"{given}~{count}"
            number_of[name] = 1
            records[split].append({"id": name, "query_id": keys["query"], "query": row["query"], "document_id": own,
                                   "document": row["document"], "relevance": relevance, "metadata": "{}"})  # fmt: skip
    return {"records": [records[split] for split in SPLITS], "bad": bad}


few = st.fixed_dictionaries({
    "query": st.sampled_from(["a", "b"]), "document": st.sampled_from(["x", "y", "z"]), "label": st.sampled_from("012"),
    "qid": st.sampled_from("12"), "did": st.sampled_from(["1", "2", "1~test", "1~valid", "1~test~test"]),
    "id": st.sampled_from(["7", "8", "7~2", "7~3", "7~2~2"]),
})  # fmt: skip


@pytest.mark.parametrize("columns", [
    {"query_id": "qid"}, {"document_id": "did"}, {"query_id": "qid", "document_id": "did"}, {"id": "id"},
    {"query_id": "qid", "document_id": "did", "id": "id"},
])  # fmt: skip
@given(files=st.fixed_dictionaries({split: st.lists(few, min_size=1, max_size=12) for split in SPLITS}))
@settings(max_examples=60, deadline=None)
def test_ids_of_the_source_are_as_by_hand(columns: Settings, files: dict[str, list[dict[str, str]]]) -> None:
    expected = by_hand(files, columns)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        small(patch, 25, 2)
        patch.setattr(hashes, "RANGE_ROWS", 3)
        paths = {}
        for split, some in files.items():
            paths[split] = f"{folder}/{split}.tsv"
            lines = ["\t".join(some[0]), *("\t".join(row[name] for name in some[0]) for row in some)]
            Path(paths[split]).write_text("".join(f"{line}\n" for line in lines))
        source = {"format": "tsv", "paths": paths, "columns": {"relevance": "label", **columns}}
        made = run(Path(folder, "made"), source, split={"valid": 0, "test": 0})
    assert made["records"] == expected["records"]
    bad = [json.loads(line) for line in made["quarantine"].splitlines()]
    reasons = [(row["source"], row["row"], row["reason"].partition(": ")[2].split()[0]) for row in bad]
    assert reasons == [(f"{split}.tsv", number, field) for split, number, field in expected["bad"]]


def test_no_part_is_cut_within_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(b"x" * (n * 7 % 23) + b"\n" for n in range(300)) + b"end"
    (tmp_path / "a").write_bytes(content)
    for size in (1, 5, 64, 10_000):
        monkeypatch.setattr(parts, "PART_BYTES", size)
        for piece in (7, 1 << 18):
            monkeypatch.setattr(parts, "_PIECE", piece)
            found = list(parts._ends(tmp_path / "a"))
            assert [start for start, _, _ in found] == [0, *(stop for _, stop, _ in found[:-1])]
            assert found[-1][1] == len(content)
            assert all(content[stop - 1 : stop] == b"\n" for _, stop, _ in found[:-1])
            assert [before for _, _, before in found] == [content[:start].count(b"\n") for start, _, _ in found]
            assert all(stop - start >= size for start, stop, _ in found[:-1])


def counted(monkeypatch: pytest.MonkeyPatch, after: int | None = None) -> list[str]:
    """The names of the parts that are read from now on; reading the one after so many ends the command."""
    names: list[str] = []
    read = records._read

    def count(work: records.Work) -> records.Read:
        if len(names) == after:
            raise KeyboardInterrupt
        names.append(work.name)
        return read(work)

    monkeypatch.setattr(records, "_read", count)
    return names


def cut_off(folder: Path, source: Settings, work: Path, parts_done: int) -> None:
    """A run that ends after some parts."""
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, parts_done)
        with pytest.raises(KeyboardInterrupt):
            run(folder, source, {"workers": 1}, work)


def test_parts_that_are_done_are_not_read_again(
    source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, work = run(tmp_path / "whole", source, {"workers": 1}), tmp_path / "work"
    cut_off(tmp_path / "made", source, work, 5)
    names = counted(monkeypatch)
    assert run(tmp_path / "made", source, {"workers": 1}, work) == alone
    assert len(names) > 5 and not {f"all-{number}" for number in range(5)} & set(names)
    assert run(tmp_path / "made", source, {"workers": 1}, work) == alone


@pytest.mark.parametrize("change", ["source", "part"])
def test_parts_of_a_file_that_was_changed_meanwhile_are_read_again(
    change: str, source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(tmp_path / "made", source, work := tmp_path / "work", 5)
    if change == "source":
        path = Path(source["path"])
        path.write_bytes(path.read_bytes().replace(b"document 1 ", b"document 9 "))
    else:
        monkeypatch.setattr(parts, "PART_BYTES", 2000)
    names = counted(monkeypatch)
    made = run(tmp_path / "made", source, {"workers": 1}, work)
    assert "all-0" in names
    assert made == run(tmp_path / "whole", source, {"workers": 1})


def test_an_ingest_that_is_killed_goes_on_and_gives_the_same_bytes(source: Settings, tmp_path: Path) -> None:
    alone, work = run(tmp_path / "whole", source, {"workers": 1}), tmp_path / "work"

    def left(step: int) -> None:
        done = [path.name for path in work.glob("*.done")] if work.exists() else []
        seen.append(len(done))

    seen: list[int] = []
    at_every_step(lambda: run(tmp_path / "made", source, {"workers": 1}, work), left, stride=60, writing=True)
    assert max(seen) > 5 and seen == sorted(seen)
    assert run(tmp_path / "made", source, {"workers": 1}, work) == alone


def test_what_cannot_be_read_leaves_no_parts_behind(source: Settings, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(InputError, match="rows are bad"):
        run(tmp_path / "made", source, {"workers": 1}, work, max_quarantined_share=0)
    assert not work.exists()

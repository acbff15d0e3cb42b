"""Where a source lies: a file, a list, a pattern or a folder, here or at an address."""

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.config import check_config
from pipeline.core.errors import InputError, TryAgain
from pipeline.ingest import listing, stage

TSV = {"format": "tsv", "header": False, "columns": {"query": 0, "document": 1}}
ROWS = {"a": ["q1\td1", "q2\td2"], "b": ["q3\td3"], "c/d": ["q4\td4", "q1\td1"]}
SOURCES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "tsv": (TSV, "matching", ["q1\td1\nq2\td2\n", "q3\td3\n"]),
    "csv": (TSV | {"format": "csv"}, "matching", ['q1,"d\n1"\n', "q3,d3\nq4,d4\n"]),
    "jsonl": ({"format": "jsonl"}, "matching", ['{"query": "a", "document": "b"}\n', '{"query":"c", "document": "d"}']),
    "text": ({"format": "text"}, "cloze", ["one a\ntwo a\nthree a", "four a\nfive a\n"]),
    "labelled": ({"format": "labelled"}, "classification", ["x one\ny two\n", "x three\n"]),
    "conllu": (
        {"format": "conllu"}, "tagging",
        ["1\tdogs\t_\tNOUN\t_\t_\t_\t_\t_\t_\n",
         "1\tbark\t_\tVERB\t_\t_\t_\t_\t_\t_\n\n"],
    ),
    "conll": ({"format": "conll"}, "tagging", ["dogs N\n\ncats N\n", "bark V\n"]),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        path = tmp_path / "logs" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows), encoding="utf-8")  # no end after the last: no line may join two files
    (tmp_path / "logs" / "packed.tsv.gz").write_bytes(gzip.compress(b"q5\td5\n"))
    for passed_over in (".a.tsv.crc", "_SUCCESS", "_delta_log"):
        (tmp_path / "logs" / passed_over).write_text("no\tdata\n", encoding="utf-8")
    return tmp_path / "logs"


def queries(result: Any) -> list[str]:
    return sorted(row["query"] for row in result.records())


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("{0}", ["q1", "q2", "q3", "q4", "q5"]),
        ("{0}/", ["q1", "q2", "q3", "q4", "q5"]),
        ("{0}/*.tsv", ["q1", "q2", "q3"]),
        ("{0}/**/*.tsv", ["q1", "q2", "q3", "q4"]),
        ("{0}/[bp]*", ["q3", "q5"]),
        (["{0}/b.tsv", "{0}/c", "{0}/b*"], ["q1", "q3", "q4"]),
    ],
)
def test_rows_of_a_folder_a_pattern_and_a_list(place: Any, expected: list[str], folder: Path, ingest: Any) -> None:
    path = [one.format(folder) for one in place] if isinstance(place, list) else place.format(folder)
    result = ingest(TSV | {"path": path}, split={"valid": 0, "test": 0})
    assert queries(result) == expected
    assert not result.quarantine


def test_files_come_in_the_order_of_their_names(folder: Path) -> None:
    names = ["a.tsv", "b.tsv", "c/d.tsv", "packed.tsv.gz"]
    assert listing.files(str(folder)) == [str(folder / name) for name in names]
    assert listing.files([f"{folder}/b.tsv", f"{folder}/*.tsv"]) == [str(folder / name) for name in ("b.tsv", "a.tsv")]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].tsv").touch()
    (tmp_path / "a1.tsv").touch()
    assert listing.files(f"{tmp_path}/a[1].tsv") == [f"{tmp_path}/a[1].tsv"]


@pytest.mark.parametrize("form", SOURCES)
def test_files_of_every_format_read_as_one(form: str, tmp_path: Path, ingest: Any) -> None:
    source, task, parts = SOURCES[form]
    together = tmp_path / "together"
    end = "\n\n" if form.startswith("conll") else "\n"
    together.write_text("".join(part.rstrip("\n") + end for part in parts), encoding="utf-8")
    for number, part in enumerate(parts):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / f"part-{number}").write_text(part, encoding="utf-8")
    results = [
        ingest(source | {"path": str(path)}, task=task, split={"valid": 0.2, "test": 0.2})
        for path in (together, tmp_path / "parts")
    ]
    texts = [[{k: v for k, v in row.items() if not k.endswith("id")} for row in result.records()] for result in results]
    assert texts[0] == texts[1]
    assert len(texts[0]) >= 2
    assert results[0].counts["records"] == results[1].counts["records"]


def test_aligned_files_may_be_cut_at_other_lines(tmp_path: Path, ingest: Any) -> None:
    for name, text in {"en-1": "a\n", "en-2": "b\nc\n", "de-1": "x\ny\n", "de-2": "z"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    place = {"source": f"{tmp_path}/en-*", "target": [f"{tmp_path}/de-1", f"{tmp_path}/de-2"]}
    result = ingest({"format": "lines", "paths": {"train": place, "test": place}}, task="translation")
    assert {(row["source"], row["target"]) for row in result.records()} == {("a", "x"), ("b", "y"), ("c", "z")}


def test_files_of_one_name_in_two_folders_keep_their_lines_apart(tmp_path: Path, ingest: Any) -> None:
    for day in ("monday", "tuesday"):
        (tmp_path / "in" / day).mkdir(parents=True)
        (tmp_path / "in" / day / "log.txt").write_text(f"text of {day}\n", encoding="utf-8")
    source = {"format": "text", "path": str(tmp_path / "in")}
    result = ingest(source, task="language_model", split={"valid": 0, "test": 0})
    assert {row["text_id"]: row["text"] for row in result.records()} == {
        "monday/log.txt:1": "text of monday\n", "tuesday/log.txt:1": "text of tuesday\n"
    }  # fmt: skip
    bad = ingest({"format": "labelled", "path": str(tmp_path / "in")}, task="classification", max_quarantined_share=0.9)
    assert bad.counts["records"]["read"] == 2


def test_bad_rows_name_the_file_that_they_stand_in(tmp_path: Path, ingest: Any) -> None:
    for day in "ab":
        (tmp_path / "in" / day).mkdir(parents=True)
        (tmp_path / "in" / day / "x.tsv").write_text("q\td\nonly one column\n", encoding="utf-8")
    result = ingest(TSV | {"path": str(tmp_path / "in")}, max_quarantined_share=0.9)
    assert [(row["source"], row["row"]) for row in result.quarantine] == [("a/x.tsv", 2), ("b/x.tsv", 2)]


@pytest.mark.parametrize(
    ("place", "marker", "error", "words"),
    [
        ("{0}/none*", None, InputError, ["no file matches", "none*", "a.tsv, b.tsv"]),
        ("{0}/empty", None, InputError, ["empty", "holds no file"]),
        ("{0}/only-hidden", None, InputError, ["only-hidden", "holds no file"]),
        ("{0}/gone", None, InputError, ["no source at"]),
        ("{0}/c", "_SUCCESS", TryAgain, ["/c has no file _SUCCESS", "ingest.source.marker", "run again"]),
        ("{0}/c/*.tsv", "_SUCCESS", TryAgain, ["/c has no file _SUCCESS"]),
        ("{0}/spark", None, TryAgain, ["holds _temporary", "not finished"]),
    ],
)
def test_places_without_data_are_said(
    place: str, marker: str | None, error: type, words: list[str], folder: Path, ingest: Any
) -> None:
    for name in ("empty", "only-hidden/_logs", "spark/_temporary"):
        (folder / name).mkdir(parents=True)
    (folder / "only-hidden" / "_logs" / "x.tsv").touch()
    (folder / "spark" / "part-0.tsv").touch()
    with pytest.raises(error) as raised:
        ingest(TSV | {"path": place.format(folder), "marker": marker})
    for word in words:
        assert word in str(raised.value)


def test_a_folder_with_its_marker_is_read(folder: Path, ingest: Any) -> None:
    result = ingest(TSV | {"path": f"{folder}/*.tsv", "marker": "_SUCCESS"}, split={"valid": 0, "test": 0})
    assert queries(result) == ["q1", "q2", "q3"]


def config_of(path: Any) -> Any:
    source = TSV | {"path": path}
    return check_config({"name": "t", "ingest": {"source": source, "split": {"valid": 0, "test": 0}}}, "test")


def test_what_was_read_is_written_down(folder: Path, tmp_path: Path) -> None:
    config, out = config_of(str(folder)), tmp_path / "out"
    out.mkdir()
    stage.run(config, out, stage.parts(config).inputs)
    listed = json.loads((out / "sources.json").read_text(encoding="utf-8"))["all"]
    assert [Path(entry["file"]).name for entry in listed] == ["a.tsv", "b.tsv", "d.tsv", "packed.tsv.gz"]
    assert listed[1]["sha256"] == hashlib.sha256(b"q3\td3").hexdigest()
    assert [entry["bytes"] for entry in listed] == [11, 5, 11, (folder / "packed.tsv.gz").stat().st_size]


def _append(folder: Path) -> None:
    (folder / "b.tsv").write_text("q3\td3\nq6\td6", encoding="utf-8")


def _come(folder: Path) -> None:
    (folder / "e.tsv").write_text("q7\td7", encoding="utf-8")


def _go(folder: Path) -> None:
    (folder / "b.tsv").unlink()


@pytest.mark.parametrize("change", [_append, _come, _go])
def test_a_file_that_changes_while_it_is_read_ends_the_stage(
    change: Callable[[Path], None], folder: Path, tmp_path: Path
) -> None:
    config, out = config_of(str(folder)), tmp_path / "out"
    out.mkdir()
    inputs = stage.parts(config).inputs
    change(folder)
    with pytest.raises(TryAgain, match="was changed while it was read"):
        stage.run(config, out, inputs)


def test_a_key_rests_on_content_order_and_names_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    key = lambda path: stage.parts(config_of(path)).key
    moved = tmp_path / "moved"
    folder.rename(moved)
    before = key(str(moved))
    moved.rename(folder)
    assert key(str(folder)) == before
    assert key([str(folder / "b.tsv")]) == key(str(folder / "b.tsv"))  # one file is one file
    (folder / "b.tsv").write_text("q3\tother", encoding="utf-8")
    assert key(str(folder)) != before


def test_folders_and_patterns_at_an_address(ingest: Any) -> None:
    system = fsspec.filesystem("memory")
    for name, text in {"/logs/a.tsv": "q1\td1", "/logs/b/c.tsv": "q2\td2\n", "/logs/_SUCCESS": ""}.items():
        system.pipe(name, text.encode())
    given = {"split": {"valid": 0, "test": 0}}
    try:
        assert queries(ingest(TSV | {"path": "memory://logs", "marker": "_SUCCESS"}, **given)) == ["q1", "q2"]
        assert queries(ingest(TSV | {"path": "memory://logs/*.tsv"}, **given)) == ["q1"]
        with pytest.raises(InputError, match=r"no file matches memory://logs/\*\.csv"):
            ingest(TSV | {"path": "memory://logs/*.csv"})
        with pytest.raises(TryAgain, match="has no file DONE"):
            ingest(TSV | {"path": "memory://logs", "marker": "DONE"})
    finally:
        system.rm("/logs", recursive=True)


def test_a_folder_that_cannot_be_listed_is_told_wherever_it_lies(
    folder: Path, ingest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not passed over, which would train on less without a word."""
    scan = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InputError, match=r"source folder .*/logs/c cannot be listed: Permission denied"):
        ingest({**TSV, "path": str(folder)})

"""Lines of a source, however they are encoded, ended and packed: one reader for all that is read by lines."""

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.core.errors import InputError
from pipeline.ingest import places

MARK = b"\xef\xbb\xbf"
MB = 1 << 20


def texts(path: Path, content: bytes, encoding: str = "utf-8") -> list[str]:
    path.write_bytes(content)
    found = list(places.lines(str(path), encoding, 1000))
    assert [line.number for line in found] == list(range(1, len(found) + 1))
    assert not any(line.problem for line in found)
    return [line.text for line in found]


@pytest.mark.parametrize(
    "content",
    [
        b"one\ntwo\n\nthree\n",
        b"one\r\ntwo\r\n\r\nthree",
        b"one\rtwo\r\rthree\r",  # of an old Macintosh, and of some spreadsheets
        b"one\r\r\ntwo\r\r\n\nthree\n",  # a file of Windows, converted twice
        MARK + b"one\ntwo\n\n" + MARK + b"three\n",  # two files put together
        "one\ntwo\n\nthree\n".encode("utf-16"),  # "Unicode text" of a spreadsheet
        "\ufeffone\r\ntwo\r\n\r\nthree\r\n".encode("utf-16-be"),
    ],
)
def test_line_ends_and_marks(tmp_path: Path, content: bytes) -> None:
    assert texts(tmp_path / "a", content) == ["one", "two", "", "three"]
    assert texts(tmp_path / "b", gzip.compress(content)) == ["one", "two", "", "three"]


def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path) -> None:
    content = "a\x0bb\x0cc\x1cd\x85e\u2028f\nwith a \r within\n"
    assert texts(tmp_path / "a", content.encode()) == ["a\x0bb\x0cc\x1cd\x85e\u2028f", "with a \r within"]


def test_carriage_returns_alone_are_found_beyond_the_first_piece(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(b"%d\r" % i for i in range(50_000)))
    assert [line.text for line in places.lines(str(path), "utf-8", 1000)] == [str(i) for i in range(50_000)]


def test_bytes_of_another_encoding_are_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("gut\nfür\n".encode("cp1252"))
    _, bad = places.lines(str(tmp_path / "a"), "utf-8", 1000)
    assert str(bad.problem) == (
        "undecodable bytes: not utf-8 (byte 0xfc at position 1): name the encoding it is in, such as cp1252 "
        "(ingest.source.encoding, or --encoding)"
    )
    assert texts(tmp_path / "a", "gut\nfür\n".encode("cp1252"), "cp1252") == ["gut", "für"]


# --- packed -----------------------------------------------------------------------------------------------------------
def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile(found := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.tsv", content)
    return found.getvalue()


PACK = {"gz": gzip.compress, "zst": zstandard.compress, "zip": zipped}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("row", [b"a\tb\n", b"x" * MB + b"\n"], ids=["short rows", "long rows"])
def test_a_small_file_of_very_much_text_is_refused(kind: str, row: bytes, tmp_path: Path, ingest: Any) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(PACK[kind](b"query\tdocument\n" + row * (65 * MB // len(row))))
    assert path.stat().st_size < 65 * MB / 200
    address = f"zip://a.tsv::{path}" if kind == "zip" else str(path)
    with pytest.raises(InputError, match=r"unpacks to more than 200 times its size: .* unpack it yourself"):
        next(places.lines(address, "utf-8", MB))  # before the first of millions of rows is worked on
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        ingest({"format": "tsv", "path": address}, max_row_kb=2048, max_quarantined_share=0.9)


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_file_of_as_much_text_as_there_may_be_is_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_UNPACKED_BYTES", 100)
    path = tmp_path / f"a.{kind}"
    address = f"zip://a.tsv::{path}" if kind == "zip" else str(path)
    rows = "".join(f"{i}\t{i * 7919 % 9973}\n" for i in range(2000)).encode()  # packed to a half at best
    path.write_bytes(PACK[kind](rows))
    assert len(list(places.lines(address, "utf-8", 1000))) == 2000
    path.write_bytes(PACK[kind](b"1\n" * 50))
    assert len(list(places.lines(address, "utf-8", 1000))) == 50


# --- where lines of names and words are read --------------------------------------------------------------------------
def vectors(tmp_path: Path, captions: bytes, names: bytes, splits: bytes | None = None) -> dict[str, Any]:
    import numpy as np

    np.save(tmp_path / "v.npy", np.ones((2, 3), np.float32))
    (tmp_path / "names").write_bytes(names)
    (tmp_path / "captions").write_bytes(captions)
    source = {"format": "captions", **{key: str(tmp_path / key) for key in ("captions", "names")}}
    if splits is not None:
        (tmp_path / "train").write_bytes(splits)
        source["splits"] = {"train": str(tmp_path / "train")}
    return source | {"images": str(tmp_path / "v.npy")}


CAPTIONS = b"a.jpg#0\tfirst caption\nb.jpg#0\tsecond\n"


@pytest.mark.parametrize("where", ["captions", "names", "splits"])
def test_a_mark_before_captions_names_and_splits_hides_no_image(where: str, tmp_path: Path, ingest: Any) -> None:
    files = {"captions": CAPTIONS, "names": b"a.jpg\nb.jpg\n", "splits": b"a.jpg\nb.jpg\n"}
    found = ingest(vectors(tmp_path, **{**files, where: MARK + files[where]}), task="captioning")
    assert found.counts["records"]["read"] == 2
    assert {(row["image"], row["caption"]) for row in found.records()} == {
        ("a.jpg", "first caption"), ("b.jpg", "second")
    }  # fmt: skip


def test_the_two_spellings_of_a_name_are_one_image(tmp_path: Path, ingest: Any) -> None:
    composed, split = "caf\u00e9.jpg", "cafe\u0301.jpg"  # a file's name on a Macintosh is of the second kind
    source = vectors(tmp_path, f"{composed}\tone\nb.jpg\ttwo\n".encode(), f"{split}\nb.jpg\n".encode())
    found = ingest(source, task="captioning", split={"valid": 0, "test": 0})
    assert {row["image"] for row in found.records()} == {composed, "b.jpg"}


def test_ids_to_delete_are_read_as_ids_in_a_collection_are(tmp_path: Path) -> None:
    from pipeline.cli.commands.index import _ids

    (tmp_path / "ids").write_bytes(MARK + "7\r\n\r\n  a  b \nx\u2028y\ncafe\u0301\n".encode())
    assert _ids([f"@{tmp_path / 'ids'}", "cafe\u0301"]) == ["7", "a b", "x y", "caf\u00e9", "caf\u00e9"]
    (tmp_path / "ids").write_bytes(b"7\ncaf\xe9\n")
    with pytest.raises(InputError, match="line 2: undecodable bytes"):
        _ids([f"@{tmp_path / 'ids'}"])
    with pytest.raises(InputError, match="no source at"):
        _ids([f"@{tmp_path / 'none'}"])


@pytest.mark.parametrize("form", ["jsonl", "tsv", "csv"])
def test_an_encoding_that_is_none_is_one_sentence_in_every_table(tmp_path: Path, ingest: Any, form: str) -> None:
    (tmp_path / "rows").write_text('{"query": "a", "document": "b"}\n')
    with pytest.raises(InputError, match="nonsense"):
        ingest({"format": form, "path": str(tmp_path / "rows"), "encoding": "nonsense"})

"""Sources made to do harm, a named test each: bombs, climbing paths, links, giant lines, and text that hides things."""

import gzip
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.core.errors import InputError
from pipeline.ingest import images, places, trec
from tests.mapped import most_traced

HALF = {"max_quarantined_share": 0.9}
MB = 1 << 20


def zeros(megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes):
        yield bytes(MB)


def zstd_of(path: Path, head: bytes, megabytes: int, byte: bytes, tail: bytes) -> None:
    """A packed file of so many times a byte between a head and a tail, made piece by piece."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    with path.open("wb") as file:
        for part in (head, *(byte * MB for _ in range(megabytes)), tail):
            file.write(packer.compress(part))
        file.write(packer.flush())


# --- size -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_a_packed_line_of_sixty_megabytes_is_one_bad_row_and_never_held(form: str, tmp_path: Path, ingest: Any) -> None:
    row = b'{"query": "a", "document": "b"}\n' if form == "jsonl" else b"a\tb\n" if form == "tsv" else b"a,b\n"
    header = b"" if form == "jsonl" else row.replace(b"a", b"query").replace(b"b", b"document")
    path = tmp_path / f"long.{form}.zst"
    zstd_of(path, header + row, 60, b"x", b"\n" + row.replace(b"a", b"c"))
    short = tmp_path / f"short.{form}"
    short.write_bytes(header + row)
    ingest({"format": form, "path": str(short)}, **HALF)  # modules are loaded once, and are not what is measured
    found, held = most_traced(lambda: ingest({"format": form, "path": str(path)}, max_row_kb=64, **HALF))
    assert found.counts["records"]["kept"] == 2 and found.counts["quarantine_reasons"] == {"too long": 1}
    assert held < 8 * MB, held


def test_a_sparse_file_of_a_gigabyte_of_nul_bytes_is_one_bad_row(tmp_path: Path, ingest: Any) -> None:
    path = tmp_path / "sparse.tsv"
    path.write_bytes(b"query\tdocument\na\tb\n")
    os.truncate(path, 1 << 30)
    found = ingest({"format": "tsv", "path": str(path)}, **HALF)
    assert found.counts["quarantine_reasons"] == {"too long": 1}


@pytest.mark.parametrize("name", ["bomb.parquet.gz", "bomb.parquet.zst"])
def test_a_packed_table_that_would_fill_the_disk_is_refused(name: str, tmp_path: Path, ingest: Any) -> None:
    path = tmp_path / name
    if name.endswith("gz"):
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.writelines(zeros(200))
    else:
        zstd_of(path, b"PAR1", 300, b"\0", b"PAR1")
    with pytest.raises(InputError, match=r"unpacks to more than 200 times its size: .* unpack it yourself"):
        ingest({"format": "parquet", "path": str(path)})
    assert sum(left.stat().st_size for left in tmp_path.rglob("run*/**/*")) < MB


def test_a_table_whose_page_unpacks_to_a_gigabyte_is_refused(tmp_path: Path, ingest: Any) -> None:
    path = tmp_path / "page.parquet"
    text = "x" * (128 * MB)
    table = pa.table({"query": ["a"], "document": [text]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    assert path.stat().st_size < MB
    with pytest.raises(InputError, match="a column that unpacks to more than 200 times its size"):
        ingest({"format": "parquet", "path": str(path)})


def test_a_picture_that_unpacks_to_a_gigabyte_is_one_bad_row(tmp_path: Path, ingest: Any) -> None:
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("good.png", picture())
        with archive.open("bomb.png", "w", force_zip64=True) as file:
            for part in zeros(1024):
                file.write(part)
    found = pictures(tmp_path, ingest, tmp_path / "i.zip", "good.png", "bomb.png")
    assert [row["caption"] for row in found.records()] == ["of good.png"]
    assert "over ingest.max_row_kb" in found.quarantine[0]["reason"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_picture_whose_packed_bytes_are_damaged_is_one_bad_row(method: int, tmp_path: Path, ingest: Any) -> None:
    """zlib, bz2 and lzma each have an error of their own, which is none of zipfile's."""
    path = tmp_path / "i.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("bad.png", picture())
        archive.writestr("good.png", picture())
        entry = archive.getinfo("bad.png")
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len("bad.png")
    for i in range(start, start + entry.compress_size):
        content[i] = 0x07  # a block of a kind that deflate does not have
    path.write_bytes(content)
    found = pictures(tmp_path, ingest, path, "good.png", "bad.png")
    assert [row["image"] for row in found.records()] == ["good.png"]
    assert [row["reason"].split("(")[0] for row in found.quarantine] == ["image: cannot be unpacked "]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_picture_that_is_damaged_is_one_bad_row(pack: Any, tmp_path: Path, ingest: Any) -> None:
    folder = tmp_path / "i"
    folder.mkdir()
    packed = pack(picture())
    (folder / "bad.png").write_bytes(packed[:10] + b"\x07" * (len(packed) - 10))
    (folder / "cut.png").write_bytes(packed[:-9])
    (folder / "good.png").write_bytes(packed)
    found = pictures(tmp_path, ingest, folder, "good.png", "bad.png", "cut.png")
    assert [row["image"] for row in found.records()] == ["good.png"] and len(found.quarantine) == 2


def test_a_picture_of_a_billion_pixels_is_one_bad_row(tmp_path: Path, ingest: Any) -> None:
    from PIL import Image

    Image.new("1", (40_000, 25_000)).save(wide := io.BytesIO(), "PNG")
    folder = tmp_path / "i"
    folder.mkdir()
    (folder / "wide.png").write_bytes(wide.getvalue())
    (folder / "good.png").write_bytes(picture())
    found = pictures(tmp_path, ingest, folder, "good.png", "wide.png")
    assert len(found.records()) == 1 and found.quarantine[0]["reason"].startswith("image:")


# Each takes a pass over the rest of a line, or of a document, for each of its parts: hours for a megabyte.
SLOW = {
    "openings on one line": b"<DOC>" * 200_000,
    "documents on one line": b"<DOC></DOC>" * 90_000,
    "tags that do not end": b"<DOC><DOCNO>1</DOCNO>" + b"<TITLE" * 150_000 + b"</DOC>",
    "elements that do not end": b"<DOC><DOCNO>1</DOCNO>" + b"<TITLE>" * 140_000 + b"</DOC>",
    "texts that do not end": b"<DOC><DOCNO>1</DOCNO>" + b"<TEXT>" * 160_000 + b"</DOC>",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SLOW)
def test_markup_made_to_be_slow_is_read_in_one_pass(name: str, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(SLOW[name] + b"\n<DOC><DOCNO>2</DOCNO><TEXT>wing</TEXT></DOC>\n")
    rows = list(trec.read_documents(str(path), "utf-8", MB))
    assert rows[-1].values["text"] == "wing"


@pytest.mark.timeout(60)
def test_topics_that_do_not_end_are_read_in_one_pass(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"<topic " * 140_000 + b"\n<top><num>1<title>wing</top>\n")
    assert [row.values.get("text") for row in trec.read_queries(str(path), "utf-8", MB)][-1] == "wing"


@pytest.mark.timeout(60)
def test_a_text_of_marks_and_blanks_in_turn_is_stripped_in_one_pass(ingest: Any, write: Any) -> None:
    path = write("a.tsv", "query\tdocument\n" + "\ufeff " * 250_000 + "a\tb" + " \ufeff" * 10_000 + "\n")
    (row,) = ingest({"format": "tsv", "path": path}, max_row_kb=2048).records()
    assert (row["query"], row["document"]) == ("a", "b")


def test_a_sentence_without_an_end_is_one_bad_row_and_never_held(tmp_path: Path, ingest: Any) -> None:
    word = b"1\ta\ta\tDET\tDT\t_\t2\tdet\t_\t_\n"
    path = tmp_path / "s.conllu"
    path.write_bytes(word + b"\n" + word * 100_000 + b"\n" + word.replace(b"\ta\t", b"\tb\t"))
    source = {"format": "conllu", "paths": {"train": str(path)}}
    found, held = most_traced(lambda: ingest(source, task="tagging", max_row_kb=64, **HALF))
    assert found.counts["records"]["kept"] == 2 and found.counts["quarantine_reasons"] == {"too long": 1}
    assert held < 4 * MB, held


def test_a_character_of_five_thousand_digits_is_one_bad_row(ingest: Any, write: Any) -> None:
    documents = f"<DOC><DOCNO>1</DOCNO><TEXT>&#{'9' * 5000};</TEXT></DOC>\n<DOC><DOCNO>2</DOCNO>wing</DOC>\n"
    source = {"documents": write("d", documents), "queries": write("q", "1\tq\n"), "judgements": write("j", "1 2 1\n")}
    found = ingest({"format": "trec", **source}, **HALF)
    assert found.counts["documents"]["kept"] == 1 and found.counts["quarantine_reasons"] == {"markup": 1}


# --- places -----------------------------------------------------------------------------------------------------------
def picture() -> bytes:
    from PIL import Image

    Image.new("RGB", (3, 2), (200, 10, 10)).save(found := io.BytesIO(), "PNG")
    return found.getvalue()


def pictures(folder: Path, ingest: Any, where: Path, *names: str) -> Any:
    """An ingest of pictures, each with a caption of its own."""
    (folder / "captions").write_text("".join(f"{name}\tof {name}\n" for name in names))
    source = {"format": "captions", "captions": str(folder / "captions"), "images": str(where), "size_px": 4}
    return ingest(source, task="captioning", split={"valid": 0, "test": 0}, **HALF)


def test_paths_that_climb_out_of_an_archive_write_nothing_outside(tmp_path: Path, ingest: Any) -> None:
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "i.zip", "w") as archive:
        for name in ("../../evil.png", str(tmp_path / "evil2.png"), "a/../../../evil3.png"):
            archive.writestr(name, picture())
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16  # a symbolic link, to where its content says
        archive.writestr(link, "/etc/passwd")
    found = pictures(folder, ingest, folder / "i.zip", "evil.png", "evil2.png", "evil3.png", "link.png")
    assert len(found.records()) == 3
    assert [row["reason"] for row in found.quarantine] == ["image: no readable image (UnidentifiedImageError)"]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("evil", "link")) or path.is_symlink()]


def test_links_and_special_files_in_a_folder_are_bad_rows(tmp_path: Path, ingest: Any) -> None:
    folder = tmp_path / "i"
    folder.mkdir()
    (folder / "good.png").write_bytes(picture())
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "secret.png").symlink_to("/etc/passwd")
    os.mkfifo(folder / "waits.png")
    (folder / "folder.png").mkdir()
    names = sorted(path.name for path in folder.iterdir())
    source_names = [name for name in names if name in ("good.png", "secret.png")]
    for name in names:
        if name not in source_names:  # the key of the stage is made of the content: it says which file cannot be read
            with pytest.raises(InputError, match=name):
                places.fingerprint(str(folder / name))
    found = pictures(tmp_path, ingest, folder, *names)
    assert [row["image"] for row in found.records()] == ["good.png"]
    assert {row["copy"].split()[0] for row in found.quarantine} == {*names} - {"good.png"}


@pytest.mark.parametrize("name", ["/dev/zero", "fifo", "folder"])
def test_a_source_that_is_no_file_is_refused(name: str, tmp_path: Path, ingest: Any) -> None:
    if name == "fifo":
        os.mkfifo(tmp_path / name)
    elif name == "folder":
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"is a special file, not a file|folder holds no file"):
        ingest({"format": "tsv", "path": str(tmp_path / name)})


def test_a_picture_in_postscript_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ingest: Any) -> None:
    """Pillow draws PostScript with the program `gs`."""
    mark, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    evil = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) print\n%%EOF\n"
    folder = tmp_path / "i"
    folder.mkdir()
    (folder / "evil.eps").write_bytes(evil)
    (folder / "good.png").write_bytes(picture())
    found = pictures(tmp_path, ingest, folder, "evil.eps", "good.png")
    assert len(found.records()) == 1 and not mark.exists()
    assert "EPS" not in images.FORMATS


def test_a_line_of_captions_that_cannot_be_read_is_a_bad_row(tmp_path: Path, ingest: Any) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "a.png").write_bytes(picture())
    (tmp_path / "captions").write_bytes(b"a.png\tgood\na.png\tcaf\xe9\n" + b"x" * 2_000_000 + b"\n")
    source = {"format": "captions", "captions": str(tmp_path / "captions"), "images": str(tmp_path / "i")}
    found = ingest(source, task="captioning", split={"valid": 0, "test": 0}, **HALF)
    assert found.counts["records"]["read"] == 3
    assert found.counts["quarantine_reasons"] == {"too long": 1, "undecodable bytes": 1}


# --- text -------------------------------------------------------------------------------------------------------------
TEXTS = {
    "a NUL byte": (b"a\0b\tc\n", "NUL character"),
    "a lone surrogate": (b"a\xed\xa0\x80b\tc\n", "undecodable bytes"),
    "latin-1 in utf-8": (b"caf\xe9\tc\n", "undecodable bytes"),
    "utf-16": ("a\tc\n".encode("utf-16-be"), "NUL character"),
    "an overlong slash": (b"a\xc0\xafb\tc\n", "undecodable bytes"),
    "only a byte order mark": (b"\xef\xbb\xbf\tc\n", "empty text"),
    "only blanks": ("\u2003\u3000 \tc\n".encode(), "empty text"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_bytes_that_are_no_text_are_a_bad_row(name: str, ingest: Any, write: Any) -> None:
    bad, reason = TEXTS[name]
    path = write("a.tsv", b"query\tdocument\nq1\td1\n" + bad + b"q2\td2\n")
    found = ingest({"format": "tsv", "path": path}, **HALF)
    assert {row["query"] for row in found.records()} == {"q1", "q2"}
    assert found.counts["quarantine_reasons"][reason] >= 1


def test_a_lone_surrogate_in_json_is_a_bad_row(ingest: Any, write: Any) -> None:
    rows = ['{"query": "\\ud800", "document": "b"}', '{"query": "\\ud83d\\ude00", "document": "b"}']
    found = ingest({"format": "jsonl", "path": write("a.jsonl", "\n".join(rows))}, **HALF)
    assert [row["query"] for row in found.records()] == ["\U0001f600"]
    assert found.counts["quarantine_reasons"] == {"lone surrogate": 1}


def test_right_to_left_marks_stay_in_the_record_and_hide_nothing_from_the_model(ingest: Any, write: Any) -> None:
    from pipeline.tokenization.tokenizers import WordTokenizer

    hidden = "pay \u202eresu eht\u202c now\u200f"
    path = write("a.tsv", f"query\tdocument\n{hidden}\tb\n")
    (row,) = ingest({"format": "tsv", "path": path}).records()
    assert row["query"] == hidden  # as it came: the record is the source's
    assert WordTokenizer(True).tokens(row["query"]) == ["pay", "resu", "eht", "now"]  # in the order of the bytes


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_byte_order_marks_and_crlf_give_the_same_records(form: str, ingest: Any, write: Any) -> None:
    plain = {
        "tsv": "query\tdocument\na\tb\nc\td\n",
        "csv": 'query,document\n"a",b\nc,d\n',
        "jsonl": '{"query": "a", "document": "b"}\n{"query": "c", "document": "d"}\n',
    }[form]
    records = [
        ingest({"format": form, "path": write(f"{i}.{form}", text)}).records()
        for i, text in enumerate((plain, "\ufeff" + plain, plain.replace("\n", "\r\n"), "\ufeff\r\n" + plain))
    ]
    assert records[0] == records[1] == records[2] == records[3] and len(records[0]) == 2


def test_concatenated_files_of_mixed_encodings_lose_only_their_bad_lines(ingest: Any, write: Any) -> None:
    lines = [b"query\tdocument", "größe\ta".encode(), "größe\tb".encode("latin-1"), b"\xef\xbb\xbfsize\tc",
             "größe\td".encode("utf-16-le"), "大小\te".encode("gb18030"), b"last\tf"]  # fmt: skip
    found = ingest({"format": "tsv", "path": write("a.tsv", b"\n".join(lines))}, **HALF)
    assert [row["query"] for row in found.records()] == ["größe", "size", "last"]

"""Folders of files as documents: each format, its title and fields, and what becomes of bad files."""

import gzip
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.search import file_formats
from pipeline.search import files as files_module
from pipeline.search.documents import Document
from pipeline.search.files import Files, is_for_files
from tests.search.test_documents import quarantined

docx = pytest.importorskip("docx")
pypdf = pytest.importorskip("pypdf")


def files(folder: Path, **more: Any) -> Files:
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    for old in scratch.iterdir():
        old.unlink()
    return Files(folder, folder.parent / "bad.jsonl", scratch, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    made.mkdir()
    return made


def found(folder: Path, **more: Any) -> dict[str, Document]:
    return {document.id: document for document in files(folder, **more)}


def a_pdf(text: str, password: str = "", **about: str) -> bytes:
    """Written by hand after PDF 32000-1, 7.5: one page, one line of Helvetica."""
    stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< " + " ".join(f"/{name} ({value})" for name, value in about.items()) + " >>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{one}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R /Info 5 0 R >>\n"
    made = body + f"{end}startxref\n{len(body)}\n%%EOF".encode()
    if not password:
        return made
    writer, locked = pypdf.PdfWriter(clone_from=io.BytesIO(made)), io.BytesIO()
    writer.encrypt(password, algorithm="RC4-128")
    writer.write(locked)
    return locked.getvalue()


def test_every_format_gives_title_text_and_fields(folder: Path) -> None:
    (folder / "plain.txt").write_text("The tide follows the moon.")
    (folder / "guide.rst").write_text("=========\nThe Guide\n=========\n\nWords of it.\n")
    (folder / "note.md").write_text(
        "---\ntitle: About wings\ndate: 2024-03-01\nauthors: [Ann, Bo]\nlang: en\ntags: {a: 1}\n---\n# Other\n\nLift.\n"
    )
    (folder / "bare.md").write_text("```\n# no heading\n```\n\n## The *first* [heading](x.html)\n\ntext\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "page.html").write_text(
        '<html lang="de-AT"><head><title>Die Flut</title><meta name="author" content="Ann">'
        '<meta property="article:published_time" content="2023-05-06T07:08:09Z">'
        '<link rel="canonical" href="https://example.org/flut"><style>p {color: red}</style></head>'
        "<body><nav>home</nav><h1>Die Flut</h1><p>Der <b>Mond</b>\n zieht.</p><pre>a\n  b</pre>"
        "<script>alert(1)</script><ul><li>eins</li><li>zwei</li></ul></body></html>"
    )
    about = {"Title": "A Paper", "Author": "Cid", "CreationDate": "D:20220203040506Z"}
    (folder / "paper.pdf").write_bytes(a_pdf("Blood leaves the heart.", **about))
    word = docx.Document()
    word.add_heading("Pressure", 1)
    word.add_paragraph("A pulse opens the valve.")
    word.add_table(1, 2).rows[0].cells[1].text = "cell"
    word.core_properties.author = "Dan"
    word.save(folder / "letter.docx")
    (folder / "code.py").write_text("def read_file(path):\n    return open(path)\n")
    (folder / "README").write_text("Read this first.")
    (folder / "log.txt.gz").write_bytes(gzip.compress(b"packed words"))
    os.utime(folder / "plain.txt", (1_000_000_000, 1_000_000_000))  # 2001-09-09 UTC
    documents = found(folder)
    told = {name: (document.title, document.known["format"]) for name, document in documents.items()}
    assert told == {
        "plain.txt": ("plain", "text"), "guide.rst": ("The Guide", "text"), "note.md": ("About wings", "markdown"),
        "bare.md": ("The first heading", "markdown"), "sub/page.html": ("Die Flut", "html"),
        "paper.pdf": ("A Paper", "pdf"), "letter.docx": ("Pressure", "word"), "code.py": ("code.py", "code"),
        "README": ("README", "text"), "log.txt.gz": ("log", "text"),
    }  # fmt: skip
    known = {name: document.known for name, document in documents.items()}
    assert known["plain.txt"]["date"] in ("2001-09-08", "2001-09-09")
    assert known["note.md"] == {
        "author": "Ann, Bo", "date": "2024-03-01", "format": "markdown", "language": "en", "path": "note.md",
    }  # fmt: skip
    assert documents["note.md"].text == "# Other\n\nLift."
    assert documents["sub/page.html"].text == "# Die Flut\n\nDer Mond zieht.\n\na\n  b\n\n- eins\n- zwei"
    page = known["sub/page.html"]
    assert (page["language"], page["url"], page["author"], page["date"]) == (
        "de", "https://example.org/flut", "Ann", "2023-05-06",
    )  # fmt: skip
    assert documents["paper.pdf"].text == "Blood leaves the heart."
    assert (known["paper.pdf"]["author"], known["paper.pdf"]["date"], known["paper.pdf"]["pages"]) == (
        "Cid", "2022-02-03", 1,
    )  # fmt: skip
    assert documents["letter.docx"].text == "# Pressure\nA pulse opens the valve.\n | cell"
    assert known["letter.docx"]["author"] == "Dan"
    assert documents["log.txt.gz"].text == "packed words"


def test_bad_files_are_put_aside_with_their_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.search.files.MAX_TEXT_BYTES", 1000)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * 4000)
    monkeypatch.setattr(file_formats, "MAX_UNPACKED_BYTES", 3000)
    contents = {
        "good.txt": b"fine", "blank.txt": b" \n", "binary.txt": b"a\0b", "latin.txt": "für".encode("latin-1"),
        "long.txt": b"x" * 1001, "scripts.html": b"<html><script>x()</script></html>", "empty.html": b"",
        "matter.md": b"---\n[unclosed\n---\ntext", "broken.pdf": b"%PDF-1.4 nothing", "picture.pdf": a_pdf(""),
        "locked.pdf": a_pdf("x", "secret"), "broken.docx": b"PK\3\4 no", "bomb.docx": bomb.getvalue(),
        "locked.docx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "cut.txt.gz": gzip.compress(b"words")[:-6],
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    reader = files(folder)
    assert [document.id for document in reader] == ["good.txt"]
    lines = (folder.parent / "bad.jsonl").read_text().splitlines()
    kinds = {entry["source"]: entry["reason"].partition(":")[0] for entry in map(json.loads, lines)}
    assert kinds == {
        "blank.txt": "empty text", "binary.txt": "binary", "latin.txt": "undecodable bytes", "long.txt": "too long",
        "scripts.html": "empty text", "empty.html": "empty text", "matter.md": "front matter", "broken.pdf": "damaged",
        "picture.pdf": "empty text", "locked.pdf": "encrypted", "broken.docx": "damaged", "bomb.docx": "too long",
        "locked.docx": "encrypted", "cut.txt.gz": "unreadable",
    }  # fmt: skip
    assert reader.counts == {"read": 15, "kept": 1, "quarantined": 14}
    assert [document.id for document in reader] == ["good.txt"], "the second time from what was kept"
    assert found(folder, encoding="latin-1")["latin.txt"].text == "für"


def test_what_is_not_read_is_counted(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "c.zip", ".hidden.txt", "good.txt"):
        (folder / name).write_text("words")
    for name in (".git", "node_modules", "index/segments"):
        (folder / name).mkdir(parents=True)
        (folder / name / "inside.txt").write_text("words")
    (folder / "index" / "index.json").write_text("{}")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.txt")
    reader = files(folder)
    assert [document.id for document in reader] == ["good.txt"]
    assert reader.told_left_out() == "2 .png, 1 .zip"


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of folders that the system does not list, and of files that it does not tell of or open."""
    names: set[str] = set()
    scan, stat = os.scandir, Path.stat

    def check(path: Any) -> Any:
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return path

    monkeypatch.setattr(os, "scandir", lambda path: scan(check(path)))
    monkeypatch.setattr(Path, "stat", lambda path, **how: stat(check(path), **how))
    return names


def test_what_cannot_be_looked_at_is_put_aside_and_the_rest_read(folder: Path, closed: set[str]) -> None:
    for name in ("a", "b", "b /deep", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "inside.txt").write_text(name)
    (folder / "c" / "other.txt").write_text("words")
    (folder / "loop.txt").symlink_to("loop.txt")
    closed |= {"b ", "other.txt"}
    reader = files(folder)
    assert sorted(document.id for document in reader) == ["a/inside.txt", "b/inside.txt", "c/inside.txt"]
    assert reader.counts == {"read": 6, "kept": 3, "quarantined": 3}
    lines = map(json.loads, (folder.parent / "bad.jsonl").read_text().splitlines())
    assert {entry["source"]: entry["reason"] for entry in lines} == {
        "b ": "unreadable: Permission denied", "c/other.txt": "unreadable: Permission denied",
        "loop.txt": "unreadable: Too many levels of symbolic links",
    }  # fmt: skip
    assert sorted(reader.unread()) == ["b", "b ", "c/other.txt", "loop.txt"]
    closed.clear()
    assert "b /deep/inside.txt" in [document.id for document in files(folder)]


def test_a_folder_that_is_closed_as_a_whole_is_told(folder: Path, closed: set[str]) -> None:
    closed.add("docs")
    with pytest.raises(InputError, match=r"docs cannot be read \(Permission denied\): check its rights"):
        next(files_module.walk(folder))


def test_a_folder_without_a_file_to_read_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds no file to read \(.*\): it is empty"):
        list(files(folder))
    (folder / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"left out: 1 \.png"):
        list(files(folder))


def test_one_file_is_a_document(folder: Path) -> None:
    (folder / "one.md").write_text("# One\n\ntext")
    [document] = files(folder / "one.md")
    assert (document.id, document.title) == ("one.md", "One")


def test_what_documents_may_be(folder: Path) -> None:
    (folder / "one.md").write_text("x")
    (folder / "data.xml").write_text("x")
    assert [is_for_files(str(folder / name)) for name in ("", "one.md", "rows.jsonl")] == [True, True, False]
    assert not is_for_files("https://host/rows.csv")
    with pytest.raises(InputError, match=r"its ending is none that is read: a table \(.jsonl"):
        is_for_files(str(folder / "data.xml"))
    with pytest.raises(InputError, match="no source at"):
        is_for_files(str(folder / "nowhere.txt"))


def test_pages_may_be_deep(folder: Path) -> None:
    (folder / "deep.html").write_text("<div>" * 200 + "words" + "</div>" * 200)
    assert found(folder)["deep.html"].text == "words"


def test_a_missing_package_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.pdf").write_bytes(a_pdf("words"))
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    with pytest.raises(InputError, match=r"PDF files need the package pypdf: install it with `pip install"):
        list(files(folder))


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2023-05-06T07:08:09Z", "2023-05-06"), ("2023-05", "2023-05"), ("Sat, 06 May 2023 07:08:09 GMT", "2023-05-06"),
        ("May 6, 2023", "2023-05-06"), ("6 May 2023 at noon", "2023-05-06"), ("2023-5-6", "2023-05-06"),
        ("5/6/2023", "2001-09-08"), ("yesterday", "2001-09-08"), ("2023-13-40", "2001-09-08"),
    ],
)  # fmt: skip
def test_a_page_is_of_the_day_that_it_says(folder: Path, written: str, day: str) -> None:
    page = folder / "page.html"
    page.write_text(f'<html><head><meta name="date" content="{written}"></head><body><p>words</p></body></html>')
    os.utime(page, (999_950_000, 999_950_000))  # 2001-09-08, whose day counts where the page says none that is read
    assert found(folder)["page.html"].known["date"] == day


@pytest.mark.parametrize("encoding", ["nothing", "hex", "rot13"])
def test_an_encoding_that_is_none_is_told_once(folder: Path, encoding: str) -> None:
    (folder / "a.html").write_text("<p>words</p>")
    (folder / "b.txt").write_text("words")
    with pytest.raises(InputError, match=f"--encoding '{encoding}': there is none of this name"):
        files(folder, encoding=encoding)


def test_a_page_in_an_encoding_that_python_alone_knows(folder: Path) -> None:
    (folder / "a.html").write_bytes("<p>über Straße</p>".encode("cp437"))
    assert found(folder, encoding="cp437")["a.html"].text == "über Straße"


def test_the_quarantine_names_files(folder: Path) -> None:
    (folder / "blank.txt").write_text("")
    (folder / "good.txt").write_text("x")
    list(files(folder))
    assert quarantined(folder.parent / "docs.jsonl") == [(0, "empty text: the file is empty")]


def test_files_are_read_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(50):
        (folder / f"{i}.txt").write_text(f"words {i}")
    opened: list[Path] = []
    read = files_module._bytes
    monkeypatch.setattr(files_module, "_bytes", lambda path, limit: opened.append(path) or read(path, limit))
    reader = iter(files(folder))
    next(reader)
    next(reader)
    assert len(opened) == 2
    assert len([*reader]) == 48 and len(opened) == 50


def test_a_file_that_keeps_its_reader_busy_is_put_aside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(data: bytes, encoding: str | None) -> file_formats.Read:
        while True:
            pass

    monkeypatch.setitem(file_formats.FORMATS, "pdf", ("pdf", forever))
    monkeypatch.setattr(file_formats, "MAX_SECONDS", 0.1)
    (folder / "a.pdf").write_bytes(b"%PDF")
    (folder / "b.txt").write_text("words")
    reader = files(folder)
    assert [document.id for document in reader] == ["b.txt"]
    assert reader.reasons == ["a.pdf: too slow: it cannot be read within 0.1 s"]

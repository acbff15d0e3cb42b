"""Web pages as a source: each page once, whatever holds it, and the same bytes whatever reads it."""

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.core.errors import InputError
from pipeline.ingest.pages import signature

WORDS = (
    "stone", "river", "cloud", "engine", "letter", "garden", "winter", "market", "window", "bridge", "silver", "orange",
    "copper", "forest", "island",
)  # fmt: skip
WHOLE = {"valid": 0, "test": 0}


def text(seed: int, words: int = 120) -> str:
    """Sentences of words that no two seeds share in runs of five."""
    numbers = hashlib.sha512(str(seed).encode()).digest() * 10
    chosen = [
        f"{WORDS[number % len(WORDS)]}{seed}" if i % 4 == 0 else WORDS[number % 15] for i, number in enumerate(numbers)
    ]
    return " ".join(chosen[:words]) + "."


def html(title: str, body: str, canonical: str = "", language: str = "en") -> str:
    link = f'<link rel="canonical" href="{canonical}">' if canonical else ""
    return (
        f'<!doctype html><html lang="{language}"><head><title>{title}</title>{link}</head><body>'
        f"<nav>Home Shop Login</nav><article><h1>{title}</h1><p>{body}</p></article></body></html>"
    )


def warc(pages: dict[str, str]) -> bytes:
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    for address, page in pages.items():
        headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
        record = writer.create_warc_record(address, "response", io.BytesIO(page.encode()), http_headers=headers)
        writer.write_record(record)
    return out.getvalue()


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    """A folder of an archive, HTML files, a damaged file, and what is no page."""
    folder = tmp_path / "crawl"
    (folder / "more").mkdir(parents=True)
    pages = {f"https://example.org/p{n}?utm_source=x": html(f"Title {n}", text(n)) for n in range(6)}
    (folder / "a.warc.gz").write_bytes(warc(pages))
    (folder / "more" / "b.html").write_text(html("Title B", text(20)), encoding="utf-8")
    (folder / "more" / "c.html.gz").write_bytes(gzip.compress(html("Title C", text(21)).encode()))
    (folder / "more" / "d.html.gz").write_bytes(gzip.compress(html("D", text(22)).encode())[:-40])
    (folder / "more" / "e.html").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def test_a_folder_of_pages_becomes_titles_that_ask_for_texts(crawl: Path, ingest: Any) -> None:
    result = ingest({"format": "pages", "path": str(crawl)}, max_quarantined_share=0.5)
    rows = {row["query"]: row for row in result.records()}
    assert set(rows) == {*(f"Title {n}" for n in range(6)), "Title B", "Title C"}
    first = rows["Title 3"]
    assert first["document_id"] == "https://example.org/p3"  # canonical: without tracking
    assert text(3) in first["document"]
    assert "Shop" not in first["document"] and "Title 3" not in first["document"]
    assert json.loads(first["metadata"])["url"] == "https://example.org/p3"
    assert result.collection() == {row["document_id"]: row["document"] for row in rows.values()}
    assert result.counts["documents"] == {"read": 10, "kept": 8, "quarantined": 2, "duplicates": 0}
    assert sorted(row["source"] for row in result.quarantine) == ["d.html.gz", "e.html"]


@pytest.mark.parametrize("whole", [True, False])
def test_an_archive_of_zstandard_is_read_as_any_other(whole: bool, tmp_path: Path, ingest: Any) -> None:
    """Packed as a whole, or each record by itself; beside pages that are packed so."""
    pages = {f"https://example.org/p{n}": html(f"Title {n}", text(n)) for n in range(3)}
    plain = [gzip.decompress(warc({address: page})) for address, page in pages.items()]
    packed = zstandard.compress(b"".join(plain)) if whole else b"".join(map(zstandard.compress, plain))
    folder = tmp_path / "crawl"
    folder.mkdir()
    (folder / "a.warc.zst").write_bytes(packed)
    (folder / "b.html.zst").write_bytes(zstandard.compress(html("Title B", text(20)).encode()))
    (folder / "c.html.zst").write_bytes(zstandard.compress(html("Title C", text(21)).encode())[:-9])
    result = ingest({"format": "pages", "path": str(folder)}, max_quarantined_share=0.5)
    found = {row["query"]: row["document_id"] for row in result.records()}
    expected = {f"Title {n}": f"https://example.org/p{n}" for n in range(3)}
    assert {title: found[title] for title in expected} == expected and set(found) == {*expected, "Title B"}
    assert [row["source"] for row in result.quarantine] == ["c.html.zst"]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: content[:-40], "cannot be read to its end: Truncated compressed stream"),
        (lambda content: content[:12] + bytes(20) + content[32:], "cannot be read to its end"),
        (
            lambda content: b"\x5d\x2a\x4d\x18\4\0\0\0abcd" + content,
            "with a dictionary within, which is not read: unpack",
        ),
    ],
)
def test_an_archive_that_zstandard_cannot_unpack_is_told(
    damage: Any, sentence: str, tmp_path: Path, ingest: Any
) -> None:
    content = zstandard.compress(gzip.decompress(warc({"https://example.org/a": html("A", text(1))})))
    (tmp_path / "a.warc.zst").write_bytes(damage(content))
    with pytest.raises(InputError, match=rf"a\.warc\.zst .*{sentence}"):
        ingest({"format": "pages", "path": str(tmp_path / "a.warc.zst")})


def test_texts_alone_for_other_tasks(crawl: Path, ingest: Any) -> None:
    for task in ("cloze", "language_model"):
        result = ingest({"format": "pages", "path": f"{crawl}/*.warc.gz"}, task=task, split=WHOLE)
        assert {row["text"].split("\n")[0] for row in result.records()} == {f"Title {n}" for n in range(6)}
        assert not (result.folder / "collection.parquet").exists()


def test_a_page_is_kept_once_by_its_address_and_by_its_content(tmp_path: Path, ingest: Any) -> None:
    body = text(1, 300)
    changed = body.replace("stone", "pebble", 1)
    pages = {
        "https://a.org/1": html("One", body),
        "https://a.org/1#part": html("One again", text(2)),  # the same address
        "https://a.org/print/1": html("One", text(3), canonical="https://a.org/1"),
        "https://b.org/copy": html("One", changed),  # nearly the same text
        "https://b.org/other": html("Other", text(4, 300)),
    }
    (tmp_path / "x.warc.gz").write_bytes(warc(pages))
    source = {"format": "pages", "path": str(tmp_path / "x.warc.gz")}
    result = ingest(source, split=WHOLE)
    assert set(result.collection()) == {"https://a.org/1", "https://b.org/other"}
    assert result.counts["documents"]["duplicates"] == 3
    assert result.counts["notes"] == {"pages nearly equal to an earlier one": 1}
    kept = ingest(source | {"near_duplicates": None}, split=WHOLE)
    assert set(kept.collection()) == {"https://a.org/1", "https://b.org/copy", "https://b.org/other"}


def test_pages_of_other_languages_are_left_out_and_counted(tmp_path: Path, ingest: Any) -> None:
    german = (
        "Die Katze liegt auf dem Sofa und schläft, während der Hund draußen im Garten bellt und die Kinder spielen. "
    )
    english = "The cat lies on the sofa and sleeps while the dog barks in the garden and the children are playing. "
    pages = {"https://a.org/de": html("Die Katze", german * 3), "https://a.org/en": html("The cat", english * 3)}
    (tmp_path / "x.warc.gz").write_bytes(warc(pages))
    result = ingest({"format": "pages", "path": str(tmp_path / "x.warc.gz"), "languages": ["de"]}, split=WHOLE)
    assert [row["query"] for row in result.records()] == ["Die Katze"]
    assert result.counts["notes"] == {"pages in a language that is not asked for": 1}


def test_minhash_estimates_the_share_of_equal_runs() -> None:
    """Jaccard similarities counted by hand: of 200 words with one replaced, five of 196 runs differ on each side."""
    import numpy as np

    words = [f"w{n}" for n in range(200)]
    other = [*words[:100], "changed", *words[101:]]
    jaccard = (196 - 5) / (196 + 5)
    a, b = (np.frombuffer(signature(" ".join(one)), np.uint32) for one in (words, other))
    assert abs(np.mean(a == b) - jaccard) < 0.1  # of 128 draws: 4 standard deviations
    unlike = np.frombuffer(signature(" ".join(f"v{n}" for n in range(200))), np.uint32)
    assert np.mean(a == unlike) < 0.05


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_any_number_of_processes_gives_the_same_bytes(crawl: Path, ingest_with: Any) -> None:
    source = {"format": "pages", "path": str(crawl)}
    made = [
        digests(ingest_with({"execution": execution}, source, max_quarantined_share=0.5).folder)
        for execution in ({"workers": 1}, {"workers": 2}, {"workers": 3})
    ]
    assert made[0] == made[1] == made[2]
    assert "records-train.parquet" in made[0]


def test_no_page_is_said(tmp_path: Path, ingest: Any) -> None:
    (tmp_path / "x.html").write_text("no markup", encoding="utf-8")
    with pytest.raises(InputError, match="it is not HTML"):
        ingest({"format": "pages", "path": str(tmp_path / "x.html")})

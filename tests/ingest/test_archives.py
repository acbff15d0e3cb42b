"""WARC and ARC: what a crawler's files hold, whole, damaged or cut."""

import gzip
import io
import os
import random
from pathlib import Path

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.core.errors import InputError
from pipeline.ingest import pages
from pipeline.ingest.archives import Answer, answers, is_archive

LIMIT = 1 << 20
PAGES = {
    f"http://example.org/{n}": f"<html><body><p>page {n} " + f"word{n} " * 200 + "</p></body></html>" for n in range(5)
}
SET = Path(os.environ.get("DUPLET_DATA", "/nowhere")) / "warc"


def archive(packed: bool) -> bytes:
    """As warcio writes it: information, then for each page what was asked and what was answered, and an image."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=packed)
    writer.write_record(writer.create_warcinfo_record("x.warc", {"software": "test"}))
    for address, html in PAGES.items():
        for kind, payload, content in (
            ("request", b"", None),
            ("response", html.encode(), "text/html; charset=utf-8"),
            ("response", b"\x89PNG", "image/png"),
        ):
            headers = StatusAndHeaders("200 OK", [("Content-Type", content)], protocol="HTTP/1.1") if content else None
            headers = headers or StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.org")], is_http_request=True)
            writer.write_record(writer.create_warc_record(address, kind, io.BytesIO(payload), http_headers=headers))
    return out.getvalue()


def read(content: bytes, limit: int = LIMIT) -> list[Answer]:
    return list(answers(io.BytesIO(content), limit))


def good(content: bytes) -> dict[str, str]:
    return {one.address: one.html.decode("utf-8", "replace") for one in read(content) if one.problem is None}


def problems(content: bytes) -> list[str]:
    return [str(one.problem) for one in read(content) if one.problem]


@pytest.mark.parametrize("packed", [False, True])
def test_pages_of_an_archive(packed: bool) -> None:
    assert good(archive(packed)) == PAGES
    assert not problems(archive(packed))
    assert {one.charset for one in read(archive(packed))} == {"utf-8"}
    assert [one.number for one in read(archive(packed))] == [3, 6, 9, 12, 15]  # of the record, of which three to a page


def test_other_answers_are_no_pages() -> None:
    content = archive(False).replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 404 No", 1)
    assert list(good(content)) == list(PAGES)[1:]
    assert not problems(content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_damage_in_one_place_costs_one_page(packed: bool, seed: int) -> None:
    content, chance = bytearray(archive(packed)), random.Random(seed)
    place = chance.randrange(len(content) // 4, len(content) - 200)
    match seed % 4:
        case 0:
            content[place] ^= 1 << chance.randrange(8)
        case 1:
            del content[place : place + chance.randrange(1, 40)]
        case 2:
            content[place:place] = chance.randbytes(chance.randrange(1, 300))
        case 3:
            content[place : place + 60] = bytes(60)
    found = good(bytes(content))
    assert set(found) <= set(PAGES) or seed % 4 == 0  # a flipped bit may stand in an address
    assert len(found) >= len(PAGES) - 2  # one place may lie on the seam of two
    if packed and len(found) < len(PAGES):
        assert problems(bytes(content))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.83, 0.99])
def test_a_cut_file_gives_what_is_whole(packed: bool, share: float) -> None:
    content = archive(packed)
    cut = content[: int(len(content) * share)]
    found = good(cut)
    assert all(PAGES[address] == html for address, html in found.items())
    assert list(found) == list(PAGES)[: len(found)]
    assert len(problems(cut)) <= 1
    assert len(found) >= int(5 * share) - 1


def lengthened(by: int) -> bytes:
    """An archive whose second page claims to be longer, or shorter."""
    records = archive(False).split(b"WARC/1.0\r\n")
    place = 1 + 3 + 2
    old = next(line for line in records[place].split(b"\r\n") if line.lower().startswith(b"content-length"))
    new = b"Content-Length: %d" % (int(old.split(b":")[1]) + by)
    records[place] = records[place].replace(old, new, 1)
    return b"WARC/1.0\r\n".join(records)


@pytest.mark.parametrize("by", [-300, -1, 7, 400, 1200, 9000, 10**6 - 5000, 10**9])
def test_a_wrong_length_costs_its_record_alone(by: int) -> None:
    found = good(lengthened(by))
    expected = [address for address in PAGES if address != "http://example.org/1"]
    if by == 10**9:  # beyond all limits: what it claims is passed over
        assert list(found) == ["http://example.org/0"]
    else:
        assert list(found) == expected
    assert len(problems(lengthened(by))) == 1


def test_a_page_over_the_limit_is_a_bad_record() -> None:
    found = read(archive(True), limit=700)
    assert {str(one.problem)[:8] for one in found} == {"too long"}


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.warc.gz"
    bomb.write_bytes(archive(True) + gzip.compress(bytes(300 << 20), 9))
    with pytest.raises(InputError, match=r"bomb\.warc\.gz cannot be read to its end: .* 200 times its size"):
        list(pages._answers(str(bomb)))


def test_what_begins_an_archive() -> None:
    assert is_archive(b"WARC/1.1\r\nWARC-Type: x")
    assert is_archive(b"filedesc://x.arc 127.0.0.1 20140301000000 text/plain 76\n1 0 X\n")
    assert not is_archive(b"<html>") and not is_archive(b"WARC/1.0 is a format") and not is_archive(b"")


@pytest.mark.data
@pytest.mark.skipif(not SET.exists(), reason="DUPLET_DATA names no folder with the public sets")
@pytest.mark.parametrize(
    ("name", "pages", "bad"),
    [
        ("example.warc", 1, 0), ("example.warc.gz", 1, 0), ("example.arc", 1, 0), ("example.arc.gz", 1, 0),
        ("example-iana.org-chunked.warc", 1, 0), ("example-resource.warc.gz", 1, 0),
        ("example-wget-bad-target-uri.warc.gz", 1, 0), ("example-wrong-chunks.warc.gz", 1, 0),
        ("example-bad-non-chunked.warc.gz", 1, 0), ("example-bad.warc.gz.bad", 1, 0),  # one gzip member for all
        ("example-space-in-target-uri.warc.gz", 0, 0), ("post-test.warc.gz", 0, 0), ("example-digest.warc", 0, 0),
        ("example-trunc.warc", 0, 1), ("example-space-in-url.arc", 0, 1), ("bad.arc", 0, 2),
    ],
)  # fmt: skip
def test_the_files_of_warcios_own_tests(name: str, pages: int, bad: int) -> None:
    found = read((SET / name).read_bytes(), 1 << 24)
    assert (sum(one.problem is None for one in found), sum(one.problem is not None for one in found)) == (pages, bad)

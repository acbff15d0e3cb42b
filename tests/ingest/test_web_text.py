"""A page's main text, encoding, title, language and address."""

import gzip
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.ingest.rows import BadRow
from pipeline.ingest.web_text import decoded, language_of, one_address, page_of

ARTICLE = "<p>" + "</p><p>".join(
    f"The {animal} that lives near the river feeds on small fish and rests on warm stones in the afternoon."
    for animal in ("heron", "otter", "turtle", "kingfisher", "heron chick")
) + "</p>"  # fmt: skip
PAGE = (
    '<!doctype html><html lang="en"><head><title>River animals</title><link rel="canonical" href="/river"></head><body>'
    '<nav><a href="/">Home</a> <a href="/shop">Shop</a> <a href="/login">Log in</a></nav>'
    f"<main><h1>River animals</h1>{ARTICLE}</main><footer>Copyright by nobody, all rights reserved</footer></body>"
)


def test_main_text_without_menus_and_what_the_page_says_of_itself() -> None:
    page = page_of(PAGE.encode(), "https://Example.org/river?utm_source=mail#top")
    assert page.title == "River animals"
    assert page.address == "https://example.org/river"
    assert page.language == "en"
    assert page.text.count("feeds on small fish") == 5
    for left_out in ("Shop", "Log in", "Copyright"):
        assert left_out not in page.text


# Expected encodings by https://encoding.spec.whatwg.org/#names-and-labels and the HTML standard's prescan
@pytest.mark.parametrize(
    ("html", "charset", "text"),
    [
        ("\ufeffcafé".encode(), "cp1252", "café"),  # a mark goes before what the server says
        ("café".encode("utf-16"), None, "café"),
        (b"\xfe\xff" + "café".encode("utf-16-be"), None, "café"),
        (b"<meta charset=utf-8>caf\xe9", "ISO-8859-1", "<meta charset=utf-8>café"),  # the server before the page
        (b"<meta charset='iso-8859-1'>\x93caf\xe9\x94", None, "<meta charset='iso-8859-1'>“café”"),  # cp1252
        (b"<meta charset=gb2312>" + "镕".encode("gbk"), None, "<meta charset=gb2312>镕"),  # GBK, not GB 2312
        ('<meta charset="utf-16">café'.encode(), None, '<meta charset="utf-16">café'),
        ('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">да'.encode("koi8-r"), None,
         '<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">да'),
        (b"<meta charset=utf-8>one \xff bad byte, caf\xc3\xa9", None, "<meta charset=utf-8>one \ufffd bad byte, café"),
        (b"caf\xc3\xa9", "no-such-encoding", "café"),
    ],
)  # fmt: skip
def test_encodings_are_found_as_browsers_find_them(html: bytes, charset: str | None, text: str) -> None:
    assert decoded(html, charset) == text


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("HTTP://Example.COM:80/a#b", "http://example.com/a"),
        ("https://example.com/a?utm_source=x&id=1", "https://example.com/a?id=1"),
        ("", ""), ("javascript:alert(1)", ""), ("/relative", ""), ("http://[bad", ""), ("http://a/" + "x" * 3000, ""),
    ],
)  # fmt: skip
def test_addresses_have_one_form(address: str, form: str) -> None:
    assert one_address(address) == form


def test_a_start_page_is_no_canonical_address_of_another_page() -> None:
    html = b'<html><link rel=canonical href="https://example.org/"><body><p>some text</p></body></html>'
    assert page_of(html, "https://example.org/news/1").address == "https://example.org/news/1"
    assert page_of(html, "https://example.org/").address == "https://example.org/"


@pytest.mark.parametrize("html", [b"", b"no markup", b"\x00\x01\x02", b"<html></html>", b"<script>1</script>"])
def test_what_has_no_text_is_a_bad_row(html: bytes) -> None:
    with pytest.raises(BadRow):
        page_of(html)


def test_a_page_of_a_few_words_is_kept() -> None:
    assert page_of(b"<html><body><p>Hello world</p></body></html>").text == "Hello world"


def test_languages() -> None:
    assert language_of("Die Katze liegt auf dem Sofa und schläft, während der Hund draußen im Garten bellt.") == "de"
    chinese = "今天天气很好，我们一起去公园散步，看看花和鸟。孩子们在湖边玩耍，老人们在树下下棋，大家都很高兴。"
    assert language_of(2 * chinese) == "zh"
    assert language_of("") == ""


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(InputError, match=r"trafilatura.*pip install 'duplet\[pages\]'"):
        page_of(PAGE.encode())


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """4-word shingles as scrapinghub's article-extraction-benchmark counts them."""
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3)))


@pytest.mark.data
@pytest.mark.skipif("DUPLET_DATA" not in os.environ, reason="DUPLET_DATA names no folder with the public sets")
def test_f1_on_the_article_extraction_benchmark_is_the_librarys_own() -> None:
    """trafilatura 2.3.1 by itself has 0.959 over all pages, by its own settings; a third of them is enough."""
    folder = Path(os.environ["DUPLET_DATA"]) / "web_articles"
    truth = json.loads(gzip.decompress((folder / "ground-truth.json.gz").read_bytes()))
    precisions, recalls = [], []
    for name in sorted(truth)[::3]:
        html = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())
        found, wanted = shingles(page_of(html).text), shingles(truth[name]["articleBody"])
        right = (found & wanted).total()
        precisions.append(right / found.total())
        recalls.append(right / wanted.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    assert 2 * precision * recall / (precision + recall) >= 0.955

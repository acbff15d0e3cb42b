"""A web page's main text, without menus, advertisements and footers, and what else the page says of itself.

trafilatura finds the text: on 181 articles of the web it had the best F1 of the libraries compared, and resiliparse is
six times as fast at a lower one (docs/benchmarks.md). resiliparse finds the encoding and the language. All of it is
a pure function of the page, so that pages may be read by any number of processes.
"""

import codecs
import urllib.parse
from types import ModuleType
from typing import Any, NamedTuple

from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.ingest.rows import BadRow

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_PRESCANNED = 1024  # bytes in which a page must declare its encoding
_LANGUAGE_CHARACTERS = 10_000  # looked at to tell the language
_LONGEST_ADDRESS = 2000  # characters; what is longer is a mistake or an attack


class Page(NamedTuple):
    """A page's text and what it says of itself; each but the text may be empty."""

    address: str  # canonical, in one form: see `one_address`
    title: str
    text: str
    language: str  # ISO 639-1, such as en


def needed(package: str) -> ModuleType:
    """A package of the extra `pages`. Raises InputError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"web pages need the package {error.name or package}, which is not installed: pip install 'duplet[pages]'"
        ) from None


def versions() -> dict[str, str]:
    """What shapes a page's text. Raises InputError where the extra is not installed."""
    for package in ("trafilatura", "resiliparse", "warcio", "datasketch"):
        needed(package)
    return manifest.versions("trafilatura", "resiliparse", "courlan", "lxml", "datasketch")


def page_of(html: bytes, address: str = "", charset: str | None = None) -> Page:
    """The main text of a page, its title, language and canonical address.

    Args:
        html: as it was served, unpacked.
        address: where it was found; "" where that is not known.
        charset: what the server said the encoding is, if it did.

    Raises:
        BadRow: no markup, or no text in it.
        InputError: the extra `pages` is not installed.
    """
    trafilatura = needed("trafilatura")
    markup = decoded(html, charset)
    tree = trafilatura.load_html(markup)
    if tree is None:
        raise BadRow("no page", "it is not HTML")
    title, canonical = _title(tree), _canonical(tree, address)
    declared = str(tree.get("lang") or "").partition("-")[0].strip().lower()[:8]
    try:
        text = trafilatura.extract(tree, include_comments=False, fast=True) or ""
    except Exception as error:  # a page may be broken in ways that the library does not know
        raise BadRow("no page", f"its markup cannot be read ({type(error).__name__})") from None
    if not text.strip():  # a page of a few words is all main text
        text = needed("resiliparse.extract.html2text").extract_plain_text(markup, alt_texts=False)
    if not text.strip():
        raise BadRow("empty text", "the page has no text")
    return Page(canonical, title, text, language_of(text) or declared)


def decoded(html: bytes, charset: str | None = None) -> str:
    """The page as text, its encoding found as browsers find it.

    That is by its byte order mark; then by what the server said; then by a meta element near its beginning, where
    UTF-16 means UTF-8; else by its bytes. Names are read as the web reads them: latin-1 is windows-1252. Bytes that
    the encoding does not have become U+FFFD.
    """
    encodings = needed("resiliparse.parse.encoding")
    encoding = next((name for mark, name in _MARKS if html.startswith(mark)), None)
    if encoding is None and charset:
        encoding = encodings.map_encoding_to_html5(charset.strip().strip("\"'"), fallback_utf8=False)
    if encoding is None and b"charset" not in html[:_PRESCANNED].lower() and _is_utf8(html):
        encoding = "utf-8"  # of a few letters the detector tells nothing
    if encoding is None:
        encoding = encodings.detect_encoding(html, from_html_meta=True) or "utf-8"
        encoding = "utf-8" if encoding.startswith("utf-16") else encoding
    text = encodings.bytes_to_str(html, encoding, errors="replace", fallback_encodings=())
    return str(text).lstrip("\ufeff")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def language_of(text: str) -> str:
    """The language that a text most looks like, by ISO 639-1; "" where it looks like none."""
    if not text.strip():
        return ""
    language, _ = needed("resiliparse.parse.lang").detect_fast(text[:_LANGUAGE_CHARACTERS])
    return "" if language == "unknown" else str(language)


def one_address(address: str) -> str:
    """An http address in the form by which addresses are compared: host in lower case, no fragment, no tracking.

    "" of what is no such address.
    """
    address = urllib.parse.urldefrag(address.strip())[0] if len(address) <= _LONGEST_ADDRESS else ""
    if not address.lower().startswith(("http://", "https://")):
        return ""
    try:
        return str(needed("courlan").normalize_url(address))
    except ValueError:  # such as brackets that hold no host
        return ""


def _title(tree: Any) -> str:
    metadata = needed("trafilatura.metadata")
    try:
        return " ".join((metadata.extract_title(tree) or "").split())
    except Exception:  # it costs the title, not the page
        return ""


def _canonical(tree: Any, address: str) -> str:
    """The address that the page gives itself, else the one where it was found.

    Many sites call their start page the canonical address of each page: that is none.
    """
    named = [link.get("href") for link in tree.iterfind(".//link[@rel='canonical']")]
    try:
        canonical = next((name for name in named if name), "") or needed("trafilatura.metadata").extract_url(tree) or ""
        canonical = urllib.parse.urljoin(address, canonical.strip())
        if urllib.parse.urlsplit(canonical).path in ("", "/") and urllib.parse.urlsplit(address).path not in ("", "/"):
            canonical = ""
    except Exception:  # it costs the address, not the page
        canonical = ""
    return one_address(canonical) or one_address(address)

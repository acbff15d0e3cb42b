"""One file's text, title and other fields: plain text, Markdown, HTML, PDF, Word and source code.

Headings of Markdown, HTML and Word stand in the text as Markdown writes them (`## Name`), so that passages can begin
at them. A reader raises BadRow where a file cannot be read, is encrypted, or holds no text.
"""

import calendar
import codecs
import datetime
import io
import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import safe_yaml
from pipeline.core import deadline
from pipeline.core.errors import InputError, one_line
from pipeline.ingest.rows import BadRow, clean, is_missing

MAX_TEXT_BYTES = 16 << 20  # of a text file, and of the text of any file
MAX_PACKED_BYTES = 128 << 20  # of a PDF or a Word file, in which pictures are most
MAX_UNPACKED_BYTES = 256 << 20  # of the parts of a Word file
MAX_SECONDS = 120.0  # that reading a file may take
MAX_FRONT_MATTER = 16_384  # characters
EXTRA = "install it with `pip install 'duplet[documents]'`"


class Read(NamedTuple):
    """What a file holds; of an absent title, the file's name is one."""

    text: str
    title: str = ""
    fields: dict[str, Any] = {}


def check_encoding(encoding: str | None) -> None:
    """Raises InputError where there is no such encoding of texts."""
    try:
        b"a".decode(encoding or "utf-8")  # of no bytes, the name would not be looked up
    except UnicodeError:
        pass
    except LookupError:
        raise InputError(f"--encoding {encoding!r:.40}: there is none of this name; give one such as cp1252") from None


_MONTHS = {name.lower(): place for place, name in enumerate(calendar.month_abbr) if name}
_YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})(?:[-/.](\d{1,2}))?(?!\d)")
_PDF = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?")  # PDF 32000-1, 7.9.4: the time and its zone follow
_DIGITS = re.compile(r"(\d{4})(\d\d)?(\d\d)?(?:\d{4}|\d{6})?(?![\d/.-])")
_DAY_FIRST = re.compile(r"(?:[a-z]+,? )?(\d{1,2})\.? ([a-z]{3})[a-z]*\.?,? (\d{4})(?!\d)")
_MONTH_FIRST = re.compile(r"(?:[a-z]+, )?([a-z]{3})[a-z]*\.? (\d{1,2}),? (\d{4})(?!\d)")


def date_of(text: str) -> str:
    """The day (or month, or year) that a text begins with, as ISO 8601 writes it; "" where none is found.

    >>> [date_of(text) for text in ("2023-05-06T07:08:09Z", "20230506", "2023/5", "2023", "D:20230506070809Z")]
    ['2023-05-06', '2023-05-06', '2023-05', '2023', '2023-05-06']
    >>> [date_of(f"D:{text}") for text in ("20230506070809-05'00'", "20230506070809+02'00", "202305", "2023")]
    ['2023-05-06', '2023-05-06', '2023-05', '2023']
    >>> date_of("Sat, 06 May 2023 07:08:09 GMT"), date_of("May 6, 2023"), date_of("6 May 2023")
    ('2023-05-06', '2023-05-06', '2023-05-06')
    >>> date_of("2023-13-40"), date_of("soon"), date_of("5/6/2023")
    ('', '', '')
    """
    text = " ".join(text.split()).lower().replace("d:", "D:", 1)
    if match := _PDF.match(text) or _YEAR_FIRST.match(text) or _DIGITS.match(text):
        parts = [int(part) for part in match.groups() if part]
    elif match := _DAY_FIRST.match(text):
        parts = [int(match[3]), _MONTHS.get(match[2], 0), int(match[1])]
    elif match := _MONTH_FIRST.match(text):
        parts = [int(match[3]), _MONTHS.get(match[1], 0), int(match[2])]
    else:
        return ""
    try:
        year, month, day = [*parts, 1, 1][:3]
        return datetime.date(year, month, day).isoformat()[: (0, 4, 7, 10)[len(parts)]]
    except ValueError:
        return ""


def text_of(data: bytes, encoding: str | None) -> str:
    """The text of bytes: in UTF-8 (UTF-16 with its mark) where no encoding is given. Raises BadRow."""
    if encoding is None and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    if encoding is None and b"\0" in data[:8192]:
        raise BadRow("binary", "it holds zero bytes, as no text does")
    try:
        return clean(data.decode(encoding or "utf-8"), "text")
    except UnicodeError:
        raise BadRow(
            "undecodable bytes", f"not {encoding or 'utf-8'}: name its encoding, such as --encoding cp1252"
        ) from None


# --- text, Markdown, code ---------------------------------------------------------------------------------------------
_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$|^(\S.*)\n(?:={3,}|-{3,})[ \t]*$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?:([=*#~^-])\1{2,}\n)? ?(\S[^\n]{0,200})\n([=*#~^-])\3{2,}[ \t]*$", re.MULTILINE)
_MARK_UP = re.compile(r"\[([^\]]*)\]\([^)]*\)|[`*_]{1,3}(?=\S)|(?<=\S)[`*_]{1,3}")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def read_text(data: bytes, encoding: str | None) -> Read:
    """A title that is underlined in the first lines, as in reStructuredText, is one."""
    text = text_of(data, encoding)
    heading = _UNDERLINED.search(text[:2000])
    return Read(text, heading[2].strip() if heading else "")


def read_markdown(data: bytes, encoding: str | None) -> Read:
    """Front matter (YAML between lines of ---) gives fields; the first heading is the title where it gives none."""
    text = text_of(data, encoding)
    fields: dict[str, Any] = {}
    if (matter := _MATTER.match(text[: MAX_FRONT_MATTER + 16])) is not None:
        try:
            front_matter = safe_yaml.core(safe_yaml.load(matter[1]))
        except ValueError as error:
            raise BadRow("front matter", one_line(error, 100)) from None
        if isinstance(front_matter, dict):
            fields, text = front_matter, text[matter.end() :].strip()
    title = fields.pop("title", None)
    if not isinstance(title, str):
        heading = _HEADING.search(_FENCE.sub("", text[:20_000]))
        title = _MARK_UP.sub(r"\1", heading[1] or heading[2]) if heading else ""
    return Read(text, title, fields)


def read_code(data: bytes, encoding: str | None) -> Read:
    return Read(text_of(data, encoding))


# --- HTML -------------------------------------------------------------------------------------------------------------
_UNSEEN = {
    "script", "style", "noscript", "template", "svg", "head", "nav", "iframe", "object", "select", "button", "form",
}  # fmt: skip
_BLOCKS = {
    "p", "div", "section", "article", "main", "header", "footer", "aside", "li", "ul", "ol", "dl", "dt", "dd", "table",
    "tr", "blockquote", "pre", "figure", "figcaption", "hr", "br", "h1", "h2", "h3", "h4", "h5", "h6", "address",
}  # fmt: skip
_APART = {"p", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote"}  # by a blank line
_DATES = ("article:published_time", "datepublished", "dc.date", "dcterms.date", "date", "article:modified_time")


def read_html(data: bytes, encoding: str | None) -> Read:
    """The page's text without scripts and navigation; language, address, author and date from its head."""
    import lxml.html

    if not data.strip():
        raise BadRow("empty text", "the file is empty")
    if encoding is not None:  # Python knows more encodings than lxml
        data, encoding = text_of(data, encoding).encode(), "utf-8"
    try:
        page = lxml.html.document_fromstring(data, parser=lxml.html.HTMLParser(encoding=encoding or _declared(data)))
    except (ValueError, AssertionError, LookupError, SyntaxError) as error:  # lxml's own are two of these
        raise BadRow("no HTML", one_line(error, 100)) from None
    pieces: list[str] = []
    _walk(page, pieces)
    text = re.sub(r"[ \t]+$|^ (?=\S)", "", "".join(pieces).replace("\r", ""), flags=re.MULTILINE)
    text = clean(re.sub(r"\n{3,}", "\n\n", text), "text")
    if not text:
        raise BadRow("empty text", "the page shows no text without its scripts")
    named: dict[str, str] = {}
    for meta in page.iter("meta"):
        name = (meta.get("name") or meta.get("property") or meta.get("itemprop") or "").lower()
        named.setdefault(name, meta.get("content") or "")
    title = next(
        (element.text_content() for tag in ("title", "h1") for element in page.iter(tag) if element.text_content()), ""
    )
    addresses = [link.get("href") or "" for link in page.iter("link") if link.get("rel") == "canonical"]
    fields = {
        "language": (page.get("lang") or "").partition("-")[0].lower(),
        "url": next((a for a in (*addresses, named.get("og:url", "")) if a.startswith(("http://", "https://"))), ""),
        "author": named.get("author", ""),
        "date": next((day for name in _DATES if (day := date_of(named.get(name, "")))), ""),
    }
    return Read(text, " ".join(title.split()), fields)


def _declared(data: bytes) -> str | None:
    """UTF-8 where the bytes are; else what the page declares, which lxml finds."""
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        return None


def _walk(page: Any, pieces: list[str]) -> None:
    """The text of a tree in its order, a line per block; without recursion, as trees may be deep."""
    stack: list[tuple[Any, bool, bool]] = [(page, False, False)]
    while stack:
        node, ended, verbatim = stack.pop()
        tag = node.tag if isinstance(node.tag, str) else None
        if ended:
            _end_line(pieces, tag in _BLOCKS, tag in _APART)
            pieces.append(" " if tag in ("td", "th") else "")
        elif tag is not None and tag not in _UNSEEN:
            _end_line(pieces, tag in _BLOCKS, tag in _APART)
            if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
                pieces.append("#" * int(tag[1]) + " ")
            if tag == "li":
                pieces.append("- ")
            inside = verbatim or tag == "pre"
            pieces.append(_plain(node.text, inside))
            stack.append((node, True, verbatim))
            stack.extend((child, False, inside) for child in reversed(node))
            continue
        pieces.append(_plain(node.tail, verbatim))


def _end_line(pieces: list[str], line: bool, apart: bool) -> None:
    """Ends the line, and puts a blank one after it, unless that is done already."""
    if (line or apart) and pieces:
        before = pieces[-1].rstrip(" ")
        if not before:
            pieces[-1] = ""
            before = next((piece for piece in reversed(pieces) if piece), "\n")
        ends = len(before) - len(before.rstrip("\n"))
        pieces.append("\n" * max(0, (2 if apart else 1) - ends))


def _plain(text: str | None, verbatim: bool) -> str:
    return text or "" if verbatim else re.sub(r"\s+", " ", text or "").replace("¶", "")


# --- PDF and Word -----------------------------------------------------------------------------------------------------
def read_pdf(data: bytes, encoding: str | None) -> Read:
    """The pages' text; title, author and date as the file's properties name them."""
    try:
        import pypdf
    except ImportError:
        raise InputError(f"PDF files need the package pypdf: {EXTRA}") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise BadRow("encrypted", "the PDF asks for a password: save it without one")
        pages = list(_bounded(page.extract_text() for page in reader.pages))
        about: Any = reader.metadata or {}
        named = {name: str(about.get(f"/{name}") or "") for name in ("Title", "Author", "CreationDate")}
    except BadRow:
        raise
    except Exception as error:  # pypdf has errors of its own, and of what damaged files make of its objects
        raise BadRow("damaged", f"the PDF cannot be read ({one_line(error, 100)})") from None
    text = clean(re.sub(r"(?<=\w)-\n(?=[a-z])", "", "\n\n".join(pages)), "text")
    if not text:
        raise BadRow("empty text", "the PDF holds pictures alone: it needs optical character recognition")
    title = named["Title"] if len(named["Title"]) > 3 and "untitled" not in named["Title"].lower() else ""
    return Read(
        text,
        title,
        {"author": named["Author"], "date": date_of(named["CreationDate"]), "pages": len(pages)},
    )


def read_docx(data: bytes, encoding: str | None) -> Read:
    """Paragraphs, with headings, and tables, a line per row; title, author and date as the file's properties name."""
    try:
        import docx
        from docx.table import Table
    except ImportError:
        raise InputError(f"Word files need the package python-docx: {EXTRA}") from None
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise BadRow("encrypted", "the Word file asks for a password, or is of the old .doc format: save it as .docx")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(part.file_size for part in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise BadRow("too long", f"the Word file unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        document = docx.Document(io.BytesIO(data))
        about, title, lines = document.core_properties, document.core_properties.title or "", []
        for block in _bounded(
            document.iter_inner_content(), lambda block: "" if isinstance(block, Table) else block.text
        ):
            if isinstance(block, Table):
                lines += [" | ".join(dict.fromkeys(cell.text.strip() for cell in row.cells)) for row in block.rows]
                continue
            style = (block.style.name if block.style is not None else None) or ""
            level = re.fullmatch(r"Heading ([1-6])", style)
            title = title or (block.text if style == "Title" or (level and level[1] == "1") else "")
            lines.append(f"\n{'#' * int(level[1])} {block.text}" if level and block.text.strip() else block.text)
        date = about.modified or about.created
    except BadRow:
        raise
    except Exception as error:  # of zipfile, lxml and python-docx
        raise BadRow("damaged", f"the Word file cannot be read ({one_line(error, 100)})") from None
    text = clean("\n".join(lines), "text")
    if not text:
        raise BadRow("empty text", "the Word file holds no text")
    return Read(text, title, {"author": about.author or "", "date": date.strftime("%Y-%m-%d") if date else ""})


def _bounded(parts: Any, text: Callable[[Any], str] = str) -> Iterator[Any]:
    """The parts, as long as their texts are not too many in all. Raises BadRow."""
    total = 0
    for part in parts:
        total += len(text(part))
        if total > MAX_TEXT_BYTES:
            raise BadRow("too long", f"it holds more than {MAX_TEXT_BYTES >> 20} million characters")
        yield part


# --- which reader reads what ------------------------------------------------------------------------------------------
CODE = re.findall(  # endings
    r"\w+",
    "py pyi c h cc cpp cxx hh hpp cu java kt scala go rs js jsx mjs ts tsx rb php pl pm lua sh bash r jl m swift cs fs "
    "sql hs ml erl ex exs clj lisp el vim f90 f s asm pas d zig nim dart proto",
)
FORMATS: dict[str, tuple[str, Callable[[bytes, str | None], Read]]] = {
    **dict.fromkeys(("txt", "text", "rst", "adoc", "org", "tex", "log"), ("text", read_text)),
    **dict.fromkeys(("md", "markdown", "mdx"), ("markdown", read_markdown)),
    **dict.fromkeys(("html", "htm", "xhtml"), ("html", read_html)),
    **dict.fromkeys(CODE, ("code", read_code)),
    "pdf": ("pdf", read_pdf),
    "docx": ("word", read_docx),
}
PACKED = ("pdf", "word")  # formats


def format_of(name: str) -> str | None:
    """The ending, in small letters, by which a file of this name is read; None: it is not.

    A name without an ending, such as README, is a text; `.gz` is looked through.

    >>> [format_of(name) for name in ("a.PDF", "b.md.gz", "README", "c.png", "d.gz", ".profile")]
    ['pdf', 'md', 'txt', None, None, None]
    """
    path = Path(name.lower())
    if path.suffix == ".gz":
        path = path.with_suffix("")
        if not path.suffix and path.name not in _NAMES:
            return None
    ending = path.suffix.removeprefix(".")
    if not ending and not path.name.startswith("."):
        return "txt"
    return ending if ending in FORMATS else None


_NAMES = {"readme", "changelog", "changes", "news", "authors", "license", "copying", "copyright", "faq", "todo"}


def read(ending: str, data: bytes, encoding: str | None) -> Read:
    """The content of a file. Raises BadRow, or InputError where a package is not installed."""
    _, reader = FORMATS[ending]
    try:
        with deadline.within(MAX_SECONDS):  # a file made to do harm may keep a reader busy for hours
            content = reader(data, encoding)
    except deadline.TooLong:
        raise BadRow("too slow", f"it cannot be read within {MAX_SECONDS:g} s") from None
    title = content.title if not is_missing(content.title) else ""
    if not content.text:
        raise BadRow("empty text", "the file is empty")
    try:
        title = " ".join(clean(title, "title").split())
    except BadRow:
        title = ""
    return content._replace(title=title)

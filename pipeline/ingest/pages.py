"""Web pages -> documents: HTML files and archives, each page once, by its address and by its content.

Finding a page's text takes nearly all of the time. It is done in pieces of
some pages, by as many processes as there are.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.executors import Executor
from pipeline.core.scratch_database import ScratchDatabase
from pipeline.ingest import archives, listing, places
from pipeline.ingest.archives import Answer
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.rows import SHOWN, BadRow, Row, clean, short_hash, too_long
from pipeline.ingest.web_text import Page, needed, one_address, page_of

PACKED = ("", ".gz", ".zst")
ARCHIVES = tuple(f"{ending}{packed}" for ending in (".warc", ".arc") for packed in PACKED)
ENDINGS = (*(f"{ending}{packed}" for ending in (".html", ".htm", ".xhtml") for packed in PACKED), *ARCHIVES)
LARGEST_HTML = 16 << 20  # bytes of a page as it was served; of its text ingest.max_row_kb
_PIECE_PAGES, _PIECE_BYTES = 32, 4 << 20
_SHINGLE_WORDS = 5
_PERMUTATIONS, _BANDS = 128, 16  # of 8: pages that are 0.8 equal share a band with a chance of 0.95, of 0.5 with 0.06
_SEED = 1
OTHER_LANGUAGE = "pages in a language that is not asked for"
NEAR = "pages nearly equal to an earlier one"


class Work(NamedTuple):
    """Some pages of one source, and how they are wanted."""

    pages: list[tuple[str, Answer]]  # a file's name, and an answer in it
    limit_bytes: int
    languages: tuple[str, ...]
    near: bool


class Found(NamedTuple):
    """What became of one page: its text, or why there is none."""

    row: Row
    own_address: str
    page: Page | None
    signature: bytes  # (_PERMUTATIONS,) uint32; b"" where it is not wanted
    left_out: str = ""


def read(work: Work) -> list[Found]:
    """The texts of some pages: a pure function, that any process may run."""
    return [_read(work, name, answer) for name, answer in work.pages]


def _read(work: Work, name: str, answer: Answer) -> Found:
    own = one_address(answer.address)
    row = Row(name, answer.number, {}, answer.shown, answer.problem)
    if answer.problem:
        return Found(row, own, None, b"")
    try:
        page = page_of(answer.html, answer.address, answer.charset)
        page = page._replace(text=clean(page.text, "text"), title=clean(page.title, "title"))
        if len(page.text.encode("utf-8")) > work.limit_bytes:
            raise too_long(work.limit_bytes, "a page's text of ")
        if not page.text:
            raise BadRow("empty text", "the page has no text")
    except BadRow as problem:
        return Found(row._replace(problem=problem), own, None, b"")
    if work.languages and page.language not in work.languages:
        return Found(row, own, page, b"", OTHER_LANGUAGE)
    return Found(row, own, page, signature(page.text) if work.near else b"")


def signature(text: str) -> bytes:
    """The MinHash of a text's runs of words (or of characters, where it has no blanks): (128,) uint32 as bytes."""
    words = re.findall(r"\w+", text.lower())
    if len(words) * 20 < len(text):
        words = list("".join(words))
    runs = {" ".join(words[i : i + _SHINGLE_WORDS]) for i in range(max(1, len(words) - _SHINGLE_WORDS + 1))}
    minhash = needed("datasketch").MinHash(_PERMUTATIONS, seed=_SEED)
    minhash.update_batch([run.encode("utf-8") for run in sorted(runs)])
    return bytes(minhash.hashvalues.astype(np.uint32).tobytes())


class Pages(ScratchDatabase):
    """The pages kept so far: which document each address means, and their signatures by bands."""

    def __init__(self, folder: Path, threshold: float | None) -> None:
        super().__init__(
            folder / ".pages.sqlite",
            "CREATE TABLE addresses (address TEXT PRIMARY KEY, id TEXT) WITHOUT ROWID",
            "CREATE TABLE signatures (page INTEGER PRIMARY KEY, id TEXT, signature BLOB)",
            "CREATE TABLE bands (band BLOB, page INTEGER, PRIMARY KEY (band, page)) WITHOUT ROWID",
        )
        self._threshold = threshold
        self._kept = 0

    def id_of(self, address: str) -> str | None:
        """The document that an address means, in one form or as given."""
        row = self._db.execute("SELECT id FROM addresses WHERE address = ?", (address,)).fetchone()
        return row[0] if row else None

    def name(self, addresses: Iterable[str], page_id: str) -> None:
        """From now on these addresses mean this document, unless they mean one already."""
        for address in addresses:
            if address:
                self._db.execute("INSERT OR IGNORE INTO addresses VALUES (?, ?)", (address, page_id))

    def near(self, own: bytes) -> str | None:
        """The first kept page that is so nearly equal, if any."""
        if not own or self._threshold is None:
            return None
        bands = _bands(own)
        marks = ",".join("?" * len(bands))
        rows = self._db.execute(
            f"SELECT DISTINCT s.page, s.id, s.signature FROM bands b JOIN signatures s ON s.page = b.page "
            f"WHERE b.band IN ({marks}) ORDER BY s.page", bands,
        )  # fmt: skip
        wanted = np.frombuffer(own, np.uint32)
        for _, page_id, other in rows:
            if np.mean(np.frombuffer(other, np.uint32) == wanted) >= self._threshold:
                return str(page_id)
        return None

    def keep(self, page_id: str, own: bytes) -> None:
        self._kept += 1
        if own:
            self._db.execute("INSERT INTO signatures VALUES (?, ?, ?)", (self._kept, page_id, own))
            rows = [(band, self._kept) for band in _bands(own)]
            self._db.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", rows)


def _bands(own: bytes) -> list[bytes]:
    size = len(own) // _BANDS
    return [
        hashlib.sha256(bytes([number]) + own[number * size : (number + 1) * size]).digest()[:8]
        for number in range(_BANDS)
    ]


def ingest(
    source: Any,
    files: list[str],
    limit_bytes: int,
    executor: Executor,
    tools: tuple[Ledger, Pages],
    keep_page: Callable[[str, Page], None],
) -> None:
    """Reads all pages and gives each that is kept, with its id, to `keep_page`.

    A page's id is its canonical address, or a hash of its text where it has none.
    """
    ledger, pages = tools
    names = listing.names(files)
    every = ((names[file], answer) for file in files for answer in _answers(file))
    works = (Work(piece, limit_bytes, source.languages, source.near_duplicates is not None) for piece in _pieces(every))
    for results in executor.map(read, works):
        for result in results:
            _keep(result, ledger, pages, keep_page)


def _keep(result: Found, ledger: Ledger, pages: Pages, keep_page: Callable[[str, Page], None]) -> None:
    page = result.page
    if page is None:
        assert result.row.problem is not None
        ledger.quarantine("documents", result.row, result.row.problem)
        return
    page_id = page.address or short_hash(page.text)
    named = (page_id, page.address, result.own_address)
    if result.left_out:
        ledger.note(result.left_out)
        ledger.duplicate("documents")
        return
    first = pages.id_of(page_id)
    if first is None and (first := pages.near(result.signature)) is not None:
        ledger.note(NEAR)
    if first is not None:
        pages.name(named, first)
        ledger.duplicate("documents")
        return
    pages.name(named, page_id)
    pages.keep(page_id, result.signature)
    ledger.kept("documents")
    keep_page(page_id, page)


def _answers(file: str) -> Iterator[Answer]:
    """The pages of one file: an archive has many, any other file is one, and one bad row where it cannot be read."""
    with _archive(file) as stream:
        if stream is not None:
            with places.sentences(places.shown_address(file), file):
                yield from archives.answers(stream, LARGEST_HTML)
            return
    html, problem = b"", None
    try:
        with places.open_binary(file) as unpacked, places.sentences(places.shown_address(file), file):
            html = unpacked.read(LARGEST_HTML + 1)
        if len(html) > LARGEST_HTML:
            problem = too_long(LARGEST_HTML, "a page of ")
    except InputError as error:
        problem = BadRow("no page", str(error))
    address = file if file.startswith(("http://", "https://")) else ""
    yield Answer(1, address, None, html, html[:SHOWN].decode("utf-8", "replace"), problem)


@contextlib.contextmanager
def _archive(file: str) -> Iterator[IO[bytes] | None]:
    """An archive as `archives` reads it: as it lies, or unpacked where zstandard packed it; None of any other file.

    Raises:
        InputError: it cannot be opened, or is an archive by its name that zstandard cannot unpack.
    """
    shown = places.shown_address(file)
    with places.open_packed(file) as stream:
        head = stream.peek(1 << 16)
        if archives.needs_dictionary(head):
            raise InputError(
                f"{shown} is packed by zstandard with a dictionary within, which is not read: unpack it with the tool "
                "that wrote it, and name the unpacked file"
            )
        if not places.is_zstandard(head):
            yield stream if archives.is_archive(archives.unpacked(head)) else None
            return
    with places.open_binary(file, ahead=False) as unpacked:
        try:
            with places.sentences(shown, file):
                found = archives.is_archive(cast(io.BufferedReader, unpacked).peek(1 << 16))
        except InputError:
            if places.name_of(file).lower().endswith(ARCHIVES):
                raise
            found = False  # a damaged page is one bad row
        yield unpacked if found else None


def _pieces(every: Iterable[tuple[str, Answer]]) -> Iterator[list[tuple[str, Answer]]]:
    """Some pages at a time, by a rule that knows no workers."""
    size, piece = 0, []
    for page in every:
        piece.append(page)
        size += len(page[1].html)
        if len(piece) == _PIECE_PAGES or size >= _PIECE_BYTES:
            yield piece
            size, piece = 0, []
    if piece:
        yield piece

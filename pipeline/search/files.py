"""The documents of a folder, however many files it holds, or of one file that is not a table."""

import datetime
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import InputError, one_line
from pipeline.ingest import places, tables
from pipeline.ingest.rows import BadRow, Row, one_form
from pipeline.search import file_formats
from pipeline.search.documents import FIELD_NAME, Document, Documents, written
from pipeline.search.file_formats import FORMATS, MAX_PACKED_BYTES, MAX_TEXT_BYTES, PACKED

NOT_ENTERED = {"node_modules", "__pycache__", "site-packages", "venv"}  # and folders whose name begins with a dot
INDEX = ("index.json", "segments")  # what a folder that is an index holds
NAMES_SHOWN = 6
MAX_TITLE = 1_000  # characters
UNREADABLE = "unreadable"  # a kind of bad row: the system does not give the file, or the folder
READ_NAMES = ".txt, .md, .html, .pdf, .docx, code"


class Entry(NamedTuple):
    """A file below a folder, or what cannot be looked at."""

    path: Path
    name: str  # from the folder
    problem: BadRow | None = None  # of a folder: neither it nor what lies below it is known


class Files(Documents):
    """The files below a folder as documents: the path is the id, a heading or the file's name the title.

    Front matter, and what pages and PDFs say of themselves, are further fields, beside `path`, `format` and `date`
    (the file's own where nothing else tells one). Links to folders are not followed. Files are read once: what they
    hold is kept in `scratch` for the next time.

    Args:
        path: a folder, or one file.
        encoding: of texts that are not UTF-8.

    Attributes:
        left_out: how many files of each ending are of no format that is read.

    Raises:
        InputError: a package for one of the formats is not installed, or (while iterating) nothing is there to read.
    """

    what = "files"

    def __init__(self, path: Path, quarantine: Path, scratch: Path, encoding: str | None = None) -> None:
        super().__init__(quarantine, scratch)
        file_formats.check_encoding(encoding)
        self._path, self._encoding = path, encoding
        self._kept, self._unread = scratch / "documents.jsonl", scratch / "unread.jsonl"
        self.left_out: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Document]:
        if self._kept.exists():
            with self._kept.open(encoding="utf-8") as file:
                yield from (Document(*json.loads(line)) for line in file)
            return
        partial = self._kept.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            for document in super().__iter__():
                file.write(json.dumps(document) + "\n")
                yield document
        partial.rename(self._kept)
        if not self.counts["read"]:
            raise InputError(f"{self._path} holds no file to read ({READ_NAMES}){self._rest()}")

    def _rest(self) -> str:
        return f"; left out: {self.told_left_out()}" if self.left_out else ": it is empty"

    def told_left_out(self) -> str:
        """As "12 .png, 3 .zip"."""
        endings = self.left_out.most_common(NAMES_SHOWN)
        return ", ".join(f"{count:,} {ending}" for ending, count in endings) + (
            " …" if len(self.left_out) > NAMES_SHOWN else ""
        )

    def found(self) -> Iterator[tuple[Row, Document | BadRow]]:
        self.left_out.clear()
        self._unread.unlink(missing_ok=True)
        for entry in [Entry(self._path, self._path.name)] if self._path.is_file() else walk(self._path):
            if entry.problem is None and file_formats.format_of(entry.path.name) is None:
                self.left_out[entry.path.suffix.lower() or entry.path.name] += 1
                continue
            yield self._one(entry)

    def _one(self, entry: Entry) -> tuple[Row, Document | BadRow]:
        safe = entry.name.encode("utf-8", "backslashreplace").decode("utf-8")
        row = Row(safe, 0, {}, safe)
        try:
            if entry.problem is not None:
                raise entry.problem
            return row, self._document(entry.path, one_form(safe))
        except BadRow as problem:
            if problem.kind == UNREADABLE:
                with self._unread.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(safe) + "\n")
            return row, problem

    def unread(self) -> Iterator[str]:
        if self._unread.exists():
            with self._unread.open(encoding="utf-8") as file:
                for name in map(json.loads, file):  # blanks before a slash are in ids, blanks at the end are not
                    yield from dict.fromkeys([one_form(name), one_form(f"{name}/")[:-1]])

    def _document(self, path: Path, name: str) -> Document:
        ending = file_formats.format_of(path.name) or "txt"
        kind = FORMATS[ending][0]
        data, changed = _bytes(path, MAX_PACKED_BYTES if kind in PACKED else MAX_TEXT_BYTES)
        content = file_formats.read(ending, data, self._encoding)
        fields = {field: value for field, value in _named(content.fields).items() if _is_kept(field, value)}
        fields = {"date": changed, **fields, "path": name, "format": kind}
        plain = path.name.removesuffix(".gz")
        title = content.title or (name if kind == "code" else plain.rpartition(".")[0] or plain)
        return Document(name, title[:MAX_TITLE], content.text, written(fields))


def _named(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields under the names that are searched for: small letters; `lang` and `authors` under their usual names."""
    usual = {"lang": "language", "authors": "author", "link": "url"}
    lowered = {str(name).lower().replace("-", "_"): value for name, value in fields.items()}
    return {usual.get(name, name): value for name, value in lowered.items()}


def _is_kept(field: str, value: Any) -> bool:
    return bool(FIELD_NAME.fullmatch(field)) and field not in ("id", "title", "text") and value not in (None, "")


def walk(folder: Path) -> Iterator[Entry]:
    """Each file below a folder, as the system lists them; never more than a folder's names.

    Raises:
        InputError: the folder itself cannot be listed; one below it is an entry with a problem.
    """
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = Path(entry.path)
                    name = path.relative_to(folder).as_posix()
                    try:
                        is_file, enter = entry.is_file(), entry.is_dir(follow_symlinks=False) and _is_entered(path)
                    except OSError as error:  # of this entry alone: the folder's other ones are read
                        yield Entry(path, name, _unreadable(error))
                        continue
                    if enter:
                        folders.append(path)
                    elif is_file:
                        yield Entry(path, name)
        except OSError as error:
            if here == folder:
                raise InputError(f"{folder} cannot be read ({error.strerror}): check its rights") from None
            yield Entry(here, here.relative_to(folder).as_posix(), _unreadable(error))


def _is_entered(folder: Path) -> bool:
    """Whether a folder's files are documents: not those of a package's, nor of an index."""
    return folder.name not in NOT_ENTERED and not all((folder / name).exists() for name in INDEX)


def _unreadable(error: Exception) -> BadRow:
    return BadRow(UNREADABLE, getattr(error, "strerror", None) or one_line(error, 100))


def _bytes(path: Path, limit: int) -> tuple[bytes, str]:
    """A file's bytes, unpacked where it is packed, and the day on which it changed. Raises BadRow."""
    too_long = BadRow("too long", f"more than {limit >> 20} MiB: cut it into several files")
    try:
        about = path.stat()
        if about.st_size > limit:
            raise too_long
        with places.open_binary(str(path)) as file:
            data = file.read(limit + 1)
    except InputError as error:
        raise BadRow(UNREADABLE, one_line(error, 150)) from None
    except (OSError, EOFError) as error:
        raise _unreadable(error) from None
    if len(data) > limit:
        raise too_long
    return data, datetime.date.fromtimestamp(about.st_mtime).isoformat()


def is_for_files(address: str) -> bool:
    """Whether it names a folder or a file that is not a table. Raises InputError for an unknown ending."""
    if places.is_remote(address) or tables.format_of(address) is not None:
        return False
    if (path := Path(address).expanduser()).is_dir():
        return True
    if file_formats.format_of(path.name) is not None and path.is_file():
        return True
    places.local_path(address)  # raises where there is nothing
    raise InputError(
        f"--documents {address}: its ending is none that is read: a table ({', '.join(tables.ENDINGS)}, maybe .gz or "
        f".zst), a document ({READ_NAMES}), or a folder of documents"
    )

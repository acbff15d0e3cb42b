"""What a reader yields, and how one raw field becomes clean text, an id, a relevance or metadata.

What is done to text, whatever the format: line ends become LF; U+FEFF (byte order mark) and white space are stripped
from the ends; control characters other than tab and newline become a blank (removing them would glue words together).
A NUL means binary data or a wrong encoding, and a lone surrogate cannot be written as UTF-8: both make the row bad.

What is not text, whatever the format: NaN and infinite numbers are missing; a whole number is written without a point
(Parquet has a column of whole numbers with gaps as floats); true and false are "true" and "false". Ids, labels and tags
are brought to one Unicode form (NFC), so that two spellings of one name are one.
"""

import datetime
import decimal
import difflib
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.config.sources import Column
from pipeline.core.errors import InputError

SHOWN = 200  # characters of a bad row that are kept
TWO_TEXTS = "id used with two texts"  # a kind of bad row
LARGEST_RELEVANCE = 3.4028234663852886e38  # of float32, in which it is stored
_SINGLE = str | int | float | decimal.Decimal  # what one text can be made of
_BOOLEANS = {"true": 1.0, "false": 0.0}
SURROGATE = re.compile("[\ud800-\udfff]")
# str.strip's white space and the byte order mark, stripped at once: marks and blanks may alternate a million times
ENDS = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "\ufeff"
_CONTROLS = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\0"}


class BadRow(Exception):
    """A row that goes to the quarantine: `kind` is what it is counted under, `detail` is for the person who looks."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


def too_long(limit_bytes: int, what: str = "") -> BadRow:
    """What is wrong with a row that is over the limit."""
    return BadRow("too long", f"{what}more than {limit_bytes // 1024:,} KiB (in ingest: ingest.max_row_kb)")


class Row(NamedTuple):
    """One row as a reader found it; of the fields only those that were asked for."""

    source: str  # the file's name, without folders
    number: int  # from 1: the line a row begins on (the header counts), or the row of a Parquet file
    values: Mapping[Column, Any]
    shown: str  # the row, shortened
    problem: BadRow | None = None  # why `values` could not be read

    def checked(self) -> Mapping[Column, Any]:
        """The values. Raises BadRow where they could not be read."""
        if self.problem:
            raise self.problem
        return self.values


def as_text(values: Mapping[Column, Any], column: Column, required: bool = True) -> str:
    """The clean text of a field; "" if it is absent or empty and not required.

    Raises:
        BadRow: it is missing, empty, no text or number, or holds a NUL or a lone surrogate.
    """
    value = values.get(column)
    if type(value) is str and (text := clean(value, column)):
        return text
    if is_missing(value):
        if not required:
            return ""
        raise BadRow("missing field", f"no {column!r}")
    text = clean(_written(value, column), column)
    if required and not text:
        raise BadRow("empty text", f"{column!r} is empty")
    return text


def as_verbatim(values: Mapping[Column, Any], column: Column) -> str:
    """A text as it is, blanks at its ends included, with line ends as LF.

    Raises:
        BadRow: it is missing, empty, no text, or holds a NUL or a lone surrogate.
    """
    text = values.get(column)
    if not isinstance(text, str) or not text:
        raise BadRow("missing field", f"no {column!r}")
    clean(text, column)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def clean(text: str, column: Column) -> str:
    """The text as the module's docstring says; it may come out empty.

    >>> clean("\\ufeff one\\x0ctwo\\r\\n", "query")
    'one two'
    """
    if text.isprintable():  # most are: no control character, surrogate or mark is
        return text.strip(ENDS)
    if "\0" in text:
        raise BadRow("NUL character", f"{column!r} is binary or of another encoding")
    if SURROGATE.search(text):
        raise BadRow("lone surrogate", f"{column!r} cannot be written as UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
    return text.strip(ENDS)


def is_missing(value: Any) -> bool:
    """Whether a field has no value: null, NaN (as pandas writes null) or an infinite number."""
    return value is None or (isinstance(value, float | decimal.Decimal) and not math.isfinite(value))


def without_nan(value: Any) -> Any:
    """The value with None for numbers that are none, within lists and objects too.

    >>> without_nan({"a": [1.5, float("nan")]})
    {'a': [1.5, None]}
    """
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if is_missing(value) else value


def _written(value: Any, column: Column) -> str:
    """A value as text. Raises BadRow for a list, an object, or what else is not one text.

    >>> [_written(value, "label") for value in (1.0, 0.5, True, 7, "x")]
    ['1', '0.5', 'true', '7', 'x']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if not isinstance(value, _SINGLE):
        raise BadRow("no text", f"{column!r} is of type {type(value).__name__}")
    try:
        return str(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        raise BadRow("no text", f"{column!r} is a number of too many digits") from None


def one_form(text: str) -> str:
    """An id, a label or a name in the form by which it is compared: on one line, without blanks at its ends, NFC."""
    text = " ".join(text.split())
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def as_id(values: Mapping[Column, Any], column: Column) -> str:
    """A given id or label: clean text in one form. Raises BadRow as `as_text` does."""
    return one_form(as_text(values, column))


def _grade_form(label: str) -> str:
    """A grade's label as it is compared where its spelling differs: True is true, 1.0 is 1, é is one character.

    >>> [_grade_form(label) for label in ("True", "1.0", "-2", "1.5", "Good")]
    ['true', '1', '-2', '1.5', 'Good']
    """
    label = one_form(label)
    if label.lower() in _BOOLEANS:
        return label.lower()
    return label.partition(".")[0] if re.fullmatch(r"-?[0-9]+\.0+", label) else label


def as_relevance(values: Mapping[Column, Any], column: Column, grades: Mapping[str, float]) -> float:
    """The label's relevance, through `grades` if there are any; without them true is 1 and false is 0.

    Raises:
        BadRow: missing, empty, not among the grades, or no finite number that float32 can hold.
    """
    value = values.get(column)
    if value is not None and (is_missing(value) or not isinstance(value, _SINGLE)):
        raise BadRow("relevance", f"{str(value)[:40]!r} is not {'finite' if is_missing(value) else 'a number'}")
    label = as_id(values, column)
    if grades:
        by_label = {_grade_form(name): grade for name, grade in grades.items()} | dict(grades)
        grade = by_label.get(label, by_label.get(_grade_form(label)))
        if grade is None:
            raise BadRow("relevance", f"{label[:40]!r} is not among the grades {', '.join(grades)}")
        number = grade
    elif label.lower() in _BOOLEANS:
        number = _BOOLEANS[label.lower()]
    else:
        try:
            number = float(label.replace("_", "x"))  # Python reads 1_0 as 10, nobody else does
        except ValueError:
            raise BadRow(
                "relevance",
                f"{label[:40]!r} is not a number; ingest.source.grades gives each label its relevance: "
                "{yes: 1, no: 0}",
            ) from None
    if not abs(number) <= LARGEST_RELEVANCE:  # NaN compares false
        raise BadRow("relevance", f"{label[:40]!r} is not finite")
    return number


def as_metadata(values: Mapping[Column, Any], columns: Iterable[Column]) -> str:
    """The named fields as a JSON object; absent ones are left out.

    Raises:
        BadRow: a value that JSON or UTF-8 cannot hold.
    """
    fields = {str(column): values[column] for column in columns if values.get(column) is not None}
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = clean(value, name)
        elif isinstance(value, float) and not math.isfinite(value):
            fields[name] = None  # how pandas writes a missing value
    try:
        text = json.dumps(fields, ensure_ascii=False, sort_keys=True, allow_nan=False, default=_plain)
        text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRow("metadata", f"cannot be written as JSON ({str(error)[:80]})") from None
    return text


def _plain(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def with_title(title: str, body: str) -> str:
    """A document's whole text: its title, a line's end, its body."""
    return f"{title}\n{body}" if title and body else title or body


def without_title(title: str, text: str) -> str:
    """The text without its title, if it starts with it (as Cranfield's do), whatever the white space.

    >>> without_title("a wing", "A  wing\\nin a slipstream")
    'in a slipstream'
    """
    words = title.casefold().split()
    pieces = text.split(maxsplit=len(words))
    if words and [piece.casefold() for piece in pieces[: len(words)]] == words:
        return pieces[len(words)] if len(pieces) > len(words) else ""
    return text


def short_hash(*texts: str) -> str:
    """20 hex digits of sha256: an id for a text; two of 10^9 texts share one with a chance below 10^-6."""
    return hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()[:20]


def shorten(row: Any) -> str:
    """The first characters of a row, safe to print and to write as UTF-8."""
    text = (row if isinstance(row, str) else str(row))[:SHOWN]
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_columns(address: str, wanted: Iterable[Column], columns: Iterable[str]) -> None:
    """Raises InputError, with the nearest name, if a wanted column is not among a table's, or not the only one."""
    names = list(columns)
    for column in wanted:
        if isinstance(column, str) and column not in names:
            near = difflib.get_close_matches(column.lower(), [name.lower() for name in names], 1, 0.4)
            nearest = [name for name in names if near and name.lower() == near[0]]
            listed = shorten(", ".join(map(repr, names))) or "none"
            raise InputError(
                f"{address} has no column {column!r}; columns found: {listed}"
                + (f"; nearest name: {nearest[0]!r}" if nearest else "")
            )
        if isinstance(column, str) and names.count(column) > 1:
            raise InputError(f"{address} has {names.count(column)} columns named {column!r}; rename all but one")
        if isinstance(column, int) and not 0 <= column < len(names):
            raise InputError(
                f"{address} has no column at position {column}: it has {len(names)}, counted from 0 ({shorten(names)})"
            )

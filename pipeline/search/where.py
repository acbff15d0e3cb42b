"""Filters on documents' fields: `lang=zh and date>=2024`.

    filter      = comparison { "and" comparison }
    comparison  = field ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value

A value with blanks or quotes, or a sign at its start, stands in quotes. `~`: the field contains the value. Letters'
case makes no difference. A date is compared as far as the value goes: date=2024 are all days of 2024, and date<=2024-03
goes to the end of March.
"""

import operator
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.errors import InputError, guess
from pipeline.search.index_store import Snapshot

MAX_CHARACTERS = 500
ALIASES = {"lang": "language"}
MAX_CHOICES = 8  # values of a field that the page offers
MAX_COUNTED = 200_000  # documents that are looked through for them
OFFERED_SHARE = 0.1  # of the documents have a field that is offered at least
_COMPARISON = re.compile(
    r"""\s*([A-Za-z][A-Za-z0-9_]*)\s*(!=|<=|>=|==|=|<|>|~)\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>~][^\s"']*))\s*(?:(and)\b|$)""",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "~": lambda value, wanted: str(wanted) in str(value),
}  # fmt: skip
EXAMPLE = (
    "write such as 'language=en and date>=2024'; a value that holds blanks or begins with = < > ~ stands in quotes"
)


class Comparison(NamedTuple):
    field: str
    sign: str
    value: str

    def holds(self, value: Any) -> bool:
        """Whether a document's value, None where it has none, is as asked; what is not there is unequal to all."""
        if value is None:
            return self.sign == "!="
        if isinstance(value, bool):
            value = str(value)
        if (
            self.sign != "~"
            and (number := _number(self.value)) is not None
            and (own_number := _number(value)) is not None
        ):
            return _SIGNS[self.sign](own_number, number)
        text, wanted = str(value).lower(), self.value.lower()
        if self.sign != "~" and _DATE.fullmatch(wanted) and _DATE.match(text):
            text = text[: len(wanted)]
        return _SIGNS[self.sign](text, wanted)


def _number(value: Any) -> float | None:
    try:
        return float(value) if not isinstance(value, str) or re.fullmatch(r"[-+]?\d+(\.\d+)?", value) else None
    except OverflowError:
        return None


def parse(text: str) -> list[Comparison]:
    """The comparisons of a filter. Raises InputError.

    >>> parse('lang=zh and date >= 2024 and title~"two words"')[1:]
    [Comparison(field='date', sign='>=', value='2024'), Comparison(field='title', sign='~', value='two words')]
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"the filter is too long: at most {MAX_CHARACTERS:,} characters")
    comparisons, at, more = [], 0, True
    while more:
        match = _COMPARISON.match(text, at)
        if match is None:
            raise InputError(f"the filter {text[:80]!r} cannot be read at {text[at:].strip()[:40]!r}: {EXAMPLE}")
        name = match[1].lower()
        value = next(part for part in (match[3], match[4], match[5]) if part is not None)
        comparisons.append(Comparison(ALIASES.get(name, name), match[2], value))
        at, more = match.end(), match[6] is not None
    return comparisons


class Fields:
    """What the documents of a snapshot have as fields, read when it is first asked for. Threads may share it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._columns: dict[str, dict[int, Any]] | None = None

    @property
    def _read(self) -> dict[str, dict[int, Any]]:
        """By field, each document's value by its row, of those that are alive and have one."""
        if self._columns is None:
            columns: dict[str, dict[int, Any]] = {}
            for segment, start in zip(self._snapshot.segments, self._snapshot.document_starts.tolist()):
                alive = self._snapshot.alive[start : start + len(segment.table)]
                for row in np.flatnonzero(alive).tolist():
                    for name, value in segment.fields(row).items():
                        columns.setdefault(name, {})[start + row] = value
                segment.release()
            self._columns = columns
        return self._columns

    def documents(self, where: str) -> np.ndarray:
        """(D,) bool: the documents that a filter lets through. Raises InputError: unreadable, or an unknown field."""
        passing = self._snapshot.alive.copy()
        for comparison in parse(where):
            values = self._values(comparison.field)
            if comparison.sign == "!=":
                passing[[row for row, value in values.items() if not comparison.holds(value)]] = False
            else:
                allowed = np.zeros(len(passing), bool)
                allowed[[row for row, value in values.items() if comparison.holds(value)]] = True
                passing &= allowed
        return passing

    def _values(self, field: str) -> dict[int, Any]:
        if field not in self._read:
            told = ", ".join(sorted(self._read)) or "none but id, title and text"
            raise InputError(f"no document has a field {field!r}{guess(field, self._read, 0.6)} ({told})")
        return self._read[field]

    def choices(self) -> dict[str, list[tuple[str, int]]]:
        """Fields of a few values, each with how many documents have it: what the page offers to choose.

        Fields that most documents have stand first; those that few have would stand in the way.
        """
        documents = int(self._snapshot.alive.sum())
        if documents > MAX_COUNTED:
            return {}
        choices = {}
        for name, values in sorted(self._read.items(), key=lambda column: (-len(column[1]), column[0])):
            if name in ("url", "path") or len(values) < OFFERED_SHARE * documents:
                continue
            if name == "date":
                counts = Counter(str(value)[:4] for value in values.values())
            else:
                counts = Counter(map(str, values.values()))
            if 1 < len(counts) <= (10 * MAX_CHOICES if name == "date" else MAX_CHOICES):
                best = counts.most_common(MAX_CHOICES)
                choices[name] = sorted(best, reverse=True) if name == "date" else best
        return choices

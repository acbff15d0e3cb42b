"""What a table of a person's own holds: its columns with examples, and the task that they are for."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import InputError

ROWS = 500  # looked at
MAX_ROW_BYTES = 8 << 20
MAX_LABELS = 50
ALIKE = 1.5  # times as many letters: two texts about as long
# Labels in words that people give pairs.
GRADES = {"yes": 1, "no": 0, "relevant": 1, "irrelevant": 0, "not relevant": 0, "good": 1, "bad": 0, "match": 1,
          "no match": 0, "positive": 1, "negative": 0}  # fmt: skip


class Column(NamedTuple):
    name: str
    examples: list[str]
    letters: float  # a value's, on average
    values: int  # different ones among the rows looked at
    filled: int  # rows that have one

    @property
    def is_label(self) -> bool:
        """Few values, each of several rows."""
        return 1 < self.values <= MAX_LABELS and self.values * 3 <= self.filled and self.letters <= 40


class Table(NamedTuple):
    address: str
    form: str
    how: dict[str, str]  # encoding and delimiter, where they are not the format's own
    columns: list[Column]
    rows: int  # looked at
    labels: dict[str, list[str]]  # of each column that is a label


def tasks() -> list[str]:
    """Those that a table may be for."""
    from pipeline.config import task_specs

    return [name for name, spec in task_specs().items() if spec.columns]


def look(address: str, scratch: Path) -> Table:
    """Reads the first rows of a table. Raises InputError where it cannot be read or holds none."""
    from pipeline.ingest import tables
    from pipeline.ingest.rows import is_missing

    form = tables.format_of(address)
    if form is None:
        raise InputError(f"{address} is not a table: its name must end in one of {', '.join(tables.ENDINGS)}")
    how = _how(address, form)
    source = tables.source_of(address, form, how)
    names = tables.columns(source, address, MAX_ROW_BYTES, scratch)
    values: dict[str, list[str]] = {name: [] for name in names}
    rows = 0
    for row in tables.read(source, address, None, MAX_ROW_BYTES, scratch):
        if row.problem is not None:
            continue
        for name in names:
            if not is_missing(value := row.values.get(name)) and (text := " ".join(str(value).split())):
                values[name].append(text)
        rows += 1
        if rows == ROWS:
            break
    if not rows or not any(values.values()):
        raise InputError(f"{address} holds no row that can be read")
    columns = [Column(name, list(dict.fromkeys(texts))[:2], sum(map(len, texts)) / max(1, len(texts)),
                      len({*texts}), len(texts)) for name, texts in values.items()]  # fmt: skip
    labels = {column.name: [label for label, _ in Counter(values[column.name]).most_common()]
              for column in columns if column.is_label}  # fmt: skip
    return Table(address, form, how, columns, rows, labels)


def _how(address: str, form: str) -> dict[str, str]:
    """Of a text file whose first bytes are not UTF-8 the encoding cp1252; of a CSV with more `;` than `,` that."""
    if form == "parquet":
        return {}
    from pipeline.ingest import places

    with places.open_binary(address) as file:
        head = file.read(1 << 16)
    how = {}
    if not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            head[: head.rfind(b"\n") + 1].decode("utf-8")
        except UnicodeDecodeError:
            how["encoding"] = "cp1252"
    first = head.partition(b"\n")[0]
    if form == "csv" and first.count(b";") > first.count(b","):
        how["delimiter"] = ";"
    return how


def task_of(table: Table) -> str | None:
    """matching, classification or translation; None: neither two texts nor a text and a label."""
    texts = [column for column in table.columns if not column.is_label and column.letters > 8]
    named = {column.name.lower() for column in table.columns}
    if {"source", "target"} <= named or {"src", "tgt"} <= named:
        return "translation"
    if len(_longest(texts, table)) >= 2:
        return "matching"
    return "classification" if texts and table.labels else None


def _is_id(columns: Sequence[Column]) -> bool:
    return any(re.search(r"(^|_)(id|key|url|path|date)s?$", column.name.lower()) for column in columns)


def _longest(columns: Sequence[Column], table: Table) -> list[Column]:
    """The columns of texts, longest first; those of ids and addresses are none."""
    text_columns = [column for column in columns if not _is_id([column]) and column.name not in table.labels]
    return sorted(text_columns, key=lambda column: -column.letters)


def columns_for(task: str, table: Table, own_columns: Mapping[str, str]) -> dict[str, str]:
    """A column for each field of a task: as given, else by names, else by what the columns hold.

    Raises:
        InputError: a given field or column is none, or a field has no column.
    """
    from pipeline.config import task_spec

    spec, names = task_spec(task), [column.name for column in table.columns]
    for field, name in own_columns.items():
        if field not in spec.columns or name not in names:
            wrong = f"field {field!r} (there are {', '.join(spec.columns)})" if field not in spec.columns else (
                f"column {name!r} (there are {', '.join(names)})")  # fmt: skip
            raise InputError(f"--columns {field}={name}: there is no {wrong}")
    columns, lowered = dict(own_columns), {name.lower(): name for name in names}
    free = lambda: [name for name in names if name not in columns.values()]
    labels = [field for field in spec.columns if field not in spec.fields or spec.fields[field].names]
    for field, known in spec.columns.items():
        likely = next((lowered[name] for name in known if name in lowered and lowered[name] in free()), None)
        if field not in columns and likely is not None and (field not in labels or likely in table.labels):
            columns[field] = likely
    longest = _longest(table.columns, table)
    if len(longest) > 1 and longest[0].letters < ALIKE * longest[1].letters:  # about as long: the query stands first
        longest[:2] = sorted(longest[:2], key=lambda column: -names.index(column.name))
    texts = [column.name for column in longest]
    for field in reversed([field for field in spec.columns if field not in labels]):
        left = [name for name in texts if name in free()]
        if field not in columns and left:
            columns[field] = left[0]
    for field in labels:
        left = [name for name in table.labels if name in free()]
        if field not in columns and left:
            columns[field] = left[-1]
    missing = [field for field in spec.columns if field not in columns and field in spec.fields]
    if missing:
        raise InputError(
            f"{table.address} has no column for {' and '.join(missing)} of the task {task}; columns found: "
            f"{', '.join(names)}; name one with --columns {missing[0]}=COLUMN"
        )
    return {field: columns[field] for field in spec.columns if field in columns}


def grades_for(labels: Sequence[str]) -> dict[str, Any] | None:
    """The relevance of each label in words; {} where labels are numbers, None where a label is not known.

    >>> grades_for(["1", "0.5"]), grades_for(["No", "yes"]), grades_for(["maybe", "yes"])
    ({}, {'No': 0, 'yes': 1}, None)
    """
    numbers = re.compile(r"[-+]?\d+(\.\d+)?|true|false", re.IGNORECASE)
    if all(numbers.fullmatch(label) for label in labels):
        return {}
    if all(label.lower() in GRADES for label in labels):
        return {label: GRADES[label.lower()] for label in labels}
    return None

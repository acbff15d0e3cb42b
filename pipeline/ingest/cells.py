"""Rows of a table column by column: most rows have nothing odd, and are read together at a fraction of the cost."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.config import task_spec
from pipeline.config.sources import Column
from pipeline.ingest.pairs import Reading
from pipeline.ingest.rows import ENDS, BadRow, Row, one_form, short_hash, shorten


class Cells(NamedTuple):
    """Some rows that follow each other."""

    source: str  # the file's name
    numbers: Sequence[int]  # of each row's line
    lines: Sequence[str]  # each row as it stands there
    values: Mapping[Column, Sequence[str]]  # of each column that is wanted, each row's
    odd: Mapping[int, Row]  # by their place, rows that cannot be read so; their values are empty

    def row(self, place: int) -> Row:
        """One of them by itself."""
        if (row := self.odd.get(place)) is not None:
            return row._replace(source=self.source)
        values = {column: values[place] for column, values in self.values.items()}
        return Row(self.source, self.numbers[place], values, shorten(self.lines[place]))


class Together:
    """Makes records of many rows at once, as `Reading` makes each."""

    def __init__(self, columns: Any, task: str, reading: Reading) -> None:
        self._columns, self._task, self._reading = columns, task, reading
        self._fields = [
            (getattr(columns, name), form, getattr(columns, f"{name}_id", None))
            for name, form in task_spec(task).fields.items()
        ]
        self.possible = not (
            columns.group or columns.metadata or columns.negative is not None or task_spec(task).check_record
            or any(form.verbatim for _, form, _ in self._fields)
        )  # fmt: skip

    def columns(self, cells: Cells) -> tuple[list[list[Any]], set[int]]:
        """The columns of `Record.row`, and the places of rows that `Reading` must look at by themselves."""
        odd = set(cells.odd)
        columns: list[list[Any]] = []
        for column, form, named in self._fields:
            texts = self._names(cells, column, form, odd) if form.names else _texts(cells.values[column], odd)
            keys = list(map(short_hash, texts)) if named is None else self._ids(cells, named, odd)
            columns += [keys, texts]
        first, *more = columns[::2]
        if self._columns.id is not None:
            ids = self._ids(cells, self._columns.id, odd)
        else:
            ids = list(map(short_hash, first, *more)) if more else first
        return [ids, *columns, self._relevance(cells, odd), ["{}"] * len(ids)], odd

    def _ids(self, cells: Cells, column: Column, odd: set[int]) -> list[str]:
        return list(map(one_form, _texts(cells.values[column], odd)))

    def _names(self, cells: Cells, column: Column, form: Any, odd: set[int]) -> list[str]:
        """Labels: each spelling is looked at once."""
        given = cells.values[column]
        known = {}
        for text in set(given):
            try:
                known[text] = self._reading.text({column: text}, column, form)
            except BadRow:
                odd.update(place for place, other in enumerate(given) if other == text)
                known[text] = ""
        return [known[text] for text in given]

    def _relevance(self, cells: Cells, odd: set[int]) -> list[float]:
        if self._columns.relevance is None:
            return [1.0] * len(cells.lines)
        given = cells.values[self._columns.relevance]
        known = {}
        for text in set(given):
            try:
                known[text] = self._reading.relevance({self._columns.relevance: text})
            except BadRow:
                odd.update(place for place, other in enumerate(given) if other == text)
                known[text] = 0.0
        return [known[text] for text in given]


def _texts(given: Sequence[str], odd: set[int]) -> list[str]:
    """As `rows.clean`; what it would change within a text, or refuse, is odd."""
    if not "".join(given).isprintable():
        odd.update(place for place, text in enumerate(given) if not text.isprintable())
        given = ["" if place in odd else text for place, text in enumerate(given)]
    texts = [text.strip(ENDS) for text in given]
    if not all(texts):
        odd.update(place for place, text in enumerate(texts) if not text)
    return texts

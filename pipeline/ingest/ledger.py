"""The books of an ingest: every row read is kept, a duplicate, or in the quarantine with its reason."""

import collections
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.core.errors import InputError
from pipeline.ingest.rows import BadRow, Row

_SHOW_FIRST = 5
_HOPELESS = 100_000  # so many bad rows, more than half of all: no need to read on and fill the disk


def is_hopeless(bad: int, read: int) -> bool:
    """Whether there are too many bad rows, among those read, to read on."""
    return bad >= _HOPELESS and read < 2 * bad


class Ledger:
    """Counts by kind of row (records, documents, queries) and writes `quarantine.jsonl` into `folder`."""

    def __init__(self, folder: Path, kinds: tuple[str, ...], max_quarantined_share: float) -> None:
        self._counts = {kind: dict.fromkeys(("read", "kept", "quarantined", "duplicates"), 0) for kind in kinds}
        self._reasons: collections.Counter[str] = collections.Counter()
        self._first: dict[str, list[str]] = {kind: [] for kind in kinds}
        # what a record's row is called: of a collection it is a judgement
        self._names = {"records": "judgements" if len(kinds) > 1 else "rows"}
        self._notes: collections.Counter[str] = collections.Counter()
        self._path = folder / "quarantine.jsonl"
        self._max_share = max_quarantined_share
        self._splits: collections.Counter[str] = collections.Counter()  # records kept, by split

    def __enter__(self) -> "Ledger":
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def trial(self, folder: Path) -> "Ledger":
        """An empty book by the same rules."""
        return Ledger(folder, tuple(self._counts), self._max_share)

    def kept(self, kind: str, times: int = 1) -> None:
        self._count(kind, "kept", times)

    def keep_record(self, split: str) -> None:
        self._splits[split] += 1
        self.kept("records")

    def in_split(self, split: str, times: int) -> None:
        """Books the split of records that were counted as kept."""
        self._splits[split] += times

    def copied(self, kind: str, times: int) -> None:
        """So many of the rows that were counted as kept are duplicates."""
        self._counts[kind]["kept"] -= times
        self._counts[kind]["duplicates"] += times

    def duplicate(self, kind: str) -> None:
        self._count(kind, "duplicates")

    def quarantine(self, kind: str, row: Row, problem: BadRow) -> None:
        """Puts a row aside. Raises InputError when far too many are bad already."""
        self._count(kind, "quarantined")
        self._reasons[problem.kind] += 1
        entry = {"source": row.source, "row": row.number, "reason": str(problem), "copy": row.shown}
        # a key of the row may stand in the reason: let nothing in it break the encoding
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
        self._file.write(line + "\n")
        if len(self._first[kind]) < _SHOW_FIRST:
            self._first[kind].append(f"{row.source}:{row.number}: {problem}")
        if self._total("quarantined") == _HOPELESS and is_hopeless(_HOPELESS, self._total("read")):
            self.check()

    def total_read(self) -> int:
        return self._total("read")

    def check(self) -> None:
        """Raises InputError, with the first bad rows, if their share of the rows of their kind is over the limit."""
        for kind, counts in reversed(self._counts.items()):  # the records come last: they rest on the other kinds
            bad, read = counts["quarantined"], counts["read"]
            if bad > self._max_share * read:
                raise InputError(
                    f"{bad:,} of {read:,} {self._names.get(kind, kind)} are bad ({bad / read:.1%}), more than "
                    f"ingest.max_quarantined_share={self._max_share:g}; the first: {'; '.join(self._first[kind])}"
                )

    def note(self, what: str, times: int = 1) -> None:
        """Counts something that a person should know of and that is no fault of a row."""
        if times:
            self._notes[what] += times

    def counts(self, splits: tuple[str, ...]) -> dict[str, Any]:
        """For the manifest; a split without records is listed under `warnings`, what else to know under `notes`."""
        counts: dict[str, Any] = {kind: dict(values) for kind, values in self._counts.items()}
        counts["records"]["splits"] = {split: self._splits[split] for split in splits}
        counts["quarantine_reasons"] = dict(sorted(self._reasons.items()))
        counts["notes"] = dict(sorted(self._notes.items()))
        counts["warnings"] = {f"no records in {split}": 1 for split in splits if not self._splits[split]}
        return counts

    def _count(self, kind: str, what: str, times: int = 1) -> None:
        self._counts[kind]["read"] += times
        self._counts[kind][what] += times

    def _total(self, what: str) -> int:
        return sum(values[what] for values in self._counts.values())

"""Plain files for tasks of one text: running text by lines, lines of label and text, and lines that belong together."""

import collections
import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.config import Config, SplitShares
from pipeline.config.sources import Column, LabelledSource, LinesSource, SplitName, TextSource
from pipeline.core.errors import InputError
from pipeline.ingest import listing, pairs, places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, shorten, too_long

NamedLine = tuple[str, Line]  # the name of its file, and the line


def read_text(source: TextSource, config: Config, limit_bytes: int) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Records of some whole lines, each ending in a line feed; `path` is cut by position: train, valid, test. With
    `begins` a record goes from one line that it finds to the next.

    Raises:
        InputError: there are fewer lines than splits are to be cut from them.
    """
    keep_blank = any(form.verbatim for form in config.spec.fields.values())

    def lines(files: list[str]) -> Iterator[NamedLine]:
        for address, name in listing.names(files).items():
            for line in places.lines(address, source.encoding, limit_bytes):
                if keep_blank or line.problem or line.text.strip():
                    yield name, line

    for file_split, files in pairs.files(source).items():
        if source.begins is not None:
            yield file_split, chapters(lines(files), re.compile(source.begins), limit_bytes)
        elif file_split is None:
            yield from in_order(
                listing.shown(source.path or ""), functools.partial(lines, files), config.ingest.split,
                lambda part: blocks(part, source.lines_per_record, keep_blank),
            )  # fmt: skip
        else:
            yield file_split, blocks(lines(files), source.lines_per_record, keep_blank)


def in_order(
    shown: str,
    lines: Callable[[], Iterator[NamedLine]],
    shares: SplitShares,
    rows: Callable[[Iterator[NamedLine]], Iterator[Row]],
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """The rows of each split that has a share, out of the source's lines, which are gone through twice.

    Raises:
        InputError: there are fewer lines than such splits.
    """
    counts = collections.Counter(line.problem is None for _, line in lines())
    good, wanted = counts[True], 1 + (shares.valid > 0) + (shares.test > 0)
    if 0 < good < wanted:
        raise InputError(
            f"{shown} has {good} line{'s' * (good > 1)}, too few for {wanted} splits: running text is cut into splits "
            "by lines, so break it into lines (of a sentence or a paragraph each), give a file per split "
            "(ingest.source.paths), or set ingest.split.valid and ingest.split.test to 0"
        )
    total = counts.total()
    parts: dict[SplitName, tuple[int, int]] = cuts(total, shares) if good else {"train": (0, total)}
    opened = lines()
    for split, (start, end) in parts.items():
        if end > start or not good:  # a file without lines is said to hold no rows
            yield split, rows(itertools.islice(opened, end - start))


def cuts(total: int, shares: SplitShares) -> dict[SplitName, tuple[int, int]]:
    """Where each split begins and ends among `total` things in order: train first, test last.

    Each split that has a share has at least one of them, if there are enough.

    >>> cuts(100, SplitShares(valid=0.1, test=0.05))
    {'train': (0, 85), 'valid': (85, 95), 'test': (95, 100)}
    >>> cuts(3, SplitShares(valid=0.1, test=0.1))
    {'train': (0, 1), 'valid': (1, 2), 'test': (2, 3)}
    """
    least = int(total > (shares.valid > 0) + (shares.test > 0))
    test = total - max(round(total * shares.test), least * (shares.test > 0))
    valid = max(test - max(round(total * shares.valid), least * (shares.valid > 0)), least)
    return {"train": (0, valid), "valid": (valid, test), "test": (test, total)}


def blocks(lines: Iterator[NamedLine], size: int, keep_blank: bool) -> Iterator[Row]:
    """Rows with a `text` of up to `size` lines of one file; a bad line is a row of its own."""
    for name, of_file in itertools.groupby(lines, operator.itemgetter(0)):
        file_lines = (line for _, line in of_file)
        while block := list(itertools.islice(file_lines, size)):
            good = [line.text for line in block if line.problem is None]
            for line in block:
                if line.problem is not None:
                    yield places.bad_line(name, line)
            text = "".join(f"{line}\n" for line in good)
            if good and (keep_blank or text.strip()):
                yield Row(name, block[0].number, {"text": text}, shorten(text))


def chapters(lines: Iterator[NamedLine], begins: re.Pattern[str], limit_bytes: int) -> Iterator[Row]:
    """Rows with a `text` from a line that `begins` finds to the next in a file; a bad line is a row of its own.

    What stands before a file's first such line is left out. A text over the limit is a bad row; its end is not held.
    """
    for name, of_file in itertools.groupby(lines, operator.itemgetter(0)):
        number, size, block = 0, 0, list[str]()
        for _, line in of_file:
            if line.problem is not None:
                yield places.bad_line(name, line)
                continue
            if begins.search(line.text):
                if block:
                    yield _chapter(name, number, block, size, limit_bytes)
                number, size, block = line.number, 0, []
            size += len(line.text.encode()) + 1
            if number and (not block or size <= limit_bytes):
                block.append(line.text)
        if block:
            yield _chapter(name, number, block, size, limit_bytes)


def _chapter(name: str, number: int, lines: list[str], size: int, limit_bytes: int) -> Row:
    text = "".join(f"{line}\n" for line in lines)
    if size > limit_bytes:
        return Row(name, number, {}, shorten(text), too_long(limit_bytes, "a text of "))
    return Row(name, number, {"text": text}, shorten(text))


def read_labelled(
    source: LabelledSource, config: Config, limit_bytes: int
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `label` and `text`: what stands before the first blank of a line, and after it."""
    for split, files in pairs.files(source).items():
        yield split, listing.rows(files, lambda address: _labelled(address, source.encoding, limit_bytes))


def _labelled(address: str, encoding: str, limit_bytes: int) -> Iterator[Row]:
    for line in places.lines(address, encoding, limit_bytes):
        label, blank, text = line.text.partition(" ")
        problem = line.problem
        if problem is None:
            if not line.text.strip():
                continue
            problem = None if blank else BadRow("no label", "no blank between a label and a text")
        yield Row(places.name_of(address), line.number, {"label": label, "text": text}, shorten(line.text), problem)


def read_lines(
    source: LinesSource, config: Config, limit_bytes: int
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with a value per file of a split, from the files' n-th lines.

    Raises:
        InputError: a field of the task has no file, or the files of a split differ in length.
    """
    for split, files in source.paths.items():
        if set(files) != set(config.spec.fields):
            raise InputError(
                f"ingest.source.paths.{split} names files for {', '.join(files) or 'nothing'}; "
                f"task {config.task} has the fields {', '.join(config.spec.fields)}"
            )
        yield split, _aligned({field: listing.files(place) for field, place in files.items()}, source, limit_bytes)


def _aligned(files: dict[str, list[str]], source: LinesSource, limit_bytes: int) -> Iterator[Row]:
    """Files of a field follow each other: only what all fields have together must be equally long."""
    readers = [
        ((address, line) for address in field_files for line in places.lines(address, source.encoding, limit_bytes))
        for field_files in files.values()
    ]
    for read in itertools.zip_longest(*readers):
        if None in read:
            ended, longer = (
                next(
                    listing.shown(field_files)
                    for field_files, named_line in zip(files.values(), read)
                    if (named_line is None) is is_short
                )
                for is_short in (True, False)
            )
            raise InputError(f"{ended} has fewer lines than {longer}: files of format lines must be equally long")
        lines = [line for _, line in read]
        problem = next((line.problem for line in lines if line.problem), None)
        shown = shorten(" | ".join(line.text for line in lines))
        values: dict[Column, Any] = dict(zip(files, (line.text for line in lines)))
        yield Row(places.name_of(read[0][0]), lines[0].number, values, shown, problem)

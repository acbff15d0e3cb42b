"""Plain files for tasks of one text: running text by lines, lines of label and text, and lines that belong together."""

import collections
import itertools
from collections.abc import Callable, Iterator

from pipeline.config import Config, SplitShares
from pipeline.config.sources import LabelledSource, LinesSource, SplitName, TextSource
from pipeline.core.errors import InputError
from pipeline.core.record_schema import FIELDS
from pipeline.ingest import places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, shorten


def read_text(source: TextSource, config: Config, limit_bytes: int) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Records of some whole lines, each ending in a line feed. One file is cut by position: train, valid, test.

    Raises:
        InputError: one file has fewer lines than splits are to be cut from it.
    """
    keep_blank = any(form.verbatim for form in FIELDS[config.task].values())

    def lines(address: str) -> Iterator[Line]:
        found = places.lines(address, source.encoding, limit_bytes)
        return found if keep_blank else (line for line in found if line.problem or line.text.strip())

    if source.path:
        yield from in_order(
            places.shown_address(source.path), lambda: lines(source.path or ""), config.ingest.split,
            lambda part: blocks(source.path or "", part, source.lines_per_record, keep_blank),
        )  # fmt: skip
        return
    for given, path in source.paths.items():
        yield given, blocks(path, lines(path), source.lines_per_record, keep_blank)


def in_order(
    shown: str,
    lines: Callable[[], Iterator[Line]],
    shares: SplitShares,
    rows: Callable[[Iterator[Line]], Iterator[Row]],
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """The rows of each split that has a share, out of one file's lines, which are gone through twice.

    Raises:
        InputError: there are fewer lines than such splits.
    """
    counts = collections.Counter(line.problem is None for line in lines())
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


def blocks(address: str, lines: Iterator[Line], size: int, keep_blank: bool) -> Iterator[Row]:
    """Rows with a `text` of up to `size` lines; a bad line is a row of its own."""
    name = places.name_of(address)
    while block := list(itertools.islice(lines, size)):
        good = [line.text for line in block if line.problem is None]
        for line in block:
            if line.problem is not None:
                yield places.bad_line(address, line)
        text = "".join(f"{line}\n" for line in good)
        if good and (keep_blank or text.strip()):
            yield Row(name, block[0].number, {"text": text}, shorten(text))


def read_labelled(
    source: LabelledSource, config: Config, limit_bytes: int
) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `label` and `text`: what stands before the first blank of a line, and after it."""
    given: dict[SplitName | None, str] = {None: source.path} if source.path else {}
    for split, path in (given | source.paths).items():
        yield split, _labelled(path, places.lines(path, source.encoding, limit_bytes))


def _labelled(address: str, lines: Iterator[Line]) -> Iterator[Row]:
    for line in lines:
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
        if set(files) != set(FIELDS[config.task]):
            raise InputError(
                f"ingest.source.paths.{split} names files for {', '.join(files) or 'nothing'}; "
                f"task {config.task} has the fields {', '.join(FIELDS[config.task])}"
            )
        yield split, _aligned(files, source.encoding, limit_bytes)


def _aligned(files: dict[str, str], encoding: str, limit_bytes: int) -> Iterator[Row]:
    readers = [places.lines(path, encoding, limit_bytes) for path in files.values()]
    for lines in itertools.zip_longest(*readers):
        ended = [path for path, line in zip(files.values(), lines) if line is None]
        if ended:
            longer = next(path for path, line in zip(files.values(), lines) if line is not None)
            raise InputError(
                f"{places.shown_address(ended[0])} has fewer lines than {places.shown_address(longer)}: "
                "files of format lines must be equally long"
            )
        problem = next((line.problem for line in lines if line.problem), None)
        shown = shorten(" | ".join(line.text for line in lines))
        first = next(iter(files.values()))
        yield Row(
            places.name_of(first), lines[0].number, dict(zip(files, (line.text for line in lines))), shown, problem
        )

"""Plain files for tasks of one text: running text by lines, lines of label and text, and lines that belong together."""

import itertools
from collections.abc import Iterator

from pipeline.config import Config, SplitShares
from pipeline.config.sources import LabelledSource, LinesSource, SplitName, TextSource
from pipeline.errors import InputError
from pipeline.ingest import places
from pipeline.ingest.places import Line
from pipeline.ingest.rows import BadRow, Row, shorten
from pipeline.records import FIELDS


def read_text(source: TextSource, config: Config, limit_bytes: int) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Records of some whole lines, each ending in a line feed. One file is cut by position: train, valid, test."""
    keep_blank = any(form.verbatim for form in FIELDS[config.task].values())
    if source.path:
        total = sum(1 for _ in places.lines(source.path, source.encoding, limit_bytes))
        starts = cuts(total, config.ingest.split)
        lines = places.lines(source.path, source.encoding, limit_bytes)
        for split, (start, end) in starts.items():
            part = itertools.islice(lines, end - start)
            yield split, blocks(source.path, part, source.lines_per_record, keep_blank)
        return
    for given, path in source.paths.items():
        lines = places.lines(path, source.encoding, limit_bytes)
        yield given, blocks(path, lines, source.lines_per_record, keep_blank)


def cuts(total: int, shares: SplitShares) -> dict[SplitName, tuple[int, int]]:
    """Where each split begins and ends among `total` things in order: train first, test last.

    >>> cuts(100, SplitShares(valid=0.1, test=0.05))
    {'train': (0, 85), 'valid': (85, 95), 'test': (95, 100)}
    """
    test = total - round(total * shares.test)
    valid = test - round(total * shares.valid)
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
            yield Row(name, block[0].number, {"text": text.removeprefix("\ufeff")}, shorten(text))


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
            if not line.text.strip("\ufeff "):
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

"""The registry: a source's format -> how its files are found and read. Collections have rows of three kinds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import SPLITS, Config
from pipeline.config.plugins import part
from pipeline.config.schema import ingest_columns
from pipeline.config.source_spec import SourceSpec, source_specs
from pipeline.config.sources import Columns, SplitName
from pipeline.core import manifest
from pipeline.ingest import (
    beir,
    clicks,
    coco,
    conll,
    docstrings,
    id_text,
    images,
    listing,
    numbers,
    pages,
    pairs,
    places,
    python_text,
    records,
    scene_questions,
    scenes,
    text,
    trec,
    web,
    web_text,
)
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.rows import Row
from pipeline.ingest.scratch import Scratch

# address, encoding, row limit in bytes -> rows
ReadFile = Callable[[str, str, int], Iterator[Row]]


class CollectionReader(NamedTuple):
    """How a format's files are read: rows of (id, title, text), of (id, text) and of (query, document, relevance)."""

    documents: ReadFile
    queries: ReadFile
    judgements: ReadFile = id_text.read_judgements


COLLECTIONS: dict[str, CollectionReader] = {
    "trec": CollectionReader(trec.read_documents, trec.read_queries),
    "beir": CollectionReader(beir.read_documents, beir.read_queries),
    "msmarco": CollectionReader(id_text.read_texts, id_text.read_texts),
}


@dataclass(frozen=True)
class SourceReader:
    """How a source whose rows come one by one is read; each takes the source's settings.

    Attributes:
        rows: settings, configuration, most bytes of a row, the stage's folder -> for each file, the split that it was
            given for (None: still to be divided) and its rows. None: its files are tables, which are read in parts.
        tasks: that its records are for; empty: any task's, by columns.
        columns: where a row keeps each field.
        grades: relevance of each label.
        files: the files that are read, by what they are for; their content is in the stage's key.
        origin: where the rows of each split come from, for messages.
        versions: of what shapes the rows beside the files.
        kinds: what of it is counted by itself; the records come first.
        whole: writes its records and documents itself, in place of `rows`: settings, configuration, the stage's folder,
            its tools.
    """

    rows: Callable[[Any, Config, int, Path], records.Files] | None
    tasks: Callable[[Any], tuple[str, ...]] = lambda source: ()
    columns: Callable[[Any], Columns] = lambda source: Columns()
    grades: Callable[[Any], dict[str, float]] = lambda source: {}
    files: Callable[[Any], dict[str, list[str]]] = lambda source: {}
    origin: Callable[[Any], dict[SplitName | None, str]] = lambda source: {None: f"source {source.format}"}
    versions: Callable[[Any], dict[str, str]] = lambda source: {}
    kinds: tuple[str, ...] = ("records",)
    whole: Callable[[Any, Config, Path, tuple[Ledger, Scratch, Output]], None] | None = None


def _by_split(source: Any) -> dict[str, list[str]]:
    return {split or "all": files for split, files in pairs.files(source).items()}


def _of_files(source: Any) -> dict[SplitName | None, str]:
    return {split: listing.shown(place) for split, place in pairs.addresses(source).items()}


def _of_text(source: Any) -> dict[SplitName | None, str]:
    """One file is cut by position, so that each split is given."""
    shown = _of_files(source)
    return dict.fromkeys(SPLITS, shown[None]) if source.path else shown


def _of_lines(source: Any) -> dict[str, list[str]]:
    return {
        f"{split}.{field}": listing.files(place)
        for split, fields in source.paths.items()
        for field, place in fields.items()
    }


def _of_captions(source: Any) -> dict[str, list[str]]:
    """A zip or .npy file of images is one file, else each file of the folder."""
    packed = source.images.endswith((".zip", ".npy"))
    folder = [] if packed else [places.join(source.images, name) for name in places.names_in(source.images)]
    single = {f"splits.{split}": path for split, path in source.splits.items()}
    single |= {"captions": source.captions, **({"names": source.names} if source.names else {})}
    single |= {f"images.{places.name_of(path)}": path for path in folder} or {"images": source.images}
    return {name: [path] for name, path in single.items()}


def _of_coco(source: Any) -> dict[SplitName | None, str]:
    """One file may name splits of its own, Karpathy's, so that none is to be cut out of another."""
    by_split = coco.files(source)
    return dict.fromkeys((None, *SPLITS), by_split[None]) if None in by_split else dict(by_split)


def _of_library(source: Any) -> dict[SplitName | None, str]:
    return dict.fromkeys(SPLITS, "the standard library") if source.of == "code" else {None: "source python"}


_PYTHON = {
    "code": ("language_model",),
    "prose": ("language_model", "cloze"),
    "package": ("classification",),
    "kinds": ("tagging",),
}
_PAIRS = SourceReader(
    rows=None,
    columns=lambda source: source.columns,
    grades=lambda source: source.grades,
    files=_by_split,
    origin=_of_files,
)
_CONLL = SourceReader(
    rows=lambda source, config, limit, folder: conll.read(source, config, limit),
    tasks=lambda source: ("tagging",),
    files=_by_split,
    origin=_of_files,
)
READERS: dict[str, SourceReader] = {
    **dict.fromkeys(("jsonl", "tsv", "csv", "parquet", "arrow"), _PAIRS),
    "docstrings": SourceReader(
        rows=lambda source, config, limit, folder: [(None, docstrings.read(source, limit))],
        tasks=lambda source: ("matching",),
        columns=lambda source: docstrings.COLUMNS,
        versions=docstrings.versions,
    ),
    "text": SourceReader(
        rows=lambda source, config, limit, folder: text.read_text(source, config, limit),
        tasks=lambda source: ("language_model", "cloze"),
        files=_by_split,
        origin=_of_text,
    ),
    "lines": SourceReader(
        rows=lambda source, config, limit, folder: text.read_lines(source, config, limit),
        files=_of_lines,
        origin=_of_files,
    ),
    "labelled": SourceReader(
        rows=lambda source, config, limit, folder: text.read_labelled(source, config, limit),
        tasks=lambda source: ("classification",),
        files=_by_split,
        origin=_of_files,
    ),
    "conllu": _CONLL,
    "conll": _CONLL,
    "python": SourceReader(
        rows=lambda source, config, limit, folder: python_text.read(source, config, limit),
        tasks=lambda source: _PYTHON[source.of],
        columns=lambda source: Columns() if source.of == "code" else python_text.COLUMNS,
        origin=_of_library,
        versions=lambda source: docstrings.versions(
            python_text.PACKAGES if source.of == "package" else python_text.LIBRARY
        ),
    ),
    "numbers": SourceReader(
        rows=lambda source, config, limit, folder: numbers.read(source, config, limit),
        tasks=lambda source: ("translation",),
    ),
    "scenes": SourceReader(
        rows=scenes.read, tasks=lambda source: ("captioning",), columns=lambda source: scenes.COLUMNS
    ),
    "scene_questions": SourceReader(
        rows=scene_questions.read,
        tasks=lambda source: ("visual_question",),
        columns=lambda source: scene_questions.COLUMNS,
    ),
    "coco": SourceReader(
        rows=coco.read,
        tasks=lambda source: ("captioning",) if source.captions else ("visual_question",),
        columns=lambda source: coco.COLUMNS,
        files=lambda source: {name: [path] for name, path in coco.addresses(source).items()},
        origin=_of_coco,
        versions=lambda source: manifest.versions("pillow"),
    ),
    "captions": SourceReader(
        rows=images.read,
        tasks=lambda source: ("captioning", "visual_question"),
        files=_of_captions,
        origin=lambda source: dict.fromkeys(source.splits or (None,), listing.shown(source.captions)),
        versions=lambda source: manifest.versions("pillow"),
    ),
    "pages": SourceReader(
        rows=None,
        tasks=lambda source: ("matching", "language_model", "cloze"),
        files=lambda source: {"pages": listing.files(source.path, source.marker, pages.ENDINGS)},
        versions=lambda source: web_text.versions(),
        kinds=("records", "documents"),
        whole=web.ingest_pages,
    ),
    "clicks": SourceReader(
        rows=None,
        tasks=lambda source: ("matching",),
        files=clicks.files,
        versions=lambda source: web_text.versions() if source.pages is not None else {},
        kinds=("records", "documents", "lists"),
        whole=clicks.ingest,
    ),
}


def reader_of(source: Any) -> SourceReader:
    """How a source is read: one of Duplet's, or of the package that brings its format."""
    return READERS[source.format] if source.format in READERS else _brought(source_specs()[source.format])


def _brought(spec: SourceSpec) -> SourceReader:
    def files(source: Any) -> dict[str, list[str]]:
        return {name: listing.files(place) for name in spec.addresses if (place := getattr(source, name))}

    def origin(source: Any) -> dict[SplitName | None, str]:
        named = [listing.shown(place) for name in spec.addresses if (place := getattr(source, name))]
        return dict.fromkeys((None, *SPLITS), ", ".join(named) or f"source {source.format}")

    return SourceReader(
        rows=part(spec.rows),
        tasks=lambda source: spec.tasks,
        columns=lambda source: getattr(source, "columns", None) or ingest_columns()(**spec.columns),
        grades=lambda source: getattr(source, "grades", {}),
        files=files,
        origin=origin,
        versions=lambda source: manifest.versions(*spec.packages),
    )

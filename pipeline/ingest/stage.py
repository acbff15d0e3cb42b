"""The ingest stage: a raw source -> `records-SPLIT.parquet`, `collection.parquet`, `quarantine.jsonl` and counts."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.config import SPLITS, Config, task_specs
from pipeline.config.source_spec import source_specs
from pipeline.config.sources import CollectionSource
from pipeline.core import atomic_files
from pipeline.core.errors import InputError, TryAgain
from pipeline.core.manifest import KeyParts, versions
from pipeline.ingest import collection, leaks, listing, places, readers, records
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output, raise_relevance, write_missing
from pipeline.ingest.scratch import Scratch

VERSION = 5
_ADDRESSES = {
    "path",
    "paths",
    "documents",
    "queries",
    "judgements",
    "captions",
    "questions",
    "annotations",
    "images",
    "names",
    "splits",
    "marker",
    "pages",
}  # where a source lies shapes nothing


def parts(config: Config) -> KeyParts:
    """What shapes the output: the content of the source (not where it lies), `ingest` and the seed.

    Raises:
        InputError: a file or package of the source is absent.
    """
    source = config.ingest.source
    settings = config.ingest.model_dump(mode="json")
    brought = source_specs().get(source.format)
    addresses = brought.addresses if brought else _ADDRESSES
    settings["source"] = {key: value for key, value in settings["source"].items() if key not in addresses}
    if settings["source"].get("begins", 0) is None:  # came later: off, it is no part of older keys
        del settings["source"]["begins"]
    settings["split"].pop("seed")  # stands beside it
    libraries = versions("pyarrow", *config.data_packages)
    if not isinstance(source, CollectionSource):
        libraries |= readers.reader_of(source).versions(source)
    inputs = _versions(_look(config))
    return KeyParts(VERSION, {"task": config.task, "seed": config.split_seed, "ingest": settings}, inputs, libraries)


def _look(config: Config) -> dict[str, list[listing.Source]]:
    return {name: listing.look(files) for name, files in _files(config).items()}


def _versions(by_use: dict[str, list[listing.Source]]) -> dict[str, str]:
    return {name: listing.version(sources) for name, sources in by_use.items()}


def run(
    config: Config, folder: Path, inputs: Mapping[str, str] | None = None, work: Path | None = None
) -> dict[str, Any]:
    """Reads the source and writes the stage's files into `folder`, which is there and empty.

    Args:
        inputs: what `parts` found the source's files to be; they are recorded. None: nothing is known of them.
        work: a folder for what is only needed meanwhile, made if absent; what a run that was cut off left there is
            taken up. None: a folder within `folder`, removed at the end.

    Returns:
        The counts for the manifest. In `records`, and for collections also in `documents` and `queries`:
        read = kept + quarantined + duplicates. `records.splits` counts the kept by split, `quarantine_reasons` the bad
        rows by kind; `warnings` names splits without a record, `notes` counts what else a person should know.

    Raises:
        InputError: a source is absent, unreadable, empty, lacks a column or has too many bad rows; or nothing was kept;
            or train holds what stands in valid or test and ingest.leaks is refuse.
        TryAgain: a file was changed, or came or went, since `inputs` were found.
    """
    ingest = config.ingest
    if ingest.split.valid + ingest.split.test >= 1:
        raise InputError(
            f"ingest.split.valid={ingest.split.valid} and ingest.split.test={ingest.split.test} leave nothing to train "
            "on: their sum must be below 1"
        )
    _check_task(config)
    if work is None:
        with TemporaryDirectory(dir=folder, prefix=".work-") as name:
            return _run(config, folder, inputs, Path(name))
    atomic_files.owners_folder(work)
    for left in work.glob(".*"):  # by processes that were killed
        left.unlink(missing_ok=True)
    remote = any(map(places.is_remote, itertools.chain(*_files(config).values())))
    try:
        return _run(config, folder, inputs, work)
    except InputError:
        if not remote:  # an address that could not be read may be there again soon
            shutil.rmtree(work, ignore_errors=True)
        raise


def _run(config: Config, folder: Path, inputs: Mapping[str, str] | None, work: Path) -> dict[str, Any]:
    """As `run`, of settings that fit each other."""
    ingest, source = config.ingest, config.ingest.source
    limit_bytes = ingest.max_row_kb * 1024
    kinds: tuple[str, ...] = ("records", "documents", "queries")
    if not isinstance(source, CollectionSource):
        kinds = readers.reader_of(source).kinds
    numbers: leaks.Numbers | None = None
    with_collection = "documents" in kinds and config.spec.relevance
    with Ledger(folder, kinds, ingest.max_quarantined_share) as ledger:
        if isinstance(source, CollectionSource) or readers.reader_of(source).whole is not None:
            _documents(config, folder, ledger, with_collection)
        else:
            reader = readers.reader_of(source)
            rows = reader.rows(source, config, limit_bytes, folder) if reader.rows is not None else None
            how = (reader.origin(source), reader.columns(source), reader.grades(source))
            with Output(folder, config.task, with_collection) as output:
                numbers = records.ingest(source, rows, *how, config, work, (ledger, output))
    ledger.check()
    if inputs is not None:
        _record(config, folder, inputs, work)
    counts = ledger.counts(SPLITS)
    if not counts["records"]["kept"]:
        looked_at = ", ".join(dict.fromkeys(map(listing.shown, _files(config).values()))) or "the source"
        read, bad = (sum(counts[kind][what] for kind in kinds) for what in ("read", "quarantined"))
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counts["quarantine_reasons"].items())
        raise InputError(
            f"{looked_at}: not one record could be kept; of {read} rows read ({' and '.join(kinds)}) {bad} are bad"
            + (f" ({reasons})" if bad else "")
        )
    return leaks.check(config, folder, counts, numbers)


def _documents(config: Config, folder: Path, ledger: Ledger, with_collection: bool) -> None:
    """Reads a source whose documents are given by themselves."""
    source = config.ingest.source
    with Scratch(folder) as scratch:
        with Output(folder, config.task, with_collection) as output:
            tools = (ledger, scratch, output)
            if isinstance(source, CollectionSource):
                limit_bytes = config.ingest.max_row_kb * 1024
                collection.Ingest(source, config.split_seed, config.ingest.split, limit_bytes, tools).run()
            elif (whole := readers.reader_of(source).whole) is not None:
                whole(source, config, folder, tools)
        for split in SPLITS:
            if raised := scratch.raised(split):
                raise_relevance(folder, split, raised)
            if isinstance(source, CollectionSource) and split != "train":
                write_missing(folder, split, scratch.missing(split))


def _record(config: Config, folder: Path, inputs: Mapping[str, str], work: Path) -> None:
    """Writes down which files were read.

    Raises:
        TryAgain: they are no longer those of `inputs`; what was made of them is removed.
    """
    by_use = _look(config)
    for name, version in _versions(by_use).items():
        if version != inputs.get(name):
            changed = listing.shown([source.address for source in by_use[name]])
            shutil.rmtree(work, ignore_errors=True)
            raise TryAgain(f"{changed} was changed while it was read: run again when nothing writes to it any more")
    listing.write(folder, by_use)


def _check_task(config: Config) -> None:
    """Raises InputError where a source does not have what the task's records need."""
    source = config.ingest.source
    formats = config.spec.sources
    if formats and source.format not in formats:
        raise InputError(f"task {config.task} needs a source of format {' or '.join(formats)}, not {source.format}")
    if isinstance(source, CollectionSource):
        tasks = tuple(name for name, spec in task_specs().items() if spec.relevance)
    else:
        tasks = readers.reader_of(source).tasks(source)
    if tasks and config.task not in tasks:
        raise InputError(f"ingest.source of format {source.format} is for task {' or '.join(tasks)}, not {config.task}")


def _files(config: Config) -> dict[str, list[str]]:
    """The source's files by what they are for; a source that is made here has none."""
    source = config.ingest.source
    if isinstance(source, CollectionSource):
        return collection.files(source)
    return readers.reader_of(source).files(source)

"""The ingest stage: a raw source -> `records-SPLIT.parquet`, `collection.parquet`, `quarantine.jsonl` and counts."""

from pathlib import Path
from typing import Any

from pipeline.config import SPLITS, CollectionSource, Config, DocstringsSource, SplitName
from pipeline.errors import InputError
from pipeline.ingest import collection, docstrings, pairs, places
from pipeline.ingest.ledger import Ledger
from pipeline.ingest.output import Output
from pipeline.ingest.scratch import Scratch
from pipeline.manifest import KeyParts, versions

VERSION = 1
_ADDRESSES = {"path", "paths", "documents", "queries", "judgements", "root"}  # where a source lies shapes nothing


def parts(config: Config) -> KeyParts:
    """What shapes the output: the content of the source (not where it lies), `ingest` and the seed.

    Raises:
        InputError: a file or package of the source is absent.
    """
    source = config.ingest.source
    settings = config.ingest.model_dump(mode="json")
    settings["source"] = {key: value for key, value in settings["source"].items() if key not in _ADDRESSES}
    libraries = versions("pyarrow")
    if isinstance(source, DocstringsSource):
        libraries |= docstrings.versions(source)
    inputs = {name: places.fingerprint(address) for name, address in _addresses(config).items()}
    return KeyParts(VERSION, {"seed": config.seed, "ingest": settings}, inputs, libraries)


def run(config: Config, folder: Path) -> dict[str, Any]:
    """Reads the source and writes the stage's files into `folder`, which is there and empty.

    Returns:
        The counts for the manifest. In `records`, and for collections also in `documents` and `queries`:
        read = kept + quarantined + duplicates. `records.splits` counts the kept by split, `quarantine_reasons` the bad
        rows by kind; `warnings` names splits without a record.

    Raises:
        InputError: a source is absent, unreadable, empty, lacks a column or has too many bad rows; or nothing was kept.
    """
    ingest, source = config.ingest, config.ingest.source
    if ingest.split.valid + ingest.split.test >= 1:
        raise InputError(
            f"ingest.split.valid={ingest.split.valid} and ingest.split.test={ingest.split.test} leave nothing to train "
            "on: their sum must be below 1"
        )
    limit_bytes = ingest.max_row_kb * 1024
    with_collection = isinstance(source, CollectionSource)
    kinds = ("records", "documents", "queries") if with_collection else ("records",)
    with (
        Ledger(folder, kinds, ingest.max_quarantined_share) as ledger,
        Scratch(folder) as scratch,
        Output(folder, with_collection) as output,
    ):
        tools = (ledger, scratch, output)
        if isinstance(source, CollectionSource):
            collection.Ingest(source, config.seed, ingest.split, limit_bytes, tools).run()
        elif isinstance(source, DocstringsSource):
            files: pairs.Files = [(None, docstrings.read(source, limit_bytes))]
            origin: dict[SplitName | None, str] = {None: f"docstrings of {', '.join(source.packages)}"}
            pairs.ingest(files, origin, docstrings.COLUMNS, {}, config.seed, ingest.split, tools)
        else:
            files = pairs.file_rows(source, limit_bytes, folder)
            given = pairs.addresses(source)
            pairs.ingest(files, given, source.columns, source.grades, config.seed, ingest.split, tools)
    ledger.check()
    counts = ledger.counts(SPLITS)
    if not counts["records"]["kept"]:
        looked_at = ", ".join(dict.fromkeys(map(places.shown_address, _addresses(config).values()))) or "the source"
        raise InputError(
            f"{looked_at}: not one record could be kept; of {counts['records']['read']} rows read "
            f"{counts['records']['quarantined']} are bad ({counts['quarantine_reasons']})"
        )
    return counts


def _addresses(config: Config) -> dict[str, str]:
    """The source's files by what they are for; of docstrings there are none."""
    source = config.ingest.source
    if isinstance(source, CollectionSource):
        return collection.addresses(source)
    if isinstance(source, DocstringsSource):
        return {}
    return {split or "all": path for split, path in pairs.addresses(source).items()}

"""The stage: ingest's records -> vocabulary, tokenizer and, per split, shards of ids and the examples over them."""

from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import manifest
from pipeline.config import SPLITS, CollectionSource, Config, TokenizeConfig
from pipeline.errors import InputError
from pipeline.manifest import KeyParts
from pipeline.records import COLLECTION_SCHEMA, SCHEMA
from pipeline.tokenization import encoder, parallel, vocabulary
from pipeline.tokenization.encoder import Encoded
from pipeline.tokenization.parallel import PIECE_TEXTS, InProcess, Piece, Processes
from pipeline.tokenization.shards import EXAMPLES_NAME, EXAMPLES_SCHEMA, FIELDS, TEXTS_SCHEMA, shard_name

VERSION = 1
READ_ROWS = 1024
COLLECTION_NAME = "collection.parquet"


def parts(config: Config, ingest_key: str) -> KeyParts:
    """What shapes this stage's output."""
    kind = config.tokenize.kind
    names = ["gluonnlp", "pyarrow", *([kind] if kind in ("sentencepiece", "jieba") else [])]
    return KeyParts(
        code=VERSION,
        config=config.tokenize.model_dump(mode="json"),
        inputs={"ingest": ingest_key},
        libraries=manifest.versions(*names),
    )


def run(config: Config, ingest_folder: Path, folder: Path, workers: int | None = None) -> dict[str, Any]:
    """Writes vocabulary.json, tokenizer.json, sentencepiece.model (of that kind), and a folder per split.

    Each distinct query and document of a split (by id, in order of first appearance) is encoded once. Where ingest left
    a whole collection, the documents of valid and test begin with it, so that retrieval sees every document.

    Args:
        folder: exists and is empty.
        workers: processes; None: as many as cores, but only this one for few texts. The output is the same.

    Returns:
        Counts: per split `examples` and, per field, texts, tokens, cut, unknown_tokens, empty; the `vocabulary`'s size;
        `notes` where something differs from what was asked for.

    Raises:
        InputError: a file of ingest is missing or damaged, the training split is empty, the settings do not fit.
    """
    settings = config.tokenize
    _check(config)
    # a title's document is its text without the title; in the collection the title stands before it
    titles = isinstance(config.ingest.source, CollectionSource) and config.ingest.source.train_on_titles
    over_collection = ("test",) if titles else ("valid", "test")
    sources = {
        split: {field: _sources(ingest_folder, split, field, split in over_collection) for field in FIELDS}
        for split in SPLITS
    }
    if not sources["train"]["query"][0].texts:
        raise InputError(
            f"{sources['train']['query'][0].path} has no record to learn from: check ingest.source and ingest.split"
        )
    texts = sum(source.texts for split in SPLITS for field in FIELDS for source in sources[split][field])
    processes = parallel.processes_for(texts, workers)
    try:
        encoder.write_settings(settings, folder)
        counts: dict[str, Any] = {"vocabulary": _vocabulary(settings, sources["train"], folder, processes)}
        if settings.kind == "sentencepiece" and counts["vocabulary"] < settings.vocabulary_size:
            counts["notes"] = [
                f"vocabulary of {counts['vocabulary']} instead of {settings.vocabulary_size}: "
                "the training split does not hold more pieces"
            ]
        for split in SPLITS:
            (folder / split).mkdir()
            rows: dict[str, dict[str, int]] = {field: {} for field in FIELDS}
            counts[split] = {
                field: _write_texts(
                    folder, split, field, sources[split][field], rows[field], settings.rows_per_shard, processes
                )
                for field in FIELDS
            }
            counts[split]["examples"] = _write_examples(folder / split, sources[split]["query"][0], rows)
    finally:
        processes.close()
    return counts


class _Source(NamedTuple):
    """Texts and their keys in a Parquet file of ingest's."""

    path: Path
    file: pq.ParquetFile
    key: str
    text: str

    @property
    def texts(self) -> int:
        """How many, repeated ones included."""
        return self.file.metadata.num_rows


def _check(config: Config) -> None:
    vocabulary.check_size(config.tokenize)
    if set(config.tokenize.max_tokens) != set(FIELDS):
        raise InputError(
            f"tokenize.max_tokens must name {' and '.join(FIELDS)}, "
            f"found {', '.join(config.tokenize.max_tokens) or 'nothing'}"
        )


def _sources(ingest_folder: Path, split: str, field: str, over_collection: bool) -> list[_Source]:
    """A split's records; documents of a split judged over the collection (if ingest left one) begin with that."""
    paths = [(ingest_folder / f"records-{split}.parquet", SCHEMA)]
    collection = ingest_folder / COLLECTION_NAME
    if field == "document" and over_collection and collection.exists():
        paths.insert(0, (collection, COLLECTION_SCHEMA))
    return [_Source(path, _parquet(path, schema), f"{field}_id", field) for path, schema in paths]


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}): delete its folder and run `duplet ingest`"
        ) from None
    missing = set(schema.names) - set(file.schema_arrow.names)
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(sorted(missing))}: delete its folder and run `duplet ingest`"
        )
    return file


def _read(source: _Source, columns: list[str]) -> Iterator[list[list[Any]]]:
    """Batches of columns, as Python lists."""
    try:
        for batch in source.file.iter_batches(READ_ROWS, columns=columns):
            yield [batch[name].to_pylist() for name in columns]
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{source.path} is damaged ({' '.join(str(error).split())}): delete its folder and run `duplet ingest`"
        ) from None


def _distinct(sources: list[_Source], rows: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Each key's first text, in order of first appearance; fills `rows` with key -> row."""
    for source in sources:
        for keys, texts in _read(source, [source.key, source.text]):
            for key, text in zip(keys, texts):
                if key not in rows:
                    rows[key] = len(rows)
                    yield key, text


def _pieces(
    folder: Path,
    field: str,
    pairs: Iterator[tuple[str, str]],
    rows_per_shard: int,
    keys: deque[list[str]] | None = None,
) -> Iterator[Piece]:
    """The texts in pieces, none of which crosses a shard's end; appends each piece's keys to `keys`."""
    room = rows_per_shard
    while piece := list(islice(pairs, min(PIECE_TEXTS, room))):
        room = room - len(piece) or rows_per_shard
        if keys is not None:
            keys.append([key for key, _ in piece])
        yield Piece(folder, field, [text for _, text in piece])


def _vocabulary(
    settings: TokenizeConfig, sources: dict[str, list[_Source]], folder: Path, processes: InProcess | Processes
) -> int:
    """Writes the vocabulary of the training split's distinct queries and documents; returns its size."""
    if settings.kind == "sentencepiece":
        texts = (text for field in FIELDS for _, text in _distinct(sources[field], {}))
        return vocabulary.write_sentencepiece(texts, settings, folder)
    counts: Counter[str] = Counter()
    for field in FIELDS:
        pieces = _pieces(folder, field, _distinct(sources[field], {}), settings.rows_per_shard)
        for part in processes.map(parallel.count, pieces):
            counts.update(part)
    return vocabulary.write_counted(counts, settings, folder)


def _write_texts(
    folder: Path,
    split: str,
    field: str,
    sources: list[_Source],
    rows: dict[str, int],
    rows_per_shard: int,
    processes: InProcess | Processes,
) -> dict[str, int]:
    """Writes the shards of a field, at least one, and fills `rows` with key -> row; returns their counts."""
    totals = dict.fromkeys(("texts", "tokens", "cut", "unknown_tokens", "empty"), 0)
    in_flight: deque[list[str]] = deque()  # keys of the pieces being encoded
    keys: list[str] = []  # of the shard being filled
    encoded: list[Encoded] = []
    number = 0
    pieces = _pieces(folder, field, _distinct(sources, rows), rows_per_shard, in_flight)
    for part in processes.map(parallel.encode, pieces):
        keys += in_flight.popleft()
        encoded.append(part)
        totals["texts"] += len(part.lengths)
        totals["tokens"] += len(part.ids)
        totals["cut"] += part.cut
        totals["unknown_tokens"] += part.unknown_tokens
        totals["empty"] += part.empty
        if len(keys) == rows_per_shard:
            _write_shard(folder / split / shard_name(field, number), keys, encoded)
            keys, encoded, number = [], [], number + 1
    if keys or not number:
        _write_shard(folder / split / shard_name(field, number), keys, encoded)
    return totals


def _write_shard(path: Path, keys: list[str], encoded: list[Encoded]) -> None:
    """One uncompressed record batch, so that a memory map of it is the array."""
    lengths = np.concatenate([np.zeros(0, np.int32), *(part.lengths for part in encoded)])
    ids = np.concatenate([np.zeros(0, np.int32), *(part.ids for part in encoded)])
    if len(ids) > np.iinfo(np.int32).max:
        raise InputError(f"{path} would hold {len(ids)} tokens, over what a shard can: lower tokenize.rows_per_shard")
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    columns = [
        pa.array(keys, pa.string()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
        pa.array(lengths),
    ]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, TEXTS_SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=TEXTS_SCHEMA))


def _write_examples(folder: Path, source: _Source, rows: dict[str, dict[str, int]]) -> int:
    """The split's records as rows of texts; returns their number."""
    examples = 0
    path = folder / EXAMPLES_NAME
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, EXAMPLES_SCHEMA) as writer:
        for ids, queries, documents, relevance in _read(source, ["id", "query_id", "document_id", "relevance"]):
            columns = [
                pa.array(ids, pa.string()),
                pa.array([rows["query"][key] for key in queries], pa.int32()),
                pa.array([rows["document"][key] for key in documents], pa.int32()),
                pa.array(relevance, pa.float32()),
            ]
            writer.write_batch(pa.record_batch(columns, schema=EXAMPLES_SCHEMA))
            examples += len(ids)
    return examples

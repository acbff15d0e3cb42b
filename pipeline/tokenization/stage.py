"""The stage: ingest's records -> vocabulary, tokenizer and, per split, shards of ids and the examples over them."""

import math
import mmap
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, compress, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SPLITS, Config
from pipeline.config.sections import ExecutionConfig, TokenizeConfig
from pipeline.config.sources import CollectionSource, SplitName
from pipeline.core import manifest
from pipeline.core.errors import InputError
from pipeline.core.executors import Executor
from pipeline.core.manifest import KeyParts
from pipeline.core.record_schema import collection_schema, missing_name, missing_schema, schema
from pipeline.ingest import images, places, readers
from pipeline.tokenization import encoder, parallel, vocabulary
from pipeline.tokenization.encoder import Encoded, Form, forms
from pipeline.tokenization.parallel import PIECE_TEXTS, CountedTexts, Cut, Piece
from pipeline.tokenization.rows import Rows
from pipeline.tokenization.shards import (
    EXAMPLES_NAME,
    MISSING_NAME,
    MISSING_ROWS_SCHEMA,
    PASSAGE,
    PASSAGES_NAME,
    TEXTS_SCHEMA,
    examples_schema,
    shard_name,
)
from pipeline.tokenization.tokenizers import MODEL_NAME

VERSION = 2
READ_ROWS = 1024
ALL = 1 << 20  # passages: of the whole text
COLLECTION_NAME = "collection.parquet"
MOST_ID_BYTES = int(np.iinfo(np.int32).max)  # of a split whose ids are strings of 32-bit places


def parts(config: Config, ingest_key: str) -> KeyParts:
    """What shapes this stage's output."""
    kind = config.tokenize.kind
    names = ["gluonnlp", "pyarrow", *([kind] if kind in ("sentencepiece", "jieba") else [])]
    # a setting that came later is left out where it is off, so that it changes no older key
    off = {name for name, value in (("split_digits", False), ("max_passages", 1))
           if getattr(config.tokenize, name) == value}  # fmt: skip
    settings = config.tokenize.model_dump(mode="json", exclude={"more_words", *off})  # their content is an input
    more = config.tokenize.more_words
    return KeyParts(
        code=VERSION,
        config=settings | ({"whole_documents": True} if config.pretrain.pairs else {}),
        inputs={"ingest": ingest_key, **({"tokenize.more_words": places.fingerprint(more)} if more else {})},
        libraries=manifest.versions(*names),
    )


def learns_collection(config: Config) -> bool:
    """Whether training reads the whole collection first (pretrain.pairs), whose words are then in the vocabulary too:
    of whole documents, as those of train.

    Where titles are queries, the collection has those of valid: then only the documents of train are read.
    """
    source = config.ingest.source
    if not config.pretrain.pairs or _titles(config):
        return False
    return isinstance(source, CollectionSource) or "documents" in readers.reader_of(source).kinds


def _titles(config: Config) -> bool:
    """Whether a query is a title: its document is the text without it; in the collection the title stands before it."""
    source = config.ingest.source
    return isinstance(source, CollectionSource) and source.train_on_titles


def run(
    config: Config, ingest_folder: Path, folder: Path, workers: int | None = None, vocabulary_from: Path | None = None,
    work: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes vocabulary.json, tokenizer.json, sentencepiece.model (of that kind), and a folder per split.

    Each distinct text of a field of a split (by its key, in order of first appearance) is encoded once. Fields with a
    vocabulary of their own have its files in a folder of its name. Where ingest left a whole collection, the documents
    of valid and test begin with it, so that retrieval sees every document; their queries end with those that are judged
    by documents which are not there, and missing.arrow holds these judgements.

    Args:
        folder: exists and is empty.
        workers: processes of this host; None: as `execution` says. The output is the same.
        vocabulary_from: a trained folder whose vocabulary and tokenizer to use, to judge that model on other data.
        work: holds the pieces that are done; what a run of the same key left there is taken. None: nothing is kept.

    Returns:
        Counts: per split `examples` and, per field, texts, tokens, cut, unknown_tokens, empty; the `vocabulary`'s size;
        `notes` where something differs from what was asked for.

    Raises:
        InputError: a file of ingest is missing or damaged, the training split is empty, the settings do not fit.
    """
    settings, fields = config.tokenize, tuple(config.spec.fields)
    by_vocabulary = forms(config)
    vocabulary.check_size(by_vocabulary[""])
    over_collection: tuple[SplitName, ...] = ("test",) if _titles(config) else ("valid", "test")
    sources = _sources(ingest_folder, fields, over_collection)
    records = {split: sources[split][fields[0]][0] for split in SPLITS}
    if not records["train"].texts:
        raise InputError(f"{records['train'].path} has no record to learn from: check ingest.source and ingest.split")
    texts = sum(source.texts for split in SPLITS for field in fields for source in sources[split][field])
    train_rows = _rows(sources["train"], folder)
    more = _of_collection(sources, train_rows, folder) if learns_collection(config) else iter(())
    execution = config.execution if workers is None else ExecutionConfig(workers=workers)
    processes = parallel.executor_for(texts, execution)
    if work is not None:
        processes = parallel.keeping(processes, work)
    counted: dict[str, CountedTexts] = {}  # of train, by field
    try:
        counts: dict[str, Any] = {}
        for name, form in by_vocabulary.items():
            (folder / name).mkdir(exist_ok=True)
            encoder.write_settings(form, folder / name)
            if vocabulary_from is not None:
                _copy_tokenizer(vocabulary_from / name, folder / name)
                continue
            train = {field: sources["train"][field] for field in form.max_tokens}
            counts[f"{name}_vocabulary".lstrip("_")] = _vocabulary(
                form, train, train_rows, folder / name, settings.rows_per_shard, processes, counted,
                more, ALL if config.pretrain.pairs else settings.max_passages,
            )  # fmt: skip
        if by_vocabulary[""].kind == "sentencepiece" and counts.get("vocabulary", math.inf) < settings.vocabulary_size:
            counts["notes"] = [_fewer(counts["vocabulary"], settings.vocabulary_size)]
        for split in SPLITS:
            (folder / split).mkdir()
            rows = train_rows if split == "train" else _rows(sources[split], folder)
            counts[split] = {
                field: _write_texts(
                    folder / config.spec.fields[field].vocabulary,
                    folder / split, field, sources[split][field], rows[field], settings.rows_per_shard, processes,
                    counted.get(field) if split == "train" else None,
                )
                for field in fields
            }  # fmt: skip
            if settings.max_passages > 1:
                documents = _distinct(sources[split]["document"], rows["document"])
                counts[split]["document"] |= _write_passages(folder, folder / split, documents, settings, processes)
            counts[split]["examples"] = _write_examples(folder / split, records[split], sources[split], rows)
            if (ingest_folder / missing_name(split)).exists():
                _write_missing(folder / split, sources[split]["query"], rows["query"])
        _pass_on(ingest_folder, folder)
    finally:
        for texts_read in counted.values():
            texts_read.close()
        processes.close()
        parallel.forget()
    return counts


def _fewer(size: int, wanted: int) -> str:
    return f"vocabulary of {size} instead of {wanted}: the training split does not hold more pieces"


def _copy_tokenizer(trained: Path, folder: Path) -> None:
    """Takes over a tokenizer with its vocabulary."""
    for file in (encoder.SETTINGS_NAME, encoder.VOCABULARY_NAME, MODEL_NAME):
        if (trained / file).exists():
            shutil.copy(trained / file, folder)


def _pass_on(ingest_folder: Path, folder: Path) -> None:
    """Puts the images that ingest left, if any, beside the ids: as the same files where the file system can."""
    for name in (images.ARRAY, images.NAMES, images.SHAPE):
        if (ingest_folder / name).exists():
            try:
                os.link(ingest_folder / name, folder / name)
            except OSError:
                shutil.copy(ingest_folder / name, folder / name)


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


def _sources(
    ingest_folder: Path, fields: tuple[str, ...], over_collection: tuple[SplitName, ...]
) -> dict[str, dict[str, list[_Source]]]:
    """Each split's records by field; documents of splits judged over the collection (if ingest left one) begin with it.

    The queries end with those of judgements whose documents are missing. Each file is opened once: what Parquet knows
    of its row groups takes memory.
    """
    sources: dict[str, dict[str, list[_Source]]] = {}
    for split in SPLITS:
        path = ingest_folder / f"records-{split}.parquet"
        file = _parquet(path, schema(fields))
        sources[split] = {field: [_Source(path, file, f"{field}_id", field)] for field in fields}
        missing = ingest_folder / missing_name(split)
        if missing.exists():
            sources[split]["query"].append(_Source(missing, _parquet(missing, missing_schema()), "query_id", "query"))
    collection = ingest_folder / COLLECTION_NAME
    if collection.exists():
        documents = _Source(collection, _parquet(collection, collection_schema()), "document_id", "document")
        for split in over_collection:
            sources[split]["document"].insert(0, documents)
    return sources


def _parquet(path: Path, columns: pa.Schema) -> pq.ParquetFile:
    try:
        # else all that was read stays in memory until the end
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}): delete its folder and run `duplet ingest`"
        ) from None
    missing = set(columns.names) - set(file.schema_arrow.names)
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


def _rows(sources: dict[str, list[_Source]], folder: Path) -> dict[str, Rows]:
    """By field, the rows that the texts of a split get."""
    found = {}
    for field, some in sources.items():
        keys = (keys for source in some for (keys,) in _read(source, [source.key]))
        found[field] = Rows(keys, sum(source.texts for source in some), folder)
    return found


def _of_collection(
    sources: dict[str, dict[str, list[_Source]]], rows: dict[str, Rows], folder: Path
) -> Iterator[tuple[str, str]]:
    """The documents that the collection has and train has not, and their keys."""
    every = [*sources["train"]["document"], sources["test"]["document"][0]]
    return islice(_distinct(every, _rows({"document": every}, folder)["document"]), rows["document"].texts, None)


def _distinct(sources: list[_Source], rows: Rows) -> Iterator[tuple[str, str]]:
    """Each key and its first text, in order of first appearance."""
    place = 0
    for source in sources:
        for keys, texts in _read(source, [source.key, source.text]):
            begins = rows.begins(place, place + len(keys)).tolist()
            place += len(keys)
            yield from compress(zip(keys, texts), begins)


def _pieces(
    folder: Path,
    field: str,
    pairs: Iterator[tuple[str, str]],
    rows_per_shard: int,
    keys: deque[list[str]],
    passages: int = 1,
) -> Iterator[Piece]:
    """The texts in pieces, none of which crosses a shard's end; appends each piece's keys to `keys`."""
    room = rows_per_shard
    while piece := list(islice(pairs, min(PIECE_TEXTS, room))):
        room = room - len(piece) or rows_per_shard
        keys.append([key for key, _ in piece])
        yield Piece(folder, field, [text for _, text in piece], passages)


def _vocabulary(
    form: Form,
    sources: dict[str, list[_Source]],
    rows: dict[str, Rows],
    folder: Path,
    rows_per_shard: int,
    processes: Executor,
    counted: dict[str, CountedTexts],
    more: Iterator[tuple[str, str]],
    passages: int,
) -> int:
    """Writes the vocabulary of the distinct texts of the fields that share it; returns its size.

    Where tokens are counted, `counted` gets the texts as they were read; not those of documents read in passages, of
    which more is counted than their own ids.

    Args:
        more: further documents and their keys.
        passages: that a document is read in at most.
    """
    if form.kind == "sentencepiece":
        texts = (text for field in sources for _, text in _distinct(sources[field], rows[field]))
        return vocabulary.write_sentencepiece(chain(texts, (text for _, text in more)), form, folder)
    counts: Counter[str] = Counter()
    for field in sources:
        in_flight: deque[list[str]] = deque()  # keys of the pieces being read
        several = passages if field == "document" else 1
        pieces = _pieces(folder, field, _distinct(sources[field], rows[field]), rows_per_shard, in_flight, several)
        if several == 1:
            counted[field] = CountedTexts(folder)
        for part in processes.map(parallel.count, pieces):
            counts.update(dict(zip(part.tokens, part.counts)))
            keys = in_flight.popleft()
            if several == 1:
                counted[field].add(keys, part)
    pieces = _pieces(folder, "document", more, rows_per_shard, deque(maxlen=0), passages)
    for part in processes.map(parallel.count, pieces):
        counts.update(dict(zip(part.tokens, part.counts)))
    return vocabulary.write_counted(counts, form, folder)


def _write_texts(
    tokenizer: Path,
    folder: Path,
    field: str,
    sources: list[_Source],
    rows: Rows,
    rows_per_shard: int,
    processes: Executor,
    counted: CountedTexts | None,
) -> dict[str, int]:
    """Writes the shards of a field, at least one; returns their counts."""
    totals = dict.fromkeys(("texts", "tokens", "cut", "unknown_tokens", "empty"), 0)
    keys: list[str] = []  # of the shard being filled
    encoded: list[Encoded] = []
    number = 0
    if counted is None:
        some = _encoded(tokenizer, field, _distinct(sources, rows), rows_per_shard, processes)
    else:
        some = counted.encoded(tokenizer)
    for some_keys, part in some:
        keys += some_keys
        encoded.append(part)
        totals["texts"] += len(part.lengths)
        totals["tokens"] += len(part.ids)
        totals["cut"] += part.cut
        totals["unknown_tokens"] += part.unknown_tokens
        totals["empty"] += part.empty
        if len(keys) == rows_per_shard:
            write_shard(folder / shard_name(field, number), keys, encoded)
            keys, encoded, number = [], [], number + 1
    if keys or not number:
        write_shard(folder / shard_name(field, number), keys, encoded)
    return totals


def _encoded(
    tokenizer: Path, field: str, pairs: Iterator[tuple[str, str]], rows_per_shard: int, processes: Executor
) -> Iterator[tuple[list[str], Encoded]]:
    """The keys and the ids of some texts at a time."""
    in_flight: deque[list[str]] = deque()  # keys of the pieces being encoded
    for part in processes.map(parallel.encode, _pieces(tokenizer, field, pairs, rows_per_shard, in_flight)):
        yield in_flight.popleft(), part


def _write_passages(
    tokenizer: Path, folder: Path, pairs: Iterator[tuple[str, str]], settings: TokenizeConfig, processes: Executor
) -> dict[str, int]:
    """Writes the passages of the documents that have several: a shard beside each of theirs, and where theirs end."""
    counts, left_out, number = [np.zeros(1, np.int32)], 0, 0
    in_flight: deque[list[str]] = deque()
    keys, cut, documents = list[str](), list[Cut](), 0  # of the shard being filled
    pieces = _pieces(tokenizer, "document", pairs, settings.rows_per_shard, in_flight, settings.max_passages)
    for part in processes.map(parallel.passages, pieces):
        keys += np.repeat(np.array(in_flight.popleft(), object), part.counts).tolist()
        cut.append(part)
        counts.append(part.counts)
        left_out += part.left_out
        documents += len(part.counts)
        if documents == settings.rows_per_shard:
            write_shard(folder / shard_name(PASSAGE, number), keys, cut)
            keys, cut, documents, number = [], [], 0, number + 1
    if documents or not number:
        write_shard(folder / shard_name(PASSAGE, number), keys, cut)
    every = np.concatenate(counts)
    np.save(folder / PASSAGES_NAME, np.cumsum(every, dtype=np.int64))
    return {"cut": left_out, "with_passages": int(np.count_nonzero(every)), "passages": int(every.sum())}


def write_shard(path: Path, keys: list[str], encoded: Sequence[Encoded | Cut]) -> None:
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
    _write_batch(path, columns, TEXTS_SCHEMA)


def _write_examples(folder: Path, source: _Source, sources: dict[str, list[_Source]], rows: dict[str, Rows]) -> int:
    """The split's records as rows of texts; returns their number.

    One record batch, so that a memory map of it is the arrays; its columns are gathered in files without a name.
    """
    numbers = {**dict.fromkeys(rows, np.int32), "relevance": np.float32}
    with ExitStack() as stack:
        files = {name: stack.enter_context(TemporaryFile(dir=folder)) for name in (*numbers, "ends", "id")}
        files["ends"].write(bytes(8))  # where the first begins
        examples = end = 0
        before = {field: _before(sources[field], source) for field in rows}
        for ids, relevance in _read(source, ["id", "relevance"]):
            encoded = [record_id.encode() for record_id in ids]
            ends = end + np.cumsum([len(encoded_id) for encoded_id in encoded])
            files["id"].write(b"".join(encoded))
            files["ends"].write(ends.astype(np.int64).tobytes())
            starts = {field: start + examples for field, start in before.items()}
            columns = [rows[field].of(start, start + len(ids)) for field, start in starts.items()]
            for (name, kind), column in zip(numbers.items(), [*columns, relevance]):
                files[name].write(np.array(column, kind).tobytes())
            examples, end = examples + len(ids), int(ends[-1])
        large = end > MOST_ID_BYTES
        strings = pa.LargeStringArray if large else pa.StringArray
        places = files["ends"] if large else stack.enter_context(_narrowed(files["ends"], folder))
        _write_batch(
            folder / EXAMPLES_NAME,
            [
                strings.from_buffers(examples, _mapped(places), _mapped(files["id"])),
                *(
                    pa.Array.from_buffers(pa.from_numpy_dtype(kind), examples, [None, _mapped(files[name])])
                    for name, kind in numbers.items()
                ),
            ],
            examples_schema(tuple(rows), large),
        )
    return examples


def _narrowed(wide: IO[bytes], folder: Path) -> IO[bytes]:
    """A file of int64 as one of int32."""
    narrow: IO[bytes] = TemporaryFile(dir=folder)  # noqa: SIM115
    wide.flush()
    wide.seek(0)
    while piece := wide.read(1 << 20):
        narrow.write(np.frombuffer(piece, np.int64).astype(np.int32).tobytes())
    return narrow


def _before(sources: list[_Source], source: _Source) -> int:
    """How many texts of a field stand before those of one of its sources."""
    paths = [one.path for one in sources]
    return sum(one.texts for one in sources[: paths.index(source.path)])


def _write_missing(folder: Path, sources: list[_Source], queries: Rows) -> None:
    """A split's judgements of documents that are not there, its last source: the query's row and the relevance."""
    source = sources[-1]
    start = _before(sources, source)
    relevance = [value for (values,) in _read(source, ["relevance"]) for value in values]
    rows = queries.of(start, start + len(relevance))
    _write_batch(
        folder / MISSING_NAME, [pa.array(rows, pa.int32()), pa.array(relevance, pa.float32())], MISSING_ROWS_SCHEMA
    )


def _write_batch(path: Path, columns: list[pa.Array], columns_schema: pa.Schema) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, columns_schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=columns_schema))


def _mapped(file: IO[bytes]) -> pa.Buffer:
    """What was written to a file, as it lies there."""
    file.flush()
    return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b"")

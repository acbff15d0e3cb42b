"""All that reads what others wrote, as functions of bytes, for Hypothesis (test_targets.py) and atheris (run.py).

A target returns, or raises AssertionError or what must not happen. What may happen: the bytes are taken, with counts
that add up, or refused by the sentence of a DupletError (or, of a checkpoint, a ValueError).
"""

import contextlib
import functools
import gzip
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.config import check_config, load_config, values
from pipeline.core import atomic_files, manifest
from pipeline.core.errors import DupletError, InputError
from pipeline.ingest import places, stage

Run = Callable[[bytes], None]


class Target(NamedTuple):
    run: Run
    seeds: Callable[[], list[bytes]]  # good content, to begin from


@contextlib.contextmanager
def one_sentence(*more: type[Exception]) -> Iterator[None]:
    """Lets a refusal pass that is one line."""
    try:
        yield
    except (DupletError, *more) as error:
        assert str(error).strip() and "\n" not in str(error), repr(error)


# --- ingest -----------------------------------------------------------------------------------------------------------
def ingest(source: dict[str, Any], folder: Path, task: str = "matching") -> None:
    """Runs the stage into a folder, and adds up what it counted."""
    settings = {"source": source, "max_quarantined_share": 0.999, "max_row_kb": 1}
    try:
        counts = stage.run(check_config({"name": "t", "task": task, "ingest": settings}, "test"), folder)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return
    kinds = [counts[kind] for kind in ("records", "documents", "queries") if kind in counts]
    for kind in kinds:
        assert kind["read"] == kind["kept"] + kind["quarantined"] + kind["duplicates"], kind
    lines = (folder / "quarantine.jsonl").read_text(encoding="utf-8").count("\n")
    assert lines == sum(kind["quarantined"] for kind in kinds) == sum(counts["quarantine_reasons"].values())
    for split, kept in counts["records"]["splits"].items():
        assert pq.read_metadata(folder / f"records-{split}.parquet").num_rows == kept
    assert sum(counts["records"]["splits"].values()) >= counts["records"]["kept"]


def _ingests(make: Callable[[Callable[[str], str]], dict[str, Any]], task: str, good: dict[str, bytes]) -> Target:
    """Files by name, of which the input's first byte says which one it stands for.

    Args:
        make: the source, given what makes a path of a name.
    """
    names = list(good)

    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            replaced = names[data[0] % len(names)] if data else names[0]
            for name, content in (good | {replaced: data[1:]}).items():
                Path(folder, name).parent.mkdir(exist_ok=True)
                Path(folder, name).write_bytes(content)
            output = Path(folder, "output")
            output.mkdir()
            ingest(make(lambda name: str(Path(folder, name))), output, task)

    return Target(run, lambda: [bytes([i]) + packed for i, name in enumerate(names) for packed in _packed(good[name])])


def _packed(content: bytes) -> list[bytes]:
    return [content, gzip.compress(content, mtime=0), zstandard.compress(content)]


def _pairs(**source: Any) -> Callable[[Callable[[str], str]], dict[str, Any]]:
    return lambda path: {**source, "path": path("source")}


def _parquet() -> bytes:
    table = pa.table({"query": ["a", "b"], "document": ["c", "d"], "relevance": [1.0, 0.0]})
    pq.write_table(table, found := io.BytesIO())
    return found.getvalue()


def _zip_of_pictures() -> bytes:
    from PIL import Image

    Image.new("RGB", (3, 2), (200, 10, 10)).save(picture := io.BytesIO(), "PNG")
    with zipfile.ZipFile(found := io.BytesIO(), "w") as archive:
        for name, method in (("a.png", zipfile.ZIP_DEFLATED), ("folder/1.png", zipfile.ZIP_STORED)):
            archive.writestr(zipfile.ZipInfo(name), picture.getvalue(), method)
    return found.getvalue()


def _npy(array: np.ndarray) -> bytes:
    np.save(found := io.BytesIO(), array)
    return found.getvalue()


DOCUMENTS = b"<DOC>\n<DOCNO>1</DOCNO><TITLE>one &amp; two</TITLE>\n<TEXT>wing flow</TEXT></DOC>\n"
SMART = b".I 1\n.T\none\n.W\nwing flow\n.I 2\n.W\nheart\n"
TOPICS = b"<top><num> Number: 1 <title> wing <desc> Description: flow </top>\n"
CONLLU = b"# text\n1\ta\ta\tDET\tDT\t_\t2\tdet\t_\t_\n2\tb\tb\tNOUN\tNN\t_\t0\troot\t_\t_\n\n"
COCO = b'{"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "one"}]}'
KARPATHY = b'{"images": [{"filename": "1.png", "split": "train", "sentences": [{"raw": "one"}, {"raw": "two"}]}]}'
WORDS = b'{"_id": "1", "title": "t", "text": "wing"}\n'


def _collection(form: str) -> Callable[[Callable[[str], str]], dict[str, Any]]:
    return lambda path: {"format": form, **{part: path(part) for part in ("documents", "queries", "judgements")}}


def _ingest_targets() -> dict[str, Target]:
    jsonl = b'{"query": "a", "document": "b"}\n{"query": "c\\u00e9", "document": "d", "n": 1}\n'
    tsv = b"query\tdocument\tr\na\tb\t1\nc\td\t0.5\n"
    pictures = _zip_of_pictures()
    coco = lambda *of: lambda path: {"format": "coco", "images": path("i.zip"), **{part: path(part) for part in of}}
    return {
        "jsonl": _ingests(_pairs(format="jsonl"), "matching", {"source": jsonl}),
        "tsv": _ingests(_pairs(format="tsv", columns={"relevance": "r"}), "matching", {"source": tsv}),
        "csv": _ingests(_pairs(format="csv"), "matching", {"source": b'query,document\na,"b\nc ""d"""\ne,f\n'}),
        "parquet": _ingests(_pairs(format="parquet"), "matching", {"source": _parquet()}),
        "trec": _ingests(_collection("trec"), "matching", {
            "documents": DOCUMENTS, "queries": TOPICS, "judgements": b"1 0 1 1\n"}),
        "smart": _ingests(_collection("trec"), "matching", {
            "documents": SMART, "queries": b".I 1\n.W\nwing\n", "judgements": b"1 0 1 1\n"}),
        "msmarco": _ingests(_collection("msmarco"), "matching", {
            "documents": b"1\twing\n2\theart\n", "queries": b"1\tq\n", "judgements": b"1\t0\t1\t1\n"}),
        "beir": _ingests(lambda path: {"format": "beir", "path": path("")}, "matching", {
            "corpus.jsonl": WORDS, "queries.jsonl": WORDS,
            "qrels/test.tsv": b"query-id\tcorpus-id\tscore\n1\t1\t1\n"}),
        "text": _ingests(_pairs(format="text", lines_per_record=2), "language_model", {"source": b"one\n\ntwo\n"}),
        "labelled": _ingests(_pairs(format="labelled"), "classification", {"source": b"good one two\nbad three\n"}),
        "lines": _ingests(
            lambda path: {"format": "lines", "paths": {"train": {"source": path("s"), "target": path("t")}}},
            "translation", {"s": b"one\ntwo\n", "t": b"eins\nzwei\n"}),
        "conll": _ingests(_pairs(format="conll"), "tagging", {"source": b"In IN B-PP\nit PRP B-NP\n\nno UH O\n"}),
        "conllu": _ingests(lambda path: {"format": "conllu", "paths": {"train": path("source")}}, "tagging",
                           {"source": CONLLU}),
        "pictures": _ingests(
            lambda path: {"format": "captions", "captions": path("c"), "images": path("i.zip"), "size_px": 4},
            "captioning", {"c": b"a.png#0\tone\n1.png\ttwo\n", "i.zip": pictures}),
        "coco": _ingests(coco("captions"), "captioning", {"captions": COCO, "i.zip": pictures}),
        "karpathy": _ingests(coco("captions"), "captioning", {"captions": KARPATHY, "i.zip": pictures}),
        "vqa": _ingests(coco("questions", "annotations"), "visual_question", {
            "questions": b'{"questions": [{"image_id": 1, "question_id": 7, "question": "q"}]}', "i.zip": pictures,
            "annotations": b'{"annotations": [{"question_id": 7, "multiple_choice_answer": "a"}]}'}),
        "vectors": _ingests(
            lambda path: {"format": "captions", "captions": path("c"), "images": path("v.npy"), "names": path("n")},
            "captioning", {"c": b"a\tone\n", "n": b"a\nb\n", "v.npy": _npy(np.ones((2, 3), np.float32))}),
    }  # fmt: skip


# --- settings ---------------------------------------------------------------------------------------------------------
CONFIG = b"""name: small
ingest: {source: {format: tsv, path: "a.tsv", columns: {relevance: r}}, split: {valid: 0.1}}
train: &t {epochs: 2, schedule: {warmup_updates: 2}}
tokenize: {max_tokens: {query: 8}}
"""


def _config(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.yaml")
        path.write_bytes(data)
        with one_sentence():
            load_config(path)


def _override(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.yaml")
        path.write_bytes(CONFIG)
        with one_sentence():
            load_config(path, [data.decode("utf-8", "surrogateescape")])


def _job(data: bytes) -> None:
    from jobs import spec

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.yaml")
        path.write_bytes(data)
        with one_sentence():
            spec._job_file(str(path))
    values.typed(values.Given(data.decode("utf-8", "replace")), (spec.JobSpec,))


# --- tokenizers -------------------------------------------------------------------------------------------------------
TEXT = "The flow of HTTPHeader 东京タワー é\u200b fin, 12".encode()


@functools.cache
def tokenized() -> Path:
    """A tokenized folder of SentencePiece's, which goes with the process."""
    from pipeline.tokenization import stage as tokenization

    home = _home("tokenized")
    (home / "ingested").mkdir()
    rows = "".join(f'{{"query": "wing {i} flow", "document": "heart valve {i} pulse ü"}}\n' for i in range(60))
    (home / "pairs.jsonl").write_text(rows)
    source = {"format": "jsonl", "path": str(home / "pairs.jsonl")}
    tokenize = {"kind": "sentencepiece", "vocabulary_size": 60, "rows_per_shard": 20}
    config = check_config({"name": "t", "ingest": {"source": source}, "tokenize": tokenize}, "test")
    stage.run(config, home / "ingested")
    (home / "ids").mkdir()
    tokenization.run(config, home / "ingested", home / "ids", workers=1)
    return home / "ids"


def _tokenizers(data: bytes) -> None:
    from pipeline.tokenization.encoder import Encoder, load_tokenizer
    from pipeline.tokenization.joining import joined
    from pipeline.tokenization.tokenizers import tokenizer_of

    text = data.decode("utf-8", "replace")
    known = {"<pad>": 0, "<unk>": 1, "the": 2}
    for kind in ("word", "character", "whitespace", "verbatim", "whole", "letters", "jieba"):
        tokenizer = tokenizer_of(kind, True, Path())
        tokens = tokenizer.tokens(text)
        assert all(tokens) and sum(map(len, tokens)) <= 40 * len(text) + 40
        coded = Encoder(tokenizer, known, {"query": 5}).encode_all([text, ""], "query")
        assert (coded.lengths >= 1).all() and coded.lengths.sum() == len(coded.ids) and coded.lengths.max() <= 5
        joined(kind, tokens)
    assert (load_tokenizer(tokenized()).encode(text, "query") >= 0).all()


def _tokenizer_files(data: bytes) -> None:
    from pipeline.tokenization.encoder import load_tokenizer

    def use(folder: Path) -> None:
        encoder = load_tokenizer(folder)
        for field in encoder.max_tokens:
            encoder.encode(TEXT.decode(), field)

    _replaced(tokenized(), TOKENIZER_FILES, data, use)


def _shards(data: bytes) -> None:
    from pipeline.tokenization import shards

    def use(folder: Path) -> None:
        split = shards.open_split(folder, "train")
        for texts in split.fields.values():
            rows = np.arange(len(texts))
            ids, lengths = texts.padded(rows)
            assert ids.shape[0] == len(lengths) == len(texts)
            with contextlib.suppress(UnicodeDecodeError):  # keys are looked at one by one, when they are asked for
                list(texts.keys)

    _replaced(tokenized(), SHARDS, data, use)


TOKENIZER_FILES = ("tokenizer.json", "vocabulary.json", "sentencepiece.model")
SHARDS = ("train/query-00000.arrow", "train/document-00001.arrow", "train/examples.arrow")
CHECKPOINT_FILES = ("checksums.json", "state.json", "parameters.npz", "moments.npz")


# --- folders ----------------------------------------------------------------------------------------------------------
def _home(name: str) -> Path:
    import atexit

    home = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def _files_of(folder: Path, names: tuple[str, ...]) -> list[bytes]:
    """Good inputs for `_replaced`."""
    return [bytes([i]) + (folder / name).read_bytes() for i, name in enumerate(names)]


def _replaced(folder: Path, names: tuple[str, ...], data: bytes, use: Callable[[Path], None]) -> None:
    """Uses a folder with one of its files, by the first byte, standing for the rest of the input."""
    path = folder / names[data[0] % len(names) if data else 0]
    good = path.with_name(f"{path.name}.good")
    path.rename(good)  # never written over: it may be mapped
    try:
        path.write_bytes(data[1:])
        with one_sentence():
            use(folder)
    finally:
        good.replace(path)


@functools.cache
def checkpoints() -> Path:
    from pipeline.training import checkpoint
    from pipeline.training.checkpoint import State

    home = _home("checkpoints")
    array = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    checkpoint.save(home, State(update=1), array, array, 2)
    checkpoint.save(home, State(update=2), array, array, 2)
    return home


def _checkpoint(data: bytes) -> None:
    """The newest one with a file replaced, and its checksum put right: the planter can count too."""
    from pipeline.training import checkpoint

    def use(folder: Path) -> None:
        sums = {p.name: atomic_files.sha256(p) for p in folder.iterdir() if p.suffix in (".npz", ".json")}
        kept = (folder / "checksums.json").read_bytes()
        if data and data[0] % len(CHECKPOINT_FILES):  # else the list of checksums itself is what was replaced
            (folder / "checksums.json").write_text(json.dumps(sums))
        try:
            found, warnings = checkpoint.newest(folder.parent)
        finally:
            (folder / "checksums.json").write_bytes(kept)
        assert found is not None and (found.folder == folder or len(warnings) == 1)

    _replaced(checkpoints() / "update-00000002", CHECKPOINT_FILES, data, use)


def _arrays(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        path.write_bytes(data)
        try:
            found = atomic_files.arrays(path)
        except ValueError as error:
            assert str(path) in str(error)
            return
        assert sum(array.nbytes for array in found.values()) <= len(data)


def _manifest(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, manifest.NAME).write_bytes(data)
        with one_sentence():
            manifest.load(Path(folder), "ingest", "duplet ingest c.yaml")


@functools.cache
def index() -> Path:
    from pipeline.search.build import Update
    from pipeline.search.index_store import ModelStamp, Settings
    from tests.search.conftest import topical
    from tests.search.double import WordEncoder

    home = _home("index") / "index"
    settings = Settings(documents_per_segment=20, approximate_above=1, wanted_recall=0.0)
    stamp = ModelStamp("k1", "train", str(home), "model", "cosine", "matching")
    with Update(home, None, WordEncoder("cosine"), stamp, settings, lambda _: None) as update:
        update.put(topical(40), False)
        update.publish()
    return home


def _index_files() -> tuple[str, ...]:
    home = index()
    segment = min((home / "segments").iterdir())
    return ("index.json", *(str(path.relative_to(home)) for folder in (segment, home / "generations" / "000001")
                            for path in sorted(folder.iterdir())))  # fmt: skip


def _index(data: bytes) -> None:
    """A file replaced, and its size in the listing beside it put right."""
    from pipeline.search import index_store
    from pipeline.search.searcher import Searcher
    from tests.search.double import WordEncoder

    names = _index_files()
    name = names[data[0] % len(names) if data else 0]

    def use(folder: Path) -> None:
        listing = (folder / name).with_name("segment.json")
        kept = listing.read_bytes() if listing.exists() and listing != folder / name else None
        if kept is not None:
            told = json.loads(kept)
            told["files"][(folder / name).name] = len(data) - 1 if data else 0
            listing.write_text(json.dumps(told))
        try:
            searcher = Searcher(index_store.open_snapshot(folder), WordEncoder("cosine"))
            list(searcher.snapshot.live_documents())
            for mode in ("model", "words", "hybrid"):
                for result in searcher.search("wing heart file", 3, mode).results:
                    searcher.passage_text(result.passage_row)
        finally:
            if kept is not None:
                listing.write_bytes(kept)

    _replaced(index(), names, data, use)


def _documents(data: bytes) -> None:
    from pipeline.search.documents import Table

    names = ("d.jsonl", "d.csv", "d.tsv", "d.parquet")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, names[data[0] % len(names) if data else 0])
        path.write_bytes(data[1:])
        with one_sentence():
            reader = Table(str(path), {}, Path(folder, "bad"), Path(folder))
            kept = len(list(reader))
            counts = reader.counts
            assert kept == counts["kept"]
            assert counts["read"] == counts["kept"] + counts["duplicates"] + counts["quarantined"]


def _rows(data: bytes) -> None:
    from pipeline.serving.predict import files

    kinds = ("jsonl", "csv", "tsv", "parquet")
    kind = kinds[data[0] % len(kinds) if data else 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"d.{kind}")
        path.write_bytes(data[1:])
        files.count_rows(str(path), kind, 1024, Path(folder))
        with one_sentence():
            for row in files.read(str(path), kind, 1024, Path(folder)):
                assert len(row.shown) <= 10 * 200


def _tensors(data: bytes) -> None:
    from pipeline.serving.export import torch_export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, torch_export.NAME)
        path.write_bytes(data)
        with one_sentence():
            torch_export.from_torch(torch_export._read(path))


def _lines(data: bytes) -> None:
    """Any packing, any encoding: never more than the limit of a line, and numbers without a gap."""
    encodings = ("utf-8", "latin-1", "cp1252", "shift_jis", "utf-16", "utf-7", "big5", "utf-8-sig")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(data[1:])
        with one_sentence():
            encoding = encodings[data[0] % len(encodings) if data else 0]
            for number, line in enumerate(places.lines(str(path), encoding, 50), start=1):
                assert line.number == number and len(line.text) <= 200


# --- all --------------------------------------------------------------------------------------------------------------
def _npz() -> bytes:
    np.savez(found := io.BytesIO(), a=np.arange(6, dtype=np.float32).reshape(2, 3))
    return found.getvalue()


def _safetensors() -> bytes:
    from safetensors.numpy import save

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    return bytes(save({"tower.encoder.rnn.weight_ih_l0": array, "embedding.weight": array}))


@functools.cache
def targets() -> dict[str, Target]:
    """By name. What a target needs beside its bytes is made when it is first called."""
    good = {
        "config": Target(_config, lambda: [CONFIG, b"name: &a [x]\ningest: {source: *a}\nseed: !!int '3'\n"]),
        "override": Target(_override, lambda: [b"train.epochs=3", b"tokenize.max_tokens={query: 3}", b"name=!!str 3"]),
        "job": Target(_job, lambda: [b"config: c.yaml\nworkers: 2:8\noverrides: [train.epochs=3]\nmem_gb: 2\n"]),
        "tokenizers": Target(_tokenizers, lambda: [TEXT, "ｆｕｌｌ ﬁ e\u0301 我来到北京清华大学".encode()]),
        "tokenizer-files": Target(_tokenizer_files, lambda: _files_of(tokenized(), TOKENIZER_FILES)),
        "shards": Target(_shards, lambda: _files_of(tokenized(), SHARDS)),
        "checkpoint": Target(_checkpoint, lambda: _files_of(checkpoints() / "update-00000002", CHECKPOINT_FILES)),
        "arrays": Target(_arrays, lambda: [_npz()]),
        "manifest": Target(_manifest, lambda: [json.dumps({
            "stage": "ingest", "key": "k", "key_parts": {}, "counts": {}, "files": {"a": {"bytes": 1, "sha256": "0"}},
            "seconds": 1.0, "created": "", "git_commit": None, "versions": {}}).encode()]),
        "index": Target(_index, lambda: _files_of(index(), _index_files())),
        "documents": Target(_documents, lambda: [
            b"\0" + WORDS, b"\1id,title,text\n1,a,b\n", b"\2id\ttext\n1\tb\n", b"\3" + _parquet()]),
        "rows": Target(_rows, lambda: [
            b"\0" + WORDS, b"\1query,document\na,b\n", b"\2query\tdocument\na\tb\n", b"\3" + _parquet()]),
        "tensors": Target(_tensors, lambda: [_safetensors()]),
        "lines": Target(_lines, lambda: [bytes([i]) + p for i in range(4) for p in _packed(b"one\ntwo\r\nthree")]),
    }  # fmt: skip
    return {**{f"ingest-{name}": target for name, target in _ingest_targets().items()}, **good}


# What is worth putting into any input.
PIECES = [
    b"\t", b"\n", b"\r", b"\r\n", b",", b'"', b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd", b"1", b"text", b"[" * 50, b"{" * 50, b"x" * 1500, b"\xe2\x80\xae", b"\xed\xa0\x80",
    b"\xe2\x80\xa8", b'{"query": "', b'", "document": "x"}', b"\\ud800", b"1e999", b"NaN", b"-1", b"9" * 5000,
    b"null", b"<DOC>", b"</DOC>", b"<DOCNO>1</DOCNO>", b"<TEXT>", b"<TITLE>", b"<top>", b"</top>", b"&#99999999;",
    b"&#" + b"9" * 5000 + b";", b".I 1\n", b".T\n", b".W\n", b"!!python/object/apply:os.system [x]", b"&a [*a]",
    b"*a", b"!!int ''", b"!!bool x", b"!!timestamp x", b"<<: *a", b"${HOME}", b"../../etc/passwd", b"PK\x03\x04",
]  # fmt: skip

"""The stage `teach` for pairs: a teacher's vectors and scores, brought into the order of the train split's texts.

Texts are known by a hash of 16 bytes and vectors lie in files that are mapped: memory grows with the number of texts.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.core.executors import Executor, InProcess
from pipeline.core.kept import Form, Kept, packed, unpacked
from pipeline.core.progress import Say
from pipeline.evaluation import baselines
from pipeline.evaluation.ranking import (
    Judgements,
    Ranking,
    evaluate,
    measures,
    rank_collection,
    rank_listed,
    rank_pairs,
)
from pipeline.ingest import leaks
from pipeline.models.matcher import SIDES
from pipeline.orchestration.onnx_teacher import OnnxTeacher
from pipeline.tasks import teacher_files
from pipeline.tasks.known_pairs import key_of
from pipeline.tasks.matching_teaching import ENDS, FURTHER, IDS, KEYS, SCORES
from pipeline.tasks.teacher_files import shown
from pipeline.tokenization import shards
from pipeline.tokenization.stage import COLLECTION_NAME

MANY = {"query": "queries", "document": "documents"}
SHOWN = 3  # ids that a sentence names
ROWS = 256  # queries that are compared with all documents at once
Place = tuple[str, str, int]  # split, side, row


class Folders(NamedTuple):
    """What the stage reads and writes."""

    ingested: Path
    tokenized: Path
    output: Path
    work: Path | None = None  # holds the vectors that are done of an encoder; what a run of the same key left is taken


def keep(config: Config, folders: Folders, say: Say = lambda line: None) -> dict[str, Any]:
    """Reads the teacher's files, or runs the teacher, and writes what training takes of it; the counts.

    Raises:
        InputError: a file is bad, or lacks what training needs.
    """
    splits = {name: shards.open_split(folders.tokenized, name) for name in ("train", "valid")}
    valid = splits["valid"]
    judgements = Judgements(
        valid.rows["query"], valid.rows["document"], valid.relevance,
        len(valid.fields["query"]), len(valid.fields["document"]), valid.missing,
    )  # fmt: skip
    counts: dict[str, Any] = {}
    if config.teach.embeds:
        vectors = Vectors(config, folders, splits)
        for path, part in _parts(config, folders, splits, say):
            vectors.take(path, part)
        counts |= vectors.finish()
        if vectors.knows_valid:
            counts |= _figures("vectors", config, judgements, lambda listed: vectors.ranking(judgements, listed))
    if config.teach.scores:
        found, pairs = _pairs(config, folders.output, splits)
        counts |= found
        if len(pairs[0]):
            judged = np.unique(pairs[0])
            ranking = lambda _: rank_pairs(*pairs, judgements, None)
            counts |= _figures("scores", config, judgements, ranking, judged, pairs)
    return counts


def sentences(config: Config, counts: dict[str, Any]) -> Iterator[str]:
    """How good the teacher is, before anything is trained.

    Raises:
        InputError: it is no better than chance.
    """
    who = config.teach.who
    if "documents" in counts:
        left = f", {counts['held_out']:,} left out as queries of valid or test" if counts["held_out"] else ""
        yield (
            f"teach: vectors of {counts['width']} numbers for {counts['queries']:,} queries and "
            f"{counts['documents']:,} documents of train, and {counts['further']:,} further texts{left}"
        )
    if "pairs" in counts:
        unknown = f"; {counts['unknown']:,} others are of no query and document of train" if counts["unknown"] else ""
        yield f"teach: scores of {counts['pairs']:,} pairs of train{unknown}"
    for kind in ("vectors", "scores"):
        if kind not in counts:
            given = config.teach.embeds if kind == "vectors" else config.teach.scores
            if given:
                yield f"warning: {who} has not all {kind} of valid, so how good a teacher it is there is not known"
            continue
        found = counts[kind]
        name, value, chance = found["metric"], found["value"], found["chance"]
        yield f"teach: {who}, by {kind}, has {name} {value:.4f} on {found['queries']:,} queries of valid"
        if value <= chance:
            reason = f"its file is probably of other texts or ids; check teach.{kind}"
            if kind == "vectors" and config.teach.onnx:
                reason = "it is probably no encoder of such texts; check teach.onnx"
            raise InputError(
                f"{who}, by {kind}, ranks the documents of valid no better than chance ({name} {value:.4f}, and a "
                f"random order has {chance:.4f}): {reason}"
            )


def _parts(
    config: Config, folders: Folders, splits: dict[str, shards.Split], say: Say
) -> Iterator[tuple[Path, teacher_files.Part]]:
    """The vectors of files, or of an encoder for each text of train and valid once."""
    if config.teach.onnx is None:
        for path in map(Path, config.teach.vectors):
            yield from ((path, part) for part in teacher_files.vectors(path))
        return
    teacher = OnnxTeacher(Path(config.teach.onnx))

    def encode(piece: tuple[str, list[str]]) -> np.ndarray:
        return teacher.vectors(*piece)

    here: Executor = InProcess()  # the encoder takes all cores by itself
    if folders.work is not None:
        folders.work.mkdir(parents=True, exist_ok=True)
        here = Kept(here, folders.work, {"encode": Form(atomic_files.digest, _packed, _unpacked)})
    for side in SIDES:
        left = {_digest(key) for split in splits.values() for key in split.fields[side].keys}
        every, done = len(left), 0
        wanted = _once((row for split in splits for row in _rows(folders.ingested, split, side)), left)
        while some := list(itertools.islice(wanted, teacher_files.ROWS)):
            keys, [found] = [key for key, _ in some], here.map(encode, [(side, [text for _, text in some])])
            yield teacher.folder, teacher_files.part("teach.onnx", teacher.folder, f"{side}_id", keys, found)
            done += len(some)
            say(f"{config.teach.who}: {done:,} of {every:,} {MANY[side]} encoded")


def _packed(vectors: np.ndarray) -> bytes:
    return packed(vectors=vectors)


def _unpacked(content: bytes) -> np.ndarray:
    return unpacked(content)["vectors"]


def _once(rows: Iterable[tuple[str, str]], left: set[bytes]) -> Iterator[tuple[str, str]]:
    """Each id's first text, of those that are left."""
    for key, text in rows:
        if (digest := _digest(key)) in left:
            left.remove(digest)
            yield key, text


class Vectors:
    """The vectors of train's texts, of valid's and of further ones, as they come by."""

    def __init__(self, config: Config, folders: Folders, splits: dict[str, shards.Split]) -> None:
        self._config, self._folders, self._splits = config, folders, splits
        self._places: dict[str, dict[bytes, list[Place]]] = {}
        self._arrays: dict[tuple[str, str], np.ndarray] = {}
        self._filled = {(name, side): np.zeros(len(split.fields[side]), bool) for name, split in splits.items()
                        for side in SIDES}  # fmt: skip
        self._held_out: set[bytes] | None = None
        self._further: set[bytes] = set()
        self._ends, self._left_out, self._width = [0], 0, 0
        self._tokenizer = shards.load_tokenizer(folders.tokenized)
        self._raw = {name: folders.output / f"{name}.raw" for name in (FURTHER, IDS)}

    def take(self, path: Path, part: teacher_files.Part) -> None:
        """Puts vectors where they belong. Raises InputError where one is given twice, or is of another width."""
        if not self._width:
            self._begin(part.vectors.shape[1])
        if part.vectors.shape[1] != self._width:
            raise InputError(
                f"teach.vectors: {path} has vectors of {part.vectors.shape[1]} numbers and the file before it of "
                f"{self._width}: give those of one teacher"
            )
        places, more = self._known(part.kind), []
        for number, key in enumerate(part.keys):
            digest = _digest(key)
            found = places.get(digest, ())
            for split, side, row in found:
                if self._filled[split, side][row]:
                    raise _twice(path, part.kind, key)
                self._filled[split, side][row] = True
                self._arrays[split, side][row] = part.vectors[number]
            if part.kind == "text" and all(split != "train" for split, *_ in found):
                if digest in self._further:
                    raise _twice(path, part.kind, key)
                self._further.add(digest)
                if _digest(leaks.normalized(key)) in self._not_to_be_read():
                    self._left_out += 1
                else:
                    more.append(number)
        if more:
            self._append([part.keys[number] for number in more], part.vectors[more])

    def finish(self) -> dict[str, Any]:
        """Writes what is not written yet; the counts. Raises InputError where a text of train has no vector."""
        for side in SIDES:
            filled = self._filled["train", side]
            if not filled.all():
                lost = np.flatnonzero(~filled)
                names = ", ".join(repr(self._splits["train"].fields[side].keys[int(row)]) for row in lost[:SHOWN])
                raise InputError(
                    f"teach.vectors lacks {len(lost):,} of {len(filled):,} {MANY[side]} of the train split "
                    f"({names}{', …' if len(lost) > SHOWN else ''}): give all of them, by id or by text, as "
                    "records-train.parquet has them"
                )
            if isinstance(array := self._arrays["train", side], np.memmap):
                array.flush()
        if len(self._ends) > 1:
            shape = (len(self._ends) - 1, self._width)
            output = self._folders.output
            np.save(output / f"{FURTHER}.npy", np.memmap(self._raw[FURTHER], np.float32, "r", shape=shape))
            np.save(output / IDS, np.memmap(self._raw[IDS], np.int32, "r"))
            np.save(output / ENDS, np.array(self._ends[1:], np.int64))
        for raw in self._raw.values():
            raw.unlink(missing_ok=True)
        sizes = {MANY[side]: len(self._filled["train", side]) for side in SIDES}
        return {**sizes, "width": self._width, "further": len(self._ends) - 1, "held_out": self._left_out}

    @property
    def knows_valid(self) -> bool:
        return all(self._filled["valid", side].all() and len(self._filled["valid", side]) for side in SIDES)

    def ranking(self, judgements: Judgements, listed: bool) -> Ranking:
        """Of valid's documents by the teacher's cosines."""
        queries, documents = (self._arrays["valid", side] for side in SIDES)
        if listed:
            pairs = queries[judgements.query_rows] * documents[judgements.document_rows]
            return rank_listed(pairs.sum(axis=1), judgements)
        starts = range(0, len(queries), ROWS)
        chunks = ((np.arange(s, min(s + ROWS, len(queries))), queries[s : s + ROWS] @ documents.T) for s in starts)
        return rank_collection(chunks, judgements, self._config.evaluate.depth)

    def _begin(self, width: int) -> None:
        self._width = width
        for (split, side), filled in self._filled.items():
            shape = (len(filled), width)
            self._arrays[split, side] = (
                np.lib.format.open_memmap(self._folders.output / f"{side}.npy", "w+", np.float32, shape)
                if split == "train" and len(filled)
                else np.zeros(shape, np.float32)
            )

    def _known(self, kind: str) -> dict[bytes, list[Place]]:
        """Where the texts of train and valid stand that have a key of this kind."""
        if kind not in self._places:
            found: dict[bytes, list[Place]] = {}
            self._places[kind] = found
            for (split, side), filled in self._filled.items():
                keys = self._splits[split].fields[side].keys
                if kind == "text":
                    text_of = _texts(self._folders.ingested, split, side)
                    named: Iterable[bytes] = (text_of[_digest(key)] for key in keys)
                elif kind == f"{side}_id":
                    named = map(_digest, keys)
                else:
                    continue
                for row, digest in enumerate(named):
                    found.setdefault(digest, []).append((split, side, row))
                assert len(filled) == len(keys)
        return self._places[kind]

    def _not_to_be_read(self) -> set[bytes]:
        """Texts that only valid and test may hold: what is measured there must not have been read."""
        if self._held_out is None:
            self._held_out = set()
            for split in leaks.HELD_OUT:
                for field in leaks.compared(self._config):
                    for _, text in _column(self._folders.ingested / f"records-{split}.parquet", field):
                        self._held_out.add(_digest(leaks.normalized(text)))
        return self._held_out

    def _append(self, texts: list[str], vectors: np.ndarray) -> None:
        encoded = self._tokenizer.encode_all(texts, "document")
        for name, array in ((FURTHER, vectors), (IDS, encoded.ids)):
            with self._raw[name].open("ab") as file:
                array.tofile(file)
        self._ends.extend((self._ends[-1] + np.cumsum(encoded.lengths, dtype=np.int64)).tolist())


def _pairs(
    config: Config, output: Path, splits: dict[str, shards.Split]
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Writes the scores of train's pairs; the counts, and rows and scores of the pairs of valid."""
    path = Path(str(config.teach.scores))
    queries, documents, values = teacher_files.scores(path)
    found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for name, split in splits.items():
        rows = []
        for side, keys in zip(SIDES, (queries, documents)):
            row_of = {key: row for row, key in enumerate(split.fields[side].keys)}
            rows.append(np.array([row_of.get(key, -1) for key in keys], np.int64))
        there = (rows[0] >= 0) & (rows[1] >= 0)
        pair_keys = key_of(rows[0][there], rows[1][there])
        order = np.argsort(pair_keys, kind="stable")
        pair_keys = pair_keys[order]
        if (twice := np.flatnonzero(pair_keys[1:] == pair_keys[:-1])).size:
            at = np.flatnonzero(there)[order[twice[0]]]
            raise InputError(
                f"teach.scores={path} has the pair {queries[at]!r}, {documents[at]!r} twice: give each score once"
            )
        kept = np.flatnonzero(there)[order]
        found[name] = (rows[0][kept], rows[1][kept], values[kept])
    train, (query_rows, document_rows, scores) = splits["train"], found["train"]
    pair_keys = key_of(query_rows, document_rows)
    relevant = train.relevance > 0
    needed = key_of(train.rows["query"][relevant], train.rows["document"][relevant])
    lost = np.flatnonzero(~np.isin(needed, pair_keys))
    if lost.size:
        names = ", ".join(repr(train.ids[int(row)]) for row in np.flatnonzero(relevant)[lost[:SHOWN]])
        raise InputError(
            f"teach.scores={path} lacks {len(lost):,} of {len(needed):,} relevant pairs of the train split (records "
            f"{names}{', …' if len(lost) > SHOWN else ''}): score all of them, by query_id and document_id"
        )
    if len(np.unique(query_rows)) == len(query_rows):
        raise InputError(
            f"teach.scores={path} has one document for each query of train: margins need others beside the relevant "
            "ones; score irrelevant or mined documents too"
        )
    np.save(output / KEYS, pair_keys)
    np.save(output / SCORES, scores.astype(np.float32))
    return {"pairs": len(pair_keys), "unknown": len(values) - len(pair_keys) - len(found["valid"][0])}, found["valid"]


def _figures(
    kind: str,
    config: Config,
    judgements: Judgements,
    ranking: Callable[[bool], Ranking],
    queries: np.ndarray | None = None,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """What the teacher's ranking of valid is worth, and a random one, under the `kind`; nothing where none is judged.

    Args:
        queries: (n,) rows that are judged; None: all with a relevant document.
        pairs: those that are ranked; None: the whole split, or each query's listed documents.
    """
    names = tuple(measures(config.evaluate.depth))
    name = config.train.metric if config.train.metric in names else names[0]
    judged = judgements.answerable if queries is None else np.intersect1d(queries, judgements.answerable)
    if not len(judged):
        return {}
    listed = config.evaluate.candidates == "listed" or "ranking" not in config.evaluate.kinds
    rng = np.random.default_rng(config.seed)
    chance = (
        baselines.random_ranking(judgements, config.evaluate.depth, config.seed, listed)
        if pairs is None
        else rank_pairs(*pairs[:2], rng.random(len(pairs[0])), judgements, None)
    )
    mean = lambda of: float(evaluate(of, judgements, judged, config.evaluate.depth, (name,))[name].mean())
    return {kind: {"metric": name, "value": mean(ranking(listed)), "chance": mean(chance), "queries": len(judged)}}


def _texts(ingested: Path, split: str, side: str) -> dict[bytes, bytes]:
    """The hash of each text by the hash of its id; as tokenization has it, the first of an id."""
    found: dict[bytes, bytes] = {}
    for key, text in _rows(ingested, split, side):
        found.setdefault(_digest(key), _digest(text))
    return found


def _rows(ingested: Path, split: str, side: str) -> Iterator[tuple[str, str]]:
    """Ids and texts of a side's table, some of them several times."""
    yield from _column(ingested / f"records-{split}.parquet", side)
    if side == "document" and (ingested / COLLECTION_NAME).exists():
        yield from _column(ingested / COLLECTION_NAME, side)


def _column(path: Path, field: str) -> Iterator[tuple[str, str]]:
    """Ids and texts of a field."""
    for batch in pq.ParquetFile(path).iter_batches(10_000, columns=[f"{field}_id", field]):
        yield from zip(batch[f"{field}_id"].to_pylist(), batch[field].to_pylist())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _twice(path: Path, kind: str, key: str) -> InputError:
    return InputError(f"teach.vectors: {path} gives the vector of the {kind} {shown(key)} twice: give each once")

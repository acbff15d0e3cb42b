"""Building and updating an index: encode what is new or changed, then publish a new generation."""

import functools
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import atomic_files, manifest
from pipeline.core.errors import InputError, TryAgain
from pipeline.core.progress import Say
from pipeline.evaluation.analysis import Analyzer, stemmer_for
from pipeline.search import bm25_index, cluster_build, index_store, postings, segments
from pipeline.search.catalogue import Catalogue, Place
from pipeline.search.clusters import PASSAGES, Clusters
from pipeline.search.documents import Document
from pipeline.search.index_store import Counts, ModelStamp, Settings, Snapshot, State
from pipeline.search.searcher import compares_pairs_only
from pipeline.search.segments import Encodes, Segment

EXACT_UP_TO = {False: 20_000, True: 50_000}  # vectors, of a text each or of a token each
SMALL_SEGMENTS = 16  # so many not half full are joined into full ones
SEGMENTS = 16  # a segment grows to this part of the index: each takes milliseconds to open, so a large index has few
# settings that come with a model
MIXED = ("stemmer", "k1", "b", "weight", "model_scale", "words_scale", "linear", "rerank", "answering")
# A segment is made in memory: of long documents it takes fewer than settings.documents_per_segment.
CHARACTERS_PER_SEGMENT = 8_000_000  # with late interaction and eight bits some 300 MB of vectors
WORDS_PER_SEGMENT = CHARACTERS_PER_SEGMENT // 5  # where segments are joined
WORDS_REMEMBERED = 1 << 18
READING_TOLD_S = 10.0
UNCOUNTED = Counts(documents=0, passages=0, vectors=0, dead_documents=0)  # until they are counted


@dataclass
class Change:
    """What an update does, and afterwards what it did."""

    encoded: int = 0
    reused: int = 0  # found in a segment that an interrupted or earlier update left
    unchanged: int = 0
    deleted: int = 0
    not_there: list[str] = field(default_factory=list)  # ids to delete that the index does not hold
    seconds: float = 0.0


class Held:
    """The documents that an index holds, gone through as often as asked."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __iter__(self) -> Iterator[Document]:
        opened = {segment.name: segment for segment in self._snapshot.segments}
        for _, (name, row, _) in self._snapshot.live_documents():
            yield opened[name].document(row)


class Update:
    """One update of an index, under its lock; a context, as it keeps its books in a temporary file beside the index.

    Args:
        folder: the index; need not exist.
        model: None: the index has none, and `encoder` is `WordsAlone`. A model may join an index that has none: its
            documents are encoded then.
        settings: of a new index; one that exists keeps its own, but for those of the mix where a model joins.
        replaces: the model may replace another one; all documents are encoded again then.

    Raises:
        InputError: the folder holds something else, or vectors of another model.
    """

    def __init__(
        self, folder: Path, name: str | None, encoder: Encodes, model: ModelStamp | None, settings: Settings, say: Say,
        replaces: bool = False,
    ) -> None:  # fmt: skip
        self.folder, self.encoder, self.model, self.say = folder, encoder, model, say
        self.old = _state_of(folder)
        before = self.old.model if self.old else None
        other = before is not None and model is not None and before.key != model.key
        if before is not None and (model is None or (other and not replaces)):
            this = f"this is {model.key} ({model.given})" if model else "this call names none"
            raise InputError(
                f"{folder} was built with model {before.key} ({before.given}), {this}: "
                "give another --output, or --replace-model"
            )
        self.name = name or (self.old.name if self.old else folder.name)
        for text in (self.name, *((model.folder, model.given) if model else ())):
            if not atomic_files.is_utf8(text):
                raise InputError(f"{text!a} is not valid UTF-8: give another --name, or the model another folder")
        self.joins = self.old is not None and model is not None and (before is None or other)
        self.settings = self.old.settings if self.old else settings
        if self.joins:
            self.settings = replace(self.settings, **{name: getattr(settings, name) for name in MIXED})
        self.home = folder if self.old else folder.with_name(f".{folder.name}.building")
        self.change = Change()
        self._began = time.monotonic()
        self._opened = {path.name: segment for path in atomic_files.finished(self.home / "segments")
                        if (segment := self._usable(path)) is not None}  # fmt: skip
        opened = index_store.opened(folder, self.old) if self.old is not None else None
        self._catalogue = Catalogue(folder.with_name(f".{folder.name}.catalogue"))
        for segment in self._opened.values():
            self._catalogue.keep(_places(segment))
        self._before = Held(opened) if opened is not None and self.joins else None  # to be encoded
        if opened is not None and not self.joins:
            self._catalogue.put((document, Place(*place)) for document, place in opened.live_documents())

    def __enter__(self) -> "Update":
        if self._before is not None:
            try:
                self.put(self._before, False)
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._catalogue.__exit__(kind, error, trace)

    def put(self, documents: Iterable[Document], others_leave: bool, unread: Iterable[str] = ()) -> None:
        """Adds or replaces documents; `others_leave`: those that do not come by are deleted.

        Iterates twice, to tell how far it is.

        Args:
            unread: ids, and folders of ids, of which nothing is known: what the index has of them stays. Asked for
                when the documents have come by once.

        Raises:
            TryAgain: stopped by the keyboard or a signal; what is encoded is kept.
        """
        changed, told = 0, time.monotonic()
        for read, document in enumerate(documents, 1):
            changed += not self._known(document)
            if time.monotonic() - told > READING_TOLD_S:
                told = time.monotonic()
                self.say(f"read {read:,} documents")
            if others_leave:
                self._catalogue.name(document.id)
        if others_leave:
            if kept := sum(map(self._catalogue.name_below, unread)):
                self.say(f"{kept:,} documents stay as they are: their files cannot be read")
            self.delete(self._catalogue.not_named())
            self._catalogue.forget_names()
        waiting: list[Document] = []
        characters, size = 0, self._segment_size()
        try:
            for document in documents:
                if (place := self._known(document)) is not None:
                    already = self._catalogue.live(document.id)
                    self.change.unchanged += already == place
                    self.change.reused += already != place
                    self._catalogue.put([(document.id, place)])
                    continue
                waiting.append(document)
                characters += len(document.text)
                if len(waiting) >= size or characters >= CHARACTERS_PER_SEGMENT:
                    self._encode(waiting, changed)
                    waiting, characters, size = [], 0, self._segment_size()
            self._encode(waiting, changed)
        except KeyboardInterrupt:
            raise TryAgain(
                f"stopped; {self.change.encoded} of {changed} documents are encoded and kept: "
                "the same command goes on from there"
            ) from None

    def delete(self, names: Iterable[str]) -> None:
        """Takes documents out by id."""
        for name in names:
            if self._catalogue.remove(name):
                self.change.deleted += 1
            else:
                self.change.not_there.append(name)

    def publish(self) -> State:
        """Makes the change visible, all at once. Without a change the generation stays."""
        order = self._order()
        state = self.old
        if state is None or self._differs(state, order):
            state = self._new_generation(self._compacted(order))
            if self.home != self.folder:
                atomic_files.fsync_folder(self.home)
                self.home.rename(self.folder)
                atomic_files.fsync_folder(self.folder.parent)
        index_store.remove_unused(self.folder, state)
        self.change.seconds = time.monotonic() - self._began
        return state

    # --- encoding -----------------------------------------------------------------------------------------------------
    def _segment_size(self) -> int:
        """How many documents the next segment holds: with few in the index, little is lost where it is killed."""
        held = sum(len(segment.table) for segment in self._opened.values())
        return max(self.settings.documents_per_segment, held // SEGMENTS)

    def _usable(self, folder: Path) -> Segment | None:
        """A segment's folder opened; None where it was left half-written or is of another model."""
        try:
            stamp = json.loads((folder / segments.NAME).read_text(encoding="utf-8"))["model"]
            return segments.read(folder) if stamp == self._key else None
        except (*atomic_files.NOT_AN_ARRAY, LookupError, AttributeError, InputError):
            return None

    @property
    def _key(self) -> str:
        return self.model.key if self.model else ""

    def _known(self, document: Document) -> Place | None:
        digest = document.hash
        place = self._catalogue.live(document.id)
        return place if place is not None and place.hash == digest else self._catalogue.kept(document.id, digest)

    def _encode(self, documents: list[Document], changed: int) -> None:
        if not documents:
            return
        began = time.monotonic()
        parts, new = self._taken_over(documents)
        if new:
            storage = segments.Storage(self.settings.bits, self.settings.left_out, self.settings.pooled)
            parts.append(segments.encode(new, self.encoder, storage))
        self._add(segments.joined(parts) if len(parts) > 1 else parts[0])
        self.change.reused += len(documents) - len(new)
        self.change.encoded += len(new)
        rate = len(documents) / max(1e-9, time.monotonic() - began)
        self.say(f"encoded {self.change.encoded}/{changed}: {rate:.0f} documents/s")

    def _taken_over(self, documents: list[Document]) -> tuple[list[segments.Part], list[Document]]:
        """Of documents that changed in their other fields alone, what was made of their texts; and the rest."""
        places: dict[str, dict[int, Document]] = {}
        new, looked_at = [], set()
        for document in documents:
            for place in self._catalogue.places(document.id):
                looked_at.add(place.segment)
                old = self._opened[place.segment].document(place.row)
                if (old.title, old.text) == (document.title, document.text):
                    places.setdefault(place.segment, {})[place.row] = document
                    break
            else:
                new.append(document)
        parts = []
        for name, rows in places.items():
            part = self._opened[name].keep(np.array(sorted(rows)))
            parts.append(part._replace(documents=[rows[row] for row in sorted(rows)]))
        for name in looked_at:
            self._opened[name].release()
        return parts, new

    def _add(self, part: segments.Part) -> Segment:
        """Writes a segment and makes it the place of its documents."""
        name = atomic_files.digest([self._key, os.urandom(8).hex(), len(part.documents)])[:16]
        folder = self.home / "segments" / name
        segments.write(folder, part, self._key, self.settings.bits)
        segment = self._opened[name] = segments.read(folder)
        self._catalogue.keep(_places(segment))
        self._catalogue.put(_places(segment))
        return segment

    # --- publishing ---------------------------------------------------------------------------------------------------
    def _order(self) -> list[str]:
        """Names of the segments in use: the old generation's in their order, then new ones as they were written."""
        old = self.old.segments if self.old and not self.joins else []
        return [*old, *(name for name in self._opened if name not in old and self._catalogue.rows(name))]

    def _differs(self, state: State, order: list[str]) -> bool:
        alive = np.load(self.folder / "generations" / state.generation_name / "alive.npy", allow_pickle=False)
        told = self.joins or state.name != self.name
        return told or order != state.segments or not np.array_equal(alive, self._alive(order))

    def _alive(self, order: list[str]) -> np.ndarray:
        """(D,) bool over the documents of these segments."""
        parts = [np.zeros(0, bool)]
        for name in order:
            parts.append(np.zeros(len(self._opened[name].table), bool))
            parts[-1][self._catalogue.rows(name)] = True
        return np.concatenate(parts)

    def _compacted(self, order: list[str]) -> list[str]:
        """The segments to publish: those mostly dead, or many small ones, are copied into full ones."""
        living = {name: len(self._catalogue.rows(name)) for name in order}
        alive = sum(living.values())
        size = max(self.settings.documents_per_segment, alive // SEGMENTS)
        dead = sum(len(self._opened[name].table) for name in order) - alive
        most = {name: len(self._opened[name].words) for name in order}  # words
        small = [name for name in order if living[name] * 2 < size and most[name] * 2 < WORDS_PER_SEGMENT]
        wasted = [name for name in order if living[name] * 2 < len(self._opened[name].table)]
        moved = {*(small if len(small) > SMALL_SEGMENTS else ()), *(wasted if dead > alive else ())}
        moved |= {name for name in order if not living[name]}
        parts: list[segments.Part] = []
        added: list[str] = []
        for name in order:
            if name in moved and living[name]:
                parts.append(self._opened[name].keep(np.array(self._catalogue.rows(name))))
                words = sum(len(passage_words) for part in parts for passage_words in part.words)
                if sum(len(part.documents) for part in parts) >= size or words >= WORDS_PER_SEGMENT:
                    added.append(self._add(segments.joined(parts)).name)
                    parts = []
        if parts:
            added.append(self._add(segments.joined(parts)).name)
        return [*(name for name in order if name not in moved), *added]

    def _new_generation(self, order: list[str]) -> State:
        number = self.old.generation + 1 if self.old else 1
        chosen = [self._opened[name] for name in order]
        alive, settings = self._alive(order), self.settings
        stemmer = _stemmer_of(chosen, alive, settings.stemmer, self.encoder.config.tokenize.kind)
        state = State(
            name=self.name, model=self.model, settings=settings, generation=number, segments=order, stemmer=stemmer,
            counts=UNCOUNTED, approximate={}, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=manifest.versions("numpy", "faiss-cpu"), previous=self.old.segments if self.old else [],
            id=(self.old.id if self.old else "") or os.urandom(8).hex(),
        )  # fmt: skip
        with atomic_files.new_folder(self.home / "generations" / state.generation_name) as new:
            np.save(new / "alive.npy", alive)
            np.save(new / index_store.PLACES, _places_by_id(chosen))
            _write_words(new, chosen, alive, stemmer, settings.k1, settings.b)
            snapshot = Snapshot(self.home, state, new)
            counts = Counts(
                documents=int(alive.sum()),
                passages=int(snapshot.alive_passages.sum()),
                vectors=int(snapshot.alive_vectors.sum()) if self.model else 0,
                dead_documents=int((~alive).sum()),
            )
            approximate = self._clustered(snapshot, counts["vectors"], new)
            sizes = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
            atomic_files.write_text(new / segments.NAME, json.dumps({"files": sizes}))
        state = replace(state, counts=counts, approximate=approximate)
        index_store.write_state(self.home, state)
        return state

    def _clustered(self, snapshot: Snapshot, vectors: int, folder: Path) -> dict[str, Any]:
        """Gives the snapshot clusters where it has enough vectors; returns what index.json says of them."""
        limit = self.settings.approximate_above
        if limit is None:
            limit = EXACT_UP_TO[self.encoder.config.model.scored_by.by_token]
        if vectors <= limit or compares_pairs_only(self.encoder):
            return {}
        old, known, width = self.old, None, snapshot.width
        if old is not None and old.segments and snapshot.state.segments[: len(old.segments)] == old.segments:
            before = self.folder / "generations" / old.generation_name
            known = Clusters.read(before, width or 0) if old.approximate and (before / PASSAGES).exists() else None
        count = len(old.segments) if old else 0
        return cluster_build.join(snapshot, self.encoder, known, count, folder, self.settings, self.say)


def _state_of(folder: Path) -> State | None:
    """The state of an index that exists. Raises InputError where the folder holds something else."""
    if (folder / index_store.NAME).exists():
        return index_store.read_state(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output {folder} exists and is not an index: give another name, or remove it")
    return None


def _places(segment: Segment) -> Iterator[tuple[str, Place]]:
    """Each document of a segment and where it lies."""
    for row, (document, digest) in enumerate(zip(segment.ids, segment.hashes)):
        yield document, Place(segment.name, row, digest)
    segment.release()


def _places_by_id(chosen: list[Segment]) -> np.ndarray:
    """(D,) int64: where each document's id stands among all of them; of equal ids, all but one are dead."""
    ids = pa.chunked_array([chunk for segment in chosen for chunk in segment.table["id"].chunks], pa.large_string())
    places = np.empty(len(ids), np.int64)
    places[pc.array_sort_indices(ids.combine_chunks()).to_numpy().astype(np.int64)] = np.arange(len(ids))
    for segment in chosen:
        segment.release()
    return places


def _stemmer_of(chosen: list[Segment], alive: np.ndarray, wanted: str, kind: str) -> str:
    """The stemmer for the documents that are alive: equal documents, equal stemmers."""
    counts: Counter[str] = Counter()
    first = 0
    for segment in chosen if wanted == "auto" else ():
        times = np.repeat(alive[first + segment.passages[:, 0]], np.diff(segment.word_offsets))
        vocabulary = segment.vocabulary
        counts.update(dict(zip(vocabulary, np.bincount(segment.words, times, len(vocabulary)).astype(int).tolist())))
        segment.release()
        first += len(segment.table)
    return stemmer_for(wanted, kind, counts)


def _write_words(folder: Path, chosen: list[Segment], alive: np.ndarray, stemmer: str, k1: float, b: float) -> None:
    """BM25's arrays over the passages of the documents that are alive."""
    terms = functools.lru_cache(WORDS_REMEMBERED)(Analyzer(stemmer).term)  # segments have their words in common
    vocabulary = sorted({term for segment in chosen for word in segment.vocabulary if (term := terms(word))})
    ids = {term: i for i, term in enumerate(vocabulary)}

    def counted() -> Iterator[postings.Counted]:
        first_passage = first_document = 0
        for segment in chosen:
            here = np.flatnonzero(alive[first_document + segment.passages[:, 0]])
            own_ids = np.array([ids.get(terms(word) or "", -1) for word in segment.vocabulary], np.int64)
            yield postings.count(own_ids, segment.words, segment.word_offsets, here, first_passage)
            segment.release()
            first_passage += len(segment.passages)
            first_document += len(segment.table)

    bm25_index.write(folder, counted, vocabulary, k1, b)

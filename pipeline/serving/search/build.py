"""Building and updating an index: encode what is new or changed, then publish a new generation."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import files, manifest
from pipeline.errors import InputError, TryAgain
from pipeline.serving.search import graphs, segments, store, words
from pipeline.serving.search.documents import Document
from pipeline.serving.search.nearest import Graph
from pipeline.serving.search.searching import compares_pairs_only
from pipeline.serving.search.segments import Encodes, Segment
from pipeline.serving.search.store import GRAPH_NAME, ModelStamp, Settings, Snapshot, State

EXACT_UP_TO = {"pooled": 20_000, "late": 1_000_000}  # vectors
SMALL_SEGMENTS = 16  # so many not half full are joined into full ones

Say = Callable[[str], None]


class Place(NamedTuple):
    """Where a document's content is kept."""

    segment: str
    row: int
    hash: str


@dataclass
class Change:
    """What an update does, and afterwards what it did."""

    encoded: int = 0
    reused: int = 0  # found in a segment that an interrupted or earlier update left
    unchanged: int = 0
    deleted: int = 0
    not_there: list[str] = field(default_factory=list)  # ids to delete that the index does not hold
    seconds: float = 0.0


class Update:
    """One update of an index, under its lock.

    Args:
        folder: the index; need not exist.
        settings: of a new index; one that exists keeps its own.

    Raises:
        InputError: the folder holds something else, or vectors of another model.
    """

    def __init__(
        self, folder: Path, name: str | None, encoder: Encodes, model: ModelStamp, settings: Settings, say: Say
    ) -> None:
        self.folder, self.encoder, self.model, self.say = folder, encoder, model, say
        self.old = _state_of(folder)
        if self.old is not None and self.old.model.key != model.key:
            raise InputError(
                f"{folder} was built with model {self.old.model.key} ({self.old.model.given}), this is {model.key} "
                f"({model.given}): give another --output, or delete the index and build it anew"
            )
        self.name = name or (self.old.name if self.old else folder.name)
        self.settings = self.old.settings if self.old else settings
        self.home = folder if self.old else folder.with_name(f".{folder.name}.building")
        self.change = Change()
        self._began = time.monotonic()
        self._opened = {path.name: segment for path in sorted((self.home / "segments").glob("*"))
                        if (segment := self._usable(path)) is not None}  # fmt: skip
        self._kept = {(document, digest): Place(segment.name, row, digest)
                      for segment in self._opened.values()
                      for row, (document, digest) in enumerate(zip(segment.ids, segment.hashes))}  # fmt: skip
        self.live: dict[str, Place] = {}
        if self.old is not None:
            self.live = {i: Place(*place) for i, place in Snapshot(folder, self.old).live_documents().items()}

    def put(self, documents: Iterable[Document], others_leave: bool) -> None:
        """Adds or replaces documents; `others_leave`: those that do not come by are deleted.

        Iterates twice, to tell how far it is.

        Raises:
            TryAgain: stopped by the keyboard or a signal; what is encoded is kept.
        """
        names, changed = set(), 0
        for document in documents:
            names.add(document.id)
            changed += not self._known(document)
        if others_leave:
            self.delete([name for name in self.live if name not in names])
        waiting: list[Document] = []
        try:
            for document in documents:
                if (place := self._known(document)) is not None:
                    already = self.live.get(document.id)
                    self.change.unchanged += already == place
                    self.change.reused += already != place
                    self.live[document.id] = place
                    continue
                waiting.append(document)
                if len(waiting) == self.settings.documents_per_segment:
                    self._encode(waiting, changed)
                    waiting = []
            self._encode(waiting, changed)
        except KeyboardInterrupt:
            raise TryAgain(
                f"stopped; {self.change.encoded} of {changed} documents are encoded and kept: "
                "the same command goes on from there"
            ) from None

    def delete(self, names: Iterable[str]) -> None:
        """Takes documents out by id."""
        for name in names:
            if self.live.pop(name, None) is None:
                self.change.not_there.append(name)
            else:
                self.change.deleted += 1

    def publish(self) -> State:
        """Makes the change visible, all at once. Without a change the generation stays."""
        order = self._order()
        state = self.old
        if state is None or self._differs(state, order):
            state = self._new_generation(self._compacted(order))
            if self.home != self.folder:
                files.fsync_folder(self.home)
                self.home.rename(self.folder)
                files.fsync_folder(self.folder.parent)
            store.remove_unused(self.folder, state)
        self.change.seconds = time.monotonic() - self._began
        return state

    # --- encoding -----------------------------------------------------------------------------------------------------
    def _usable(self, folder: Path) -> Segment | None:
        """A segment's folder opened; None where it was left half-written or is of another model."""
        try:
            stamp = json.loads((folder / segments.NAME).read_text(encoding="utf-8"))["model"]
            return segments.read(folder) if stamp == self.model.key else None
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return None

    def _known(self, document: Document) -> Place | None:
        digest = document.hash
        place = self.live.get(document.id)
        return place if place is not None and place.hash == digest else self._kept.get((document.id, digest))

    def _encode(self, documents: list[Document], changed: int) -> None:
        if not documents:
            return
        began = time.monotonic()
        self._add(segments.encode(documents, self.encoder))
        self.change.encoded += len(documents)
        rate = len(documents) / max(1e-9, time.monotonic() - began)
        self.say(f"encoded {self.change.encoded}/{changed}: {rate:.0f} documents/s")

    def _add(self, part: segments.Part) -> Segment:
        """Writes a segment and makes it the place of its documents."""
        name = files.digest([self.model.key, os.urandom(8).hex(), len(part.documents)])[:16]
        folder = self.home / "segments" / name
        segments.write(folder, part, self.model.key)
        segment = self._opened[name] = segments.read(folder)
        for row, (document, digest) in enumerate(zip(segment.ids, segment.hashes)):
            self.live[document] = self._kept[document, digest] = Place(name, row, digest)
        return segment

    # --- publishing ---------------------------------------------------------------------------------------------------
    def _order(self) -> list[str]:
        """Names of the segments in use: the old generation's in their order, then new ones as they were written."""
        used = {place.segment for place in self.live.values()}
        old = self.old.segments if self.old else []
        return [*old, *(name for name in self._opened if name in used and name not in old)]

    def _differs(self, state: State, order: list[str]) -> bool:
        alive = np.load(self.folder / "generations" / state.generation_name / "alive.npy", allow_pickle=False)
        return order != state.segments or state.name != self.name or not np.array_equal(alive, self._alive(order))

    def _alive(self, order: list[str]) -> np.ndarray:
        """(D,) bool over the documents of these segments."""
        starts = dict(zip(order, np.cumsum([0, *(len(self._opened[name].ids) for name in order)]).tolist()))
        alive = np.zeros(sum(len(self._opened[name].ids) for name in order), bool)
        for place in self.live.values():
            alive[starts[place.segment] + place.row] = True
        return alive

    def _compacted(self, order: list[str]) -> list[str]:
        """The segments to publish: those mostly dead, or many small ones, are copied into full ones."""
        rows: dict[str, list[int]] = {name: [] for name in order}
        for place in self.live.values():
            rows[place.segment].append(place.row)
        size = self.settings.documents_per_segment
        dead = sum(len(self._opened[name].ids) for name in order) - len(self.live)
        small = [name for name in order if len(rows[name]) * 2 < size]
        wasted = [name for name in order if len(rows[name]) * 2 < len(self._opened[name].ids)]
        moved = {*(small if len(small) > SMALL_SEGMENTS else ()), *(wasted if dead > len(self.live) else ())}
        moved |= {name for name in order if not rows[name]}
        parts: list[segments.Part] = []
        added: list[str] = []
        for name in order:
            if name in moved and rows[name]:
                parts.append(self._opened[name].keep(np.sort(rows[name])))
                if sum(len(part.documents) for part in parts) >= size:
                    added.append(self._add(segments.joined(parts)).name)
                    parts = []
        if parts:
            added.append(self._add(segments.joined(parts)).name)
        return [*(name for name in order if name not in moved), *added]

    def _new_generation(self, order: list[str]) -> State:
        number = self.old.generation + 1 if self.old else 1
        chosen = [self._opened[name] for name in order]
        alive = self._alive(order)
        state = State(
            name=self.name, model=self.model, settings=self.settings, generation=number, segments=order,
            counts={}, approximate={}, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=manifest.versions("numpy", "faiss-cpu", "bm25s"), previous=self.old.segments if self.old else [],
        )  # fmt: skip
        with files.new_folder(self.home / "generations" / state.generation_name) as new:
            np.save(new / "alive.npy", alive)
            _write_words(new, chosen, alive)
            snapshot = Snapshot(self.home, state, new)
            counts = {
                "documents": int(alive.sum()),
                "passages": int(snapshot.alive_passages.sum()),
                "vectors": int(snapshot.alive_vectors.sum()),
                "dead_documents": int((~alive).sum()),
            }
            found = self._linked(snapshot, counts["vectors"])
            if found:
                assert snapshot.graph is not None
                snapshot.graph.write(new / GRAPH_NAME)
            sizes = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
            files.write_text(new / segments.NAME, json.dumps({"files": sizes}))
        state = replace(state, counts=counts, approximate=found)
        store.write_state(self.home, state)
        return state

    def _linked(self, snapshot: Snapshot, vectors: int) -> dict[str, Any]:
        """Gives the snapshot a graph where it has enough vectors for one; returns what index.json says of it."""
        limit = self.settings.approximate_above
        if limit is None:
            limit = EXACT_UP_TO["late" if self.encoder.config.model.head == "late_interaction" else "pooled"]
        if vectors <= limit or compares_pairs_only(self.encoder):
            return {}
        old, graph = self.old, None
        if old is not None and old.approximate and snapshot.state.segments[: len(old.segments)] == old.segments:
            graph = Graph.read(self.folder / "generations" / old.generation_name / GRAPH_NAME)
        return graphs.link(snapshot, self.encoder, graph, self.settings, self.say)


def _state_of(folder: Path) -> State | None:
    """The state of an index that exists. Raises InputError where the folder holds something else."""
    if (folder / store.NAME).exists():
        return store.read_state(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output {folder} exists and is no index: give another name, or remove it")
    return None


def _write_words(folder: Path, chosen: list[Segment], alive: np.ndarray) -> None:
    """BM25's arrays over the passages of the documents that are alive."""
    vocabulary = sorted({word for segment in chosen for word in segment.vocabulary})
    ids = {word: i for i, word in enumerate(vocabulary)}
    passages: list[list[int]] = []
    rows: list[np.ndarray] = []
    first_passage = first_document = 0
    for segment in chosen:
        here = np.flatnonzero(alive[first_document + segment.passages[:, 0]])
        mine = np.array([ids[word] for word in segment.vocabulary], np.int64)
        found = mine[segment.words] if len(mine) else np.zeros(0, np.int64)
        passages += [found[segment.word_offsets[p] : segment.word_offsets[p + 1]].tolist() for p in here.tolist()]
        rows.append(here + first_passage)
        first_passage += len(segment.passages)
        first_document += len(segment.ids)
    words.write(folder, passages, np.concatenate(rows) if rows else np.zeros(0, np.int64), vocabulary)

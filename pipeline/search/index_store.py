"""The index's folder: `index.json` names the generation that counts and the segments it is made of.

    INDEX/index.json                replaced atomically; the last thing that an update writes
    INDEX/segments/NAME/            documents and vectors, written once (segments.py)
    INDEX/generations/000007/       which documents are alive, their ids' order, BM25's arrays, maybe clusters

A reader opens what index.json names; the files of the generation before stay until the next update, so that a reader
between two is not disturbed.
"""

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from pipeline.config.sources import Column
from pipeline.core import atomic_files
from pipeline.core.errors import InputError, TryAgain
from pipeline.evaluation import linear
from pipeline.evaluation.analysis import NONE, STOP_WORDS
from pipeline.evaluation.bm25 import K1, B
from pipeline.evaluation.fusion import UNTUNED
from pipeline.evaluation.linear import Linear
from pipeline.search import segments
from pipeline.search.bm25_index import WordIndex
from pipeline.search.clusters import PASSAGES, Clusters
from pipeline.search.segments import Segment
from pipeline.serving.second_stage import STRICT, Rerank, Scale, Share, Sure

FORMAT = 3
NAME, PLACES = "index.json", "places.npy"
MAPPED = (".npy", ".arrow")  # files that are read through memory maps
MAX_EFFORT = 10_000  # clusters looked at; cluster_build.EFFORTS are smaller
TRIES = 5  # at opening, while writers replace what was named


Name = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]  # of a segment; another could climb out of the folder
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sum = Annotated[Linear, AfterValidator(linear.checked)]
Nothing = Annotated[dict[str, Any], Field(max_length=0)]


@dataclass(frozen=True)
class ModelStamp:
    """Which model encoded: vectors of another one cannot be compared with its queries'."""

    __pydantic_config__ = STRICT

    key: str  # of its folder's manifest
    stage: str
    folder: Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]  # absolute
    given: str  # as it was named
    head: str
    task: str


@dataclass(frozen=True)
class Settings:
    __pydantic_config__ = STRICT

    documents_per_segment: Annotated[int, Field(ge=1)] = 1000
    # Vectors above which clusters are made. Below, comparing with all of them takes a few milliseconds. None: see
    # build.EXACT_UP_TO.
    approximate_above: Count | None = None
    wanted_recall: Share = 0.95  # of the 10 best, which the number of clusters looked at is chosen to reach
    recall_queries: Annotated[int, Field(ge=1)] = 100
    # as --columns named them, for later files too
    columns: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,39}$")], Column] = field(default_factory=dict)
    stemmer: str = "auto"  # of BM25's words, as evaluate.stemmer
    k1: Scale = K1  # BM25's
    b: Share = B
    # of the model's scores in a mix with BM25's, and what both are divided by; None: each query's own spread
    weight: Share = UNTUNED
    model_scale: Scale | None = None
    words_scale: Scale | None = None
    linear: Sum | None = None  # in the mix's place
    rerank: Rerank | None = None  # of the best ranking: see Searcher.best_mode
    answering: Sure | None = None  # which first results of the best ranking are sure; None: the model's scores tell
    # how vectors are kept: bits a number, and of late interaction the share of tokens left out, and how many become one
    bits: Literal[2, 4, 8, 32] = 8
    left_out: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    pooled: Annotated[float, Field(ge=1, le=16, allow_inf_nan=False)] = 1.0
    tokens: Literal["word", "jieba"] = "word"  # of BM25's words, in an index without a model


class Counts(TypedDict):
    """Documents, passages and vectors that can be found, and documents that cannot."""

    documents: Count
    passages: Count
    vectors: Count
    dead_documents: Count


class Approximate(TypedDict):
    """Of clusters: how many are looked at, the recall it reached over so many queries, ms a query."""

    effort: Annotated[int, Field(ge=1, le=MAX_EFFORT)]
    recall: Share
    queries: Count
    ms: Milliseconds
    exact_ms: Milliseconds


@dataclass(frozen=True)
class State:
    """index.json."""

    __pydantic_config__ = STRICT

    name: str
    model: ModelStamp | None  # None: words alone
    settings: Settings
    generation: Annotated[int, Field(ge=1)]
    segments: list[Name]
    counts: Counts
    approximate: Approximate | Nothing  # without clusters
    created: str
    versions: dict[str, str]
    stemmer: str  # that made this generation's terms
    format: int = FORMAT
    previous: list[Name] = field(default_factory=list)  # segments of the generation before
    # Drawn when the index is first built: an index that was removed and built anew is another one.
    id: str = ""

    @property
    def generation_name(self) -> str:
        return f"{self.generation:06d}"

    @property
    def version(self) -> tuple[str, str, int]:
        """What differs between any two generations of any indexes; `created` alone of those that have no id."""
        return (self.id, self.created if not self.id else "", self.generation)


_STATE = TypeAdapter(State)


def read_state(folder: Path) -> State:
    """Raises InputError where there is no index, a damaged one, or one of another format."""
    path = folder / NAME
    try:
        content = path.read_text(encoding="utf-8")
        data = json.loads(content)
        if not isinstance(data, dict) or "format" not in data:  # of something else: nothing to delete
            raise InputError(f"{path} is of no index: name the folder that `duplet index` made")
        if data["format"] != FORMAT:
            raise InputError(
                f"{folder} is an index of format {data['format']!r:.40}, this version reads {FORMAT}: "
                "build it again with `duplet index`"
            )
        return _checked(content)
    except (FileNotFoundError, NotADirectoryError):
        what = "is empty" if folder.is_dir() else "does not exist"
        what, documents, output = f"{what}: build it", "…", shlex.quote(str(folder))
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):  # where no index can be put
            what, documents, output = "is not a finished index: build one of what is there", output, "NEW"
        raise InputError(f"{folder} {what} with `duplet index --documents {documents} --output {output}`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {folder} and run `duplet index` again") from None


def _checked(content: str) -> State:
    """The state that JSON gives. Raises ValueError where a part is missing or has another type or range."""
    try:
        state = _STATE.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if len(first["loc"]) == 2 and first["loc"][0] in ("segments", "previous"):
            raise ValueError("a segment's name is none") from None
        raise ValueError(": ".join((".".join(map(str, first["loc"])), first["msg"])).strip(": ")) from None
    if state.stemmer not in (NONE, *STOP_WORDS):
        raise ValueError(f"there is no stemmer {state.stemmer!r:.40}")
    if len({*state.segments}) < len(state.segments):
        raise ValueError("a segment is named twice")
    return state


def write_state(folder: Path, state: State) -> None:
    """Replaces index.json. Raises ValueError where `read_state` would refuse it; the old one stays."""
    content = json.dumps(asdict(state), indent=1, ensure_ascii=False)
    _checked(content)
    atomic_files.write_text(folder / NAME, content)


class Snapshot:
    """One generation of an index, opened; rows of documents and passages count over all its segments.

    Attributes:
        alive: (D,) bool, which documents can be found.
        place: (D,) int64, where each document's id stands among all, which settles equal scores.
        document_of: (P,) int64, each passage's document.
        width, pooled: of its vectors, and whether each passage has one (else each token); None without segments.
    """

    def __init__(self, folder: Path, state: State, generation: Path | None = None) -> None:
        self.folder, self.state = folder, state
        self.segments: list[Segment] = [segments.read(folder / "segments" / name) for name in state.segments]
        if generation is None:
            generation = folder / "generations" / state.generation_name
            segments.check_sizes(generation, generation / segments.NAME)
        self.alive = np.load(generation / "alive.npy", allow_pickle=False)
        if self.alive.shape != (sum(len(s.table) for s in self.segments),) or self.alive.dtype != bool:
            raise ValueError("alive.npy has not a yes or no for each document")
        self.place = np.load(generation / PLACES, allow_pickle=False)
        if self.place.shape != self.alive.shape or self.place.dtype != np.int64:
            raise ValueError(f"{PLACES} has not a number for each document")
        widths = {(s.codes.width, s.codes.offsets is None) for s in self.segments}
        if len(widths) > 1:
            raise ValueError("its segments' vectors differ in length")
        self.width: int | None = None
        self.pooled: bool | None = None
        if widths:
            ((self.width, self.pooled),) = widths
        self.document_starts = np.cumsum([0, *(len(s.table) for s in self.segments)])
        self.passage_starts = np.cumsum([0, *(len(s.passages) for s in self.segments)])
        self.vector_starts = np.cumsum([0, *(len(s.codes.vectors) for s in self.segments)])
        shifted = []
        for segment, start in zip(self.segments, self.document_starts):
            shifted.append(segment.passages[:, 0] + start)
            segment.release()
        self.document_of = np.concatenate(shifted) if shifted else np.zeros(0, np.int64)
        self.words = WordIndex(generation, len(self.document_of), state.stemmer)
        # of an index that an earlier version gave an HNSW graph: none until its next update
        clustered = bool(state.approximate) and self.width is not None and (generation / PASSAGES).exists()
        self.clusters = Clusters.read(generation, self.width or 0) if clustered else None
        mapped = (*(segment.folder for segment in self.segments), generation)
        self._files = {path: path.stat() for folder in mapped for path in folder.iterdir() if path.suffix in MAPPED}

    def check_files(self) -> None:
        """Raises InputError where a file was cut short in its place, which would end a process that reads it by SIGBUS.

        A file that was replaced or removed is still whole for who has it open.
        """
        for path, was in self._files.items():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                now = path.stat()
                if (now.st_ino, now.st_dev) == (was.st_ino, was.st_dev) and now.st_size < was.st_size:
                    raise InputError(f"{path} was cut short while it was in use: build the index again")

    @cached_property
    def alive_passages(self) -> np.ndarray:
        """(P,) bool."""
        return self.alive[self.document_of] if len(self.document_of) else np.zeros(0, bool)

    @cached_property
    def passage_of_vector(self) -> np.ndarray:
        """(V,) int64: of pooled heads, the row itself."""
        parts = [np.zeros(0, np.int64)]
        for segment, start in zip(self.segments, self.passage_starts):
            rows, offsets = np.arange(len(segment.passages)), segment.codes.offsets
            parts.append(start + (rows if offsets is None else np.repeat(rows, np.diff(offsets))))
        return np.concatenate(parts)

    @cached_property
    def alive_vectors(self) -> np.ndarray:
        """(V,) bool."""
        return self.alive_passages[self.passage_of_vector]

    def segment_of_passage(self, row: int) -> tuple[Segment, int]:
        """The segment that holds a passage, and the passage's row in it."""
        at = int(np.searchsorted(self.passage_starts, row, "right")) - 1
        return self.segments[at], row - int(self.passage_starts[at])

    def live_documents(self) -> Iterator[tuple[str, tuple[str, int, str]]]:
        """id, and segment's name, row in it and hash."""
        for segment, start in zip(self.segments, self.document_starts):
            ids, hashes = segment.ids, segment.hashes
            for row in np.flatnonzero(self.alive[start : start + len(ids)]).tolist():
                yield ids[row], (segment.name, row, hashes[row])


def open_snapshot(folder: Path) -> Snapshot:
    """The newest generation. Raises InputError where it is not whole, TryAgain where it is replaced too fast."""
    for _ in range(TRIES):
        state = read_state(folder)
        try:
            return opened(folder, state)
        except InputError:
            if read_state(folder).version == state.version:
                raise
    raise TryAgain(f"{folder} is being updated faster than it can be opened: try again")


def opened(folder: Path, state: State) -> Snapshot:
    """The generation of a state. Raises InputError where it is not whole."""
    try:
        snapshot = Snapshot(folder, state)
        if snapshot.alive.sum() != state.counts["documents"]:
            raise ValueError(f"{NAME} counts other documents than there are")
        return snapshot
    except (*atomic_files.NOT_AN_ARRAY, LookupError, AttributeError) as error:
        raise InputError(f"{folder} is damaged ({error}): delete it and run `duplet index` again") from None


def remove_unused(folder: Path, state: State) -> None:
    """Deletes what neither this generation nor the one before names, and what a killed update left."""
    segment_names = {*state.segments, *state.previous}
    generations = {state.generation_name, f"{state.generation - 1:06d}"}
    for part, names in (("segments", segment_names), ("generations", generations)):
        for path in (folder / part).glob("*"):
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".{NAME}.*.partial"):
        path.unlink()

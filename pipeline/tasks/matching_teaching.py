"""A teacher of a matcher: what the stage `teach` keeps of it, and what that adds to an update.

A teacher gives vectors of texts, scores of pairs, or both. Of vectors two things are learnt: each text's vector, by a
linear map, for which any text will do (Kim et al., "EmbedDistill", 2023), and each query's order of all documents of
the update (Lin, Yang and Lin, "In-batch negatives for knowledge distillation with tightly-coupled teachers", 2021). Of
scores: the margins of a query's document above others (Hofstätter et al., "Improving efficient neural ranking models
with cross-architecture knowledge distillation", 2020).

As an update's other parts, all of these add up over workers and the parts that they take their shares in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mxnet import nd

from pipeline.config import Config
from pipeline.config.teaching import TeachConfig
from pipeline.models.losses import taught_losses
from pipeline.models.matcher import SIDES, Matcher, Representation
from pipeline.tasks.known_pairs import Scored
from pipeline.tasks.length_bucketing import Chunked

FURTHER = "further"
VECTORS = (*SIDES, FURTHER)  # NAME.npy (N, D) float32 of length 1
IDS, ENDS = "further-ids.npy", "further-ends.npy"  # of the further texts, one after the other
KEYS, SCORES = "pair-keys.npy", "pair-scores.npy"
DEVIATION = 0.2  # of the teacher's scores where teach.margin_scale is not set
NONE = np.zeros((2, 0), np.int32)


class Taught(NamedTuple):
    """What a teacher says of a worker's n pairs, m documents and f further texts, and of the M documents of all."""

    vectors: dict[str, np.ndarray]  # query (n, D), document (m, D), further (f, D); those that are regressed to
    further: Chunked | None  # the further texts
    total: int  # texts with a vector, of all workers
    queries: np.ndarray | None = None  # (n, D)
    documents: np.ndarray | None = None  # (M, D), in the global order: as `queries`, for the score rows
    places: np.ndarray = NONE  # (2, k) pair and column of another document that has a score
    margins: np.ndarray = NONE[0]  # (k,) float32: by how much the pair's own document is above it
    shares: np.ndarray = NONE[0]  # (k,) float32: 1 / the pair's number of them


class Teacher:
    """What the stage kept in a folder; files are mapped, so that memory does not grow with them."""

    def __init__(self, folder: Path, settings: TeachConfig) -> None:
        self.settings = settings
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in VECTORS
                        if (folder / f"{name}.npy").exists()}  # fmt: skip
        self._ids, self._ends = (
            np.load(folder / name, mmap_mode="r") if (folder / name).exists() else np.zeros(0, np.int64)
            for name in (IDS, ENDS)
        )
        self._scored: Scored | None = None
        if (folder / KEYS).exists() and settings.margin_weight:
            scores = np.load(folder / SCORES, mmap_mode="r")
            self._scored = Scored(np.load(folder / KEYS, mmap_mode="r"), scores)
            self._scale = settings.margin_scale or DEVIATION / max(float(np.std(scores, dtype=np.float64)), 1e-9)

    @property
    def width(self) -> int:
        """D of the vectors that are regressed to; 0: none are."""
        return int(self._arrays[SIDES[0]].shape[1]) if self._arrays and self.settings.embedding_weight else 0

    def drawn(self, parts: int, part: int, seed: list[int]) -> tuple[np.ndarray, int]:
        """The rows of further texts for one of an update's parts, and how many all parts have."""
        count = min(self.settings.further_per_update, len(self._ends)) if self.width else 0
        if not count:
            return np.zeros(0, np.int64), 0
        chosen = np.random.default_rng([*seed, 0, 2]).choice(len(self._ends), count, replace=False)
        return np.array_split(chosen, parts)[part], count

    def cosines(self, query: int, documents: np.ndarray) -> np.ndarray:
        """(n,) of a query's row and documents' rows."""
        return np.asarray(self._arrays["document"][documents] @ self._arrays["query"][query])

    def texts(self, rows: np.ndarray) -> list[np.ndarray]:
        """The (T,) int32 ids of further texts."""
        return [np.array(self._ids[self._ends[row - 1] if row else 0 : self._ends[row]]) for row in rows.tolist()]

    def batch(self, rows: Mapping[str, np.ndarray], further: Chunked | None, total: int) -> Taught:
        """What is known without the other workers; rows by side, and of the further texts."""
        vectors = {name: np.array(self._arrays[name][at]) for name, at in rows.items() if self.width and len(at)}
        return Taught(vectors, further, total)

    def joined(self, taught: Taught, queries: np.ndarray, documents: np.ndarray, first: int, listed: int) -> Taught:
        """What a ranking loss learns too.

        Args:
            queries: (n,) rows; documents: (M,) rows in the global order; first: the column of the first pair's own.
            listed: how many of the documents are no pair's own.
        """
        taught = taught._replace(total=taught.total + listed)
        if self._arrays and self.settings.row_weight:
            query, document = (np.array(self._arrays[s][rows]) for s, rows in zip(SIDES, (queries, documents)))
            taught = taught._replace(queries=query, documents=document)
        if self._scored is None:
            return taught
        places, scores = self._scored.among(queries, documents)
        own = np.full(len(queries), np.nan)
        mine = places[1] == first + places[0]
        own[places[0][mine]] = scores[mine]
        margins = (own[places[0]] - scores) * self._scale
        others = (documents[places[1]] != documents[first + places[0]]) & np.isfinite(margins)
        places, margins = places[:, others], margins[others].astype(np.float32)
        counts = np.bincount(places[0], minlength=len(queries))
        return taught._replace(places=places, margins=margins, shares=(1 / counts[places[0]]).astype(np.float32))


def regression(network: Matcher, own: Mapping[str, Representation], taught: Taught, workers: int) -> nd.NDArray:
    """(1,) a part's squared distances to the teacher's vectors; averaged over workers, the mean over all texts."""
    sums = []
    for name, theirs in taught.vectors.items():
        mine = network.as_teacher(own[name])
        sums.append(((mine - nd.array(theirs, mine.context)) ** 2).sum().reshape(1))
    return nd.add_n(*sums) * (workers / taught.total)


def mixed(
    label: nd.NDArray, scores: nd.NDArray, positives: nd.NDArray, taught: Taught, piece: slice, config: Config,
    each: float,
) -> nd.NDArray:  # fmt: skip
    """(1,) the labels' loss of a piece of a part's queries mixed with what the teacher says of their scores.

    Args:
        scores: (rows, M) of the piece; positives: (rows,) the columns of their own documents.
        each: how much a query counts.
    """
    teach, context = config.teach, scores.context
    value = (1 - teach.weight) * label
    if taught.queries is not None:
        queries, documents = nd.array(taught.queries[piece], context), nd.array(taught.documents, context)
        rows = nd.FullyConnected(queries, documents, no_bias=True, num_hidden=documents.shape[0])
        mine = scores / config.train.loss.temperature
        apart = taught_losses(mine, rows / teach.row_temperature, "kl", 1.0)
        value = value + apart.sum().reshape(1) * (teach.weight * teach.row_weight * each)
    within = (taught.places[0] >= piece.start) & (taught.places[0] < piece.stop)
    if within.any():
        places = nd.array(taught.places[:, within] - [[piece.start], [0]], context, "int32")
        others = nd.gather_nd(scores, places)
        own = nd.take(nd.pick(scores, positives, axis=1), nd.slice_axis(places, axis=0, begin=0, end=1).reshape(-1))
        margins, shares = (nd.array(array[within], context) for array in (taught.margins, taught.shares))
        squares = (own - others - margins) ** 2 * shares
        value = value + squares.sum().reshape(1) * (teach.weight * teach.margin_weight * each)
    return value

"""The interface of a task: all that the training loop, the checkpoints and the workers know of it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from mxnet import Context, gluon, nd

from pipeline.config import Config
from pipeline.config.plugins import part
from pipeline.core import derived_arrays
from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation.judged import Judged
from pipeline.reporting import system_comparison
from pipeline.tasks.length_bucketing import ROWS_PER_STEP, ROWS_PER_STEP_ON_GPU
from pipeline.tokenization import shards
from pipeline.tokenization.segments import Segments

# An update kept by a version that did not keep where the teacher's folder is cannot be replayed.
NOT_HERE = "what the teacher says of the texts is not here: put the folder of the stage teach back"


class StepLoss(NamedTuple):
    """`objective`'s gradient, averaged over the workers, is the gradient of the global batch's loss; `value`, averaged
    likewise, is that loss. Both (1,)."""

    objective: nd.NDArray
    value: nd.NDArray


class Task:
    """Data plus the functions that make it a trained, judged and used model.

    Made from a configuration and a folder of ids, or, to predict, from the folder of a trained model: that holds
    vocabularies and tokenizers too, but no splits. So nothing of a split is opened before it is asked for.
    """

    sides: tuple[str, ...] = ("text",)  # what the columns of `lengths` are lengths of
    # A task that reads on where the update before ended: its examples are the segments of so many streams side by side,
    # example number = segment * streams + stream, and come in that order.
    streams: int | None = None

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.trained = folder  # what `finish` wrote lies here
        self.others: dict[str, Path] = {}  # folders of further stages that training reads, by name
        # What a stream's reading left behind, (own streams, …) arrays by name; checkpoints keep it.
        self.carry: dict[str, nd.NDArray] = {}
        # What the newest update's reading began with, likewise: after an update that is skipped, it is the carry again.
        self.began: dict[str, nd.NDArray] = {}

    @property
    def taught(self) -> Path | None:
        """The folder of the stage `teach` while a teacher is learnt from."""
        return self.others.get("teach")

    @functools.cached_property
    def train(self) -> shards.Split:
        """The training split."""
        split = shards.open_split(self.folder, "train", self.config.task)
        if not len(split.relevance):
            raise InputError(f"the training split under {self.folder} has no record: check ingest.source")
        return split

    def judged(self, name: str) -> shards.Split:
        """The split `valid` or `test`. Raises InputError where it has no record."""
        split = shards.open_split(self.folder, name, self.config.task)
        if not len(split.relevance):
            called = "validation" if name == "valid" else name
            raise InputError(f"the {called} split has no {self.config.spec.record} to judge: raise ingest.split.{name}")
        return split

    @functools.cached_property
    def _segments(self) -> Segments | None:
        dropout = self.config.train.bpe_dropout
        return Segments(self.folder, dropout) if dropout else None

    def read(self, field: str, rows: np.ndarray, seed: list[int]) -> list[np.ndarray]:
        """The (T,) int32 ids of n texts of the training split, as an update with this seed reads them: one passage of
        those that have several, and with train.bpe_dropout cut into other pieces, the same for the same text wherever
        it stands in the update."""
        texts = self.train.fields[field].read(rows)
        if passages := self.train.fields[field].passages:
            first, counts = passages.of(rows)
            places = np.flatnonzero(counts)
            drawn = [first[i] + np.random.default_rng([*seed, 5, rows[i]]).integers(counts[i]) for i in places]
            for place, ids in zip(places.tolist(), passages.texts.read(np.array(drawn, np.int64))):
                texts[place] = ids
        if self._segments is None:
            return texts
        place, limit = list(self.train.fields).index(field), self.config.tokenize.limit(field)
        anew = self._segments.anew
        return [anew(ids, limit, [*seed, 3, place, row]) for ids, row in zip(texts, rows.tolist())]

    @functools.cached_property
    def embedding_rows(self) -> int:
        """Ids are below it: the vocabulary and, of a cloze, the blank."""
        return shards.vocabulary_size(self.folder) + 1

    @property
    def rows_per_step(self) -> int:
        return ROWS_PER_STEP_ON_GPU if self.config.train.gpus else ROWS_PER_STEP

    @functools.cached_property
    def examples(self) -> np.ndarray:
        """(N,) int32: the records of the training split to learn from."""
        return self.derived("all", functools.partial(derived_arrays.counted, len(self.train.relevance)))

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(N, S) whole numbers: tokens of each side of each training example."""
        texts = [(self.train.fields[side], self.train.rows[side]) for side in self.sides]

        def made(new: derived_arrays.New) -> np.ndarray:
            found = new((len(self.examples), len(texts)), np.int32)
            for places in derived_arrays.parts(len(found)):
                for column, (field, rows) in enumerate(texts):
                    found[places, column] = field.lengths_of(rows[self.examples[places]])
            return found

        lengths = self.derived(f"lengths-{len(self.examples)}", made)
        self.train.release()
        return lengths

    def derived(self, name: str, make: Callable[[derived_arrays.New], np.ndarray]) -> np.ndarray:
        """An array that follows from the training split; see `derived_arrays.derived`."""
        source = self.folder / "train" / shards.EXAMPLES_NAME
        return derived_arrays.derived(source, name, len(self.train.relevance), make)

    def prepare(self) -> None:
        """Makes what each batch needs, before the first and in the main thread."""

    def network(self) -> gluon.Block:
        """The network, not initialised.

        If it has a parameter `embedding` (V, E) with grad_req "null", that is updated row by row: see `batch`.
        """
        raise NotImplementedError

    def batch(self, shares: list[np.ndarray], rank: int, seed: list[int]) -> Any:
        """This rank's part of an update, a named tuple of numpy arrays, made in the loader's thread.

        A rank that takes its share in several parts asks for each as if it were a rank.

        `shares` are all ranks' example numbers; `seed` is the update's own. Only the rank's own texts are read, so that
        the work does not grow with the number of ranks. Its fields `real` and `cells` are this rank's tokens without
        and with padding; `tokens`, (U,) int32, the ids of the embedding rows that it needs, ascending, or None where
        the network has no embedding to be updated row by row.
        """
        raise NotImplementedError

    def told(self, batch: Any) -> np.ndarray:
        """(k,) int32: what the other ranks must know of this rank's part; k must be the same on all ranks."""
        return np.zeros(0, np.int32)

    def joined(self, batch: Any, told: np.ndarray, rank: int) -> Any:
        """This rank's part, once (ranks, k) is known of all ranks; made outside of the main thread."""
        return batch

    def ahead(
        self,
        network: Any,
        tables: Sequence[nd.NDArray | None],
        batches: list[Any],
        world: World,
        draw: Callable[[int], None],
    ) -> list[Any]:
        """The batches with what each part's loss must know of the others, where a worker takes its share in parts.

        Called before any part's `loss`, in training mode and not recording.

        Args:
            tables: as `loss` takes it, by part.
            batches: what `joined` gave, by part.
            draw: sets the random state to that of a part's `loss`.
        """
        return batches

    def loss(self, network: Any, table: nd.NDArray | None, batch: Any, world: World) -> StepLoss:
        """The loss of an update or of a part of it, called while recording; parts add up.

        Args:
            table: (U, E) the embedding rows of `batch.tokens`, if any.
            batch: what `joined`, or `ahead`, gave.
        """
        raise NotImplementedError

    def validate(self, network: Any, world: World) -> dict[str, float]:
        """Metrics on the validation split, config.metrics among them, the same on every rank."""
        raise NotImplementedError

    def evaluate(self, network: Any, world: World, ingested: Path, folder: Path) -> dict[str, float]:
        """Rank 0 writes tables and lists on the test split into `folder` and returns metrics; others return none."""
        raise NotImplementedError

    def write_tables(self, folder: Path, kinds: dict[str, tuple[Judged, str]], note: str = "") -> dict[str, float]:
        """What `evaluate` returns: see system_comparison.write."""
        samples = self.config.evaluate.bootstrap_samples
        return system_comparison.write(folder, self.config.name, kinds, samples, self.config.seed, note)

    def finish(self, network: Any, world: World, folder: Path) -> None:
        """What a task adds to the folder of a training whose best parameters are in the network; rank 0 writes."""

    def sample(self, network: Any, context: Context) -> str | None:
        """What the model makes up at a validation, if that tells anything; on rank 0."""
        return None

    def predict(self, network: Any, rows: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
        """What the model says to each row, which has the task's input fields.

        Raises:
            InputError: a row lacks a field.
        """
        raise NotImplementedError


def texts_of(ingested: Path, split: shards.Split, field: str, name: str = "test") -> list[str]:
    """(N,) the texts of a field as ingest wrote them, for showing beside what was predicted."""
    texts: dict[str, str] = {}
    columns = [f"{field}_id", field]
    for batch in pq.ParquetFile(ingested / f"records-{name}.parquet").iter_batches(10_000, columns=columns):
        texts.update(zip(batch[f"{field}_id"].to_pylist(), batch[field].to_pylist()))
    keys = list(split.fields[field].keys)
    return [texts[keys[row]] for row in split.rows[field].tolist()]


def task_of(config: Config, folder: Path) -> Task:
    """The configured task over a folder of tokenized splits, or of a trained model."""
    task: Task = part(config.spec.task)(config, folder)
    return task

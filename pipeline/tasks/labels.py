"""What tasks share that say one of the labels that the training split names: classification, visual_question."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError
from pipeline.distributed.world import World
from pipeline.evaluation import confidence
from pipeline.tasks import decoding
from pipeline.tasks.base import Task
from pipeline.tokenization import shards
from pipeline.tokenization.encoder import REMAKE


class LabelTask(Task):
    """A text is read, and the softmax goes over the training split's labels. A subclass names both fields."""

    text: str
    label: str

    @functools.cached_property
    def names(self) -> list[str]:
        """(C,) the labels."""
        return decoding.tokens_by_id(self.folder / self.label)[decoding.SPECIAL :]

    @functools.cached_property
    def classes(self) -> np.ndarray:
        """(N,) int32 of the training split. Raises InputError where a label has no class of its own."""
        classes = self.classes_of(self.train).astype(np.int32)
        if len(wrong := np.flatnonzero(classes >= len(self.names))):
            record = self.train.ids[int(wrong[0])]
            raise InputError(f"the {self.label} of record {record} of the train split is in no vocabulary: {REMAKE}")
        return classes

    def classes_of(self, split: shards.Split) -> np.ndarray:
        """(N,) int64; labels that the training split does not have are C, C + 1, …"""
        return decoding.classes_given(split, len(self.names), self.label)

    def texts_read(self, split: shards.Split) -> Iterator[np.ndarray]:
        """(T,) ids of each record's text."""
        field = split.fields[self.text]
        return (field.ids(row) for row in split.rows[self.text].tolist())

    @functools.cached_property
    def confidence(self) -> confidence.Confidence | None:
        """What `choose_confidence` wrote into the trained folder."""
        return confidence.load(self.trained)

    def choose_confidence(self, folder: Path, probabilities: np.ndarray, split: shards.Split) -> None:
        """Writes which answers are sure, where that is wanted, from (N, C) probabilities of the validation split."""
        if self.config.train.sure_precision is not None:
            wanted = self.config.train.sure_precision
            confidence.save(folder, confidence.chosen(probabilities, self.classes_of(split), wanted))

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, C) as the model's answers have them: by the temperature that was chosen, if one was."""
        return probabilities if self.confidence is None else self.confidence.calibrated(probabilities)

    def unseen(self, classes: np.ndarray, label_names: list[str]) -> list[str]:
        """Names of the classes from C on; `label_names` are the labels as the data has them."""
        names = {int(i): name for i, name in zip(classes, label_names) if i >= len(self.names)}
        return [names[i] for i in sorted(names)]


def gathered(parts: list[tuple[np.ndarray, np.ndarray]], count: int, width: int, world: World, name: str) -> np.ndarray:
    """(count, width) float32 for all records, each worker having made some of them.

    Args:
        parts: this worker's record numbers, (n,) int32, with their rows, (n, width).
        name: of the rows, in errors.
    """
    if not width:
        return np.zeros((count, 0), np.float32)
    places = world.gather_numpy(np.concatenate([np.zeros(0, np.int32), *(p for p, _ in parts)]), "places")
    rows = world.gather_numpy(np.concatenate([np.zeros((0, width), np.float32), *(r for _, r in parts)]), name)
    together = np.empty((count, width), np.float32)
    together[places] = rows
    return together
